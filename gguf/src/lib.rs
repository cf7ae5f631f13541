//! Reads and writes GGUF files, and knows each block format with its plain encoder and decoder.
//! Threads, devices and ops live in other crates.

mod dtype;
mod error;
mod file;
pub mod quant;
mod value;

pub use dtype::{DType, UnknownType};
pub use error::{Error, Result};
pub use file::{Access, File, TensorInfo};
pub use value::{Array, Value};
