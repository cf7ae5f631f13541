//! The tensor types: the ones karat computes with, and the rest of ggml's ids known by name and size.

/// A tensor element format that karat reads, and where a backend computes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, missing_docs, reason = "the names are ggml's")]
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
}

/// A ggml type id that is no [`DType`]: its ggml name where ggml has or had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownType {
    /// The id found in the file.
    pub id: u32,
    /// ggml's name of it (`IQ1_M`, `I8`, …), or `None` for an id that ggml never gave out.
    pub name: Option<&'static str>,
}

impl DType {
    /// Every format, in ggml's order of introduction.
    pub const ALL: [Self; 16] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::MXFP4,
    ];
}

// Minimal, until the block formats' own version replaces this file.
impl DType {
    /// The format of a ggml type id.
    pub fn from_id(id: u32) -> Result<Self, UnknownType> {
        let name = match id {
            29 => Some("IQ1_M"),
            24 => Some("I8"),
            _ => None,
        };
        Self::ALL.into_iter().find(|d| d.id() == id).ok_or(UnknownType { id, name })
    }

    /// ggml's type id.
    pub fn id(self) -> u32 {
        self.traits().0
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        self.traits().1
    }

    /// Weights per block.
    pub fn block_len(self) -> usize {
        self.traits().2
    }

    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        self.traits().3
    }

    fn traits(self) -> (u32, &'static str, usize, usize) {
        match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::BF16 => (30, "BF16", 1, 2),
            Self::Q4_0 => (2, "Q4_0", 32, 18),
            Self::Q4_1 => (3, "Q4_1", 32, 20),
            Self::Q5_0 => (6, "Q5_0", 32, 22),
            Self::Q5_1 => (7, "Q5_1", 32, 24),
            Self::Q8_0 => (8, "Q8_0", 32, 34),
            Self::Q2_K => (10, "Q2_K", 256, 84),
            Self::Q3_K => (11, "Q3_K", 256, 110),
            Self::Q4_K => (12, "Q4_K", 256, 144),
            Self::Q5_K => (13, "Q5_K", 256, 176),
            Self::Q6_K => (14, "Q6_K", 256, 210),
            Self::IQ4_NL => (20, "IQ4_NL", 32, 18),
            Self::IQ4_XS => (23, "IQ4_XS", 256, 136),
            Self::MXFP4 => (39, "MXFP4", 32, 17),
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
