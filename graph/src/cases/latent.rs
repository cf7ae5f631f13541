//! The case of attention over a latent that all heads share (MLA, arXiv 2405.04434).

use super::experts::several;
use super::{Case, CaseBuilder};
use crate::{Attention, HeadPart, JoinedHeads, KvHeads, Mask, Result, RopePairs, RopeTable};
use gguf::DType;

/// Elements of the latent, of a head without and with a position, and of a head's values.
const LATENT: usize = 96;
const NOPE: usize = 32;
const ROPE: usize = 10;
const VALUES: usize = 17;

/// Five heads whose queries are brought to the latent, which is key and value of all; more positions than a chunk has.
pub(super) fn case() -> Result<Case> {
    let (n_vocab, n_head, n_embd) = (101, 5, 64);
    let mut c = CaseBuilder::new(23, n_vocab);
    let freqs: Vec<f64> = (0..ROPE / 2).map(|i| 10_000f64.powf(-(i as f64) / 5.0)).collect();
    let rope =
        c.builder.rope_table(RopeTable { freqs, long: None, mscale: 1.1, temperature: None });
    let table = c.weight(DType::F32, n_embd, n_vocab, 1.0);
    let x = c.builder.get_rows(table, "embd")?;
    let q = c.product(DType::Q8_0, x, n_head * (NOPE + ROPE), "q-0")?;
    let part = |start, n| HeadPart { head_dim: NOPE + ROPE, start, n };
    let q_nope = c.builder.head_columns(part(0, NOPE), q, "q_nope-0")?;
    let q_pe = c.builder.head_columns(part(NOPE, ROPE), q, "q_pe-0")?;
    let q_pe = c.builder.rope(rope, ROPE, RopePairs::Adjacent, q_pe, "q_pe-0")?;
    let kv = c.product(DType::Q8_0, x, LATENT + ROPE, "kv_cmpr_pe-0")?;
    let latent = c.builder.columns(0, LATENT, kv, "kv_cmpr-0")?;
    let k_pe = c.builder.columns(LATENT, ROPE, kv, "k_pe-0")?;
    let k_pe = c.builder.rope(rope, ROPE, RopePairs::Adjacent, k_pe, "k_pe-0")?;
    let each = c.builder.each(n_head, x, "heads-0")?;
    let w = c.matrices(&several(DType::Q8_0, NOPE, LATENT, n_head), 0.3);
    let q = c.builder.mat_mul_id(w, q_nope, each, "q_nope_absorbed_perm-0")?;
    let q = c.builder.join_heads(JoinedHeads { n_head, n_head_b: n_head }, [q, q_pe], "Qcur-0")?;
    let one = JoinedHeads { n_head: 1, n_head_b: 1 };
    let k = c.builder.join_heads(one, [latent, k_pe], "Kcur-0")?;
    let heads = KvHeads { n_head_kv: 1, head_dim_k: LATENT + ROPE, head_dim_v: LATENT };
    let cache = c.builder.latent_cache(heads)?;
    c.builder.store_kv(cache, k, latent)?;
    let (scale, mask) = (0.15, Mask::Causal);
    let attention = Attention { cache, n_head, scale, mask, sinks: None, softcap: None };
    let y = c.builder.attention(attention, q, "kqv-0")?;
    let w = c.matrices(&several(DType::Q4_0, LATENT, VALUES, n_head), 0.3);
    let y = c.builder.mat_mul_id(w, y, each, "kqv_out-0")?;
    // The key's position goes to every head, where heads have keys of their own.
    let both = c.builder.join_heads(JoinedHeads { n_head, n_head_b: 1 }, [y, k_pe], "joined")?;
    let x = c.builder.output_rows(both, "rows")?;
    c.product(DType::F32, x, n_vocab, "result_output")?;
    c.finish("latent attention".to_owned(), &[75, 1, 4], 0)
}
