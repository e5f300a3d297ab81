"""What tidy.py lets pass, with the reason."""

# path: why it is longer than a file should be
LONG_FILES = {}

# (path, function): why it is longer than a function should be
LONG_FUNCTIONS = {
    ("lease/gate_detach.cpp", "Gate::Impl::judge"): "to be divided into named steps",
    ("src/rename.cpp", "Filesystem::plan_rename"): "to be divided into named steps",
    ("src/rename.cpp", "Filesystem::commit_rename"): "to be divided into named steps",
    ("src/reports.cpp", "Filesystem::report"): "a switch with one case for each report",
    ("src/write.cpp", "Filesystem::write_allocating"): "to be divided: what pairs holes with blocks should exist once",
    ("tools/hold/daxfs_hold.cpp", "command"): "a list of options, one after the other",
}

# pattern: what to write instead
WORDS = {
    r"(?i)\bthe contract\b|\(contract\)|\bcontract's\b|\bcontract\.md\b": "say docs/promises.md, or what is promised",
    r"positions? of the thread\b|developers' thread": "this program is full of threads: say the 2017 discussion",
    r"/work/": "a path of one machine; the repository knows none",
    r"\b(TODO|FIXME|XXX)\b": "file an issue, or do it",
}
