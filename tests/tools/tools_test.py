"""The commands of the tree as a newcomer meets them: typos, two at once, old logs, what was skipped.

tools_test.py BUILD_DIR [unittest's arguments]"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SECONDS = 120
FAKE_CMAKE = """#!/bin/sh
echo "$*" >>"$CALLS"
case $* in
  --preset*) mkdir -p build/release && : >build/release/build.ninja && : >build/release/CMakeCache.txt ;;
  *) exit 1 ;;
esac
"""


class Tree(unittest.TestCase):
    """A copy of what the commands consist of, without anything that could be built."""

    build = None

    def setUp(self):
        self.root = tempfile.mkdtemp(prefix="daxfs-tools-")
        self.addCleanup(shutil.rmtree, self.root)
        shutil.copytree(os.path.join(ROOT, "tools"), os.path.join(self.root, "tools"))
        for name in ("CMakeLists.txt", "CMakePresets.json"):
            shutil.copy(os.path.join(ROOT, name), self.root)

    def run_here(self, *command, **more):
        environment = {**os.environ, **more}
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )

    def shell(self, script, **more):
        return self.run_here("bash", "-c", "set -euo pipefail\n" + script, "tools/check", **more)

    def expect_no_build(self):
        self.assertFalse(os.path.exists(os.path.join(self.root, "build")))

    def test_a_typo_is_refused_before_anything_is_built(self):
        for words, complaint in (
            (["--layer", "mont"], "layer 'mont' is none of unit model"),
            (["--layer", "mont"], "did you mean mount?"),
            (["--preset", "asna"], "did you mean asan?"),
            (["--layer", "unit", "--preset", "relese"], "did you mean release?"),
            (["--debian", "trixi"], "did you mean trixie?"),
            (["--kernel", "bokworm"], "did you mean bookworm?"),
            (["--laier", "unit"], "unknown argument '--laier'; did you mean --layer?"),
            (["--layer"], "--layer takes one of unit"),
        ):
            with self.subTest(words):
                done = self.run_here("tools/check", *words)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(complaint, done.stderr)
                self.assertEqual(done.stderr.count("\n"), 1)
                self.expect_no_build()

    def test_every_command_names_the_nearest_word_in_a_line(self):
        programs = os.path.join(self.build, "")
        for command, near in (
            ("tools/demo thraed", "thread"),
            ("tools/demo --sgv x", "--svg"),
            ("tools/demo --policies wiat", "wait"),
            ("tools/bench --quik", "--quick"),
            ("tools/bench --targets dafs", "daxfs"),
            ("tools/lint --sinse main", "--since"),
            ("tools/package --versoin", "--version"),
            (f"{programs}daxfs --hepl /pool /mnt", "--help"),
            (f"{programs}daxfs /pool /mnt -o pin_polisy=wait", "pin_policy"),
            (f"{programs}daxfs /pool /mnt -o pin_policy=wiat", "wait"),
            (f"{programs}mkfs.daxfs --siez 1M /pool", "--size"),
            (f"{programs}fsck.daxfs --jsno /pool", "--json"),
            (f"{programs}daxfsctl statsu /mnt", "status"),
            (f"{programs}daxfs-hold /file --lenght 1M", "--length"),
            (f"{programs}daxfs-run --stast true", "--stats"),
        ):
            with self.subTest(command):
                done = self.run_here(*command.split())
                self.assertIn(done.returncode, (2, 16), done.stderr)
                self.assertRegex(done.stderr, f"did you mean '?{near}'?\\?")
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.expect_no_build()

    def test_each_command_says_its_version(self):
        with open(os.path.join(ROOT, "CMakeLists.txt"), encoding="utf-8") as file:
            version = file.read().split("VERSION ")[2].split()[0]
        for name in ("check", "demo", "bench", "lint", "package"):
            done = self.run_here(f"tools/{name}", "--version")
            self.assertEqual((done.returncode, done.stdout), (0, f"daxfs {version}\n"), done.stderr)
        for name in ("daxfs", "mkfs.daxfs", "fsck.daxfs", "daxfsctl", "daxfs-hold", "daxfs-run"):
            done = self.run_here(os.path.join(self.build, name), "--version")
            self.assertEqual((done.returncode, done.stdout), (0, f"{name} {version}\n"), done.stderr)
        self.expect_no_build()

    def test_the_second_of_two_says_whom_it_waits_for(self):
        lock = ". tools/lib/tree_lock.sh; command_name={}; lock_tree; echo locked; {}"
        first = subprocess.Popen(
            ["bash", "-c", lock.format("check", "read -r _ || true")],
            cwd=self.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.addCleanup(first.stdout.close)
        self.assertEqual(first.stdout.readline(), "locked\n")
        second = subprocess.Popen(
            ["bash", "-c", lock.format("demo", "true")],
            cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        self.assertIn(f"demo: check (process {first.pid}) is at work in this tree", second.stderr.readline())
        self.assertIsNone(second.poll())
        first.stdin.close()
        self.assertEqual(first.wait(SECONDS), 0)
        said, _ = second.communicate(timeout=SECONDS)
        self.assertEqual(said, "locked\n")

    def test_a_child_that_stays_keeps_no_lock(self):
        script = ". tools/lib/tree_lock.sh; lock_tree; sleep 60 9>&- >/dev/null 2>&1 & echo $!"
        child = int(self.shell(script).stdout)
        try:
            self.assertEqual(self.shell(". tools/lib/tree_lock.sh; lock_tree; echo got").stdout, "got\n")
        finally:
            os.kill(child, 9)

    def with_cmake(self, script):
        """Of the library that builds, with a cmake that configures and cannot build."""
        directory = os.path.join(self.root, "bin")
        os.makedirs(directory, exist_ok=True)
        with open(os.path.join(directory, "cmake"), "w", encoding="utf-8") as file:
            file.write(FAKE_CMAKE)
        os.chmod(file.name, 0o755)
        self.calls = os.path.join(self.root, "calls")
        return self.shell(". tools/lib/build.sh\n" + script, PATH=f"{directory}:{os.environ['PATH']}", CALLS=self.calls)

    def test_an_old_log_is_not_shown(self):
        os.makedirs(os.path.join(self.root, "build/release"))
        with open(os.path.join(self.root, "build/release/build.log"), "w", encoding="utf-8") as log:
            log.write("FAILED: yesterday\nerror: of yesterday\n")
        done = self.with_cmake("build_preset release")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("the build failed", done.stderr)
        self.assertNotIn("yesterday", done.stdout + done.stderr)

    def test_a_log_that_cannot_be_written_is_named(self):
        os.makedirs(os.path.join(self.root, "build/release/build.log/something"))
        done = self.with_cmake("build_preset release")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("build/release/build.log cannot be written", done.stderr)
        self.assertFalse(os.path.exists(self.calls))

    def test_a_tree_that_was_built_without_tests_is_configured_anew_for_them(self):
        self.with_cmake("build_preset release; true || true")
        self.with_cmake("build_preset release")
        with open(self.calls, encoding="utf-8") as file:
            self.assertEqual(file.read().count("--preset"), 1)
        self.with_cmake("build_preset release -DDAXFS_TESTS=ON")
        with open(self.calls, encoding="utf-8") as file:
            self.assertIn("--preset release -DDAXFS_TESTS=ON", file.read())

    def test_the_progress_of_a_build_has_an_estimate(self):
        lines = "echo '[1/10] a'; sleep 3.1; echo 'noise'; echo '[4/10] b'"
        done = self.shell(f". tools/lib/build.sh; {{ {lines}; }} | show_build_progress")
        self.assertIn("1 of 10 built", done.stdout)
        self.assertRegex(done.stdout, r"4 of 10 built, about [4-9] s left")

    def test_what_was_skipped_is_listed_with_its_reason(self):
        tests = os.path.join(self.root, "tests")
        os.makedirs(tests)
        with open(os.path.join(tests, "CTestTestfile.cmake"), "w", encoding="utf-8") as file:
            file.write(
                'add_test("unit: passes" true)\n'
                'add_test("vm: lacking" sh -c "echo SKIPPED: no such emulator; exit 77")\n'
                'set_tests_properties("vm: lacking" PROPERTIES SKIP_RETURN_CODE 77)\n'
                'add_test("mount: asks" sh -c "echo SKIPPED: not root: run it as root; exit 1")\n'
                'set_tests_properties("mount: asks" PROPERTIES SKIP_REGULAR_EXPRESSION "SKIPPED:")\n'
            )
        before = os.path.join(self.root, "before")
        with open(before, "w", encoding="utf-8"):
            pass
        os.utime(before, (1, 1))
        for name, line in (("ext4", "skip  registered buffers: of a file (0.3 s): not on this kernel\n"), ("xfs", "ok  x (1.0 s)\n")):
            os.makedirs(os.path.join(tests, "vm", name))
            with open(os.path.join(tests, "vm", name, "output"), "w", encoding="utf-8") as file:
                file.write(line)
        self.run_here("ctest", "--test-dir", tests)
        said = self.shell(f". tools/lib/skipped.sh; show_skipped {tests} {before}").stdout
        self.assertEqual(
            sorted(said.splitlines()[1:]),
            [
                "  mount: asks: not root: run it as root",
                "  vm: ext4: registered buffers: of a file: not on this kernel",
                "  vm: lacking: no such emulator",
            ],
            said,
        )
        self.assertEqual(said.splitlines()[0], "skipped (3):")


    def test_an_uninstallation_leaves_nothing(self):
        shutil.copytree(os.path.join(ROOT, "cmake"), os.path.join(self.root, "cmake"))
        with open(os.path.join(self.root, "CMakeLists.txt"), "w", encoding="utf-8") as file:
            file.write(
                "cmake_minimum_required(VERSION 3.25)\nproject(small NONE)\n"
                "set(CMAKE_INSTALL_LIBDIR lib)\ninclude(GNUInstallDirs)\ninclude(cmake/uninstall.cmake)\n"
                "install(PROGRAMS tools/check DESTINATION bin)\n"
                "install(FILES CMakePresets.json DESTINATION lib/pkgconfig)\n"
                "install(FILES CMakePresets.json DESTINATION share/man/man7)\n"
            )
        prefix = os.path.join(self.root, "prefix")
        for name in ("lib", "share", "share/man"):
            os.makedirs(os.path.join(prefix, name))  # was there before, and stays
        for command in (
            ["cmake", "-G", "Ninja", "-S", ".", "-B", "build"],
            ["cmake", "--install", "build", "--prefix", prefix],
            ["cmake", "--install", "build", "--prefix", prefix],  # a second time: the directories are there now
        ):
            done = self.run_here(*command)
            self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(os.path.exists(os.path.join(prefix, "share/man/man7/CMakePresets.json")))
        os.makedirs(os.path.join(prefix, "lib/pkgconfig/__pycache__"))
        done = self.run_here("cmake", "--build", "build", "--target", "uninstall")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        left = sorted(os.path.relpath(path, prefix) for path, _, _ in os.walk(prefix))
        self.assertEqual(left, [".", "lib", "share", "share/man"])
        done = self.run_here("cmake", "--build", "build", "--target", "uninstall")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("nothing is installed from this build", done.stdout + done.stderr)
        # What is installed before the directories are noted would leave them behind.
        with open(os.path.join(ROOT, "CMakeLists.txt"), encoding="utf-8") as file:
            whole = file.read()
        self.assertLess(whole.index("include(cmake/uninstall.cmake)"), whole.index("add_subdirectory("))

    def test_the_unit_tests_of_the_client_leave_no_file(self):
        scratch = os.path.join(self.root, "tmp")
        os.makedirs(scratch)
        done = self.run_here(os.path.join(self.build, "tests/tests_unit"), "[client]", TMPDIR=scratch)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(os.listdir(scratch), [])


if __name__ == "__main__":
    Tree.build = os.path.abspath(sys.argv.pop(1))
    sys.path.insert(0, HERE)
    unittest.main(verbosity=2)
