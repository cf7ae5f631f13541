//! Which of a device's operations can be trusted: what `probe.rs` measures and `shaders.rs` makes kernels for.

use crate::template::Defines;

/// Which operations give IEEE's bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// `fma` is fused and rounds once.
    pub fma: bool,
    /// Where it is not: the device has doubles and 64-bit integers, and an `fma` made of them is exact.
    pub wide: bool,
    /// `/` rounds to nearest.
    pub div: bool,
    /// `sqrt` rounds to nearest.
    pub sqrt: bool,
    /// `unpack2x16float` gives every f16's number.
    pub half: bool,
    /// Numbers below 2^-126 are kept by `+` and `·`.
    pub denormals: bool,
}

impl Probes {
    /// Nothing can be trusted but `+`, `·` and integers.
    pub fn worst() -> Self {
        Self { fma: false, wide: false, div: false, sqrt: false, half: false, denormals: false }
    }

    /// Everything can be trusted.
    pub fn best() -> Self {
        Self { fma: true, wide: false, div: true, sqrt: true, half: true, denormals: true }
    }

    /// What the shaders are made with.
    pub fn defines(self) -> Defines {
        Defines::new()
            .flag("SOFT_FMA", !self.fma)
            .flag("WIDE_FMA", !self.fma && self.wide)
            .flag("SOFT_DIV", !self.div)
            .flag("SOFT_SQRT", !self.sqrt)
            .flag("SOFT_HALF", !self.half)
            .flag("SOFT", !(self.fma && self.div && self.sqrt))
    }
}
