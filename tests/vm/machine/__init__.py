"""A throw-away virtual machine with non-volatile DIMMs: its kernel, its first file system, and its life."""
