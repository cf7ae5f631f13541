//! What a file is to be made of: a type of files, and llama-quantize's flags that change it for some of the tensors.

use super::file_type::FileType;
use crate::{Error, ErrorKind, Result};
use gguf::DType;
use regex_lite::Regex;
use std::str::FromStr;

/// Which format every tensor gets.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// The file as a whole.
    pub target: Target,
    /// Whether some tensors get better formats.
    pub mixing: Mixing,
    /// `output.weight`.
    pub output: OutputMatrix,
    /// The embedding, where it is to have a format of its own.
    pub token_embedding: Option<DType>,
    /// Tensors that are named; the first that fits a name counts.
    pub named: &'a [Named],
}

/// What becomes of the tensors in general.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// They are quantised.
    Type(FileType),
    /// They stay as they are; the parts of a split file become one.
    Copy,
}

/// Whether the file type's rules are heeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mixing {
    /// Sensitive tensors get better formats.
    Mixed,
    /// All get the one format of the type.
    Pure,
}

/// What becomes of the output projection, where a model has one beside its embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputMatrix {
    /// What the type says.
    Quantised,
    /// It stays as it is.
    Kept,
    /// This format.
    As(DType),
}

impl OutputMatrix {
    /// The format that a flag gives it.
    pub(super) fn dtype(self) -> Option<DType> {
        match self {
            Self::As(dtype) => Some(dtype),
            Self::Quantised | Self::Kept => None,
        }
    }
}

/// A format for all tensors whose names a pattern fits.
#[derive(Clone, Debug)]
pub struct Named {
    pattern: Regex,
    /// The format.
    pub dtype: DType,
}

impl Named {
    /// Whether the pattern is found in a name.
    pub(super) fn fits(&self, name: &str) -> bool {
        self.pattern.is_match(name)
    }
}

impl From<FileType> for Recipe<'_> {
    fn from(file_type: FileType) -> Self {
        Self {
            target: Target::Type(file_type),
            mixing: Mixing::Mixed,
            output: OutputMatrix::Quantised,
            token_embedding: None,
            named: &[],
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    /// A file type's name, or `COPY`.
    fn from_str(name: &str) -> Result<Self> {
        if name.eq_ignore_ascii_case("COPY") {
            return Ok(Self::Copy);
        }
        name.parse()
            .map(Self::Type)
            .map_err(|error| Error::new(ErrorKind::BadRequest, format!("{error} COPY")))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Type(file_type) => f.pad(file_type.name()),
            Self::Copy => f.pad("COPY"),
        }
    }
}

impl FromStr for Named {
    type Err = Error;

    /// `PATTERN=TYPE`; the pattern is a regular expression, small letters like all names of tensors.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |what: String| {
            Error::new(ErrorKind::BadRequest, format!("\"{}\": {what}", text.escape_debug()))
        };
        let Some((pattern, dtype)) =
            text.split_once('=').filter(|(pattern, _)| !pattern.is_empty())
        else {
            return Err(bad("wanted PATTERN=TYPE, such as attn_v=Q8_0".to_owned()));
        };
        let dtype = dtype.parse().map_err(|error: gguf::UnknownName| bad(error.to_string()))?;
        let pattern = Regex::new(&pattern.to_lowercase()).map_err(|e| bad(e.to_string()))?;
        Ok(Self { pattern, dtype })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_names() {
        let named = r"blk\.[0-3]\.FFN_down=q8_0".parse::<Named>().unwrap();
        assert_eq!(named.dtype, DType::Q8_0);
        assert!(named.fits("blk.3.ffn_down.weight") && !named.fits("blk.4.ffn_down.weight"));
        for (text, part) in [
            ("attn_v", "wanted PATTERN=TYPE"),
            ("=Q8_0", "wanted PATTERN=TYPE"),
            ("attn_v=", "unknown tensor type \"\""),
            ("attn_v=Q4_K_M", "unknown tensor type \"Q4_K_M\"; known: F32"),
            ("attn_(v=Q8_0", "attn_(v=Q8_0"),
        ] {
            let error = text.parse::<Named>().unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn targets() {
        assert_eq!("copy".parse::<Target>().unwrap(), Target::Copy);
        assert_eq!("q3_k".parse::<Target>().unwrap(), Target::Type(FileType::Q3_K_M));
        assert_eq!(format!("{:>7}|{}", Target::Type(FileType::Q2_K), Target::Copy), "   Q2_K|COPY");
        let error = "Q9".parse::<Target>().unwrap_err().to_string();
        assert!(error.ends_with(" Q2_K Q2_K_S COPY"), "{error}");
    }
}
