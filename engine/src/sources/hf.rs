//! Hugging Face sources: which file of a repository, and its URL.
//!
//! Written against the site's three URL forms instead of the hf-hub crate: its last blocking version (0.5) appends
//! whatever a server sends to a partial file, checks no hash, and brings 67 crates; 1.0 needs tokio.
use serde::Deserialize;

use super::Fault;
use super::cache::{Part, Want};
use super::http::{self, Request};
use super::source::{safe_name, web};
use crate::config::Config;
use crate::error::{Error, ErrorKind};
use crate::event::Progress;
use crate::text::path as show_path;

const ENDPOINT: &str = "https://huggingface.co";

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Where to ask, and with which token.
struct Hub {
    endpoint: String,
    token: Option<String>,
}

impl Hub {
    fn new(config: &Config) -> Result<Hub, Fault> {
        let endpoint = config.hf_endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/');
        web(endpoint).map_err(|e| {
            Fault::Here(Error::new(
                ErrorKind::Usage,
                format!("environment variable HF_ENDPOINT: {e}"),
            ))
        })?;
        Ok(Hub { endpoint: endpoint.to_owned(), token: token(config)? })
    }

    fn request<'a>(&'a self, url: &'a str) -> Request<'a> {
        Request { url, token: self.token.as_deref() }
    }
}

/// The token, which nothing prints.
fn token(config: &Config) -> Result<Option<String>, Fault> {
    let (what, text) = match (&config.hf_token, &config.hf_token_file) {
        (Some(token), _) => ("environment variable HF_TOKEN".to_owned(), token.clone()),
        // Most people have no such file, and most models need no token.
        (None, Some(path)) => (show_path(path), std::fs::read_to_string(path).unwrap_or_default()),
        (None, None) => return Ok(None),
    };
    let token = text.trim();
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let failure = Error::new(ErrorKind::Usage, format!("{what}: characters that no token has"));
        return Err(Fault::Here(failure));
    }
    Ok(Some(token.to_owned()).filter(|token| !token.is_empty()))
}

/// A file of a repository.
#[derive(Clone, Copy)]
pub(crate) struct Named<'n> {
    /// `owner/repo`.
    pub(crate) repo: &'n str,
    /// Its path there.
    pub(crate) file: &'n str,
}

/// Downloads a file.
///
/// # Errors
/// As [`http::download`]; [`ErrorKind::Usage`] for `HF_ENDPOINT` and `HF_TOKEN` that cannot be.
pub(crate) fn download(
    named: Named<'_>,
    config: &Config,
    part: &mut Part,
    want: &mut Want,
    progress: &Progress<'_>,
) -> Result<(), Fault> {
    let hub = Hub::new(config)?;
    let Named { repo, file } = named;
    let url = format!("{}/{repo}/resolve/main/{file}", hub.endpoint);
    http::download(hub.request(&url), part, want, progress)
}

/// The file of a repository to take when none is named: its only GGUF model, else its only Q4_K_M one.
///
/// # Errors
/// [`Fault::Source`] naming the files where there is no such choice; else as [`download`].
pub(crate) fn choose(repo: &str, config: &Config) -> Result<String, Fault> {
    let hub = Hub::new(config)?;
    let url = format!("{}/api/models/{repo}", hub.endpoint);
    let text = http::text(hub.request(&url))?;
    let listing: Listing = serde_json::from_str(&text).map_err(|e| {
        Fault::Source(format!("hf:{repo}: the listing is not what it should be: {e}"))
    })?;
    let names: Vec<String> = listing.siblings.into_iter().map(|s| s.rfilename).collect();
    pick(names).map_err(|line| Fault::Source(format!("hf:{repo}: {line}")))
}

fn pick(mut names: Vec<String>) -> Result<String, String> {
    // Vision projectors are no models, and of a split model the first file stands for all.
    let later_shard =
        |name: &str| super::shards(name).is_some_and(|all| all.first().is_some_and(|f| f != name));
    names.retain(|n| n.ends_with(".gguf") && n.split('/').all(safe_name) && !later_shard(n));
    names.retain(|n| !n.to_ascii_lowercase().contains("mmproj"));
    let q4_k_m: Vec<&String> =
        names.iter().filter(|n| n.to_ascii_uppercase().contains("Q4_K_M")).collect();
    match (names.as_slice(), q4_k_m.as_slice()) {
        ([], _) => Err("no GGUF file in this repository".to_owned()),
        ([only], _) => Ok(only.clone()),
        (_, [only]) => Ok((*only).clone()),
        (many, _) => {
            let shown = many.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
            Err(format!("{} GGUF files, name one after a slash: {shown}", many.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_chosen_only_where_the_choice_is_clear() {
        let pick = |names: &[&str]| pick(names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(pick(&["README.md", "a.gguf"]).unwrap(), "a.gguf");
        assert_eq!(
            pick(&["a.Q8_0.gguf", "a.q4_k_m.gguf", "mmproj-Q4_K_M.gguf"]).unwrap(),
            "a.q4_k_m.gguf"
        );
        assert_eq!(
            pick(&["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]).unwrap(),
            "a-00001-of-00002.gguf"
        );
        assert!(pick(&["a.bin"]).unwrap_err().contains("no GGUF"));
        assert!(pick(&["../a.gguf"]).unwrap_err().contains("no GGUF"));
        assert!(pick(&["a.gguf", "b.gguf"]).unwrap_err().contains("a.gguf, b.gguf"));
    }
}
