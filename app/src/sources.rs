//! Where the model of a name lies: paths and the default model's place in the cache, until `karat pull` is there.

use crate::config::Config;
use crate::exit::{Code, failure};
use std::path::{Path, PathBuf};

/// The file of a model.
pub(crate) fn resolve(model: Option<&str>, config: &Config) -> anyhow::Result<PathBuf> {
    match model {
        Some(path) => Ok(Path::new(path).into()),
        None => {
            let path = config.cache_dir()?.join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
            if path.is_file() {
                Ok(path)
            } else {
                Err(failure(Code::Io, format!("{}: not found", crate::text::path(&path))).into())
            }
        }
    }
}
