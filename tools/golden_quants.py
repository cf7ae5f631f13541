#!/usr/bin/env python3
"""Records what the PyPI package `gguf` (0.19.0) decodes from blocks of every format that karat reads.

    pip install gguf==0.19.0
    tools/golden_quants.py gguf/tests/golden            # the committed set, checked by the tests
    tools/golden_quants.py DIR --ggml LIB               # with the formats that the package has not, of libggml-base
    tools/golden_quants.py DIR --blocks 100000          # the whole comparison:
    cargo run -p karat-gguf --example check_golden --release -- DIR

Each format gets a file FORMAT.bin, little-endian: the number of blocks as u32, the blocks, their weights as f32.
NaN is always written as 0x7fc00000, since which NaN comes out of an operation is the machine's choice.

The blocks are the same on every run. A third is random throughout, a third has random quants under scales of an
ordinary size, a third has every scale in turn at an extreme of f16 (zeros, denormals, largest, infinities, NaNs)."""

import argparse
import ctypes
import pathlib

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Where the f16 scales lie in a block.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip
# The same of formats with grids and of ternary ones; in IQ1_M it is the highest nibbles of four u16.
LATER = {
    "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0], "IQ1_M": [48],
    "TQ1_0": [52], "TQ2_0": [64],
}  # fmt: skip
# Formats that ggml alone decodes: weights and bytes of a block.
GGML = {"Q1_0": (128, 18), "Q2_0": (64, 18)}
LATER |= {name: [0] for name in GGML}
FLOATS = ["F32", "F16", "BF16"]
# A format's place here seeds its blocks: new ones stand last.
FORMATS = [*FLOATS, *HALVES, "MXFP4", *LATER]

# +-0, least and greatest denormal, least normal, one, greatest, infinity, NaNs, quiet and signalling.
EXTREMES = np.array(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x8400, 0x3C00, 0x7BFF, 0xFBFF,
     0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x7C01],
    dtype="<u2",
)  # fmt: skip


def sizes(name: str) -> tuple[int, int]:
    """Weights and bytes of a block."""
    return GGML.get(name) or GGML_QUANT_SIZES[GGMLQuantizationType[name]]


def decode(name: str, blocks: np.ndarray, ggml: ctypes.CDLL | None) -> np.ndarray:
    """The weights of blocks, by the package, or by ggml where the package has not the format."""
    if name not in GGML:
        return dequantize(blocks, GGMLQuantizationType[name]).astype("<f4").reshape(-1)
    assert ggml
    weights = np.empty(len(blocks) * sizes(name)[0], "<f4")
    row = getattr(ggml, f"dequantize_row_{name.lower()}")
    row(ctypes.c_void_p(blocks.ctypes.data), ctypes.c_void_p(weights.ctypes.data), ctypes.c_int64(weights.size))
    return weights


def blocks_of(name: str, n: int) -> np.ndarray:
    """n blocks as rows of bytes."""
    n_bytes = sizes(name)[1]
    rng = np.random.Generator(np.random.PCG64([0x6B617261, FORMATS.index(name)]))
    blocks = rng.integers(0, 256, (n, n_bytes), dtype=np.uint8)
    if name in FLOATS:
        return extreme_floats(name, blocks)
    if name == "MXFP4":
        # Its scale is one byte: all 256 of them, in a scrambled order.
        blocks[:, 0] = np.arange(n) * 37 % 256
    for i, at in enumerate((HALVES | LATER).get(name, [])):
        ordinary = (rng.standard_normal(n) * 0.02).astype("<f2").view("<u2")
        extreme = EXTREMES[(np.arange(n) // 3 * (11 + 4 * i) + i) % len(EXTREMES)]
        kind = np.arange(n) % 3
        random = blocks[:, at : at + 2].copy().view("<u2")[:, 0]
        scale = np.select([kind == 0, kind == 1], [extreme, ordinary], random)
        put(name, blocks, at, scale.astype("<u2"))
    return blocks


def put(name: str, blocks: np.ndarray, at: int, scale: np.ndarray) -> None:
    """Writes a scale into each block."""
    if name != "IQ1_M":
        blocks[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
        return
    for i in range(4):
        nibble = (scale >> (4 * i) & 15).astype(np.uint8)
        blocks[:, at + 2 * i + 1] = blocks[:, at + 2 * i + 1] & 15 | nibble << 4


def extreme_floats(name: str, blocks: np.ndarray) -> np.ndarray:
    """Random floats, of which the first are the extremes (F16: as many of all 65536 as there is room for)."""
    width = blocks.shape[1]
    if name == "F16":
        first = np.concatenate([EXTREMES, np.arange(1 << 16, dtype="<u2")])
    else:
        high = [0, 0x8000, 0x0001, 0x007F, 0x0080, 0x3F80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80, 0x7FC0, 0x7F81]
        first = np.array(high, dtype="<u2")
    first = first[: len(blocks)]
    blocks[: len(first), width - 2 :] = first.view(np.uint8).reshape(-1, 2)
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--ggml", help="libggml-base of a llama.cpp (recorded with that of llama-cpp-python 0.3.36)")
    parser.add_argument("--only", nargs="*", default=FORMATS, help="these formats")
    parser.add_argument("--blocks", type=int, default=0, help="per format; default: a small set")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    ggml = ctypes.CDLL(args.ggml) if args.ggml else None
    for name in args.only:
        if name in GGML and not ggml:
            print(f"{name}: skipped, wants --ggml")
            continue
        block_len = sizes(name)[0]
        # A block of a float format is one weight.
        n = args.blocks or {1: 96, 32: 48, 64: 48, 128: 24, 256: 15}[block_len]
        blocks = blocks_of(name, n)
        with np.errstate(all="ignore"):
            weights = decode(name, blocks, ggml)
        assert weights.size == n * block_len, name
        bits = np.where(np.isnan(weights), np.uint32(0x7FC00000), weights.view("<u4")).astype("<u4")
        path = args.dir / f"{name}.bin"
        path.write_bytes(np.uint32(n).astype("<u4").tobytes() + blocks.tobytes() + bits.tobytes())
        print(f"{name}: {n} blocks, {weights.size} weights, {np.isnan(weights).sum()} NaN")


if __name__ == "__main__":
    main()
