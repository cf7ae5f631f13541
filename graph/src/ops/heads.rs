//! Parts of heads, and heads side by side: how queries and keys are taken apart and put together where a part of each head has
//! no position (MLA, arXiv 2405.04434). Fast version: `gpu/src/kernels/rows/heads.wgsl`.

/// Of each head of `head_dim` columns of one row those from `start` on, `n` of them.
pub fn columns(x: &[f32], head_dim: usize, start: usize, n: usize, out: &mut [f32]) {
    for (x, out) in x.chunks(head_dim).zip(out.chunks_mut(n)) {
        out.copy_from_slice(&x[start..start + n]);
    }
}

/// One row of `a` with `n_head` heads and one of `b`, whose heads follow those of `a` one by one; with one head `b` follows
/// each.
pub fn join(a: &[f32], b: &[f32], n_head: usize, n_head_b: usize, out: &mut [f32]) {
    let (of_a, of_b) = (a.len() / n_head, b.len() / n_head_b);
    for (h, out) in out.chunks_mut(of_a + of_b).enumerate() {
        out[..of_a].copy_from_slice(&a[h * of_a..][..of_a]);
        out[of_a..].copy_from_slice(&b[h % n_head_b * of_b..][..of_b]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_taken_apart_and_joined() {
        let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut part = [0.0; 2];
        columns(&x, 3, 1, 1, &mut part);
        assert_eq!(part, [2.0, 5.0]);
        let mut both = [0.0; 4];
        join(&part, &[7.0], 2, 1, &mut both);
        assert_eq!(both, [2.0, 7.0, 5.0, 7.0]);
        join(&part, &[7.0, 8.0], 2, 2, &mut both);
        assert_eq!(both, [2.0, 7.0, 5.0, 8.0]);
    }
}
