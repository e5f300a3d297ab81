"""pjdfstest: what POSIX says of names, modes, owners and times, as small scripts for prove(1)."""

import os
import re
import shutil
import subprocess

import place

# What its configure would find on Linux: the rest is other systems'.
HAS = """SYS_SYSMACROS_H FACCESSAT FCHMODAT FCHOWNAT FSTATAT LINKAT MKDIRAT MKFIFOAT MKNODAT OPENAT POSIX_FALLOCATE READLINKAT
RENAMEAT SYMLINKAT UNLINKAT UTIMENSAT STRUCT_STAT_ST_ATIM STRUCT_STAT_ST_CTIM STRUCT_STAT_ST_MTIM""".split()
CONFIG = "".join(f"#define HAVE_{name} 1\n" for name in HAS)


def compiled(checkout, where):
    """A copy of the checkout, with the program."""
    copy = os.path.join(where, "pjdfstest")
    shutil.copytree(checkout, copy, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    with open(os.path.join(copy, "config.h"), "w", encoding="utf-8") as file:
        file.write(CONFIG)
    words = ["cc", "-w", "-D_GNU_SOURCE", "-DHAVE_CONFIG_H", "-I", copy, "-o", os.path.join(copy, "pjdfstest")]
    subprocess.run([*words, os.path.join(copy, "pjdfstest.c")], check=True)
    return copy


def run(checkout, build, only, skip):
    if not os.path.exists(os.path.join(checkout, "pjdfstest.c")):
        raise skip(f"{checkout} is no checkout of pjdfstest")
    for program in ("cc", "prove"):
        if shutil.which(program) is None:
            raise skip(f"there is no {program}")
    with place.directory() as where:
        copy = compiled(checkout, where)
        pool, mountpoint = os.path.join(where, "pool"), os.path.join(where, "mnt")
        place.make_pool(build, pool, "256M")
        os.mkdir(mountpoint)
        subprocess.run([os.path.join(build, "daxfs"), pool, mountpoint], check=True, stdout=subprocess.DEVNULL)
        work = os.path.join(mountpoint, "work")
        os.mkdir(work)
        tests = os.path.join(copy, "tests")
        found = sorted(os.path.relpath(os.path.join(at, name), tests) for at, _, names in os.walk(tests)
                       for name in names if name.endswith(".t"))
        found = [name for name in found if only in name]
        done = subprocess.run(["prove", "--timer", *[os.path.join(tests, name) for name in found]], cwd=work, text=True,
                              capture_output=True, check=False)
        print("\n".join(done.stdout.splitlines()[-2:]))
        return outcomes(done.stdout, tests)


def outcomes(said, tests):
    """Of each script: ok, with how many of its assertions are not run; or not."""
    result = {}
    for line in said.splitlines():
        match = re.match(rf"(?:\[[0-9:]+\] )?{re.escape(tests)}/(\S+) \.+ *(.*)", line)
        if match:
            words = match[2]
            result[match[1]] = "pass" if words.startswith("ok") else "notrun" if words.startswith("skipped") else "fail"
    return result
