"""Writes src/unicode_table.rs: the general categories that pre-tokenizers ask for, as runs of code points.

Needs `pip install unicodedata2==15.1.0`: the Unicode version that llama.cpp b11434 splits by.
Usage: python scripts/unicode_table.py > src/unicode_table.rs
"""

import unicodedata2

CLASSES = {"L": "L", "M": "M", "N": "N", "P": "P", "S": "S"}

runs = []
for code in range(0x110000):
    cls = CLASSES.get(unicodedata2.category(chr(code))[0], "O")
    if not runs or runs[-1][1] != cls:
        runs.append((code, cls))

print(f"//! General categories of Unicode {unicodedata2.unidata_version}, written by scripts/unicode_table.py: change nothing here.")
print()
print("use super::unicode::Class::{self, *};")
print()
print("/// First code point of each run and its class; a run ends where the next begins.")
print("#[rustfmt::skip]")
print(f"pub(crate) static RUNS: [(u32, Class); {len(runs)}] = [")
for at in range(0, len(runs), 8):
    print("    " + " ".join(f"({code:#x}, {cls})," for code, cls in runs[at : at + 8]))
print("];")
