//! The tensor types: the ones karat computes with, and the rest of ggml's ids known by name and size.
//! Each format's layout, decoder and encoder are in `quant/`.

use crate::quant::{Block, Facts, Kind, Quant, Visit, floats};
use crate::quant::{
    iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs, iq4_nl, iq4_xs, mxfp4, q1_0, q2_0, q2_k,
    q3_k, q4_0, q4_1, q4_k, q5_0, q5_1, q5_k, q6_k, q8_0, tq1_0, tq2_0,
};
use std::fmt;
use std::str::FromStr;

macro_rules! formats {
    (floats: $($float:ident = $facts:path),*; blocks: $($name:ident = $block:path),*;) => {
        /// A tensor element format that karat reads, and where a backend computes with it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(non_camel_case_types, missing_docs, reason = "the names are ggml's")]
        pub enum DType {
            $($float,)*
            $($name,)*
        }

        impl DType {
            /// Every format.
            pub const ALL: [Self; [$(stringify!($float),)* $(stringify!($name)),*].len()] =
                [$(Self::$float,)* $(Self::$name),*];

            /// ggml's name, such as `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$float => stringify!($float),)*
                    $(Self::$name => stringify!($name),)*
                }
            }

            const fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$float => &$facts,)*
                    $(Self::$name => const { &Facts::of::<$block>() },)*
                }
            }

            /// Does work that is compiled for each block format; `None` for floats.
            #[inline]
            pub fn visit<V: Visit>(self, work: V) -> Option<V::Out> {
                match self {
                    $(Self::$float => None,)*
                    $(Self::$name => Some(work.visit::<$block>()),)*
                }
            }
        }
    };
}

// A block format is its file in `quant/` and a line here.
formats! {
    floats:
        F32 = floats::F32,
        F16 = floats::F16,
        BF16 = floats::BF16;
    blocks:
        Q4_0 = q4_0::BlockQ4_0,
        Q4_1 = q4_1::BlockQ4_1,
        Q5_0 = q5_0::BlockQ5_0,
        Q5_1 = q5_1::BlockQ5_1,
        Q8_0 = q8_0::BlockQ8_0,
        Q2_K = q2_k::BlockQ2K,
        Q3_K = q3_k::BlockQ3K,
        Q4_K = q4_k::BlockQ4K,
        Q5_K = q5_k::BlockQ5K,
        Q6_K = q6_k::BlockQ6K,
        IQ4_NL = iq4_nl::BlockIq4Nl,
        IQ4_XS = iq4_xs::BlockIq4Xs,
        MXFP4 = mxfp4::BlockMxfp4,
        IQ2_XXS = iq2_xxs::BlockIq2Xxs,
        IQ2_XS = iq2_xs::BlockIq2Xs,
        IQ2_S = iq2_s::BlockIq2S,
        IQ3_XXS = iq3_xxs::BlockIq3Xxs,
        IQ3_S = iq3_s::BlockIq3S,
        IQ1_S = iq1_s::BlockIq1S,
        IQ1_M = iq1_m::BlockIq1M,
        TQ1_0 = tq1_0::BlockTq1_0,
        TQ2_0 = tq2_0::BlockTq2_0,
        Q1_0 = q1_0::BlockQ1_0,
        Q2_0 = q2_0::BlockQ2_0;
}

/// A ggml type id that is no [`DType`]: its ggml name and block where ggml has or had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownType {
    /// The id found in the file.
    pub id: u32,
    /// ggml's name of it (`Q8_K`, `I8`, …), or `None` for an id that ggml never gave out.
    pub name: Option<&'static str>,
    /// Weights and bytes of one of its blocks, where ggml still says them.
    pub block: Option<(usize, usize)>,
    /// Whether ggml gave the id out once and has taken it back since.
    pub removed: bool,
}

/// A name that is no [`DType`]'s.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown tensor type \"{found}\"; known: {}", DType::ALL.map(DType::name).join(" "))]
pub struct UnknownName {
    /// The name as it was given.
    pub found: String,
}

impl DType {
    /// The format of a ggml type id, or what ggml says of an id that karat does not read.
    pub fn from_id(id: u32) -> Result<Self, UnknownType> {
        Self::ALL.into_iter().find(|dtype| dtype.id() == id).ok_or_else(|| UnknownType::of(id))
    }

    /// The format of a name in ggml's spelling, whatever the case of its letters.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name().eq_ignore_ascii_case(name))
    }

    /// ggml's type id.
    pub const fn id(self) -> u32 {
        self.facts().id
    }

    /// Weights per block. A row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        self.facts().block_len
    }

    /// Blocks of its [`Quant`] in a block, which share its scale; 1 for most formats.
    pub const fn parts(self) -> usize {
        self.facts().parts
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        self.facts().block_bytes
    }

    /// llama.cpp's `general.file_type` of a file whose matrices have this format; the smaller mix where it has several.
    pub const fn file_type(self) -> u32 {
        self.facts().file_type
    }

    /// What it is made of.
    pub const fn kind(self) -> Kind {
        self.facts().kind
    }

    /// How its codes and scales make weights; `None` for floats.
    pub const fn quant(self) -> Option<Quant> {
        match self.kind() {
            Kind::Float(_) => None,
            Kind::Quant(quant) => Some(quant),
        }
    }

    /// What llama-quantize takes instead where rows are no whole blocks of 256.
    pub const fn shorter(self) -> Option<Self> {
        self.facts().shorter
    }

    /// Changes blocks of random bytes, beside their float scales, to ones that an encoder could have written.
    pub fn make_plausible(self, blocks: &mut [u8]) {
        struct Plausible<'a>(&'a mut [u8]);
        impl Visit for Plausible<'_> {
            type Out = ();
            fn visit<B: Block>(self) {
                bytemuck::cast_slice_mut(self.0).iter_mut().for_each(B::make_plausible);
            }
        }
        // Floats have nothing beside themselves.
        let _ = self.visit(Plausible(blocks));
    }

    /// Bits that one weight costs, scales included: 4.5 for `Q4_K`.
    pub fn bits_per_weight(self) -> f64 {
        (8 * self.block_bytes()) as f64 / self.block_len() as f64
    }

    /// Bytes of a row of `n` weights, or `None` where `n` is no multiple of the block or the product overflows.
    pub const fn checked_row_bytes(self, n: usize) -> Option<usize> {
        if !n.is_multiple_of(self.block_len()) {
            return None;
        }
        (n / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bytes of a row of `n` weights, for an `n` that was checked before.
    ///
    /// # Panics
    /// Where [`checked_row_bytes`](Self::checked_row_bytes) is `None`.
    pub const fn row_bytes(self, n: usize) -> usize {
        match self.checked_row_bytes(n) {
            Some(bytes) => bytes,
            None => panic!("row length is no multiple of the format's block"),
        }
    }

    /// Writes the `out.len()` weights that `bytes` hold, each the same f32 as the PyPI package `gguf` gives.
    ///
    /// # Panics
    /// Where `bytes` is not exactly `row_bytes(out.len())` long.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            Some(bytes.len()),
            self.checked_row_bytes(out.len()),
            "{self}: lengths disagree"
        );
        (self.facts().decode)(bytes, out);
    }

    /// Whether karat can quantise to it.
    pub const fn has_encoder(self) -> bool {
        self.facts().encode.is_some()
    }

    /// Quantises `weights` into `out`, to the bytes that llama-quantize writes without an importance matrix.
    /// Weights that are infinite or NaN give blocks of no meaning, so callers refuse them before.
    ///
    /// # Panics
    /// Where `out` is not exactly `row_bytes(weights.len())` long, or the format [has no
    /// encoder](Self::has_encoder).
    pub fn encode(self, weights: &[f32], out: &mut [u8]) {
        assert_eq!(
            Some(out.len()),
            self.checked_row_bytes(weights.len()),
            "{self}: lengths disagree"
        );
        match self.facts().encode {
            Some(encode) => encode(weights, out),
            None => panic!("{self}: karat has no encoder"),
        }
    }

    /// Whether an importance matrix changes its bytes.
    pub const fn heeds_importance(self) -> bool {
        self.facts().encode_by.is_some()
    }

    /// The same for one row, to the bytes that llama-quantize writes with an importance matrix: an error of a weight counts
    /// by the importance of its column. Formats that do not [heed](Self::heeds_importance) it (floats, Q8_0, MXFP4) get their
    /// ordinary bytes.
    ///
    /// # Panics
    /// Where `out` is not exactly `row_bytes(row.len())` long, or `importance` is not as long as `row`.
    pub fn encode_by(self, row: &[f32], importance: &[f32], out: &mut [u8]) {
        let Some(encode) = self.facts().encode_by else { return self.encode(row, out) };
        let lengths = (row.len(), self.checked_row_bytes(row.len()));
        assert_eq!((importance.len(), Some(out.len())), lengths, "{self}: lengths disagree");
        encode(row, importance, out);
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad`, so that a width in the format string holds.
        f.pad(self.name())
    }
}

impl FromStr for DType {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        Self::from_name(name).ok_or_else(|| UnknownName { found: name.to_owned() })
    }
}

/// ggml's other ids: name, then weights and bytes of a block.
const OTHERS: [(u32, &str, usize, usize); 8] = [
    (9, "Q8_1", 32, 36),
    (15, "Q8_K", 256, 292),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (40, "NVFP4", 64, 36),
];

/// Ids that ggml has taken back; it keeps no sizes of them.
const REMOVED: [(u32, &str); 8] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl UnknownType {
    fn of(id: u32) -> Self {
        if let Some(&(_, name, len, bytes)) = OTHERS.iter().find(|other| other.0 == id) {
            return Self { id, name: Some(name), block: Some((len, bytes)), removed: false };
        }
        let removed = REMOVED.iter().find(|removed| removed.0 == id);
        Self { id, name: removed.map(|removed| removed.1), block: None, removed: removed.is_some() }
    }
}

impl fmt::Display for UnknownType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) if self.removed => write!(f, "{name} (type {}, removed from ggml)", self.id),
            Some(name) => write!(f, "{name} (type {})", self.id),
            None => write!(f, "type {}", self.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_lead_back() {
        for dtype in DType::ALL {
            assert_eq!(DType::from_id(dtype.id()), Ok(dtype));
            assert_eq!(dtype.name().parse(), Ok(dtype));
            assert_eq!(dtype.name().to_lowercase().parse(), Ok(dtype));
            assert_eq!(format!("{dtype:?} {dtype:>8}"), format!("{dtype} {:>8}", dtype.name()));
        }
        let error = DType::from_str("Q4_K_M").unwrap_err().to_string();
        assert!(
            error.starts_with("unknown tensor type \"Q4_K_M\"; known: F32 F16 BF16 Q4_0 "),
            "{error}"
        );
    }

    #[test]
    fn every_ggml_id_is_known() {
        for id in 0..=42 {
            match DType::from_id(id) {
                Ok(dtype) => assert_eq!(dtype.id(), id),
                Err(unknown) => {
                    assert!(unknown.name.is_some(), "{id}");
                    assert_eq!(unknown.block.is_none(), unknown.removed, "{id}");
                }
            }
        }
        for id in [43, 1000, u32::MAX] {
            let unknown = UnknownType { id, name: None, block: None, removed: false };
            assert_eq!(DType::from_id(id), Err(unknown));
        }
        assert_eq!(DType::from_id(24).unwrap_err().to_string(), "I8 (type 24)");
        assert_eq!(DType::from_id(4).unwrap_err().to_string(), "Q4_2 (type 4, removed from ggml)");
        assert_eq!(DType::from_id(99).unwrap_err().to_string(), "type 99");
    }

    #[test]
    fn rows() {
        assert_eq!(DType::Q4_K.row_bytes(512), 288);
        assert_eq!(DType::Q4_K.checked_row_bytes(511), None);
        assert_eq!(DType::F32.checked_row_bytes(usize::MAX), None);
        assert_eq!(DType::F32.row_bytes(0), 0);
        assert_eq!(DType::Q4_K.bits_per_weight(), 4.5);
        assert_eq!(DType::Q6_K.bits_per_weight(), 6.5625);
    }
}
