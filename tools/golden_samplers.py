#!/usr/bin/env python3
"""Records what llama.cpp's samplers keep of real logits, and with which probabilities.

    pip install llama-cpp-python==0.3.36
    tools/golden_samplers.py SmolLM2-135M-Instruct.Q4_1.gguf > model/tests/samplers.json
    tools/golden_samplers.py SmolLM2-135M-Instruct.Q4_1.gguf --dry > app/tests/llama_cpp/dry.json

Of each row of logits the 700 likeliest ids and every 64th are taken, and numbered anew by their old order: a distribution
as real as the whole, in a file of a bearable size. Logits are written as multiples of 2^-16 and are all different, so that
no order of equals can matter. The sets are written as ranges ("0-3,7"); of the likeliest sixteen the probabilities stand beside them,
computed here in f64 from the logits that the samplers left. `--dry` records, for the whole vocabulary, what DRY takes from
logits of 0 behind some texts: which tokens break a sequence depends on it.

Mirostat and adaptive-p draw by themselves: their cases are loops, in which the token that llama.cpp drew is written."""

import ctypes
import json
import sys

import llama_cpp as lc
import numpy as np

TEXT = (
    "The quick brown fox jumps over the lazy dog. Once upon a time, in a small village by the sea, there lived an old "
    "fisherman who had never learned to swim. Q: What is the capital of France? A: The capital of France is"
)
ROWS = [2, 8, 14, 27, 41, -1]
LIKELIEST, EVERY = 700, 64
UNIT = 1 << 16


def rows(path):
    """Logits behind some of the text's tokens, thinned and rounded."""
    model = lc.Llama(path, n_ctx=256, logits_all=True, verbose=False, n_threads=2)
    ids = model.tokenize(TEXT.encode(), add_bos=False)
    model.eval(ids)
    for at in ROWS:
        logits = np.array(model.scores[at if at >= 0 else len(ids) - 1], dtype=np.float64)
        likeliest = np.argsort(-logits)[:LIKELIEST]
        taken = np.union1d(likeliest, np.arange(0, len(logits), EVERY))
        units = np.rint(logits[taken] * UNIT).astype(np.int64)
        for i in np.argsort(-units, kind="stable"):
            while np.count_nonzero(units == units[i]) > 1:
                units[i] -= 1
        yield units.tolist(), model


def apply(samplers, units):
    """The candidates that are left, ids with logits, and the id that was drawn."""
    n = len(units)
    data = (lc.llama_token_data * n)(*[lc.llama_token_data(i, u / UNIT, 0.0) for i, u in enumerate(units)])
    array = lc.llama_token_data_array(data, n, -1, False)
    for sampler in samplers:
        lc.llama_sampler_apply(sampler, ctypes.byref(array))
    left = [(array.data[i].id, array.data[i].logit) for i in range(array.size)]
    drawn = array.data[array.selected].id if array.selected >= 0 else None
    return left, drawn


def ranges(ids):
    """Ascending ids as "0-3,7"."""
    spans = []
    for i in sorted(ids):
        if spans and spans[-1][1] == i - 1:
            spans[-1][1] = i
        else:
            spans.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def kept(left):
    """What a test compares."""
    left = [(i, logit) for i, logit in left if logit != -np.inf]
    logits = np.array([logit for _, logit in left], dtype=np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    best = sorted(zip([i for i, _ in left], p.tolist()), key=lambda one: (-one[1], one[0]))[:16]
    return {"kept": ranges([i for i, _ in left]), "best": best}


def make(settings, letters, n_vocab, vocab):
    """The samplers of `settings` in the order of `letters`, as llama.cpp's `common_sampler_init` makes them."""
    get = lambda name: settings.get(name, DEFAULTS[name])
    makers = {
        "e": lambda: lc.llama_sampler_init_penalties(
            n_vocab, get("penalty_last_n"), get("repeat_penalty"), get("frequency_penalty"), get("presence_penalty")
        ),
        "d": lambda: lc.llama_sampler_init_dry(
            vocab, get("dry_multiplier"), get("dry_base"), get("dry_allowed_length"), get("dry_penalty_last_n"), None, 0
        ),
        "s": lambda: lc.llama_sampler_init_top_n_sigma(get("top_n_sigma")),
        "k": lambda: lc.llama_sampler_init_top_k(get("top_k")),
        "y": lambda: lc.llama_sampler_init_typical(get("typical_p"), 0),
        "p": lambda: lc.llama_sampler_init_top_p(get("top_p"), 0),
        "m": lambda: lc.llama_sampler_init_min_p(get("min_p"), 0),
        "x": lambda: lc.llama_sampler_init_xtc(get("xtc_probability"), get("xtc_threshold"), 0, 1),
        "t": lambda: lc.llama_sampler_init_temp_ext(get("temp"), get("dynatemp_range"), get("dynatemp_exponent")),
    }
    return [makers[letter]() for letter in letters]


DEFAULTS = {
    "temp": 0.8, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0, "top_k": 40, "top_p": 0.95, "min_p": 0.05,
    "typical_p": 1.0, "top_n_sigma": -1.0, "xtc_probability": 0.0, "xtc_threshold": 0.1, "repeat_penalty": 1.0,
    "frequency_penalty": 0.0, "presence_penalty": 0.0, "penalty_last_n": 64, "dry_multiplier": 0.0, "dry_base": 1.75,
    "dry_allowed_length": 2, "dry_penalty_last_n": 64,
}  # fmt: skip
OPEN = {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
ALL = "edskypmxt"


def cases():
    """Settings and orders."""
    yield {}, ALL
    for temp in [0.0, 0.3, 2.0]:
        yield {"temp": temp}, ALL
    for k in [1, 5, 200, 2000]:
        yield OPEN | {"top_k": k}, ALL
    # Above 0.999 the f32 in which llama.cpp adds hundreds of probabilities decides of one token more or less.
    for p in [0.0, 0.1, 0.5, 0.9, 0.99, 0.999]:
        yield OPEN | {"top_p": p}, ALL
        yield OPEN | {"typical_p": p}, ALL
    for p in [0.001, 0.05, 0.3, 1.0]:
        yield OPEN | {"min_p": p}, ALL
    for n in [0.5, 1.0, 1.5, 3.0]:
        yield OPEN | {"top_n_sigma": n}, ALL
    for threshold in [0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.6]:
        yield OPEN | {"xtc_probability": 1.0, "xtc_threshold": threshold}, ALL
    for exponent in [0.5, 1.0, 2.0]:
        yield {"dynatemp_range": 0.5, "dynatemp_exponent": exponent}, ALL
        yield OPEN | {"temp": 1.0, "dynatemp_range": 1.5, "dynatemp_exponent": exponent}, ALL
    yield {"top_n_sigma": 1.0, "dynatemp_range": 0.7, "top_k": 0}, ALL
    yield {"repeat_penalty": 1.3}, ALL
    yield {"repeat_penalty": 1.1, "frequency_penalty": 0.5, "presence_penalty": -0.25}, ALL
    yield {"presence_penalty": 2.0, "penalty_last_n": 5}, ALL
    for base, length, last in [(1.75, 2, 64), (1.1, 1, 20), (3.0, 4, 64), (1.0, 2, 64)]:
        dry = {"dry_multiplier": 0.8, "dry_base": base, "dry_allowed_length": length, "dry_penalty_last_n": last}
        yield OPEN | dry, ALL
    both = {"repeat_penalty": 1.2, "dry_multiplier": 1.5, "typical_p": 0.9, "top_n_sigma": 2.0, "temp": 1.3}
    for letters in [ALL, ALL[::-1], "tkpm", "kt", "tp", "mtk", "xtpe", "ytd", "p"]:
        yield both | {"xtc_probability": 1.0, "xtc_threshold": 0.05}, letters


def text(n_vocab, likeliest):
    """A history with repeated sequences, whose tokens are among the likeliest."""
    rng = np.random.default_rng(7)
    a, b = rng.choice(likeliest, 6).tolist(), rng.choice(likeliest, 3).tolist()
    return a + b + a + rng.integers(0, n_vocab, 9).tolist() + b + a[:4] + b + a[:4]


def loop(make_samplers, all_rows, n_vocab):
    """Steps of a sampler that draws: what it kept, and what it drew."""
    samplers = make_samplers()
    steps = []
    for turn in range(24):
        row = turn % len(all_rows)
        left, drawn = apply(samplers, all_rows[row])
        steps.append({"row": row, "drawn": drawn} | kept(left))
        for sampler in samplers:
            lc.llama_sampler_accept(sampler, drawn)
    return steps


DRY_TEXTS = [
    "The cat sat on the mat.\nThe cat sat on the", "He said: one two three four. She said: one two three",
    "a b c d\na b c d\na b c", "\"quoted words here\" and then \"quoted words", " * item one\n * item one\n * item",
    "well... yes, well... no, well",
]  # fmt: skip
DRY_BREAKERS = [["\n", ":", "\"", "*"], ["..."], ["cat sat"], []]


def dry():
    """What DRY takes behind each text, with each list of breakers."""
    model = lc.Llama(sys.argv[1], n_ctx=64, verbose=False)
    vocab = lc.llama_model_get_vocab(model.model)
    n = lc.llama_vocab_n_tokens(vocab)
    for text in DRY_TEXTS:
        for breakers in DRY_BREAKERS:
            strings = (ctypes.c_char_p * max(1, len(breakers)))(*[one.encode() for one in breakers])
            sampler = lc.llama_sampler_init_dry(vocab, 1.0, 1.5, 1, 64, strings, len(breakers))
            for token in model.tokenize(text.encode(), add_bos=False):
                lc.llama_sampler_accept(sampler, token)
            left, _ = apply([sampler], [0] * n)
            yield {"text": text, "breakers": breakers, "taken": sorted([i, -x] for i, x in left if x != 0)}


def main():
    if "--dry" in sys.argv:
        print("[\n" + ",\n".join(json.dumps(case) for case in dry()) + "\n]")
        return
    made = list(rows(sys.argv[1]))
    all_rows, model = [row for row, _ in made], made[0][1]
    vocab = lc.llama_model_get_vocab(model.model)
    found = []
    for i, (settings, letters) in enumerate(cases()):
        row = i % len(all_rows)
        units = all_rows[row]
        n = len(units)
        history = text(n, np.argsort(-np.array(units))[:12])
        samplers = make(settings, letters, n, vocab)
        for sampler in samplers:
            for token in history:
                lc.llama_sampler_accept(sampler, token)
        left, _ = apply(samplers, units)
        found.append({"settings": settings, "sequence": letters, "row": row, "text": history} | kept(left))
    loops = []
    n = len(all_rows[0])
    for version, tau, eta in [(1, 5.0, 0.1), (1, 2.0, 0.5), (2, 5.0, 0.1), (2, 1.5, 0.4)]:
        def mirostat():
            temp = lc.llama_sampler_init_temp(0.9)
            if version == 1:
                return [temp, lc.llama_sampler_init_mirostat(n, 11, tau, eta, 100)]
            return [temp, lc.llama_sampler_init_mirostat_v2(11, tau, eta)]
        settings = {"temp": 0.9, "mirostat": version, "mirostat_tau": tau, "mirostat_eta": eta}
        loops.append({"settings": settings, "n_vocab": n, "steps": loop(mirostat, all_rows, n)})
    for target, decay in [(0.3, 0.9), (0.1, 0.5), (0.9, 0.99), (-1.0, 0.9)]:
        def adaptive():
            return [lc.llama_sampler_init_min_p(0.01, 0), lc.llama_sampler_init_adaptive_p(target, decay, 5)]
        settings = {"min_p": 0.01, "adaptive_target": target, "adaptive_decay": decay}
        loops.append({"settings": settings, "n_vocab": n, "steps": loop(adaptive, all_rows, n)})
    rows_text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in all_rows)
    cases_text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in found)
    loops_text = ",\n".join(json.dumps(one, separators=(",", ":")) for one in loops)
    print(f'{{"rows":[\n{rows_text}\n],"cases":[\n{cases_text}\n],"loops":[\n{loops_text}\n]}}')


main()
