#!/usr/bin/env python3
"""Greedy ids of a small GGUF file with F32 weights, by a forward pass in float64 that shares nothing with karat.

Written from the models' papers and Hugging Face's modeling files, for llama, phi3, qwen2 and gemma3 without quantised
weights: `app/tests/field.rs` takes its expectations from here.

    pip install gguf==0.19.0
    tools/forward_f64.py FILE N ID ID ID ...        the N ids that follow the prompt
"""
import sys

import numpy as np
from gguf import GGUFReader


def read(path):
    reader = GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    weights = {t.name: np.array(t.data, np.float64).reshape([int(n) for n in reversed(t.shape)]) for t in reader.tensors}
    return keys, weights


def rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight.reshape(-1)


def rope(x, base, halves, factors, mscale):
    """x: [tokens, heads, dim]"""
    n, _, dim = x.shape
    freqs = base ** (-np.arange(0, dim, 2) / dim) / factors
    angle = np.arange(n)[:, None] * freqs[None, :]
    cos, sin = np.cos(angle)[:, None] * mscale, np.sin(angle)[:, None] * mscale
    a, b = (x[..., : dim // 2], x[..., dim // 2 :]) if halves else (x[..., 0::2], x[..., 1::2])
    turned = (a * cos - b * sin, a * sin + b * cos)
    if halves:
        return np.concatenate(turned, -1)
    return np.stack(turned, -1).reshape(x.shape)


def logits(keys, weights, ids):
    arch = keys["general.architecture"]
    get = lambda key, default=None: keys.get(f"{arch}.{key}", default)
    n_head, n_kv = get("attention.head_count"), get("attention.head_count_kv")
    n_embd, eps = get("embedding_length"), get("attention.layer_norm_rms_epsilon")
    gemma = arch == "gemma3"
    dim = get("attention.key_length", n_embd // n_head)
    window = get("attention.sliding_window", 0)
    x = weights["token_embd.weight"][ids] * (np.sqrt(n_embd) if gemma else 1.0)
    base = get("rope.freq_base", get("rope.global.freq_base", 1e6 if gemma else 1e4))
    local_base = get("rope.freq_base_swa", get("rope.local.freq_base", 1e4))
    factors, mscale = 1.0, 1.0
    if "rope_factors_long.weight" in weights:
        long = len(ids) > get("rope.scaling.original_context_length")
        factors = weights["rope_factors_long.weight" if long else "rope_factors_short.weight"]
        mscale = get("rope.scaling.attn_factor", 1.0)
    place = np.arange(len(ids))
    causal = place[None, :] <= place[:, None]
    near = place[None, :] > place[:, None] - window
    for i in range(get("block_count")):
        w = lambda name: weights[f"blk.{i}.{name}.weight"]
        bias = lambda name: weights.get(f"blk.{i}.{name}.bias", 0.0)
        h = rms(x, w("attn_norm"), eps)
        if f"blk.{i}.attn_qkv.weight" in weights:
            q, k, v = np.split(h @ w("attn_qkv").T, [n_head * dim, (n_head + n_kv) * dim], -1)
        else:
            q, k, v = (h @ w(name).T + bias(name) for name in ("attn_q", "attn_k", "attn_v"))
        q, k, v = q.reshape(len(ids), n_head, dim), k.reshape(len(ids), n_kv, dim), v.reshape(len(ids), n_kv, dim)
        if gemma:
            q, k = rms(q, w("attn_q_norm"), eps), rms(k, w("attn_k_norm"), eps)
        local = window and (i % 6 < 5 if gemma else True)
        turn = lambda y: rope(y, local_base if gemma and local else base, arch != "llama", factors, mscale)
        q, k = turn(q), turn(k)
        k, v = (np.repeat(y, n_head // n_kv, 1) for y in (k, v))
        scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(dim)
        scores = np.where(causal & near if local else causal, scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        a = np.einsum("hts,shd->thd", p, v).reshape(len(ids), -1) @ w("attn_output").T
        x = x + (rms(a, w("post_attention_norm"), eps) if gemma else a)
        h = rms(x, w("ffn_norm"), eps)
        up = h @ w("ffn_up").T
        gate, up = np.split(up, 2, -1) if arch == "phi3" else (h @ w("ffn_gate").T, up)
        if gemma:
            gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        f = (gate * up) @ w("ffn_down").T
        x = x + (rms(f, w("post_ffw_norm"), eps) if gemma else f)
    x = rms(x[-1], weights["output_norm.weight"], eps)
    return weights.get("output.weight", weights["token_embd.weight"]) @ x + weights.get("output.bias", 0.0)


def main():
    keys, weights = read(sys.argv[1])
    ids = [int(arg) for arg in sys.argv[3:]]
    for _ in range(int(sys.argv[2])):
        row = logits(keys, weights, ids)
        for suppressed in keys.get("tokenizer.ggml.suppress_tokens", []):
            row[suppressed] = -np.inf
        first, second = np.sort(row)[::-1][:2]
        ids.append(int(row.argmax()))
        print(ids[-1], f"# ahead by {first - second:.3g}", file=sys.stderr)
    print(*ids[len(sys.argv) - 3 :])


main()
