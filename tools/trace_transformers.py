#!/usr/bin/env python3
"""Records every value of a run of a Hugging Face model as a trace that `karat why` reads (docs/traces.md).

    pip install transformers torch safetensors gguf accelerate
    tools/trace_transformers.py MODEL -p "The capital of France is" -n 2 -o hf.safetensors
    karat why -m MODEL.gguf -p "The capital of France is" --arithmetic f32 --cache-type f32 --a cpu --b hf.safetensors

MODEL is a folder with safetensors weights, or a GGUF file, which transformers decodes to f32. The model computes in f32
on the CPU. Families with Llama's layout (llama, mistral, qwen2, qwen3) are known. Modules become values by the table
below; queries and keys of the llama family are put into GGUF's order, where the two elements that RoPE turns together
stand side by side."""

import argparse
import importlib
import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

# Families whose q and k rows stand in another order in GGUF.
ADJACENT = {"llama", "mistral"}
FAMILIES = ADJACENT | {"qwen2", "qwen3"}

# Module of a layer → value of its output, or of its input.
OUTPUTS = {
    "input_layernorm": "attn_norm:RMS_NORM", "self_attn.q_proj": "Qcur:MUL_MAT", "self_attn.k_proj": "Kcur:MUL_MAT",
    "self_attn.v_proj": "Vcur:MUL_MAT", "self_attn.o_proj": "attn_out:MUL_MAT",
    "self_attn.q_norm": "Qcur_normed:RMS_NORM", "self_attn.k_norm": "Kcur_normed:RMS_NORM",
    "post_attention_layernorm": "ffn_norm:RMS_NORM", "mlp.gate_proj": "ffn_gate:MUL_MAT",
    "mlp.up_proj": "ffn_up:MUL_MAT", "mlp.down_proj": "ffn_out:MUL_MAT", "": "l_out:ADD",
}  # fmt: skip
INPUTS = {
    "self_attn.o_proj": "kqv_out:FLASH_ATTN_EXT", "post_attention_layernorm": "ffn_inp:ADD",
    "mlp.down_proj": "ffn_swiglu:GLU",
}  # fmt: skip
# After these the last layer has only the rows whose logits are wanted.
LAST_ROW = {"ffn_inp", "ffn_norm", "ffn_gate", "ffn_up", "ffn_swiglu", "ffn_out", "l_out"}


class Recorder:
    def __init__(self, config):
        self.config, self.step, self.index, self.layer = config, 0, 0, 0
        self.values: dict[str, np.ndarray] = {}

    def next_step(self, step: int) -> None:
        self.step, self.index = step, 0

    def put(self, label: str, op: str, value: torch.Tensor, last_row: bool = False) -> None:
        rows = value.detach().to(torch.float32)
        rows = rows.reshape(-1, rows.shape[-1]) if rows.dim() < 4 else rows.reshape(rows.shape[1], -1)
        if last_row:
            rows = rows[-1:]
        before = f"{self.step:05}/" if self.step else ""
        self.values[f"{before}{self.index:05}/{label}#0:{op}"] = np.ascontiguousarray(rows.numpy())
        self.index += 1

    def of_layer(self, i: int, what: str, value: torch.Tensor) -> None:
        name, op = what.split(":")
        if op == "MUL_MAT" and name in ("Qcur", "Kcur"):
            value = self.side_by_side(value)
        last = i + 1 == self.config.num_hidden_layers and name in LAST_ROW
        if op == "RMS_NORM" and value.dim() == 4:
            value = value.reshape(*value.shape[:2], -1)
        self.put(f"{name}-{i}", op, value, last)

    def side_by_side(self, rows: torch.Tensor) -> torch.Tensor:
        """Elements j and j + d/2 of a head next to each other, where GGUF has them so. `rows` is [.., heads · d]."""
        if self.config.model_type not in ADJACENT:
            return rows
        d = getattr(self.config, "head_dim", None) or self.config.hidden_size // self.config.num_attention_heads
        heads = rows.reshape(*rows.shape[:-1], -1, 2, d // 2)
        return heads.transpose(-1, -2).reshape(rows.shape)

    def rotated(self, q: torch.Tensor, k: torch.Tensor) -> None:
        """Queries and keys behind RoPE, [batch, heads, tokens, d]."""
        for name, x in (("Qcur", q), ("Kcur", k)):
            rows = x.transpose(1, 2).reshape(x.shape[0], x.shape[2], -1)
            self.put(f"{name}-{self.layer}", "ROPE", self.side_by_side(rows))


def attach(model, recorder: Recorder) -> None:
    inner = model.model
    inner.embed_tokens.register_forward_hook(lambda m, a, out: recorder.put("embd", "GET_ROWS", out))
    inner.norm.register_forward_hook(lambda m, a, out: recorder.put("result_norm", "RMS_NORM", out, True))
    model.lm_head.register_forward_hook(lambda m, a, out: recorder.put("result_output", "MUL_MAT", out, True))
    for i, layer in enumerate(inner.layers):
        layer.register_forward_pre_hook(lambda m, a, i=i: setattr(recorder, "layer", i))
        for path, what in INPUTS.items():
            hook = lambda m, a, i=i, what=what: recorder.of_layer(i, what, a[0])  # noqa: E731
            layer.get_submodule(path).register_forward_pre_hook(hook)
        for path, what in OUTPUTS.items():
            try:
                module = layer.get_submodule(path)
            except AttributeError:
                continue  # norms of heads, which not every family has
            first = lambda out: out[0] if isinstance(out, tuple) else out  # noqa: E731
            hook = lambda m, a, out, i=i, what=what: recorder.of_layer(i, what, first(out))  # noqa: E731
            module.register_forward_hook(hook)
    # RoPE is a function of the family's module, not a module.
    family = importlib.import_module(type(model).__module__)
    apply = family.apply_rotary_pos_emb

    def wrapped(*args, **kwargs):
        q, k = apply(*args, **kwargs)
        recorder.rotated(q, k)
        return q, k

    family.apply_rotary_pos_emb = wrapped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("-p", "--prompt", default="The capital of France is")
    parser.add_argument("-n", "--n-predict", type=int, default=2, help="greedy tokens behind the prompt")
    parser.add_argument("-o", "--output", required=True)
    args = parser.parse_args()

    path = pathlib.Path(args.model)
    where = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = path.parent if where else path
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **where)
    if model.config.model_type not in FAMILIES:
        sys.exit(f"error: {args.model}: {model.config.model_type}, allowed {', '.join(sorted(FAMILIES))}")
    tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    recorder = Recorder(model.config)
    attach(model.eval(), recorder)
    tokens = tokenizer(args.prompt)["input_ids"]
    step, past = list(tokens), None
    with torch.inference_mode():
        for i in range(args.n_predict + 1):
            recorder.next_step(i)
            out = model(torch.tensor([step]), past_key_values=past, use_cache=True)
            past = out.past_key_values
            step = [int(out.logits[0, -1].argmax())]
            if i < args.n_predict:
                tokens = tokens + step
    save_file(recorder.values, args.output, {"tokens": json.dumps(tokens), "engine": "transformers"})
    print(f"{args.output}: {len(recorder.values)} values of {args.n_predict + 1} steps, {len(tokens)} tokens")


if __name__ == "__main__":
    main()
