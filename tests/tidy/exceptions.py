"""What tidy.py lets pass, with the reason."""

# path: why it is longer than a file should be
LONG_FILES = {}

# (path, function): why it is longer than a function should be
LONG_FUNCTIONS = {
}

# (path, class): why it has more functions or members than a class should
LARGE_CLASSES = {
    ("blockmap/pin_records.h", "PinRecords"): "one table with its two free lists and their reservations, under one lock",
    ("lease/gate.h", "Gate"): "the one face of lease/: a function for each thing that can be asked of the gate",
    ("lease/gate_impl.h", "Gate::Impl"): "the gate's tables, each a class of its own, under the gate's one lock",
    ("lease/ticket.h", "Ticket"): "all that is remembered of one request; the gate's lock protects it",
    ("src/inode.h", "Inode"): "one file in DRAM: record, indexes, times, what the kernel believes; each says what protects it",
    ("tools/hold/round.h", "Round"): "the counters of one round of holding, under one lock",
    ("tools/hold/worker.h", "Worker"): "one holder with its pins, lease and engine",
}

# (path, class): why it lets another class in
FRIENDS = {
    ("base/mutex.h", "Mutex"): "a condition variable waits on what is inside",
    ("blockmap/journal.h", "Transaction"): "the journal writes what a transaction collects; nobody else may see the bytes",
    ("lease/counted_ranges.h", "Cursor"): "an iterator of the container that it is in",
    ("lease/pin_table.h", "Pin"): "its place in the table is the table's business",
}

# pattern: what to write instead
WORDS = {
    r"(?i)\bthe contract\b|\(contract\)|\bcontract's\b|\bcontract\.md\b": "say docs/promises.md, or what is promised",
    r"positions? of the thread\b|developers' thread": "this program is full of threads: say the 2017 discussion",
    r"/work/": "a path of one machine; the repository knows none",
    r"\b(TODO|FIXME|XXX)\b": "file an issue, or do it",
}
