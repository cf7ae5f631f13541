//! karat as a library: runs GGUF language models on CPU and GPU with the same bits everywhere.
#![forbid(unsafe_code)]

mod config;
mod error;
pub mod memory;
pub mod text;

pub use config::Config;
pub use error::{Error, ErrorKind, Result};
