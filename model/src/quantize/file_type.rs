//! The formats of whole files that karat can write, by llama-quantize's names and numbers.

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
    Q4_K_M,
    Q5_0,
    Q5_1,
    Q4_0,
    Q4_1,
}

impl FileType {
    /// Every file type, largest first.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q6_K,
        Self::Q5_K_M,
        Self::Q4_K_M,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4_0,
        Self::Q4_1,
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
            Self::Q4_K_M => ("Q4_K_M", DType::Q4_K, 15),
            Self::Q5_0 => ("Q5_0", DType::Q5_0, 8),
            Self::Q5_1 => ("Q5_1", DType::Q5_1, 9),
            Self::Q4_0 => ("Q4_0", DType::Q4_0, 2),
            Self::Q4_1 => ("Q4_1", DType::Q4_1, 3),
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

    /// A name in any case; the plain K-quant names stand for their mixes (`Q4_K` for `Q4_K_M`), as in llama-quantize.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|file_type| {
            let names = [file_type.name(), file_type.dtype().name()];
            names.iter().any(|known| known.eq_ignore_ascii_case(name))
        });
        found.ok_or_else(|| {
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
            assert!(file_type.dtype().has_encoder());
        }
        assert_eq!("q4_k".parse::<FileType>().unwrap(), FileType::Q4_K_M);
        let error = "Q9\n".parse::<FileType>().unwrap_err().to_string();
        assert_eq!(
            error,
            "unknown type \"Q9\\n\"; known: F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q4_K_M Q5_0 Q5_1 Q4_0 Q4_1"
        );
    }
}
