//! The 6-bit scales and minima that Q4_K and Q5_K share, and how a block of both is fitted.

use super::facts::RunScale;
use super::fit::{Line, Search, nearest, sum_of_squares, weighed};
use super::lines::{Integers, Lines};
use super::{f16_to_f32, f32_to_f16};
use bytemuck::{Pod, Zeroable};

/// Scale and minimum of eight groups of 32 weights: w = d·scale·q − dmin·min. `d` and `dmin` are f16.
/// [`scale_min_k4`] says how the 12 bytes are packed.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ScaleMin {
    d: [u8; 2],
    dmin: [u8; 2],
    packed: [u8; 12],
}
const _: () = assert!(size_of::<ScaleMin>() == 16);

impl ScaleMin {
    /// d·scale and dmin·min of a group.
    pub(super) fn of_group(&self, group: usize) -> Line {
        let (scale, min) = scale_min_k4(group, &self.packed);
        let (d, dmin) = (f16_to_f32(self.d), f16_to_f32(self.dmin));
        Line { scale: d * f32::from(scale), min: dmin * f32::from(min) }
    }

    /// The integers of a group.
    #[inline(always)]
    pub(super) fn run(&self, group: usize) -> RunScale {
        let (scale, min) = scale_min_k4(group, &self.packed);
        RunScale { scale: scale as i8, min }
    }

    /// Replaces random scales and minima by ones of a size, as encoders write them.
    pub(super) fn make_plausible(&mut self) {
        let random = self.packed;
        self.packed = [0; 12];
        for j in 0..8 {
            let (scale, min) = random_scale_min(random[j], 31, 31);
            self.put(j, scale, min);
        }
    }

    fn put(&mut self, group: usize, scale: u8, min: u8) {
        let packed = &mut self.packed;
        if group < 4 {
            (packed[group], packed[group + 4]) = (scale, min);
        } else {
            packed[group + 4] = scale & 15 | min << 4;
            packed[group - 4] |= scale >> 4 << 6;
            packed[group] |= min >> 4 << 6;
        }
    }

    /// Packs the scales and minima that fit the groups best.
    fn pack(lines: &Groups) -> Self {
        let Line { scale: max_scale, min: max_min } = lines.greatest();
        let inverse = |max: f32| if max > 0.0 { 63.0 / max } else { 0.0 };
        let (inv_scale, inv_min) = (inverse(max_scale), inverse(max_min));
        let (d, dmin) = (f32_to_f16(max_scale / 63.0), f32_to_f16(max_min / 63.0));
        let mut groups = Self { d, dmin, packed: [0; 12] };
        for j in 0..8 {
            // A fitted scale can be negative; its low byte is then over 63, and llama.cpp has it so too.
            let scale = (nearest(inv_scale * lines.scales[j]) as u8).min(63);
            let min = (nearest(inv_min * lines.mins[j]) as u8).min(63);
            groups.put(j, scale, min);
        }
        groups
    }
}

/// Integer scale and minimum of a group (0 to 7) of Q4_K or Q5_K from their 12 packed bytes.
///
/// The first four hold the scales of groups 0 to 3 in their lower six bits, the next four the minima. Byte 8 + i holds
/// the lower four bits of the scale (low half) and of the minimum (high half) of group 4 + i; their upper two bits are
/// the upper bits of bytes i and 4 + i.
#[inline(always)]
fn scale_min_k4(group: usize, p: &[u8; 12]) -> (u8, u8) {
    if group < 4 {
        (p[group] & 63, p[group + 4] & 63)
    } else {
        let low = p[group + 4];
        (low & 15 | p[group - 4] >> 6 << 4, low >> 4 | p[group] >> 6 << 4)
    }
}

/// Eight groups of 32 weights.
type Groups = Lines<8, 32>;

/// Finds scales and minima of a block, then rounds its weights to them: the quants are 0 to `search.max`.
///
/// An error counts by |w| plus the root mean square of its group.
pub(super) fn quantise(weights: &[f32; 256], search: &Search) -> (ScaleMin, [u8; 256]) {
    let mut importance = [0.0; 256];
    let groups = weights.as_chunks::<32>().0.iter();
    for (group, importance) in groups.zip(importance.as_chunks_mut::<32>().0) {
        let mean = (sum_of_squares(group) / 32.0).sqrt();
        *importance = group.map(|w| mean + w.abs());
    }
    let groups = Groups::fit(weights, &importance, search);
    let packed = ScaleMin::pack(&groups);
    (packed, groups.round(weights, |j| packed.of_group(j), search.max))
}

/// The same by an importance matrix, for quants of 0 to `max`. Scales and minima of groups are at most `limit`.
pub(super) fn quantise_by(
    weights: &[f32; 256],
    importance: &[f32; 256],
    max: u8,
    limit: u8,
) -> (ScaleMin, [u8; 256]) {
    let floor = 2.0 * sum_of_squares(weights) / 256.0;
    let importance = weighed(weights, importance, floor);
    let groups = Groups::fit(weights, &importance, &Search::by_matrix(max));
    let Integers { unit, scales, mins } = groups.integers(&importance, 63);
    let (d, dmin) = (f32_to_f16(unit.scale), f32_to_f16(unit.min));
    let mut packed = ScaleMin { d, dmin, packed: [0; 12] };
    for j in 0..8 {
        packed.put(j, scales[j].min(limit), mins[j].min(limit));
    }
    (packed, groups.round(weights, |j| packed.of_group(j), max))
}

/// A scale of `least` and up to `mask` more, and a minimum of the same size or, in a quarter of the cases, one off.
pub(super) fn random_scale_min(random: u8, least: u8, mask: u8) -> (u8, u8) {
    let scale = least + (random & mask);
    match random >> 5 {
        0 => (scale, scale + 1),
        1 => (scale, scale - 1),
        _ => (scale, scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minima_stay_beside_their_scales() {
        let packed = std::array::from_fn(|i| 37u8.wrapping_mul(i as u8 + 3));
        let mut groups = ScaleMin { d: [0; 2], dmin: [0; 2], packed };
        groups.make_plausible();
        for group in 0..8 {
            let (scale, min) = scale_min_k4(group, &groups.packed);
            assert!((31..=62).contains(&scale) && scale.abs_diff(min) <= 1, "{scale} {min}");
        }
    }
}
