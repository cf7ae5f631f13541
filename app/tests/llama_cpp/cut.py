#!/usr/bin/env python3
"""Cuts the small files beside this one out of the large recordings (README.md says what these are).

    app/tests/llama_cpp/cut.py FOLDER

FOLDER holds `smollm2_greedy.json`, `prompts/` and `traces/`. Needs nothing but Python."""

import json
import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).parent
# Variants whose greedy ids are kept: the default model's own, and the model dequantised.
VARIANTS = ["Q4_1", "F32"]
# The layer of each trace that is kept, with its input: the output of the layer before, or the embedding.
TRACES = {"Q4_K_M": ("smollm2-Q4_K_M-france", 0), "F32": ("smollm2-f32-noflash-f32kv-france", 14)}
# Steps inside an op of karat's, or what the op before made under another shape.
LEFT_OUT = ["RMS_NORM", "RESHAPE", "SOFT_MAX"]


def cut_greedy(folder: pathlib.Path) -> None:
    greedy = json.loads((folder / "smollm2_greedy.json").read_text())
    greedy["cases"] = {name: case for name, case in greedy["cases"].items() if name.split("/")[0] in VARIANTS}
    names = sorted({name.split("/")[1] for name in greedy["cases"]})
    greedy["prompts"] = {name: (folder / "prompts" / f"{name}.txt").read_text() for name in names}
    (HERE / "greedy.json").write_text(json.dumps(greedy, separators=(",", ":")) + "\n")


def wanted(key: str, layer: int) -> bool:
    label, op = key.split("/")[1].rsplit(":", 1)
    name = label.split("#")[0]
    before = f"l_out-{layer - 1}" if layer > 0 else "embd"
    if name == before:
        return True
    inner = name.startswith(("kq-", "kqv-"))
    # With flash attention its output is taken at the reshape behind it.
    output = name.startswith("kqv_out-")
    return name.endswith(f"-{layer}") and not inner and (output or op not in LEFT_OUT)


def cut_trace(source: pathlib.Path, layer: int, to: pathlib.Path) -> None:
    data = source.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    kept, out = {}, b""
    for key in sorted(k for k in header if k != "__metadata__" and wanted(k, layer)):
        start, end = header[key]["data_offsets"]
        kept[key] = {**header[key], "data_offsets": [len(out), len(out) + end - start]}
        out += body[start:end]
    text = json.dumps(kept, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    to.write_bytes(struct.pack("<Q", len(text)) + text + out)


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    cut_greedy(folder)
    for variant, (trace, layer) in TRACES.items():
        cut_trace(folder / "traces" / f"{trace}.safetensors", layer, HERE / f"{variant}-layer-{layer}.safetensors")


main()
