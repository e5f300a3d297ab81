#!/usr/bin/env python3
"""Plants one violation of each kind, in memory, and expects tidy.py to find it where it was planted; and none without."""
import copy
import re
import sys

import tidy

MANY = "\n".join(f"  step({i});" for i in range(90))

# What is planted: (check, file, what becomes of its text or None for a new one, where it must be found)
PLANTED = {
    "a row names a file that is gone": (
        tidy.tables_of_files, "lease/README.md", lambda t: t.replace("| `limbo.h` |", "| `limbus.h` |"), "lease/README.md"),
    "a new file has no row": (tidy.tables_of_files, "lease/unheard_of.cpp", lambda t: "int x;\n", "lease/README.md"),
    "a new file in a subfolder has no row": (
        tidy.tables_of_files, "blockmap/fsck/unheard_of.h", lambda t: "#pragma once\n", "blockmap/fsck/README.md"),
    "a folder is missing in the README": (tidy.folder_table, "attic/box.h", lambda t: "#pragma once\n", "README.md"),
    "an upward include": (
        tidy.includes, "blockmap/journal.cpp", lambda t: '#include "lease/gate.h"\n' + t, "blockmap/journal.cpp"),
    "an include past the narrow door": (
        tidy.includes, "lease/limbo.cpp", lambda t: t + '\n#include "blockmap/volume/volume.h"\n', "lease/limbo.cpp"),
    "fsck from below": (
        tidy.includes, "blockmap/volume/volume.cpp", lambda t: '#include "blockmap/fsck/fsck.h"\n' + t, "blockmap/volume/volume.cpp"),
    "a structure that knows the volume": (
        tidy.includes, "blockmap/xattr.cpp", lambda t: '#include "blockmap/volume/volume.h"\n' + t, "blockmap/xattr.cpp"),
    "FUSE outside of its folder": (tidy.includes, "src/reading.cpp", lambda t: "#include <fuse_lowlevel.h>\n" + t, "src/reading.cpp"),
    "a file that is too long": (tidy.lengths, "base/clock.h", lambda t: t + "// more\n" * 500, "base/clock.h"),
    "a function that is too long": (
        tidy.lengths, "src/reading.cpp", lambda t: t + f"\nvoid endless(int a,\n             int b) {{\n{MANY}\n}}\n", "src/reading.cpp"),
    "a member function that is too long": (
        tidy.lengths, "base/clock.h", lambda t: t + f"\nclass A {{\n  int endless() {{\n{MANY}\n  }}\n}};\n", "base/clock.h"),
    "an exception for what is small by now": (
        tidy.classes, "lease/ticket.h", lambda t: "", "tests/tidy/exceptions.py"),
    "a class with too many functions": (
        tidy.classes, "src/space.h", lambda t: t + "class Attic {\n public:\n" + "\n".join(
            f"  int thing_{i}(int a) const;" for i in range(41)) + "\n};\n", "src/space.h"),
    "a class with too many members": (
        tidy.classes, "src/space.h", lambda t: t + "class Attic {\n  void f();\n\n private:\n" + "\n".join(
            f"  std::vector<std::function<void(int)>> thing_{i}_{{}};" for i in range(13)) + "\n};\n", "src/space.h"),
    "a friend": (
        tidy.classes, "src/space.h", lambda t: t + "class Attic {\n  friend class Space;\n};\n", "src/space.h"),
    "a lock that the compiler does not look at": (
        tidy.bare_locks, "lease/limbo.h", lambda t: t + "std::mutex unseen;\n", "lease/limbo.h"),
    "a function of fmt without its header": (
        tidy.chance_includes, "lease/limbo.cpp", lambda t: t + "// fmt::join\n", "lease/limbo.cpp"),
    "a metric that nobody counts": (
        tidy.metrics, "tools/watch/alerts.yml", lambda t: t + "# daxfs_unheard_of\n", "tools/watch/alerts.yml"),
    "a metric that no page has": (
        tidy.metrics, "docs/watching.md", lambda t: t.replace("`daxfs_leases`", "leases"), "docs/watching.md"),
    "a library that nothing includes": (
        tidy.libraries, "lease/CMakeLists.txt", lambda t: t + "target_link_libraries(x PUBLIC spdlog::spdlog)\n",
        "lease/CMakeLists.txt"),
    "a dead link": (tidy.links, "docs/gate.md", lambda t: t + "\nSee [there](nowhere.md).\n", "docs/gate.md"),
    "a dead anchor": (tidy.links, "docs/gate.md", lambda t: t + "\nSee [there](limits.md#nowhere).\n", "docs/gate.md"),
    "prose about a file that is gone": (
        tidy.paths_in_prose, "docs/gate.md", lambda t: t + "\nSee `lease/gone.cpp`.\n", "docs/gate.md"),
    "a page that the index lacks": (tidy.index_of_docs, "docs/forgotten.md", lambda t: "# Forgotten\n", "docs/README.md"),
    "a line that is too wide": (tidy.prose, "docs/gate.md", lambda t: t + "\n" + "wide " * 30 + "\n", "docs/gate.md"),
    "a word that must not appear": (tidy.prose, "src/reading.cpp", lambda t: t + "// TO" + "DO: later\n", "src/reading.cpp"),
    "a path of one machine": (tidy.prose, "docs/gate.md", lambda t: t + "\nin /work" + "/main\n", "docs/gate.md"),
    "a promised key that no report has": (
        tidy.promises, "docs/promises.md", lambda t: t.replace("| `limbo` | `pool_offset`", "| `limbo` | `pool_place`"),
        "docs/promises.md"),
    "a function that is promised and gone": (
        tidy.promises, "docs/promises.md", lambda t: t.replace("daxfs_unlease(int", "daxfs_unlend(int"), "client/daxfs.h"),
    "a policy that no source knows": (
        tidy.promises, "docs/promises.md", lambda t: t + "\n`pin_policy=shrug`\n", "docs/promises.md"),
    "a changelog that is behind": (
        tidy.version, "CMakeLists.txt", lambda t: t.replace("project(daxfs VERSION ", "project(daxfs VERSION 9."), "CHANGELOG.md"),
    "a README of another version": (
        tidy.version, "README.md", lambda t: t.replace("version " + t_version(), "version 9"), "README.md"),
    "the version a second time": (
        tidy.version, "tools/usage.h",
        lambda t: t + 'constexpr auto kVersion = "' + t_version() + '";\n', "tools/usage.h"),
}


def t_version():
    return re.search(r"project\(daxfs VERSION ([\d.]+)", TREE.files["CMakeLists.txt"])[1]


TREE = tidy.Tree()


def main():
    failed = 0
    for what, (check, path, change, where) in PLANTED.items():
        tree = copy.copy(TREE)
        tree.files = dict(TREE.files)
        before = tree.files.get(path, "")
        tree.files[path] = change(before)
        if tree.files[path] == before:
            print(f"tidy_test: {what}: could not be planted in {path}; the text that it changes is gone")
            failed += 1
            continue
        known = {(p, w) for p, _, w in check(TREE)}
        new = [(p, w) for p, _, w in check(tree) if (p, w) not in known]
        if not any(p == where for p, w in new):
            print(f"tidy_test: {what}: planted in {path}, and not found; found: {new}")
            failed += 1
    missing = set(tidy.CHECKS) - {check for check, *_ in PLANTED.values()}
    for check in missing:
        print(f"tidy_test: nothing is planted for {check.__name__}")
    if failed or missing:
        return 1
    print(f"tidy_test: {len(PLANTED)} planted violations were found")
    return tidy.main()


if __name__ == "__main__":
    sys.exit(main())
