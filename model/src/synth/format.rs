//! The formats of synthetic files: what llama-quantize mixes, and every format of tensors on its own.

use crate::quantize::FileType;
use crate::{Error, ErrorKind, Result};
use gguf::DType;
use std::str::FromStr;

/// A format of whole files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// With better formats for some tensors, as llama-quantize chooses them.
    Mix(FileType),
    /// Every matrix in one format.
    Plain(DType),
}

impl Format {
    /// Every name that [`FromStr`] takes, but for the mix of models with experts, which are not made here.
    pub fn names() -> Vec<&'static str> {
        let made = |file_type: &FileType| *file_type != FileType::MXFP4_MOE;
        let mixes = FileType::ALL.into_iter().filter(made).map(FileType::name);
        mixes.chain(Self::unmixed().map(DType::name)).collect()
    }

    /// Formats that no mix is made of.
    fn unmixed() -> impl Iterator<Item = DType> {
        let mixed = |dtype| FileType::ALL.into_iter().any(|file_type| file_type.dtype() == dtype);
        DType::ALL.into_iter().filter(move |&dtype| !mixed(dtype))
    }

    /// The same format without a mix: every matrix has it.
    #[must_use]
    pub fn pure(self) -> Self {
        Self::Plain(self.dtype())
    }

    /// What most tensors have.
    pub fn dtype(self) -> DType {
        match self {
            Self::Mix(file_type) => file_type.dtype(),
            Self::Plain(dtype) => dtype,
        }
    }

    /// The name: a mix's, or that of the one format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mix(file_type) => file_type.name(),
            Self::Plain(dtype) => dtype.name(),
        }
    }

    /// The number that `general.file_type` gets: llama.cpp's, of the smaller mix where there are several.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Mix(file_type) => file_type.id(),
            Self::Plain(dtype) => dtype.file_type(),
        }
    }
}

impl FromStr for Format {
    type Err = Error;

    /// A name in any case; `Q4_K` stands for its mix, as in llama-quantize.
    fn from_str(name: &str) -> Result<Self> {
        let found = name.parse().ok().filter(|&file_type| file_type != FileType::MXFP4_MOE);
        let plain = || {
            Self::unmixed().find(|dtype| dtype.name().eq_ignore_ascii_case(name)).map(Self::Plain)
        };
        found.map(Self::Mix).or_else(plain).ok_or_else(|| {
            let known = Self::names().join(" ");
            let what = format!("unknown format \"{}\"; known: {known}", name.escape_debug());
            Error::new(ErrorKind::BadRequest, what)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_a_name() {
        for name in Format::names() {
            assert_eq!(name.to_lowercase().parse::<Format>().unwrap().name(), name);
        }
        let reached: Vec<DType> =
            Format::names().iter().map(|name| name.parse::<Format>().unwrap().dtype()).collect();
        assert!(DType::ALL.iter().all(|dtype| reached.contains(dtype)));
        assert_eq!("q4_k".parse::<Format>().unwrap(), Format::Mix(FileType::Q4_K_M));
        assert_eq!("Q4_K_M".parse::<Format>().unwrap().pure(), Format::Plain(DType::Q4_K));
        let error = "Q9".parse::<Format>().unwrap_err().to_string();
        assert!(error.starts_with("unknown format \"Q9\"; known: F32 F16"), "{error}");
        assert!(error.contains("MXFP4 Q3_K_L Q3_K_M Q3_K_S Q2_K Q2_K_S IQ2_XXS "), "{error}");
        assert_eq!("iq2_xxs".parse::<Format>().unwrap(), Format::Plain(DType::IQ2_XXS));
    }
}
