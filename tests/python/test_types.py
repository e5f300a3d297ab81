# SPDX-License-Identifier: Apache-2.0
"""The module's type hints, and those who use it, satisfy mypy."""
import os
import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MYPY = "/usr/bin/mypy"
WRONG = "import daxfs\npin = daxfs.Pin('name', 0, 4096)\n"


class Types(unittest.TestCase):
    def mypy(self, *words: str) -> subprocess.CompletedProcess[str]:
        if not os.path.exists(MYPY):
            self.skipTest("mypy is missing: apt-get install mypy")
        environment = {**os.environ, "MYPYPATH": f"{ROOT}/client/python:{ROOT}/tests/python"}
        with tempfile.TemporaryDirectory(prefix="daxfs-mypy-") as cache:
            return subprocess.run([MYPY, "--strict", "--cache-dir", cache, *words], env=environment, cwd=ROOT,
                                  capture_output=True, text=True, timeout=300, check=False)

    def test_the_module_and_its_tests_are_clean(self) -> None:
        done = self.mypy("client/python/daxfs", *(f"tests/python/{name}.py" for name in (
            "mounted", "test_header", "test_leases", "test_pins", "test_types")))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_a_wrong_use_is_found(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".py") as program:
            program.write(WRONG)
            program.flush()
            done = self.mypy(program.name)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("incompatible type", done.stdout)


if __name__ == "__main__":
    unittest.main()
