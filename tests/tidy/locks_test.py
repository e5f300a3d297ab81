#!/usr/bin/env python3
"""Plants faults of locking, in copies of sources, and expects clang to find them as tools/lint asks it to; and none without.

locks_test.py BUILD_DIR"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TIDY = "clang-tidy-16"
SKIPPED = 77

# What is planted: (file, text, what it becomes, what clang says then)
PLANTED = {
    "a guarded member is read without its lock": (
        "lease/gate.cpp",
        "  const MutexLock lock(impl_->mutex);\n  return impl_->options;",
        "  return impl_->options;",
        "reading variable 'options' requires holding mutex 'impl_->mutex'"),
    "a function that expects the lock is called without it": (
        "blockmap/allocator_watch.cpp",
        "  const MutexLock lock(mutex_);\n  for (const PoolRange& run : runs) {",
        "  for (const PoolRange& run : runs) {",
        "calling function 'overlaps_free' requires holding mutex 'mutex_'"),
    "a lock is taken twice": (
        "lease/gate.cpp",
        "    const MutexLock lock(mutex);\n    const std::size_t gone",
        "    const MutexLock lock(mutex);\n    const MutexLock again(mutex);\n    const std::size_t gone",
        "acquiring mutex 'mutex' that is already held"),
    "what lets go of the lock is called under it": (
        "lease/gate_pins.cpp",
        "      impl_->notify();\n    }\n    impl_->finish(aftermath);",
        "      impl_->notify();\n      impl_->finish(aftermath);\n    }",
        "cannot call function 'finish' while mutex 'impl_->mutex' is held"),
    "two locks in the wrong order": (
        "src/event_log.cpp",
        "  const MutexLock reading(reader->mutex);\n  const MutexLock guard(mutex_);",
        "  const MutexLock guard(mutex_);\n  const MutexLock reading(reader->mutex);",
        "mutex 'mutex' must be acquired before 'mutex_'"),
}


def complaints(build, path, text):
    """What clang says of the file with this text: lines."""
    with open(os.path.join(ROOT, "tools/lib/quick_checks.txt"), encoding="utf-8") as file:
        checks = file.read().strip()
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        original = os.path.join(ROOT, path)
        entry = next(entry for entry in json.load(file) if entry["file"] == original)
    with tempfile.TemporaryDirectory(prefix="daxfs-locks-") as directory:
        copy = os.path.join(directory, os.path.basename(path))
        with open(copy, "w", encoding="utf-8") as file:
            file.write(text)
        with open(os.path.join(directory, "compile_commands.json"), "w", encoding="utf-8") as file:
            json.dump([{**entry, "file": copy, "command": entry["command"].replace(original, copy)}], file)
        done = subprocess.run(
            [TIDY, "-p", directory, "--quiet", "--config-file=" + os.path.join(ROOT, ".clang-tidy"), "--checks=" + checks, copy],
            capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if re.search(r": (error|warning): ", line)]


def try_one(build, item):
    what, (path, text, becomes, expected) = item
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        sound = file.read()
    if sound.count(text) != 1:
        return f"{what}: could not be planted in {path}; the text that it changes is gone, or there twice"
    found = complaints(build, path, sound.replace(text, becomes))
    if not any(expected in line for line in found):
        return f"{what}: planted in {path}, not found; clang says: {found}"
    if not any("thread-safety" in line for line in found):
        return f"{what}: found, and it is no error of locking: {found}"
    return None


def without_faults(build, path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        found = complaints(build, path, file.read())
    return f"{path}: nothing is planted, and clang says: {found}" if found else None


def main():
    build = sys.argv[1]
    if shutil.which(TIDY) is None:
        print(f"SKIPPED: there is no {TIDY} (tools/lint installs it)")
        return SKIPPED
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = list(pool.map(lambda item: try_one(build, item), PLANTED.items()))
        said += pool.map(lambda path: without_faults(build, path), sorted({item[0] for item in PLANTED.values()}))
    failed = [line for line in said if line]
    print("\n".join(failed) if failed else f"locks_test: {len(PLANTED)} planted faults of locking were found")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
