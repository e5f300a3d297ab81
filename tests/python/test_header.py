# SPDX-License-Identifier: Apache-2.0
"""The module's constants and structs are those of daxfs.h, as the C compiler sees them."""
import ctypes
import pathlib
import re
import subprocess
import tempfile
import unittest

from daxfs import _library as lib

HEADER = pathlib.Path(__file__).resolve().parents[2] / "client/daxfs.h"
STRUCTS = {"daxfs_extent": lib.CExtent, "daxfs_event": lib.CEvent}
NAMES = re.compile(r"#define (DAXFS_(?:BLOCK_SIZE|(?:PIN|EXTENT|LEASE|EVENT|REASON)_\w+))\s")


class Header(unittest.TestCase):
    def test_constants_and_layout(self) -> None:
        names = NAMES.findall(HEADER.read_text())
        self.assertGreater(len(names), 10)
        lines = [f'printf("%lld\\n", (long long){name});' for name in names]
        wanted = [getattr(lib, name.removeprefix("DAXFS_")) for name in names]
        for name, struct in STRUCTS.items():
            lines.append(f'printf("%zu\\n", sizeof(struct {name}));')
            wanted.append(ctypes.sizeof(struct))
            for field in [f[0] for f in struct._fields_]:
                lines.append(f'printf("%zu\\n", offsetof(struct {name}, {field}));')
                wanted.append(getattr(struct, field).offset)
                lines.append(f'printf("%zu\\n", sizeof(((struct {name} *)0)->{field}));')
                wanted.append(getattr(struct, field).size)
        with tempfile.TemporaryDirectory() as folder:
            source = pathlib.Path(folder, "t.c")
            source.write_text(f'#include <stdio.h>\n#include "{HEADER}"\nint main(void) {{'
                              + "\n".join(lines) + "}\n")
            subprocess.run(["cc", "-o", f"{folder}/t", str(source)], check=True)
            out = subprocess.run([f"{folder}/t"], check=True, capture_output=True, text=True)
        self.assertEqual([int(n) for n in out.stdout.split()], wanted)


if __name__ == "__main__":
    unittest.main()
