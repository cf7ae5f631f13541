//! Reads and writes GGUF files, and knows each block format with its plain encoder and decoder.
//! Threads, devices and ops live in other crates.

#![deny(unsafe_code)]

mod check;
mod dtype;
mod error;
mod file;
mod getters;
mod header;
mod index;
mod limits;
mod mmap;
pub mod quant;
mod reader;
mod sniff;
mod source;
mod split;
mod tensor;
mod value;
mod writer;

pub use check::{check_named, check_tensor, first_zero_row};
pub use dtype::{DType, UnknownName, UnknownType};
pub use error::{Error, ErrorKind, Result};
pub use file::{Access, File, Options};
pub use limits::Limits;
pub use tensor::TensorInfo;
pub use value::{Array, Strings, Value};
pub use writer::{Builder, DataWriter, Writer};
