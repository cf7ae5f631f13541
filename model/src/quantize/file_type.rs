//! The formats of whole files that karat writes, by llama-quantize's names and numbers.

use crate::{Error, ErrorKind, Result};
use gguf::DType;
use std::str::FromStr;

/// A format of whole files: mostly one [`DType`], with better ones where they pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs, reason = "the names are those of llama-quantize")]
pub enum FileType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6_K,
    Q5_K_M,
    Q5_K_S,
    Q5_1,
    Q5_0,
    Q4_K_M,
    Q4_K_S,
    Q4_1,
    Q4_0,
    IQ4_NL,
    IQ4_XS,
    /// Every matrix in MXFP4: what llama-quantize calls `--pure MXFP4_MOE`.
    MXFP4,
    /// The experts in MXFP4, everything else in Q8_0.
    MXFP4_MOE,
    Q3_K_L,
    Q3_K_M,
    Q3_K_S,
    Q2_K,
    /// Written with an importance matrix only.
    Q2_K_S,
}

/// Names that llama-quantize knows beside the types' own.
const ALIASES: [(&str, FileType); 3] =
    [("Q5_K", FileType::Q5_K_M), ("Q4_K", FileType::Q4_K_M), ("Q3_K", FileType::Q3_K_M)];

impl FileType {
    /// Every file type, about from the largest to the smallest.
    pub const ALL: [Self; 22] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q6_K,
        Self::Q5_K_M,
        Self::Q5_K_S,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4_K_M,
        Self::Q4_K_S,
        Self::Q4_1,
        Self::Q4_0,
        Self::IQ4_NL,
        Self::IQ4_XS,
        Self::MXFP4,
        Self::MXFP4_MOE,
        Self::Q3_K_L,
        Self::Q3_K_M,
        Self::Q3_K_S,
        Self::Q2_K,
        Self::Q2_K_S,
    ];

    /// The name, as llama-quantize takes it.
    pub fn name(self) -> &'static str {
        self.traits().name
    }

    /// What most tensors become.
    pub fn dtype(self) -> DType {
        self.traits().dtype
    }

    /// The number that `general.file_type` gets.
    pub fn id(self) -> u32 {
        self.traits().id
    }

    fn traits(self) -> Traits {
        let (name, dtype, id) = match self {
            Self::F32 => ("F32", DType::F32, 0),
            Self::F16 => ("F16", DType::F16, 1),
            Self::BF16 => ("BF16", DType::BF16, 32),
            Self::Q8_0 => ("Q8_0", DType::Q8_0, 7),
            Self::Q6_K => ("Q6_K", DType::Q6_K, 18),
            Self::Q5_K_M => ("Q5_K_M", DType::Q5_K, 17),
            Self::Q5_K_S => ("Q5_K_S", DType::Q5_K, 16),
            Self::Q5_1 => ("Q5_1", DType::Q5_1, 9),
            Self::Q5_0 => ("Q5_0", DType::Q5_0, 8),
            Self::Q4_K_M => ("Q4_K_M", DType::Q4_K, 15),
            Self::Q4_K_S => ("Q4_K_S", DType::Q4_K, 14),
            Self::Q4_1 => ("Q4_1", DType::Q4_1, 3),
            Self::Q4_0 => ("Q4_0", DType::Q4_0, 2),
            Self::IQ4_NL => ("IQ4_NL", DType::IQ4_NL, 25),
            Self::IQ4_XS => ("IQ4_XS", DType::IQ4_XS, 30),
            Self::MXFP4 => ("MXFP4", DType::MXFP4, 38),
            Self::MXFP4_MOE => ("MXFP4_MOE", DType::MXFP4, 38),
            Self::Q3_K_L => ("Q3_K_L", DType::Q3_K, 13),
            Self::Q3_K_M => ("Q3_K_M", DType::Q3_K, 12),
            Self::Q3_K_S => ("Q3_K_S", DType::Q3_K, 11),
            Self::Q2_K => ("Q2_K", DType::Q2_K, 10),
            Self::Q2_K_S => ("Q2_K_S", DType::Q2_K, 21),
        };
        Traits { name, dtype, id }
    }
}

/// What llama-quantize says of a file type.
struct Traits {
    name: &'static str,
    dtype: DType,
    id: u32,
}

impl FromStr for FileType {
    type Err = Error;

    /// A name in any case; `Q4_K` and its like stand for their mixes of middle size, as in llama-quantize.
    fn from_str(name: &str) -> Result<Self> {
        let own = Self::ALL.map(|file_type| (file_type.name(), file_type));
        let mut known = own.into_iter().chain(ALIASES);
        let found = known.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, file_type)| file_type).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(" ");
            let what = format!("unknown type \"{}\"; known: {known}", name.escape_debug());
            Error::new(ErrorKind::BadRequest, what)
        })
    }
}

impl std::fmt::Display for FileType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_file_types() {
        for file_type in FileType::ALL {
            assert_eq!(file_type.name().parse::<FileType>().unwrap(), file_type);
            assert_eq!(file_type.name().to_lowercase().parse::<FileType>().unwrap(), file_type);
        }
        for (alias, file_type) in ALIASES {
            assert_eq!(alias.to_lowercase().parse::<FileType>().unwrap(), file_type);
        }
        let error = "Q9\n".parse::<FileType>().unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown type \"Q9\\n\"; known: F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 \
             IQ4_NL IQ4_XS MXFP4 MXFP4_MOE Q3_K_L Q3_K_M Q3_K_S Q2_K Q2_K_S"
        );
    }
}
