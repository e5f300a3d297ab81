#!/usr/bin/env python3
"""Checks what no compiler checks: READMEs against the files, includes, lengths, links, words. Seconds.

    tests/tidy/tidy.py              prints each finding as FILE:LINE: what is wrong; how to mend it. Exit status 1 if any
    tests/tidy/tidy_test.py         plants one violation of each kind and expects it to be found
"""
import fnmatch
import os
import posixpath
import re
import sys

from exceptions import FRIENDS, LARGE_CLASSES, LONG_FILES, LONG_FUNCTIONS, WORDS

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TEXT = (".cpp", ".h", ".c", ".py", ".md", ".txt", ".in", ".yml", ".sh", ".json", ".pml", ".mdoc", ".service", ".js", ".css",
        ".html")
CODE = (".cpp", ".h", ".c", ".py", ".js", ".css")
MOST_LINES = 500
MOST_LINES_OF_FUNCTION = 80
MOST_COLUMNS = 130
MOST_FUNCTIONS_OF_CLASS = 40
MOST_MEMBERS_OF_CLASS = 12

# A folder may include from these, and from itself.
MAY_INCLUDE = {
    "base": [],
    # doorbell.h: the page that client and daemon share is laid out once, and needs nothing.
    "blockmap": ["client/doorbell.h", "base/*"],
    "client": [],
    "lease": ["base/*"],
    "src": ["blockmap/*", "lease/*", "client/daxfs.h", "client/doorbell.h", "base/*"],
    "fuse_ops": ["src/*", "lease/*", "blockmap/*", "client/daxfs.h", "base/*"],
    "tools": ["fuse_ops/*", "src/*", "lease/*", "blockmap/*", "client/*", "base/*"],
}
# The floors of blockmap/, the lowest first: a file includes from its own and from those below.
BLOCKMAP_FLOORS = ("blockmap/medium", "blockmap", "blockmap/volume", "blockmap/fsck")
# Only these may include the library's headers.
LIBRARY_USERS = {
    r"fuse": ["fuse_ops/*", "tools/benchmark/null_fuse.cpp", "tests/fuzz/*", "tests/unit/*", "tests/soak/slow_file.c"],
    r"libpmem2": ["blockmap/*"],
}
# A folder that links the library has to include one of its headers somewhere.
LIBRARY_HEADERS = {
    "absl::btree": r"<absl/container/btree_",
    "absl::flat_hash_map": r"<absl/container/flat_hash_map",
    "absl::flat_hash_set": r"<absl/container/flat_hash_set",
    "fmt::fmt": r"<fmt/|<spdlog/",
    "spdlog::spdlog": r"<spdlog/",
    "nlohmann_json::nlohmann_json": r"<nlohmann/",
    "CLI11::CLI11": r"<CLI/",
    "PkgConfig::URING": r"<liburing",
    "PkgConfig::IBVERBS": r"<infiniband/",
    "PkgConfig::BLKID": r"<blkid/",
    "PkgConfig::HTTPLIB": r"<httplib",
    "PkgConfig::PMEM2": r"<libpmem2",
    "PkgConfig::FUSE3": r"<fuse",
}


class Tree:
    """The text files of the source tree, by path. A test of this test changes them in memory."""

    def __init__(self, root=ROOT):
        self.files = {}
        for folder, folders, names in os.walk(root):
            at_root = os.path.samefile(folder, root)
            folders[:] = [f for f in folders if f not in (".git", "__pycache__", ".cache")
                          and not (at_root and (f.startswith("build") or f in ("inst", "shared")))]
            for name in names:
                path = os.path.join(folder, name)
                relative = os.path.relpath(path, root)
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                text = ""
                if name.endswith(TEXT):
                    with open(path, encoding="utf-8", errors="replace") as file:
                        text = file.read()
                self.files[relative] = text

    def named(self, *suffixes):
        return [(path, text) for path, text in sorted(self.files.items()) if path.endswith(suffixes)]

    def inside(self, folder):
        """The files directly in the folder: names."""
        return [posixpath.basename(path) for path in self.files if posixpath.dirname(path) == folder]

    def folders(self):
        found = set()
        for path in self.files:
            while path := posixpath.dirname(path):
                found.add(path)
        return found


def without_code(text):
    """Lines of Markdown with their numbers; fenced and indented code is left out."""
    fenced = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            yield number, line


def file_tables(text):
    """Of tables that have a column `file` or `files`: (line number, what the cell names)."""
    column = None
    for number, line in without_code(text):
        if not line.startswith("|"):
            column = None
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if column is None:
            column = next((i for i, cell in enumerate(cells) if cell in ("file", "files")), -1)
        elif column >= 0 and not set(cells[0]) <= set("-: "):
            for word in re.findall(r"`([^`]+)`", cells[column] if column < len(cells) else ""):
                yield number, word


def matching(names, word):
    """The files that a README means by a word: `gate.h` and `gate` are gate.h and gate.cpp, `hold_*` is a pattern."""
    word = re.sub(r"\.(h|cpp)$", "", word)
    return {n for n in names if fnmatch.fnmatchcase(n, word) or fnmatch.fnmatchcase(re.sub(r"\.(h|cpp|py)$", "", n), word)}


def tables_of_files(tree):
    """Each name in a README's table is a file; each source file is in the table."""
    for path, text in tree.named("README.md"):
        folder = posixpath.dirname(path)
        named = list(file_tables(text))
        if not named:
            continue
        inside = tree.inside(folder)
        for number, word in named:
            word = word.rstrip("/")
            if "/" in word or f"{folder}/{word}" in tree.folders():
                target = posixpath.normpath(posixpath.join(folder, word))
                if target not in tree.folders() and not fnmatch.filter(tree.files, target + "*"):
                    yield path, number, f"`{word}` is named and is not there"
                continue
            if not matching(inside, word):
                yield path, number, f"`{word}` is named and is not there; name the file that took its place"
        covered = set()
        for _, line in without_code(text):
            for word in re.findall(r"`([^`]+)`", line):
                covered |= matching(inside, word)
        for name in sorted(set(inside) - covered):
            if name.endswith((".cpp", ".h")) and not name.endswith("_test.cpp"):
                yield path, named[0][0], f"{name} is not named; give it a row in the table"


def folder_table(tree):
    """The README's table of folders: all of them, and no other."""
    text = tree.files["README.md"]
    section = text[text.index("## Source tree"):]
    listed = set(re.findall(r"^\| \[(\w+)/\]\(", section, re.M))
    top = {path.split("/")[0] for path in tree.files if path.endswith((".cpp", ".h", ".md")) and "/" in path}
    for folder in sorted(top - listed):
        yield "README.md", 1, f"{folder}/ is missing in the table of \"Source tree\""
    for folder in sorted(listed - top):
        yield "README.md", 1, f"{folder}/ in the table of \"Source tree\" is not there"


def includes(tree):
    """Folders know those below them only."""
    for path, text in tree.named(".cpp", ".h", ".c"):
        folder = path.split("/")[0]
        for number, line in enumerate(text.split("\n"), 1):
            match = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
            if not match:
                continue
            included = match[2]
            if match[1] == "<":
                for library, users in LIBRARY_USERS.items():
                    if re.match(library + r"[\w]*(\.h|/)", included) and not any(fnmatch.fnmatch(path, u) for u in users):
                        yield path, number, f"includes <{included}>, which belongs to {', '.join(users)}"
                continue
            if "/" not in included:
                continue
            floor, above = posixpath.dirname(path), posixpath.dirname(included)
            if floor in BLOCKMAP_FLOORS and above in BLOCKMAP_FLOORS and (
                    BLOCKMAP_FLOORS.index(above) > BLOCKMAP_FLOORS.index(floor)):
                yield path, number, f"includes {included}, which lies above it"
            allowed = MAY_INCLUDE.get(folder)
            if allowed is None or included.startswith(folder + "/"):
                continue
            if not any(fnmatch.fnmatch(included, a) for a in allowed):
                yield path, number, f"{folder}/ may not include {included}: see the drawing in README.md, Source tree"


def lengths(tree):
    """Files and functions stay short, but for those in exceptions.py."""
    used = set()
    for path, text in tree.named(*CODE):
        count = text.count("\n")
        if count > MOST_LINES:
            if path in LONG_FILES:
                used.add(path)
            else:
                yield path, 1, f"{count} lines, more than {MOST_LINES}: divide it by ideas"
        if not path.endswith((".cpp", ".h", ".c")):
            continue
        for number, name, length in functions(text):
            if length <= MOST_LINES_OF_FUNCTION:
                continue
            if (path, name) in LONG_FUNCTIONS:
                used.add((path, name))
            else:
                yield path, number, f"{name}() has {length} lines, more than {MOST_LINES_OF_FUNCTION}: divide it into named steps"
    for entry in sorted(set(LONG_FILES) - used) + sorted(set(LONG_FUNCTIONS) - used):
        path = entry if isinstance(entry, str) else entry[0]
        yield "tests/tidy/exceptions.py", 1, f"{entry} is not too long any more, or is gone ({path}): take it off the list"


def functions(text):
    """(line, name, lines) of function definitions in code as clang-format lays it out: the body ends with a brace in the
    column in which its definition began."""
    lines = text.split("\n")
    begin = None
    for number, line in enumerate(lines):
        if begin is None:
            if re.match(r"(  )?[A-Za-z~].*\(", line) and not re.match(
                    r"\s*(namespace|class|struct|enum|union|extern|return|if|for|while|switch|else|do|#|using|static_assert)\b", line):
                begin, indent = number, len(line) - len(line.lstrip())
                if opens(line):
                    continue
                if line.rstrip().endswith((";", "}")):
                    begin = None
            continue
        if number - begin < 12 and not any(opens(l) for l in lines[begin:number]):
            if opens(line):
                continue
            if line.rstrip().endswith((";", "}")):
                begin = None
            continue
        if line == " " * indent + "}" or line.startswith(" " * indent + "};"):
            name = re.search(r"([\w:~]+|operator\S+)\s*\(", lines[begin])
            if not re.match(r"(TEST_CASE|TEMPLATE)", lines[begin]):  # divided into sections instead
                yield begin + 1, (name[1] if name else lines[begin].strip()), number - begin + 1
            begin = None
        elif not any(opens(l) for l in lines[begin:number]):
            begin = None


def classes(tree):
    """Classes that own something stay small, and let nobody in, but for those in exceptions.py."""
    used = set()
    for path, text in tree.named(".h", ".cpp"):
        if path.startswith("tests/"):
            continue
        for number, name, of_class, functions_, members, friends in class_bodies(text):
            large = functions_ > MOST_FUNCTIONS_OF_CLASS or (of_class and members > MOST_MEMBERS_OF_CLASS)
            if large and (path, name) not in LARGE_CLASSES:
                yield path, number, f"{name} has {functions_} functions and {members} members, more than {MOST_FUNCTIONS_OF_CLASS} or {MOST_MEMBERS_OF_CLASS}: divide it"
            if friends and (path, name) not in FRIENDS:
                yield path, number, f"{name} has a friend: give it functions that say what the other may do"
            used |= {("large", path, name)} if large else set()
            used |= {("friend", path, name)} if friends else set()
    listed = {("large", *entry) for entry in LARGE_CLASSES} | {("friend", *entry) for entry in FRIENDS}
    for what, path, name in sorted(listed - used):
        yield "tests/tidy/exceptions.py", 1, f"{name} ({path}) is no exception any more: take it off the list"


def class_bodies(text):
    """(line, name, whether it is a class with functions, functions, members, friends) of classes and structs, as clang-format
    lays them out: what belongs to a class is indented by two columns more than the class. What is nested counts by itself."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        match = re.match(r"( *)(class|struct) (?:[A-Z_]+ )?([\w:]+)(?: final)?(?: : .*)? \{$", line)
        if not match:
            continue
        indent = len(match[1])
        functions_, members, friends, statement = 0, 0, 0, ""
        for inner in lines[number + 1:]:
            if inner.startswith(" " * indent + "};"):
                break
            code = inner.split("//")[0].rstrip()
            depth = len(code) - len(code.lstrip())
            if not code or depth < indent + 2 or (depth > indent + 2 and not statement):
                continue
            statement += " " + code.strip()
            if not code.endswith((";", "{", "}")) and not statement.endswith((" {}",)):
                continue
            kind, statement = kind_of(statement.strip()), ""
            functions_ += kind == "function"
            members += kind == "member"
            friends += kind == "friend"
        yield number + 1, match[3], match[2] == "class" or functions_ > 0, functions_, members, friends


def kind_of(statement):
    if statement.startswith("friend class") or statement.startswith("friend struct"):
        return "friend"
    if re.match(r"(using|typedef|enum|class|struct|union|friend|static_assert|template <.*> (class|struct)|static (inline )?constexpr \w|[}\)])", statement) \
            and not re.match(r"static constexpr [^=]*\(", statement):
        return "other"
    bare = re.sub(r"\b(GUARDED_BY|REQUIRES(_SHARED)?|EXCLUDES|RELEASES|REACQUIRES|ABSL_\w+)\([^()]*\)", "", statement)
    while bare != (bare := re.sub(r"<[^<>]*>", "", bare)):
        pass
    bare = re.sub(r"^(template |explicit |virtual |static |constexpr |inline |friend )*", "", bare)
    if re.match(r"[^={]*\boperator\b", bare) or re.match(r"[^={;]*[\w~]\s*\(", bare):
        return "function"
    return "member" if re.search(r"\w", bare) else "other"


def opens(line):
    return line.rstrip().endswith("{")


def libraries(tree):
    """What a folder links, it includes."""
    for path, text in tree.named("CMakeLists.txt"):
        folder = posixpath.dirname(path)
        if not folder:
            continue
        sources = "\n".join(t for p, t in tree.named(".cpp", ".h", ".c") if p.startswith(folder + "/"))
        for number, line in enumerate(text.split("\n"), 1):
            for library, header in LIBRARY_HEADERS.items():
                if library in line.split("#")[0] and not re.search(r"#\s*include " + header.replace("|", r"|#\s*include "), sources):
                    yield path, number, f"links {library}, and nothing in {folder}/ includes it"


def slug(heading):
    """The anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text):
    found = {}
    for _, line in without_code(text):
        if match := re.match(r"#+ (.*)", line):
            name = slug(match[1])
            seen = found.get(name, -1) + 1
            found[name] = seen
    return {name if i == 0 else f"{name}-{i}" for name, count in found.items() for i in range(count + 1)}


def links(tree):
    """Relative links lead somewhere."""
    for path, text in tree.named(".md"):
        for number, line in without_code(text):
            for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", line)):
                if re.match(r"[a-z]+:", target):
                    continue
                file, _, anchor = target.partition("#")
                where = posixpath.normpath(posixpath.join(posixpath.dirname(path), file)) if file else path
                if where not in tree.files and where not in tree.folders():
                    yield path, number, f"the link to {target} leads nowhere"
                elif anchor and where.endswith(".md") and anchor not in anchors(tree.files[where]):
                    yield path, number, f"{where} has no heading #{anchor}"


def paths_in_prose(tree):
    """A file that a page names in backticks, with its folder, is there."""
    top = {path.split("/")[0] for path in tree.files if "/" in path}
    for path, text in tree.named(".md"):
        for number, line in without_code(text):
            for word in re.findall(r"`([\w.*-]+(?:/[\w.*-]+)+\.(?:cpp|h|md|py|pml|c))`", line):
                below = posixpath.normpath(posixpath.join(posixpath.dirname(path), word))
                if word.split("/")[0] not in top and below not in tree.files:
                    continue  # something on the user's machine
                if not any(fnmatch.filter(tree.files, w) for w in (word, below)):
                    yield path, number, f"`{word}` is not there"


def index_of_docs(tree):
    """Every page of docs/ is in docs/README.md."""
    text = tree.files["docs/README.md"]
    for name in sorted(tree.inside("docs")):
        if name.endswith(".md") and name != "README.md" and f"({name})" not in text:
            yield "docs/README.md", 1, f"does not link {name}"


def prose(tree):
    """Lines of Markdown have one width; some words must not appear."""
    for path, text in tree.named(".md"):
        for number, line in without_code(text):
            if len(line) > MOST_COLUMNS and not line.startswith("|"):
                yield path, number, f"{len(line)} columns, more than {MOST_COLUMNS}"
    for path, text in sorted(tree.files.items()):
        if path.startswith("tests/tidy/") or path == "LICENSE":
            continue
        for number, line in enumerate(text.split("\n"), 1):
            for pattern, instead in WORDS.items():
                if match := re.search(pattern, line):
                    yield path, number, f"\"{match[0]}\": {instead}"


def version(tree):
    """Code says the version once; the newest section of the changelog is that version's, and the README says it."""
    found = re.search(r"project\(daxfs VERSION ([\d.]+)", tree.files["CMakeLists.txt"])
    if not found:
        yield "CMakeLists.txt", 1, "project(daxfs VERSION ...) is missing"
        return
    newest = re.search(r"^## ([\d.]+)", tree.files["CHANGELOG.md"], re.M)
    if not newest or newest[1] != found[1]:
        yield "CHANGELOG.md", 1, f"the newest section is not that of version {found[1]} (CMakeLists.txt)"
    if f"version {found[1]}" not in tree.files["README.md"]:
        yield "README.md", 1, f"does not say version {found[1]} (CMakeLists.txt)"
    for path, text in tree.named(".cpp", ".h", ".txt", ".in", ".py"):
        if path == "CMakeLists.txt":
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if re.search(r"\b" + re.escape(found[1]) + r"\b(?!\.)", line):
                yield path, number, f"says the version {found[1]} a second time; use PROJECT_VERSION or DAXFS_VERSION"


def promises(tree):
    """What docs/promises.md names exists: JSON keys and events, functions, policies, commands' subcommands."""
    text = tree.files["docs/promises.md"]
    code = "\n".join(t for p, t in tree.named(".cpp", ".h") if p.split("/")[0] in ("src", "lease", "tools"))
    lines = text.split("\n")
    json = lines.index("## JSON")
    for number, line in enumerate(lines, 1):
        if number > json:
            for word in re.findall(r"`([a-z_]+)`", line):
                if f'"{word}"' not in code:
                    yield "docs/promises.md", number, f"`{word}` is promised, and no source says \"{word}\""
        for name, value in re.findall(r"`(pin_policy|on_timeout|longterm)=(\w+)`", line):
            if f'"{value}"' not in code or f'"{name}"' not in code:
                yield "docs/promises.md", number, f"{name}={value} is promised, and no source knows it"
    declared = set(re.findall(r"^(?:int|ssize_t|void\*|struct daxfs_direct\*) (daxfs_\w+)\(", tree.files["client/daxfs.h"], re.M))
    promised = set(re.findall(r"(daxfs_\w+) ?\((?:int|(?:const )?struct daxfs_direct)|(daxfs_unmap)\(void", text))
    promised = {a or b for a, b in promised}
    for name in sorted(declared ^ promised):
        where = "docs/promises.md" if name in declared else "client/daxfs.h"
        yield where, 1, f"{name}() is missing here"


def metrics(tree):
    """Dashboard, alert rules and their page name metrics that the daemon has, and the page has them all."""
    code = "\n".join(t for p, t in tree.named(".cpp") if p.startswith("src/"))
    known = set(re.findall(r'"(daxfs_\w+)"', code))
    for path in ("tools/watch/grafana.json", "tools/watch/alerts.yml", "docs/watching.md"):
        for number, line in enumerate(tree.files[path].split("\n"), 1):
            for word in re.findall(r"\bdaxfs_[a-z_]+", line):
                if re.sub(r"_(bucket|sum|count)$", "", word) not in known:
                    yield path, number, f"{word} is not a metric of src/"
    for name in sorted(known):
        if f"`{name}`" not in tree.files["docs/watching.md"]:
            yield "docs/watching.md", 1, f"`{name}` is missing"


def bare_locks(tree):
    """Clang looks at the locks of base/mutex.h alone."""
    folders = ("base/", "blockmap/", "client/", "fuse_ops/", "lease/", "src/")
    for path, text in tree.named(".cpp", ".h"):
        if not path.startswith(folders) or path in ("base/mutex.h", "base/fair_shared_mutex.h"):
            continue
        for number, line in enumerate(text.split("\n"), 1):
            if match := re.search(r"std::(mutex|shared_mutex|lock_guard|condition_variable)\b", line.split("//")[0]):
                yield path, number, f"{match[0]}, whose use nobody checks: take that of base/mutex.h"


def chance_includes(tree):
    """What one version of a library declares where a later one does not (fmt 10 and unstable's, here)."""
    for path, text in tree.named(".cpp", ".h"):
        if "fmt::join" in text and "#include <fmt/ranges.h>" not in text:
            yield path, 1, "fmt::join is declared by <fmt/ranges.h>: include it"


CHECKS = (tables_of_files, folder_table, includes, lengths, classes, libraries, links, paths_in_prose, index_of_docs, prose, version,
          promises, metrics, bare_locks, chance_includes)


def findings(tree, checks=CHECKS):
    for check in checks:
        for path, line, what in check(tree):
            yield f"{path}:{line}: {what} [{check.__name__}]"


def main():
    found = list(findings(Tree()))
    for line in found:
        print(line)
    print(f"tidy: {len(found)} findings" if found else "tidy: all in order")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
