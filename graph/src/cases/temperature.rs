//! The case of a temperature of attention.

use super::{Case, CaseBuilder};
use crate::{Attention, KvHeads, Mask, Result, RopePairs, RopeTable, Temperature};
use gguf::DType;

/// Queries whose temperature grows every 7 positions, beside keys without one: two rotary embeddings of the same
/// frequencies.
pub(super) fn case() -> Result<Case> {
    let (n_vocab, head_dim, n_head) = (101, 24, 5);
    let mut c = CaseBuilder::new(6, n_vocab);
    let freqs: Vec<f64> = (0..head_dim / 2).map(|i| 10_000f64.powf(-f64::from(i) / 12.0)).collect();
    let (head_dim, mscale) = (head_dim as usize, 1.1);
    let keys = RopeTable { freqs, long: None, mscale, temperature: None };
    let temperature = Some(Temperature { scale: 0.1, length: 7 });
    let queries = c.builder.rope_table(RopeTable { temperature, ..keys.clone() });
    let keys = c.builder.rope_table(keys);
    let table = c.weight(DType::F32, head_dim * n_head, n_vocab, 1.0);
    let x = c.builder.get_rows(table, "embd")?;
    let q = c.builder.rope(queries, head_dim, RopePairs::Adjacent, x, "Qcur_attn_temp_scaled-0")?;
    let k = c.builder.rope(keys, head_dim, RopePairs::Adjacent, x, "Kcur-0")?;
    let heads = KvHeads { n_head_kv: n_head, head_dim_k: head_dim, head_dim_v: head_dim };
    let cache = c.builder.kv_cache(heads, None);
    c.builder.store_kv(cache, k, x)?;
    let scale = 0.25;
    let attention =
        Attention { cache, n_head, scale, mask: Mask::Causal, sinks: None, softcap: None };
    let x = c.builder.attention(attention, q, "kqv_out-0")?;
    let x = c.builder.output_rows(x, "rows")?;
    c.product(DType::F32, x, n_vocab, "result_output")?;
    c.finish("temperature of queries".to_owned(), &[19, 1, 4], 0)
}
