#!/usr/bin/env python3
"""Makes the manual pages and the completion for bash and zsh. The build runs it.

What commands take is asked of the commands themselves (--help), what functions do is read from daxfs.h; the rest is written
by hand in NAME.SECTION.in beside this file. So nothing is written twice, and nothing can fall out of step.

    make_pages.py --bin DIR --header daxfs.h --version 1.2.3 --out DIR

In an .in file: @VERSION@; @ARGUMENTS@, @OPTIONS@, @COMMANDS@ of the command that the page is named after; @NOTES@, what its
--help says at the end; @COMMAND_OPTIONS@ of its subcommands; @MOUNT_OPTIONS@ of daxfs; @FUNCTIONS@ of daxfs.h.
"""
import argparse
import gzip
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field

HERE = os.path.dirname(os.path.abspath(__file__))
COMMANDS = ("daxfs", "mkfs.daxfs", "fsck.daxfs", "daxfsctl", "daxfs-hold")
# What the --help of an option says in prose only. The test looks that the words are there.
CHOICES = {"--engine": ("mmap", "io_uring", "rdma")}


@dataclass
class Entry:
    """One line of --help: an option, an argument or a subcommand."""

    names: list
    value: str = ""
    default: str = ""
    text: str = ""


@dataclass
class Help:
    usage: str = ""
    about: str = ""
    arguments: list = field(default_factory=list)
    options: list = field(default_factory=list)
    commands: list = field(default_factory=list)
    footer: str = ""
    subhelps: dict = field(default_factory=dict)  # by subcommand


def entry_of(left, text):
    words = left.split()
    entry = Entry(names=words[0].split(","), text=text)
    for word in words[1:]:
        if word.startswith("Excludes"):
            break
        if word in ("REQUIRED", "TEXT", "..."):
            continue
        entry.value, _, entry.default = word.partition("=")
    return entry


def parse_help(text):
    """Of what CLI11 prints, versions 2.3 to 2.5."""
    result = Help()
    section, about, footer = None, [], []
    for line in text.split("\n"):
        heading = re.fullmatch(r"(positionals|options|subcommands):", line.strip().lower())
        if heading and not line.startswith(" "):
            section = {"positionals": result.arguments, "options": result.options, "subcommands": result.commands}[heading[1]]
        elif line.startswith("Usage:"):
            result.usage = line[len("Usage:"):].strip()
            section = False
        elif section is None:
            about.append(line)
        elif section is not False and line.startswith("  ") and not footer:
            # The name, and after two spaces or more (or on the next lines) what it is.
            match = re.match(r"  (\S(?:.*?\S)?)(?:\s{2,}(.*))?$", line)
            if not line.startswith("   ") and match:
                section.append(entry_of(match[1], match[2] or ""))
            elif section:
                section[-1].text = (section[-1].text + " " + line.strip()).strip()
        elif section is False or not line.strip():
            if footer:
                footer.append(line)
        else:
            footer.append(line)
    result.about = "\n".join(about).strip()
    result.footer = "\n".join(footer).strip("\n")
    return result


def help_of(bin_dir, command, *more):
    done = subprocess.run([os.path.join(bin_dir, command), *more, "--help"], capture_output=True, text=True, check=True)
    help_ = parse_help(done.stdout)
    if not more:
        help_.subhelps = {name: help_of(bin_dir, command, name) for entry in help_.commands for name in entry.names}
    return help_


def mount_options(footer):
    """(name, text) of the options of -o."""
    found = []
    for line in footer.split("\n")[1:]:
        if re.match(r"  [\[a-z]", line) and re.match(r"  \S+(, \S+)*$", line):
            found.append([line.strip(), ""])
        elif line.startswith("      ") and found:
            found[-1][1] = (found[-1][1] + " " + line.strip()).strip()
    return [tuple(one) for one in found]


def escape(text):
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("^", "\\(ha").replace("~", "\\(ti")
    # Words with an apostrophe keep it; an apostrophe or a full stop that begins a line would be a request.
    return "\n".join(re.sub(r"^([.'])", r"\\&\1", line) for line in text.split("\n"))


def tagged(entries):
    out = []
    for entry in entries:
        names = ", ".join(f"\\fB{escape(name)}\\fR" for name in entry.names)
        value = f" \\fI{escape(entry.value)}\\fR" if entry.value else ""
        default = f" (default {escape(entry.default)})" if entry.default else ""
        text = entry.text[:1].upper() + entry.text[1:]
        if text and text[-1] not in ".!?":
            text += "."
        out.append(f".TP\n{names}{value}\n{escape(text[:-1]) + default + '.' if text else ''}")
    return "\n".join(out)


def tagged_command_options(subhelps):
    """Of subcommands: those options that the command itself has not."""
    out = []
    for name, help_ in subhelps.items():
        own = [o for o in help_.options if not {"--help", "--json"} & set(o.names)]
        if own:
            out.append(f".SS {escape(name)}\n{tagged(own)}")
    return "\n".join(out)


def tagged_options(options):
    return "\n".join(f".TP\n\\fB{escape(name)}\\fR\n{escape(text[:1].upper() + text[1:])}." for name, text in options)


def verbatim(text):
    return ".nf\n" + escape(text) + "\n.fi"


# --- daxfs.h ---

@dataclass
class Page:
    functions: list  # names
    prototypes: list
    text: str


def comment_text(comment):
    lines = [re.sub(r"^\s*\* ?", "", line).rstrip() for line in comment.split("\n")]
    return "\n".join(lines).strip()


def header_pages(header):
    """The functions of daxfs.h; those that share a comment share a page."""
    pages = []
    pattern = r"/\*((?:[^*]|\*(?!/))*)\*/\n((?:(?:int|ssize_t|void\*|void \*|struct daxfs_direct\*) ?\*?\s*daxfs_\w+\([^;{]*\);\n)+)"
    for match in re.finditer(pattern, header):
        prototypes = [re.sub(r"\s+", " ", p).strip() + ";" for p in match[2].split(";") if p.strip()]
        names = [re.search(r"(daxfs_\w+)\(", p)[1] for p in prototypes]
        pages.append(Page(names, prototypes, comment_text(match[1])))
    return pages


def flags_of(header, function):
    """The constants under the comment `flags of FUNCTION()`: (name, text)."""
    begin = header.find(f"/* flags of {function}() */")
    if begin < 0:
        return []
    block = header[begin:].split("\n\n")[0].split("\n", 1)[1]
    return [(name, " ".join(comment_text(text).split())) for text, name in
            re.findall(r"/\*((?:[^*]|\*(?!/))*)\*/\s*#define (\w+)", block)]


def struct_of(header, name):
    match = re.search(r"(?:/\*(?:[^*]|\*(?!/))*\*/\n)?struct " + name + r" \{.*?\n\};", header, re.S)
    return match[0] if match else ""


def paragraphs(text):
    out = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines = paragraph.split("\n")
        plain = []
        for line in lines:
            if line.startswith("    "):
                if plain:
                    out.append(".PP\n" + escape(" ".join(plain)))
                    plain = []
                out.append(".PP\n.RS 4\n.nf\n" + escape(line.strip()) + "\n.fi\n.RE")
            else:
                plain.append(line.strip())
        if plain:
            out.append(".PP\n" + escape(" ".join(plain)))
    return "\n".join(out)


def summary(page):
    """The first sentence, for NAME."""
    sentence = re.split(r"[.:;](?:\s|$)", " ".join(page.text.split()))[0]
    return sentence[:1].lower() + sentence[1:]


def function_page(page, header, pages, version):
    name = page.functions[0]
    flags = [flag for function in page.functions for flag in flags_of(header, function)]
    structs = {s for p in page.prototypes for s in re.findall(r"struct (daxfs_\w+)", p)}
    constants = ""
    if flags:
        constants = ".SH FLAGS\n" + "\n".join(f".TP\n.B {flag}\n{escape(text)}" for flag, text in flags) + "\n"
    # One that is not shown has nothing to be seen.
    shown = "".join(f".PP\n{verbatim(struct_of(header, s))}\n" for s in sorted(structs) if struct_of(header, s))
    others = [p.functions[0] for p in pages if p is not page]
    see = ",\n".join(f".BR {other} (3)" for other in sorted(others))
    prototypes = "\n".join(f".BI \"{escape(p)}\"" for p in page.prototypes)
    returned = "The address. On failure it is NULL, and" if "*" in page.prototypes[0].split("(")[0] else (
        "0 or a count. On failure it is \\-1, and")
    return f""".TH {name} 3 "" "daxfs {version}" "daxfs"
.SH NAME
{escape(", ".join(page.functions))} \\- {escape(summary(page))}
.SH LIBRARY
libdaxfs (\\fI\\-ldaxfs\\fR; \\fBpkg\\-config \\-\\-cflags \\-\\-libs daxfs\\fR)
.SH SYNOPSIS
.nf
.B #include <daxfs.h>
.PP
{prototypes}
.fi
.SH DESCRIPTION
{paragraphs(page.text)}
{shown}{constants}.SH RETURN VALUE
{returned}
.I errno
says why.
.SH SEE ALSO
.BR libdaxfs (3),
{see}
"""


def functions_list(pages):
    return "\n".join(f".TP\n.BR {escape(name)} (3)\n{escape(summary(p))}" for p in pages for name in p.functions[:1])


# --- completion ---

def words(values):
    return " ".join(values)


def option_choices(entry):
    for name in entry.names:
        if name in CHOICES:
            return CHOICES[name]
    return ()


def mount_words(options):
    """For -o: NAME=VALUE for each value, NAME= where any goes, NAME."""
    out = []
    for name, _ in options:
        for one in name.split(", "):
            one, equals, values = one.partition("=")
            if one.startswith("[no]"):
                out += [one[4:], "no" + one[4:]]
                continue
            known = [v for v in values.split("|") if v.islower()]
            out += [f"{one}={value}" for value in known]
            if equals and any(not v.islower() for v in values.split("|")):
                out.append(one + "=")
            if not equals:
                out.append(one)
    return out


def settings(options):
    """Those that `daxfsctl policy PATH set` takes."""
    return [w for w in mount_words(options) if "=" in w]


def bash(helps, options):
    out = ["# Completion for the commands of daxfs. Made from --help by tools/pages/make_pages.py.", ""]
    for command, help_ in helps.items():
        function = "_" + re.sub(r"\W", "_", command)
        flags = [n for e in help_.options for n in e.names]
        cases = ""
        for entry in help_.options:
            if choices := option_choices(entry):
                cases += f"    {'|'.join(entry.names)}) COMPREPLY=($(compgen -W '{words(choices)}' -- \"$word\")); return ;;\n"
            elif entry.names[0] == "-o":
                cases += f"""    -o)
      local before=${{word%"${{word##*,}}"}}
      COMPREPLY=($(compgen -P "$before" -W '{words(mount_words(options))}' -- "${{word##*,}}"))
      compopt -o nospace; return ;;
"""
            elif entry.value:
                cases += f"    {'|'.join(entry.names)}) return ;;\n"
        more = ""
        if help_.commands:
            names = words(n for e in help_.commands for n in e.names)
            more = f"""  local i command=
  for ((i = 1; i < COMP_CWORD; ++i)); do [[ ${{COMP_WORDS[i]}} == -* ]] || {{ command=${{COMP_WORDS[i]}}; break; }}; done
  if [[ -z $command ]]; then COMPREPLY=($(compgen -W '{names} {words(flags)}' -- "$word")); return; fi
  if [[ $command == policy ]] && ((COMP_CWORD > i + 1)); then
    if ((COMP_CWORD == i + 2)); then COMPREPLY=($(compgen -W 'set' -- "$word")); return; fi
    COMPREPLY=($(compgen -W '{words(settings(options))}' -- "$word")); compopt -o nospace; return
  fi
"""
        out.append(f"""{function}() {{
  # Words are cut at `=` and `:` as readline has it; an option's value is put together again.
  local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}}
  local line=${{COMP_LINE:0:COMP_POINT}} whole
  whole=${{line##* }}
  COMPREPLY=()
  word=$whole
  [[ $line =~ ([^[:space:]]+)[[:space:]]+[^[:space:]]*$ ]] && previous=${{BASH_REMATCH[1]}}
  case $previous in
{cases}    *) ;;
  esac
{more}  if [[ $word == -* ]]; then COMPREPLY=($(compgen -W '{words(flags)}' -- "$word")); else COMPREPLY=($(compgen -f -- "$word")); fi
}}
{function}_words() {{
  {function}
  # readline replaces what stands behind the last `=` only.
  local line=${{COMP_LINE:0:COMP_POINT}} whole
  whole=${{line##* }}
  if [[ $whole == *=* && $COMP_WORDBREAKS == *=* ]]; then
    local cut=${{whole%"${{whole##*=}}"}} i
    for i in "${{!COMPREPLY[@]}}"; do COMPREPLY[i]=${{COMPREPLY[i]#"$cut"}}; done
  fi
}}
complete -o filenames -F {function}_words {command}
""")
    return "\n".join(out)


def quoted(text):
    return text.replace("'", "'\\''").replace("[", "(").replace("]", ")").replace(":", "\\:")


def zsh_option(entry, options):
    names = entry.names
    action = ""
    if entry.names[0] == "-o":
        action = ":options:_values -s , option " + " ".join(f'"{w}"' for w in mount_words(options) if not w.endswith("="))
    elif choices := option_choices(entry):
        action = f":{entry.value.lower()}:({words(choices)})"
    elif entry.value:
        action = f":{entry.value.lower()}: "
    text = quoted(entry.text.split(";")[0])
    if len(names) == 1:
        return f"'{names[0]}[{text}]{quoted_action(action)}'"
    return f"'({' '.join(names)})'{{{','.join(names)}}}'[{text}]{quoted_action(action)}'"


def quoted_action(action):
    return action.replace("'", "'\\''")


def zsh(helps, options):
    out = [f"#compdef {words(helps)}", "# Completion for the commands of daxfs. Made from --help by tools/pages/make_pages.py.", ""]
    out.append("case $service in")
    for command, help_ in helps.items():
        specs = [zsh_option(e, options) for e in help_.options]
        if help_.commands:
            names = words(n for e in help_.commands for n in e.names)
            specs += [f"'1:command:({names})'", "'2:path:_files'", "'3:change:(set)'", f"'*:setting:({words(settings(options))})'"]
        else:
            specs += ["'*:file:_files'"]
        out.append(f"  {command})\n    _arguments \\\n      " + " \\\n      ".join(specs) + "\n    ;;")
    out.append("esac\n")
    return "\n".join(out)


# --- all of it ---

def page_text(name, helps, options, pages, version):
    with open(os.path.join(HERE, name + ".in"), encoding="utf-8") as file:
        text = file.read()
    command = name.rsplit(".", 1)[0]
    help_ = helps.get(command, Help())
    values = {
        "VERSION": version,
        "ARGUMENTS": tagged(help_.arguments),
        "OPTIONS": tagged(help_.options),
        "COMMANDS": tagged(help_.commands),
        "COMMAND_OPTIONS": tagged_command_options(help_.subhelps),
        "NOTES": verbatim(help_.footer) if help_.footer else "",
        "MOUNT_OPTIONS": tagged_options(options),
        "FUNCTIONS": functions_list(pages),
    }
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    left = re.search(r"@[A-Z_]+@", text)
    if left:
        sys.exit(f"make_pages: {name}.in: {left[0]} is unknown")
    return text


def compress(folder):
    """Every page as packages have it. The files say no time, so that two builds are the same."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            with open(path, "rb") as file:
                text = file.read()
            with open(path + ".gz", "wb") as file:
                file.write(gzip.compress(text, 9, mtime=0))
            os.remove(path)


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def make(bin_dir, header_path, version, out):
    helps = {command: help_of(bin_dir, command) for command in COMMANDS}
    options = mount_options(helps["daxfs"].footer)
    with open(header_path, encoding="utf-8") as file:
        header = file.read()
    pages = header_pages(header)
    for name in sorted(os.listdir(HERE)):
        if name.endswith(".in"):
            name = name[:-3]
            write(os.path.join(out, "man", "man" + name[-1], name), page_text(name, helps, options, pages, version))
    for page in pages:
        first = page.functions[0]
        write(os.path.join(out, "man/man3", first + ".3"), function_page(page, header, pages, version))
        for other in page.functions[1:]:
            write(os.path.join(out, "man/man3", other + ".3"), f".so man3/{first}.3\n")
    completion = bash(helps, options)
    # bash looks for a file that is named after the command.
    for command in COMMANDS:
        write(os.path.join(out, "bash", command), completion)
    write(os.path.join(out, "zsh", "_daxfs"), zsh(helps, options))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("bin", "header", "version", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--compress", action="store_true", help="gzip the pages")
    arguments = parser.parse_args()
    make(arguments.bin, arguments.header, arguments.version, arguments.out)
    if arguments.compress:
        compress(os.path.join(arguments.out, "man"))


if __name__ == "__main__":
    main()
