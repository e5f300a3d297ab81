"""What the README says can be copied: each line of "Trying it" with its answer, and mounts of an ordinary user.

readme_test.py BUILD_DIR [unittest's arguments]"""

import contextlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SECONDS = 300
SKIPPED = 77
NOBODY = "65534"
MARK = "== line"

# The user's answers to the commands of the README's paragraph on such mounts; what follows "#" as in the README.
AS_A_USER = """\
daxfs-hold ~/daxfs/buffer --length 4M --allocate >~/holder &
until grep -sq held ~/holder; do sleep 0.1; done
fallocate --punch-hole --offset 0 --length 1M ~/daxfs/buffer
# fallocate: fallocate failed: Text file busy
daxfsctl policy ~/daxfs set defer | head -n 1
# pin_policy      defer
fallocate --punch-hole --offset 0 --length 1M ~/daxfs/buffer
daxfsctl limbo ~/daxfs
# POOL OFFSET  LENGTH  PINS  SINCE
# ...           1 MiB     1  ...
grep -o 'fuse.daxfs rw,nosuid,nodev' /proc/self/mounts
# fuse.daxfs rw,nosuid,nodev
kill %1; wait
tail -n 1 ~/holder
# released rounds=1 checks=... foreign=0
fusermount3 -u ~/daxfs
grep -c "$HOME/daxfs " /proc/self/mounts
# 0
"""
FOR_OTHERS = """\
daxfs ~/pool ~/daxfs -o allow_other 2>&1 | head -n 1
# fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf
"""


def missing():
    if os.geteuid() != 0:
        return "root"
    for program in ("fio", "fusermount3", "setpriv", "cc"):
        if not shutil.which(program):
            return program
    return None if os.access("/dev/fuse", os.R_OK | os.W_OK) else "/dev/fuse"


def section(title):
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
        return re.search(rf"^## {title}\n(.*?)^## ", file.read(), re.M | re.S)[1]


def code(text):
    """Its indented lines."""
    return "".join(line[4:] + "\n" for line in text.splitlines() if line.startswith("    "))


def commands(script):
    """(line, [answer, ...]) of each command."""
    found = []
    for line in script.splitlines():
        if line.startswith("# "):
            found[-1][1].append(line[2:])
        elif found and found[-1][0].endswith("\\"):
            found[-1] = (f"{found[-1][0]}\n{line}", [])
        else:
            found.append((line, []))
    return found


def pattern(answer):
    """`...` is anything, and columns may be wider."""
    words = [r".*".join(map(re.escape, word.split("..."))) for word in answer.split()]
    return r"\s*" + r"\s+".join(words) + r"\s*"


class Readme(unittest.TestCase):
    build = None

    def setUp(self):
        self.work = tempfile.mkdtemp(prefix="daxfs-readme-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, self.work)
        os.chmod(self.work, 0o755)
        # Where the README has its things.
        self.places = {
            "/mnt/daxfs": os.path.join(self.work, "mnt"),
            "/dev/shm/pool": os.path.join(self.work, "pool"),
            "/tmp/holder": os.path.join(self.work, "holder"),
            "/tmp/leased": os.path.join(self.work, "leased"),
        }
        self.addCleanup(self.unmount, self.places["/mnt/daxfs"])

    @staticmethod
    def unmount(path):
        if os.path.ismount(path):
            subprocess.run(["umount", "--lazy", path], check=False)

    def moved(self, text):
        for said, place in self.places.items():
            text = text.replace(said, place)
        return text

    def install(self):
        """The programs, where everybody may run them."""
        self.bin = os.path.join(self.work, "bin")
        os.mkdir(self.bin)
        for name in ("daxfs", "mkfs.daxfs", "fsck.daxfs", "daxfsctl", "daxfs-hold", "daxfs-run", "libdaxfs-run.so"):
            shutil.copy(os.path.join(self.build, name), self.bin)
        for name in os.listdir(os.path.join(self.build, "client")):
            if name.startswith("libdaxfs.so"):
                shutil.copy(os.path.join(self.build, "client", name), self.bin, follow_symlinks=False)

    def environment(self, **more):
        path = f"{self.bin}:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "LD_LIBRARY_PATH": self.bin, "LC_ALL": "C.UTF-8", "HOME": self.work, **more}

    def check_answers(self, script, *prefix, **environment):
        expected = commands(script)
        self.assertGreater(len(expected), 3)
        lines = "".join(f"{line}\necho '{MARK}' >&2\n" for line, _ in expected)
        process = subprocess.Popen(
            [*prefix, "/bin/bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=self.work, env=self.environment(**environment),
        )
        with contextlib.closing(process.stdout):
            said, _ = process.communicate(lines, timeout=SECONDS)
        answers = said.split(MARK + "\n")
        for (line, wanted), got in zip(expected, answers):
            with self.subTest(line):
                got = got.splitlines()
                self.assertEqual(len(got), len(wanted), f"{line}\nanswers:\n{got}\ninstead of:\n{wanted}\nin:\n{said}")
                for one, want in zip(got, wanted):
                    self.assertRegex(one, f"^{pattern(want)}$")
        self.assertEqual(len(answers), len(expected) + 1, said)

    def test_trying_it_answers_as_it_says(self):
        self.install()
        self.check_answers(self.moved(code(section("Trying it"))))
        self.assertEqual(sorted(os.listdir(self.work)), ["bin", "mnt"])
        self.assertFalse(os.path.ismount(self.places["/mnt/daxfs"]))

    def test_without_system_calls_answers_as_it_says(self):
        self.install()
        self.check_answers(self.moved(code(section("Without system calls"))))
        self.assertEqual(sorted(os.listdir(self.work)), ["bin", "mnt"])

    def test_the_program_of_the_readme(self):
        self.install()
        source = re.search(r"```c\n(.*?)```", section("In a program"), re.S)[1]
        path = os.path.join(self.work, "example.c")
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.moved(source))
        program = os.path.join(self.bin, "example")
        library = os.path.join(self.bin, "libdaxfs.so.0")
        subprocess.run(["cc", "-Wall", "-Werror", f"-I{ROOT}/client", path, library, "-o", program], check=True)
        begin = self.moved("mkfs.daxfs --quiet --size 64M /dev/shm/pool\nmkdir /mnt/daxfs\n")
        script = begin + self.moved(
            "daxfs /dev/shm/pool /mnt/daxfs >/dev/null\nexample; echo $?\n# 0\nstat -c %s /mnt/daxfs/buffer\n# 1048576\n"
            "od -An -tu1 -N1 /mnt/daxfs/buffer\n# 42\numount /mnt/daxfs\n"
        )
        self.check_answers(script)

    def user(self):
        """Words before a command that make it that of an ordinary user. Where /dev/fuse is root's alone, the user has another."""
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        if os.stat("/dev/fuse").st_mode & stat.S_IWOTH:
            return become
        device = os.path.join(self.work, "dev")
        os.mkdir(device)
        number = os.stat("/dev/fuse").st_rdev
        script = (
            f"mount -t tmpfs -o dev,mode=755 tmpfs {device} && "
            f"mknod -m 666 {device}/fuse c {os.major(number)} {os.minor(number)} && "
            f'mount --bind {device}/fuse /dev/fuse && exec {" ".join(become)} "$@"'
        )
        return ["unshare", "--mount", "--propagation", "private", "/bin/bash", "-c", script, "user"]

    def test_an_ordinary_user_mounts(self):
        self.install()
        home = os.path.join(self.work, "home")
        os.mkdir(home)
        os.chown(home, int(NOBODY), int(NOBODY))
        self.addCleanup(self.unmount, os.path.join(home, "daxfs"))
        line = next(line for line in code(section("Mounting")).splitlines() if "~/pool" in line).replace("1G", "64M")
        script = f"{line}\n# ... daxfs pool ...\n# ...\n# ...\n# {home}/pool on {home}/daxfs: ..., pin_policy=refuse\n" + AS_A_USER
        if "user_allow_other" not in self.fuse_conf():
            script += FOR_OTHERS
        self.check_answers(script, *self.user(), HOME=home)

    @staticmethod
    def fuse_conf():
        with contextlib.suppress(OSError), open("/etc/fuse.conf", encoding="utf-8") as file:
            return [line.strip() for line in file]
        return []


if __name__ == "__main__":
    if missing():
        print(f"SKIPPED: no {missing()}")
        sys.exit(SKIPPED)
    Readme.build = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
