//! The catalogue: one or more faults of each class of FAULTS.md 3.2.

use crate::side::Seen;
use graph::{Act, Graph, Mask, Node, Op, Step, math};

/// How a fault is made.
#[derive(Clone, Copy)]
pub(crate) enum Make {
    /// The op's value is changed.
    Value(fn(&Seen<'_>, &mut [f32])),
    /// The backend is given a wrong graph.
    Graph(fn(&mut Graph)),
    /// The backend reads the op's weight wrongly: columns and bytes of a row.
    Weight(fn(usize, &mut [u8])),
    /// The backend is given other steps.
    Steps(fn(&mut [Step])),
}

#[derive(Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// Of FAULTS.md 3.2.
    pub(crate) class: char,
    /// The op to blame, `name:OP`.
    pub(crate) op: &'static str,
    /// A part of the kind's words.
    pub(crate) kind: &'static str,
    pub(crate) make: Make,
    /// Only in cases whose name has this.
    pub(crate) only: &'static str,
}

pub(crate) const fn fault(
    class: char,
    name: &'static str,
    (op, kind): (&'static str, &'static str),
    make: Make,
) -> Fault {
    Fault { name, class, op, kind, make, only: "" }
}

const fn only(only: &'static str, fault: Fault) -> Fault {
    Fault { only, ..fault }
}

/// The other reading of a block of four-bit codes: low, high, low, high.
pub(crate) fn nibbles(head: usize, block: &mut [u8]) {
    let qs: Vec<u8> = block[head..head + 16].to_vec();
    let read: Vec<u8> = qs.iter().flat_map(|q| [q & 15, q >> 4]).collect();
    for (j, q) in block[head..head + 16].iter_mut().enumerate() {
        *q = read[j] | read[j + 16] << 4;
    }
}

pub(crate) fn transposed(seen: &Seen<'_>, data: &mut [f32]) {
    let (n_in, n_out, all) = seen.own_weight();
    for (x, out) in seen.input(0).chunks(n_in).zip(data.chunks_mut(n_out)) {
        for (r, out) in out.iter_mut().enumerate() {
            *out = (0..n_in).map(|k| all[k * n_out + r] * x[k]).sum();
        }
    }
}

pub(crate) fn layer_norm(seen: &Seen<'_>, data: &mut [f32]) {
    let (n, _, w) = seen.own_weight();
    for (x, out) in seen.input(0).chunks(n).zip(data.chunks_mut(n)) {
        let mean = x.iter().sum::<f32>() / n as f32;
        let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n as f32;
        for i in 0..n {
            out[i] = (x[i] - mean) / (var + 1e-5).sqrt() * w[i];
        }
    }
}

pub(crate) fn column_major(seen: &Seen<'_>, data: &mut [f32]) {
    let (n_in, n_out, all) = seen.own_weight();
    for (&id, out) in seen.step.tokens.iter().zip(data.chunks_mut(n_in)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = all[i * n_out + id as usize];
        }
    }
}

pub(crate) fn ropes(graph: &mut Graph) -> impl Iterator<Item = &mut graph::RopeTable> {
    graph.rope_tables.iter_mut()
}

fn node<'g>(graph: &'g mut Graph, key: &str) -> &'g mut Node {
    let at = graph.nodes.iter().position(|node| graph.key(node) == key).unwrap();
    &mut graph.nodes[at]
}

pub(crate) const Q: &str = "Qcur-1:ROPE";
pub(crate) const KQV: &str = "kqv_out-1:FLASH_ATTN_EXT";
pub(crate) const DOWN: &str = "ffn_out-1:MUL_MAT";
pub(crate) const V: &str = "Vcur-1:MUL_MAT";
pub(crate) const UP: &str = "ffn_up-1:MUL_MAT";

pub(crate) use Make::{Graph as G, Steps as S, Value as X, Weight as W};

pub(crate) const FAULTS: &[Fault] = &[
    // A: kernel arithmetic, indexing, bounds.
    fault('A', "product not computed", (DOWN, "zeros"), X(|_, d| d.fill(0.0))),
    fault(
        'A',
        "scale not applied",
        (DOWN, "scale factor 0.0158"),
        X(|_, d| d.iter_mut().for_each(|v| *v /= 63.0)),
    ),
    fault('A', "m, n, k swapped", (V, "transposed"), X(transposed)),
    fault(
        'A',
        "result written column-major",
        (V, "rows and columns"),
        X(|s, d| {
            let (cols, old) = (s.cols(), d.to_vec());
            let rows = d.len() / cols;
            if rows > 1 {
                (0..d.len()).for_each(|i| d[i] = old[i % rows * cols + i / rows]);
            } else {
                d.reverse();
            }
        }),
    ),
    fault(
        'A',
        "column tail left out",
        (DOWN, "columns from"),
        X(|s, d| {
            let cols = s.cols();
            d.chunks_mut(cols).for_each(|row| row[cols - 5..].fill(0.0));
        }),
    ),
    fault(
        'A',
        "rows behind the tile left out",
        (DOWN, "rows from"),
        X(|s, d| {
            let (cols, rows) = (s.cols(), d.len() / s.cols());
            if rows > 16 {
                d[16 * cols..].fill(0.5);
            }
        }),
    ),
    fault(
        'A',
        "K tail left out",
        (DOWN, "left out of the sum"),
        W(|n_in, row| {
            let blocks = n_in / 32;
            row.chunks_mut(34).skip(blocks - 1).for_each(|block| block[..2].fill(0));
        }),
    ),
    only(
        "Q4_0",
        fault(
            'A',
            "nibbles read in turn",
            (UP, "nibble order"),
            W(|_, row| {
                row.chunks_mut(18).for_each(|block| nibbles(2, block));
            }),
        ),
    ),
    only(
        "Q4_1",
        fault(
            'A',
            "nibbles read in turn (Q4_1)",
            (UP, "nibble order"),
            W(|_, row| {
                row.chunks_mut(20).for_each(|block| nibbles(4, block));
            }),
        ),
    ),
    only(
        "Q4_K",
        fault(
            'A',
            "get_scale_min_k4 wrong",
            (UP, "factors inside"),
            W(|_, row| {
                row.chunks_mut(144).for_each(|block| block[4..16].rotate_left(1));
            }),
        ),
    ),
    only(
        "Q6_K",
        fault(
            'A',
            "Q6_K scales shifted",
            (UP, "factors inside"),
            W(|_, row| {
                row.chunks_mut(210).for_each(|block| block[192..208].rotate_left(1));
            }),
        ),
    ),
    fault(
        'A',
        "norm without its weight",
        ("attn_norm-1:RMS_NORM", "weight left out"),
        X(|s, d| {
            let (n, _, w) = s.own_weight();
            d.iter_mut().enumerate().for_each(|(i, v)| *v /= w[i % n]);
        }),
    ),
    fault('A', "LayerNorm for RMS norm", ("ffn_norm-1:RMS_NORM", "LayerNorm"), X(layer_norm)),
    only(
        "|x| 1e0",
        fault(
            'A',
            "epsilon 1e-3",
            ("attn_norm-1:RMS_NORM", "epsilon 1e-3"),
            G(|g| {
                if let Op::RmsNorm { eps, .. } = &mut node(g, "attn_norm-1:RMS_NORM").op {
                    *eps = 1e-3;
                }
            }),
        ),
    ),
    fault('A', "single element", (DOWN, "single elements"), X(|_, d| d[3] = d[3] * 1.5 + 1.0)),
    only(
        "15/3",
        fault(
            'A',
            "GQA head h % n_kv",
            (KQV, "wrong key heads"),
            X(|s, d| s.attended(d, |h, _, n| h % n, |p, _| p, |_, p| p)),
        ),
    ),
    only(
        "15/3",
        fault(
            'A',
            "GQA broadcast missing",
            (KQV, "wrong key heads"),
            X(|s, d| s.attended(d, |_, _, _| 0, |p, _| p, |_, p| p)),
        ),
    ),
    // B: range and precision.
    fault('B', "NaN at one element", (DOWN, "NaN or infinity"), X(|_, d| d[7] = f32::NAN)),
    only(
        "1e5",
        fault(
            'B',
            "f16 overflow",
            ("ffn_inp-1:ADD", "f16 overflow"),
            X(|_, d| d.iter_mut().for_each(|v| *v = math::round_f16(*v))),
        ),
    ),
    fault(
        'B',
        "activations in f16",
        (DOWN, "f16"),
        X(|_, d| d.iter_mut().for_each(|v| *v = math::round_f16(*v))),
    ),
    fault(
        'B',
        "0/0 in a masked row",
        (KQV, "NaN or infinity"),
        X(|s, d| d[..s.cols()].fill(f32::NAN)),
    ),
    // C: barriers, races, aliasing.
    fault(
        'C',
        "buffer reused too early",
        ("ffn_up-1:MUL_MAT", "holds ffn_gate-1"),
        X(|s, d| {
            d.copy_from_slice(&s.values["ffn_gate-1:MUL_MAT"]);
        }),
    ),
    fault(
        'C',
        "missing barrier: last step's value",
        (DOWN, "step before"),
        X(|s, d| {
            if let Some(old) = s.before.get(DOWN).filter(|old| old.len() == d.len()) {
                d.copy_from_slice(old);
            }
        }),
    ),
    // D: driver and compiler.
    fault(
        'D',
        "rows 4-7 of 8 x 8 tiles",
        (DOWN, "every 8"),
        X(|_, d| {
            d.iter_mut()
                .enumerate()
                .filter(|(i, _)| i % 8 > 3)
                .for_each(|(_, v)| *v = *v * 0.3 + 0.7);
        }),
    ),
    fault(
        'D',
        "half of the subgroup's sum",
        (DOWN, "left out of the sum"),
        W(|n_in, row| {
            row.chunks_mut(34).skip(n_in / 2 / 32).for_each(|block| block[..2].fill(0));
        }),
    ),
    // E: fusion, graph, host and shader.
    fault(
        'E',
        "gate and up swapped",
        ("ffn_swiglu-1:GLU", "gate and up"),
        G(|g| node(g, "ffn_swiglu-1:GLU").inputs.reverse()),
    ),
    fault(
        'E',
        "wrong activation",
        ("ffn_swiglu-1:GLU", "activation"),
        G(|g| {
            if let Op::Glu { act } = &mut node(g, "ffn_swiglu-1:GLU").op {
                *act = match act {
                    Act::Silu => Act::GeluTanh,
                    Act::GeluTanh | Act::SwigluOai => Act::Silu,
                };
            }
        }),
    ),
    fault(
        'E',
        "residual left out",
        ("l_out-1:ADD", "summand"),
        X(|s, d| d.copy_from_slice(s.input(0))),
    ),
    fault(
        'E',
        "score factor missing",
        (KQV, "not scaled"),
        G(|g| {
            if let Op::Attention(a) = &mut node(g, KQV).op {
                a.scale = 1.0;
            }
        }),
    ),
    fault(
        'E',
        "residual bound as the output",
        ("attn_out-1:MUL_MAT", "holds l_out-0"),
        X(|s, d| d.copy_from_slice(&s.values["l_out-0:ADD"])),
    ),
    // F: RoPE.
    fault('F', "NORM for NEOX", (Q, "pair order"), X(|s, d| s.turned(d, true, 1.0, |p| p))),
    fault(
        'F',
        "position + 1",
        (Q, "position off by 1"),
        X(|s, d| s.turned(d, false, 1.0, |p| p + 1)),
    ),
    fault('F', "position always 0", (Q, "no rotation"), X(|s, d| s.turned(d, false, 1.0, |_| 0))),
    fault(
        'F',
        "base of another model",
        ("Qcur-0:ROPE", "RoPE"),
        G(|g| {
            for table in ropes(g) {
                let n = table.freqs.len();
                table.freqs = (0..n).map(|i| f64::powf(1e6, -(i as f64) / n as f64)).collect();
            }
        }),
    ),
    fault(
        'F',
        "linear factor left out",
        (Q, "frequencies times 4"),
        X(|s, d| s.turned(d, false, 4.0, |p| p)),
    ),
    // G: KV cache and positions.
    fault(
        'G',
        "newest key not stored",
        (KQV, "stale"),
        X(|s, d| {
            s.attended(
                d,
                |h, g, _| h / g,
                |p, _| p,
                |own, p| if p == own { own.saturating_sub(1) } else { p },
            )
        }),
    ),
    fault(
        'G',
        "newest position not seen",
        (KQV, "stale"),
        X(|s, d| s.attended(d, |h, g, _| h / g, |p, _| p.saturating_sub(1), |_, p| p)),
    ),
    fault(
        'G',
        "no causal mask",
        (KQV, "causal"),
        X(|s, d| s.attended(d, |h, g, _| h / g, |_, last| last, |_, p| p)),
    ),
    only(
        "window Some(33)",
        fault(
            'G',
            "window left out",
            (KQV, "window"),
            X(|s, d| {
                let Op::Attention(mut a) = s.node.op else { return };
                a.mask = Mask::Causal;
                let wide = Node { op: Op::Attention(a), ..s.node.clone() };
                Seen { node: &wide, ..*s }.attended(d, |h, g, _| h / g, |p, _| p, |_, p| p);
            }),
        ),
    ),
    fault('G', "cache never written", (KQV, "zeros"), X(|_, d| d.fill(0.0))),
    // H: several devices.
    fault(
        'H',
        "copy between devices a row late",
        ("l_out-0:ADD", "shifted"),
        X(|s, d| {
            let cols = s.cols();
            if d.len() > cols {
                d.copy_within(..d.len() - cols, cols);
            } else {
                d.fill(0.0);
            }
        }),
    ),
    // I: tokens.
    fault(
        'I',
        "other token ids",
        ("embd:GET_ROWS", "other token ids"),
        S(|steps| {
            steps.iter_mut().for_each(|step| step.tokens[0] = (step.tokens[0] + 1) % 50);
        }),
    ),
    fault('I', "embedding read column-major", ("embd:GET_ROWS", "transposed"), X(column_major)),
    // J: bad file.
    fault(
        'J',
        "NaN scale in a block",
        (DOWN, "NaN or infinity"),
        W(|_, row| {
            row[..2].copy_from_slice(&0x7e00u16.to_le_bytes());
        }),
    ),
];

/// A block of Q6_K whose reader takes elements one after the other where ggml has l, l + 32, l + 64, l + 96.
fn in_sequence(block: &mut [u8]) {
    for half in 0..2 {
        let (low, high) = (64 * half, 128 + 32 * half);
        let nibble = |l: usize, q: usize| block[low + l + q % 2 * 32] >> (q / 2 * 4) & 15;
        let code = |k: usize| (nibble(k % 32, k / 32), block[high + k % 32] >> (2 * (k / 32)) & 3);
        let read: Vec<(u8, u8)> = (0..128).map(|k| code(k / 4 + k % 4 * 32)).collect();
        for l in 0..32 {
            block[low + l] = read[l].0 | read[l + 64].0 << 4;
            block[low + l + 32] = read[l + 32].0 | read[l + 96].0 << 4;
            block[high + l] = (0..4).map(|q| read[l + 32 * q].1 << (2 * q)).sum();
        }
    }
}

/// The seed's twelve (FAULTS.md 3.0), each on an op of its own of a model of many layers, but for those of the token ids
/// and of the embedding, which share one. `of` finds a layer's FFN whose weights have a format.
pub(crate) fn twelve(of: &mut dyn FnMut(gguf::DType) -> &'static str) -> Vec<Fault> {
    vec![
        fault(
            'A',
            "1 scale and min unpacking",
            (of(gguf::DType::Q4_K), "factors inside"),
            W(|_, row| row.chunks_mut(144).for_each(|block| block[4..16].rotate_left(1))),
        ),
        fault(
            'A',
            "2 nibbles read in turn",
            (of(gguf::DType::Q4_K), "nibble order"),
            W(|_, row| {
                let groups = row.chunks_mut(144).flat_map(|block| block[16..].chunks_mut(32));
                groups.for_each(|group| {
                    let read: Vec<u8> = group.iter().flat_map(|q| [q & 15, q >> 4]).collect();
                    (0..32).for_each(|j| group[j] = read[j] | read[j + 32] << 4);
                });
            }),
        ),
        fault(
            'A',
            "3 element order of Q6_K",
            (of(gguf::DType::Q6_K), "order of the elements"),
            W(|_, row| row.chunks_mut(210).for_each(in_sequence)),
        ),
        fault(
            'A',
            "4 n_head_kv = n_head",
            ("kqv_out-4:FLASH_ATTN_EXT", "key heads"),
            X(|s, d| s.attended(d, |h, _, n| h % n, |p, _| p, |_, p| p)),
        ),
        fault(
            'F',
            "5 position always 0",
            ("Qcur-5:ROPE", "no rotation"),
            X(|s, d| s.turned(d, false, 1.0, |_| 0)),
        ),
        fault(
            'G',
            "6 no causal mask",
            ("kqv_out-6:FLASH_ATTN_EXT", "causal"),
            X(|s, d| s.attended(d, |h, g, _| h / g, |_, last| last, |_, p| p)),
        ),
        fault(
            'A',
            "7 LayerNorm for RMS norm",
            ("attn_norm-7:RMS_NORM", "LayerNorm"),
            X(layer_norm),
        ),
        fault('A', "8 m, n, k swapped", ("Vcur-8:MUL_MAT", "transposed"), X(transposed)),
        fault(
            'I',
            "9 no space before the first word",
            ("embd:GET_ROWS", "other token ids"),
            S(|steps| steps.iter_mut().for_each(|step| step.tokens[0] += 1)),
        ),
        fault('A', "10 embedding column-major", ("embd:GET_ROWS", "transposed"), X(column_major)),
        fault('A', "11 O transposed", ("attn_out-9:MUL_MAT", "transposed"), X(transposed)),
        fault(
            'F',
            "12 rope_freq_base hard-coded",
            ("Kcur-10:ROPE", "RoPE base 10000"),
            X(|s, d| {
                let Op::Rope { table, .. } = s.node.op else { return };
                let n = s.case.graph.rope_tables[table].freqs.len();
                s.turned_by(d, (0..n).map(|i| f64::powf(1e4, -(i as f64) / n as f64)).collect());
            }),
        ),
    ]
}
