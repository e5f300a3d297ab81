#!/usr/bin/env python3
"""The manual pages and completions that the build has made: they say what the commands say, and are well-formed.

    pages_test.py BUILD_DIR
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools", "pages"))
import make_pages  # noqa: E402

BUILD = os.path.abspath(sys.argv[1])
PAGES = os.path.join(BUILD, "pages")
failed = []


def check(condition, what):
    if not condition:
        failed.append(what)
        print(f"pages_test: {what}")


def rendered(page):
    """What man(1) shows, as one line; backspaces and hyphenation are out."""
    done = subprocess.run(["groff", "-man", "-Tutf8", "-P-c", "-P-b", "-P-o", "-P-u", "-rHY=0", "-rLL=200n", page],
                          capture_output=True, text=True, check=True, cwd=os.path.join(PAGES, "man"))
    return re.sub(r"\x1b\[[0-9;]*m", "", re.sub(".\x08", "", done.stdout)).replace("\u2010", "-").replace("\u2212", "-")


def one_line(text):
    return " ".join(text.replace("`", "'").replace("\u2018", "'").replace("\u2019", "'").split())


def man_page_of(command):
    return os.path.join("man1" if command == "daxfs-hold" else "man8", command + (".1" if command == "daxfs-hold" else ".8"))


def options_are_on_the_page():
    """Read from --help by means of this test's own: every word that begins with a dash and a letter at a line's beginning."""
    for command in make_pages.COMMANDS:
        out = subprocess.run([os.path.join(BUILD, command), "--help"], capture_output=True, text=True, check=True).stdout
        page = one_line(rendered(man_page_of(command)))
        options = re.findall(r"^  (-[\w,-]+)", out, re.M)
        check(len(options) >= 2, f"{command} --help lists no options")
        for option in options:
            check(option.replace(",", ", ") in page, f"{command}: the page lacks {option}")
        for subcommand in re.findall(r"^  (\w+)  ", out[out.lower().rfind("\nsubcommands:"):], re.M) if command == "daxfsctl" else []:
            check(re.search(rf"\b{subcommand}\b", page), f"daxfsctl: the page lacks {subcommand}")
            more = subprocess.run([os.path.join(BUILD, command), subcommand, "--help"], capture_output=True, text=True, check=True)
            for option in re.findall(r"^  (-[\w,-]+)", more.stdout, re.M):
                check(option.replace(",", ", ") in page, f"daxfsctl {subcommand}: the page lacks {option}")
    # By hand in the pages' sources: options that they name have to exist.
    for name in os.listdir(os.path.join(ROOT, "tools", "pages")):
        command = name.rsplit(".", 2)[0]
        if not name.endswith(".in") or command not in make_pages.COMMANDS or name.endswith(".5.in"):
            continue
        with open(os.path.join(ROOT, "tools", "pages", name), encoding="utf-8") as file:
            text = file.read().replace("\\-", "-")
        out = subprocess.run([os.path.join(BUILD, command), "--help"], capture_output=True, text=True, check=True).stdout
        synopsis = text[text.index(".SH SYNOPSIS"):text.index(".SH DESCRIPTION")]
        for option in re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", synopsis):
            if option != "-t":
                check(re.search(rf"(?<![\w-]){option}(?![\w-])", out), f"{name} names {option}, which {command} does not have")


def mount_options_are_on_the_pages():
    out = subprocess.run([os.path.join(BUILD, "daxfs"), "--help"], capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^  ([a-z_]+)=", out, re.M)
    check("pin_policy" in names and "limbo_limit" in names, "daxfs --help lists no mount options")
    for page in ("man8/daxfs.8", "man5/daxfs.5"):
        text = rendered(page)
        for name in names:
            check(f"{name}=" in text, f"{page} lacks {name}=")


def functions_have_pages():
    with open(os.path.join(ROOT, "client", "daxfs.h"), encoding="utf-8") as file:
        header = file.read()
    functions = re.findall(r"^(?:int|ssize_t|void\*|struct daxfs_direct\*) (daxfs_\w+)\(", header, re.M)
    check(len(functions) >= 12, "daxfs.h declares no functions")
    for function in functions:
        path = os.path.join(PAGES, "man/man3", function + ".3")
        check(os.path.exists(path), f"{function} has no page")
        if os.path.exists(path):
            check(f"{function}(" in rendered(os.path.join("man3", function + ".3")) or
                  open(path, encoding="utf-8").read().startswith(".so "), f"{function}(3) lacks its prototype")


def pages_are_well_formed():
    for folder, _, names in os.walk(os.path.join(PAGES, "man")):
        for name in names:
            done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", os.path.join(folder, name)],
                                  capture_output=True, text=True, cwd=os.path.join(PAGES, "man"))
            check(done.returncode == 0 and not done.stderr, f"{name}: {done.stderr.strip()}")
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                text = file.read()
            check(text.startswith(".so ") or re.search(r"^\.SH NAME\n.+ \\- .+$", text, re.M), f"{name}: no line under NAME")


def completed(line):
    """What bash offers at the end of the line."""
    words = re.findall(r"[^\s=]+|=", line) + ([""] if line.endswith(" ") else [])
    command = line.split()[0]
    script = f"""source {PAGES}/bash/{command}
COMP_LINE=$1 COMP_POINT=${{#1}}; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
compopt() {{ :; }}
function=$(complete -p {command} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$function 2>&1; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "--norc", "-c", script, "bash", line, *words], capture_output=True, text=True)
    check(not done.stderr, f"completing \"{line}\": {done.stderr}")
    return done.stdout.split()


def bash_completes():
    check("--exclusive" in completed("daxfs-hold --ex"), "daxfs-hold --ex is not completed")
    check(completed("daxfs-hold file --engine io") == ["io_uring"], "daxfs-hold --engine io is not completed")
    check("limbo" in completed("daxfsctl li"), "daxfsctl li is not completed")
    check(set(completed("daxfsctl ")) >= {"status", "pins", "scrub"}, "the subcommands of daxfsctl are not offered")
    check(completed("daxfsctl policy /mnt s") == ["set"], "daxfsctl policy PATH set is not completed")
    check("defer" in completed("daxfsctl policy /mnt set pin_policy=de"), "a policy is not completed")
    check("wait" in completed("daxfs pool /mnt -o ro,pin_policy=wa"), "a mount option is not completed")
    check("--force" in completed("mkfs.daxfs --f"), "mkfs.daxfs --f is not completed")
    check("--json" in completed("fsck.daxfs --j"), "fsck.daxfs --j is not completed")


def zsh_is_well_formed():
    with open(os.path.join(PAGES, "zsh/_daxfs"), encoding="utf-8") as file:
        text = file.read()
    check(text.startswith("#compdef " + " ".join(make_pages.COMMANDS)), "zsh: _daxfs is for other commands")
    if shutil.which("zsh"):
        done = subprocess.run(["zsh", "-n", os.path.join(PAGES, "zsh/_daxfs")], capture_output=True, text=True)
        check(done.returncode == 0, f"zsh: {done.stderr}")


def a_stale_page_is_noticed():
    """The test can fail: a page without an option, and one that is malformed."""
    global PAGES, failed
    kept, before = PAGES, failed
    with tempfile.TemporaryDirectory() as directory:
        PAGES, failed = os.path.join(directory, "pages"), []
        shutil.copytree(kept, PAGES)
        path = os.path.join(PAGES, "man/man1/daxfs-hold.1")
        with open(path, encoding="utf-8") as file:
            text = file.read()
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("ignore\\-breaks", "ignore\\-brakes") + "\n.unheard of\n")
        print("pages_test: two complaints are expected now:")
        options_are_on_the_page()
        pages_are_well_formed()
        noticed = failed
    PAGES, failed = kept, before
    check(any("--ignore-breaks" in f for f in noticed), "a page that lacks an option was not noticed")
    check(any("daxfs-hold.1" in f for f in noticed), "a malformed page was not noticed")


def main():
    if not os.path.isdir(PAGES) or not shutil.which("groff"):
        print("pages_test: skipped: no pages were built, or groff is missing")
        return 77
    for step in (options_are_on_the_page, mount_options_are_on_the_pages, functions_have_pages, pages_are_well_formed,
                 bash_completes, zsh_is_well_formed, a_stale_page_is_noticed):
        step()
    print(f"pages_test: {len(failed)} failed" if failed else "pages_test: all in step")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
