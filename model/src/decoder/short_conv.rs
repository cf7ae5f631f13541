//! The mixer that sees the last few rows: two gates around a convolution of each column by itself. llama.cpp's names of its
//! values have a path of `model.layers.{}.` in front.

use super::{At, Decoder};
use crate::tensors::{Branch, Dim, Role, TensorSpec};
use crate::{Result, ShortConv};
use graph::ValueId;

impl Decoder<'_> {
    /// `out_proj(c · conv(b · x))`, where `b`, `c`, `x` are the thirds of `in_proj`'s columns: `[tokens, n_embd]` both ways.
    pub(super) fn short_conv(
        &mut self,
        at: At<'_>,
        conv: ShortConv,
        x: ValueId,
    ) -> Result<ValueId> {
        let (n, embd) = (self.spec.n_embd, self.spec.embd_dim());
        let thirds = Dim { n: 3 * n, from: format!("3 × {}", embd.from) };
        let in_proj =
            TensorSpec::new(at.weight("shortconv.in_proj"), [embd.clone(), thirds], Role::Inner);
        let in_proj = self.weight(&in_proj)?;
        let bcx = self.builder.mat_mul(in_proj, x, at.value("conv.in_proj"))?; // [tokens, 3 · n_embd]
        let b = self.builder.columns(0, n, bcx, at.value("conv.b"))?;
        let c = self.builder.columns(n, n, bcx, at.value("conv.c"))?;
        let x = self.builder.columns(2 * n, n, bcx, at.value("conv.x"))?;
        let bx = self.builder.mul(b, x, at.value("conv.bx"))?;
        let d_conv = self.spec.dim(conv.d_conv, "shortconv.l_cache");
        let w = TensorSpec::new(at.weight("shortconv.conv"), [d_conv, embd.clone()], Role::Conv);
        let w = self.weight(&w)?;
        let state = self.builder.state_cache((conv.d_conv - 1) * n);
        let y = self.builder.ssm_conv(w, state, bx, at.value("conv.conv"))?;
        let y = self.builder.mul(c, y, at.value("conv.y"))?;
        let role = Role::Branch { branch: Branch::Mixer, norms: at.layer.norms };
        let out_proj = TensorSpec::new(at.weight("shortconv.out_proj"), [embd.clone(), embd], role);
        let out_proj = self.weight(&out_proj)?;
        Ok(self.builder.mat_mul(out_proj, y, at.value("conv.out_proj"))?)
    }
}
