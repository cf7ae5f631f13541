//! Faults of the ops that models have without gates and rotary embeddings.

use super::{Hear, Kind, Scene, vector};
use graph::ops::{elementwise, layer_norm};
use graph::{LayerNorm, Unary, WeightId};

/// Of a LayerNorm: no mean, no factors, nothing added, or another epsilon.
pub(super) fn normed(scene: &Scene<'_>, norm: &LayerNorm, hear: &mut Hear<'_>) {
    let Some(x) = scene.inputs.first() else { return };
    let [w, b] = [norm.w, norm.b].map(|id| id.and_then(|id| vector(scene, id)));
    let affine = layer_norm::Affine { w: w.as_deref(), b: b.as_deref() };
    let normed = |affine: layer_norm::Affine<'_>, eps: f32| -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        layer_norm::layer_norm(x, affine, norm.group, eps, &mut out);
        out
    };
    let unweighted = layer_norm::Affine { w: None, b: None };
    if scene.test(Kind::RmsNorm, &without_mean(x, affine, norm), hear)
        || (b.is_some()
            && scene.test(
                Kind::MissingBias,
                &normed(layer_norm::Affine { b: None, ..affine }, norm.eps),
                hear,
            ))
        || (w.is_some() && scene.test(Kind::MissingWeight, &normed(unweighted, norm.eps), hear))
    {
        return;
    }
    for other in [0.0, 1e-12, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3] {
        if (other - norm.eps).abs() > norm.eps * 1e-3
            && scene.test(Kind::Epsilon(f64::from(other)), &normed(affine, other), hear)
        {
            return;
        }
    }
}

fn without_mean(x: &[f32], affine: layer_norm::Affine<'_>, norm: &LayerNorm) -> Vec<f32> {
    let group = norm.group.max(1);
    let mut out = Vec::with_capacity(x.len());
    for (g, x) in x.chunks(group).enumerate() {
        let squares: f64 = x.iter().map(|&v| f64::from(v).powi(2)).sum();
        let by = 1.0 / (squares / group as f64 + f64::from(norm.eps)).sqrt();
        for (i, &v) in x.iter().enumerate() {
            let of = |all: &[f32]| f64::from(all[(g * group + i) % all.len()]);
            let (w, b) = (affine.w.map_or(1.0, of), affine.b.map_or(0.0, of));
            out.push((f64::from(v) * by * w + b) as f32);
        }
    }
    out
}

/// Of a function of each element: another one.
pub(super) fn applied(scene: &Scene<'_>, unary: Unary, hear: &mut Hear<'_>) {
    let Some(x) = scene.inputs.first() else { return };
    let other = match unary {
        Unary::GeluTanh => Some(Unary::ReluSquared),
        Unary::ReluSquared => Some(Unary::GeluTanh),
        Unary::Clamp { .. } => None,
    };
    let other = other.map(|other| {
        let mut out = vec![0.0; x.len()];
        elementwise::unary(other, x, &mut out);
        out
    });
    let silu: Vec<f32> = x.iter().map(|&v| graph::math::silu(v)).collect();
    let relu: Vec<f32> = x.iter().map(|v| v.max(0.0)).collect();
    let all = [other.as_deref(), Some(x), Some(&silu[..]), Some(&relu[..])];
    all.into_iter().flatten().any(|would| scene.test(Kind::Activation, would, hear));
}

/// Of rows by position: those of other positions.
pub(super) fn positioned(scene: &Scene<'_>, table: WeightId, hear: &mut Hear<'_>) {
    let Some(all) = vector(scene, table) else { return };
    let weight = scene.graph.weight(table);
    let first = scene.step.positions.first().map_or(0, |&p| p as i32);
    // The last counts from the step's first token.
    for by in [1, -1, -first] {
        let row = |&p: &u32| (p as i32 + by).clamp(0, weight.n_out as i32 - 1) as usize;
        let rows = scene.step.positions.iter().map(row);
        let would: Vec<f32> =
            rows.flat_map(|row| all[row * weight.n_in..][..weight.n_in].to_vec()).collect();
        if by != 0 && scene.test(Kind::Position(by), &would, hear) {
            return;
        }
    }
}
