#!/usr/bin/env python3
"""Records every value of a run of llama.cpp as a trace that `karat why` reads (docs/traces.md).

    pip install llama-cpp-python safetensors numpy
    tools/trace_llama_cpp.py MODEL.gguf -p "The capital of France is" -n 2 -o llama.safetensors
    karat why -m MODEL.gguf -p "The capital of France is" --a cpu --b llama.safetensors

The values come through ggml's evaluation callback, so they are what llama.cpp computes in production, on whatever
backend it was built for. Behind the prompt follow its own greedy tokens, each a step of its own."""

import argparse
import ctypes
import json
import pathlib
import re
import sys

import llama_cpp
import numpy as np
from safetensors.numpy import save_file

GGML_TYPE_F32, GGML_TYPE_I32 = 0, 26
# ggml's own name of a tensor that llama.cpp gave none.
UNNAMED = re.compile(r"node_\d+$")
# Ops that go on with a value: what they are made of may have the name of what is made of it.
GOES_ON = {"SCALE", "ADD", "MUL", "UNARY", "TANH", "RESHAPE"}
# What one model has before its names in every layer.
PREFIX = "model.layers.{}."
# Its names, and those that the others have, by the op.
RENAMED = {
    ("model.embed_tokens", "GET_ROWS"): "embd",
    ("operator_norm", "MUL"): "attn_norm",
    ("self_attn.q_layernorm", "MUL"): "Qcur_normed",
    ("Qcur_normed", "ROPE"): "Qcur",
    ("self_attn.k_layernorm", "MUL"): "Kcur_normed",
    ("Kcur_normed", "ROPE"): "Kcur",
    ("self_attn.out_proj", "MUL_MAT"): "attn_out",
    ("ffn_out", "MUL"): "ffn_norm",
    ("l_out", "MUL_MAT"): "ffn_out",
    # Norms of heads, where they have the name of what they are of.
    ("Qcur", "MUL"): "Qcur_normed",
    ("Kcur", "MUL"): "Kcur_normed",
    # A slip of one model.
    ("Vcur", "ROPE"): "Qcur",
    ("kqv_wo", "MUL_MAT"): "attn_out",
    ("conv.in_proj", "MUL"): "conv.bx",
    ("conv.conv", "MUL"): "conv.y",
}
# Names that llama.cpp gives in every layer without the layer's number.
WITHOUT_LAYER = {"ffn_post_norm", "post_mlp_norm"}


class Tensor(ctypes.Structure):
    """The beginning of ggml.h's `struct ggml_tensor`."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    ]  # fmt: skip


def ggml() -> ctypes.CDLL:
    """The library that came with llama_cpp, with the four functions that are needed."""
    folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
    found = sorted(folder.glob("*ggml-base*.so")) + sorted(folder.glob("*ggml-base*.dylib")) + sorted(folder.glob("ggml-base*.dll"))
    if not found:
        sys.exit(f"error: {folder}: no ggml-base library")
    lib = ctypes.CDLL(str(found[0]))
    lib.ggml_nbytes.restype, lib.ggml_nbytes.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    lib.ggml_op_desc.restype, lib.ggml_op_desc.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    lib.ggml_op_name.restype, lib.ggml_op_name.argtypes = ctypes.c_char_p, [ctypes.c_int]
    lib.ggml_get_name.restype, lib.ggml_get_name.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    lib.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    return lib


def usual(name: str, op: str, sources: list[str]) -> str:
    """The name that other models have for a value of this name, which is made of values of the names of `sources`."""
    bases = {source.rpartition("-")[0]: source.rpartition("-")[2] for source in sources}
    mixed = bases.keys() & {"attn_out", "conv.out_proj"}
    if op == "ADD" and "ffn_out" in bases and (UNNAMED.match(name) or name.startswith("ffn_out-")) and len(sources) > 1:
        # Both branches, or one of them and the stream.
        return f"{'attn_ffn' if mixed else 'ffn_res'}-{bases['ffn_out']}"
    if op == "ADD" and mixed and UNNAMED.match(name):
        # A bias is no value; the stream is one.
        added = "ffn_inp" if len(sources) > 1 else "attn_out"
        return f"{added}-{bases[mixed.pop()]}"
    base, dash, layer = name.removeprefix(PREFIX).rpartition("-")
    if not dash:
        return RENAMED.get((name, op), name)
    if op == "MUL_MAT" and base == "q" and "q" in bases:
        # The second of two products of that name.
        base = "q_b"
    if op == "MUL" and "conv.conv" in bases:
        base = "conv.conv"
    return f"{RENAMED.get((base, op), base)}-{layer}"


class Recorder:
    def __init__(self, lib: ctypes.CDLL):
        self.lib, self.step, self.index = lib, 0, 0
        self.seen: dict[str, int] = {}
        self.values: dict[str, np.ndarray] = {}
        # Values without a name of their own, by their address, until it is known what is made of them.
        self.unnamed: dict[int, Unnamed] = {}
        # Names of the values so far, by address.
        self.names: dict[int, str] = {}

    def next_step(self, step: int) -> None:
        """Ends a step and begins the one of this number."""
        for pointer in list(self.unnamed):
            # Nobody went on with it: it has the name of what it is made of.
            self.keep(self.unnamed.pop(pointer), self.names.get(pointer))
        self.step, self.index, self.seen, self.names = step, 0, {}, {}

    def __call__(self, pointer: int, ask: bool, _: int) -> bool:
        tensor = Tensor.from_address(pointer)
        name = tensor.name.decode("utf-8", "replace")
        # The layout of the struct is not promised: the library's own word on the name tells whether it still holds.
        if name != self.lib.ggml_get_name(pointer).decode("utf-8", "replace"):
            sys.exit("error: this llama.cpp has another ggml_tensor than this tool")
        # Of the integers only the chosen experts: whole numbers, in a trace as f32.
        is_chosen = tensor.type == GGML_TYPE_I32 and name.startswith("ffn_moe_topk")
        if ask or not name or not (tensor.type == GGML_TYPE_F32 or is_chosen):
            return True
        raw = np.empty(self.lib.ggml_nbytes(pointer), dtype=np.uint8)
        self.lib.ggml_backend_tensor_get(pointer, raw.ctypes.data, 0, raw.nbytes)
        shape, strides = tuple(tensor.ne)[::-1], tuple(tensor.nb)[::-1]
        data = np.lib.stride_tricks.as_strided(raw.view(np.int32 if is_chosen else np.float32), shape, strides)
        data = np.ascontiguousarray(data, dtype=np.float32)
        # Heads stand first there: karat's rows are tokens.
        if name.startswith("kqv-"):
            data = np.ascontiguousarray(np.swapaxes(data, -3, -2))
        while data.ndim > 2 and data.shape[0] == 1:
            data = data[0]
        sources = [source for source in tensor.src if source]
        # "Qcur-0 (reshaped)" is a view of Qcur-0, not another value.
        if " (" in name:
            viewed = tensor.src[0] and self.names.get(tensor.src[0])
            self.names[pointer] = viewed or name.split(" (")[0]
            return True
        op = self.lib.ggml_op_name(tensor.op).decode()
        value = Unnamed(self.step, self.index, op, sources, data.copy())
        self.index += 1
        made_of = [self.names[source] for source in sources if source in self.names]
        name = usual(name, op, made_of)
        if UNNAMED.match(name) and op == "MUL_MAT":
            # Some models do not name the last product of attention.
            attention = self.names.get(sources[1], "").partition("kqv_out")
            name = f"attn_out{attention[2]}" if attention[1] else name
        if UNNAMED.match(name):
            self.unnamed[pointer] = value
            self.names[pointer] = usual(made_of[0] if made_of else name, op, made_of)
            return True
        if name in WITHOUT_LAYER:
            layer = self.seen[f"{name}:{op}"] = self.seen.get(f"{name}:{op}", -1) + 1
            name = f"{name}-{layer}"
        self.names[pointer] = name
        if op in GOES_ON:
            self.name_sources(value, name)
        self.keep(value, name)
        return True

    def name_sources(self, value: "Unnamed", name: str) -> None:
        """Gives what a value is made of its name, as far back as there is none. Of two of one op the last has the name."""
        sources = value.sources
        while (found := next((s for s in sources if s in self.unnamed), None)) is not None:
            inner = self.unnamed.pop(found)
            self.keep(inner, usual(name, inner.op, []) if inner.op != value.op else None)
            sources = inner.sources

    def keep(self, value: "Unnamed", name: str | None) -> None:
        label = (name or f"node_{value.index}").replace("/", "_")
        nth = self.seen.get(label, 0)
        self.seen[label] = nth + 1
        before = f"{value.step:05}/" if value.step else ""
        self.values[f"{before}{value.index:05}/{label}#{nth}:{value.op}"] = value.data


class Unnamed:
    """A value whose name is not known yet."""

    def __init__(self, step: int, index: int, op: str, sources: list[int], data: np.ndarray):
        self.step, self.index, self.op, self.sources, self.data = step, index, op, sources, data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-p", "--prompt", default="The capital of France is")
    parser.add_argument("-n", "--n-predict", type=int, default=2, help="greedy tokens behind the prompt")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("-c", "--ctx-size", type=int, default=2048)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-ngl", "--gpu-layers", type=int, default=0)
    parser.add_argument("--flash-attn", action="store_true", help="the fused attention, whose sums have another order")
    args = parser.parse_args()

    llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(SILENT, None)
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = args.gpu_layers
    model = llama_cpp.llama_model_load_from_file(args.model.encode(), model_params)
    if not model:
        sys.exit(f"error: {args.model}: llama.cpp cannot load it")
    vocab = llama_cpp.llama_model_get_vocab(model)
    recorder = Recorder(ggml())
    callback = llama_cpp.ggml_backend_sched_eval_callback(recorder)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = args.ctx_size, args.ctx_size, args.ctx_size
    params.n_threads = params.n_threads_batch = args.threads
    params.flash_attn_type = 1 if args.flash_attn else 0
    params.cb_eval = callback
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        sys.exit("error: llama.cpp makes no context")

    text = args.prompt.encode()
    ids = (llama_cpp.llama_token * (len(text) + 8))()
    n = llama_cpp.llama_tokenize(vocab, text, len(text), ids, len(ids), True, True)
    tokens = list(ids[:n])
    n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
    step, at = tokens, 0
    for i in range(args.n_predict + 1):
        recorder.next_step(i)
        batch = llama_cpp.llama_batch_init(len(step), 0, 1)
        batch.n_tokens = len(step)
        for k, token in enumerate(step):
            batch.token[k], batch.pos[k], batch.n_seq_id[k] = token, at + k, 1
            batch.seq_id[k][0], batch.logits[k] = 0, k + 1 == len(step)
        if llama_cpp.llama_decode(context, batch) != 0:
            sys.exit(f"error: step {i}: llama_decode failed")
        llama_cpp.llama_batch_free(batch)
        at += len(step)
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (n_vocab,))
        step = [int(logits.argmax())]
        if i < args.n_predict:
            tokens += step
    recorder.next_step(args.n_predict + 1)
    save_file(recorder.values, args.output, {"tokens": json.dumps(tokens), "engine": "llama.cpp"})
    print(f"{args.output}: {len(recorder.values)} values of {args.n_predict + 1} steps, {len(tokens)} tokens")


@llama_cpp.llama_log_callback
def SILENT(level: int, text: bytes, _: int) -> None:
    """llama.cpp's warnings and errors, without its news."""
    if level >= 4 and text.strip(b".\n"):
        sys.stderr.write(text.decode("utf-8", "replace"))


if __name__ == "__main__":
    main()
