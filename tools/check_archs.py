#!/usr/bin/env python3
"""Holds every architecture of karat against llama.cpp, op by op: `karat synth` makes a small model, `trace_llama_cpp.py`
records llama.cpp's run of it, and `karat why` judges each value.

    pip install llama-cpp-python safetensors numpy
    tools/check_archs.py --karat target/release/karat            # all of them
    tools/check_archs.py --karat target/release/karat gemma2 qwen3

Prints a line for each architecture and format, and exits with 1 if a value is wrong. `--write docs/support.tsv` keeps the
figures, of which `UPDATE_EXPECT=1 cargo test -p karat-model --test support` makes docs/support.md."""

import argparse
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
PROMPT = "bato keli bato nuva, The capital of France is"
# No two alike, where llama.cpp allows it: many of its models take heads · width for the width of the stream.
SHAPE = {"layers": 5, "embd": 384, "heads": 6, "kv-heads": 2, "head-dim": 64, "ff": 608, "vocab": 701, "ctx": 512}
# What llama.cpp wants of some: a number of layers by which it knows the model, as many key heads as query heads.
SHAPES = {
    "baichuan": {"layers": 32, "kv-heads": 6},
    "deepseek2": {"kv-heads": 1},
    "dots1": {"kv-heads": 6},
    # From there on it has norms of queries and keys.
    "command-r": {"layers": 64, "embd": 192, "heads": 3, "kv-heads": 1},
    "olmoe": {"kv-heads": 6},
    "qwen": {"kv-heads": 6},
}
# The arithmetic that karat judges in.
FORMATS = {"F32": "f32", "Q4_0": "int8"}


# Of these llama.cpp does not read the norms' epsilon and computes with 0, unlike transformers and karat; the rest is held
# against it with an epsilon that is next to nothing.
WITHOUT_EPSILON = {"qwen2vl"}


def without_epsilon(model: pathlib.Path, arch: str) -> None:
    key = f"{arch}.attention.layer_norm_rms_epsilon".encode()
    data = bytearray(model.read_bytes())
    # Behind the key stand 4 bytes of its type, and the f32.
    at = data.index(key) + len(key) + 4
    data[at : at + 4] = struct.pack("<f", 1e-30)
    model.write_bytes(data)


def known(karat: str) -> list[str]:
    """The architectures that `karat synth` knows."""
    said = subprocess.run([karat, "synth", "x", "--arch", "?"], capture_output=True, text=True).stderr
    return re.search(r"\[possible values: ([^\]]*)\]", said)[1].split(", ")


def check(karat: str, arch: str, file_format: str, folder: pathlib.Path) -> dict:
    model, trace = folder / f"{arch}-{file_format}.gguf", folder / f"{arch}-{file_format}.safetensors"
    shape = SHAPE | SHAPES.get(arch, {})
    dims = [word for name, n in shape.items() for word in (f"--{name}", str(n))]
    run([karat, "synth", model, "--force", "--arch", arch, "--format", file_format, *dims])
    if arch in WITHOUT_EPSILON:
        without_epsilon(model, arch)
    run([sys.executable, HERE / "trace_llama_cpp.py", model, "-p", PROMPT, "-o", trace])
    arithmetic = ["--arithmetic", FORMATS[file_format]]
    why = [karat, "why", "-m", model, "-p", PROMPT, "--a", "cpu", "--b", trace, "--json", *arithmetic]
    report = json.loads(run(why, allowed=(0, 1, 10)))
    side_b = {}
    for row in report["rows"]:
        side_b.setdefault(row["verdict"], []).append(f"{row['name']}:{row['op']}")
    return side_b


def run(command: list, allowed: tuple = (0,)) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode not in allowed:
        raise RuntimeError(f"{pathlib.Path(command[0]).name} {command[1]}: {done.stderr.strip()[-400:]}")
    return done.stdout


def write(path: pathlib.Path, results: dict) -> None:
    """Replaces the lines of these architectures: `gemma2<tab>F32<tab>RIGHT 300<tab>UNMEASURED 3`."""
    old = path.read_text().splitlines() if path.exists() else []
    kept = [line for line in old if line.split("\t")[0] not in results]
    new = [
        "\t".join([arch, file_format, *(f"{verdict} {n}" for verdict, n in counts.items())])
        for arch, formats in results.items()
        for file_format, counts in formats.items()
    ]
    path.write_text("\n".join(sorted(kept + new)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arch", nargs="*", help="[default: all]")
    parser.add_argument("--karat", default="karat", help="the program")
    parser.add_argument("--keep", help="a folder for models and traces [default: none]")
    parser.add_argument("--write", help="a file of figures, in which those of these architectures are replaced")
    args = parser.parse_args()
    results, bad = {}, False
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.keep or temporary)
        for arch in args.arch or known(args.karat):
            for file_format in FORMATS:
                try:
                    found = check(args.karat, arch, file_format, folder)
                except RuntimeError as error:
                    print(f"{arch:14} {file_format:5} FAILED  {error}", flush=True)
                    bad = True
                    continue
                counts = {verdict: len(names) for verdict, names in sorted(found.items())}
                bad = bad or set(counts) - {"RIGHT", "UNMEASURED"} != set()
                results.setdefault(arch, {})[file_format] = counts
                others = {v: names[:4] for v, names in found.items() if v != "RIGHT"}
                print(f"{arch:14} {file_format:5} {counts} {others or ''}", flush=True)
    if args.write:
        write(pathlib.Path(args.write), results)
    sys.exit(bad)


if __name__ == "__main__":
    main()
