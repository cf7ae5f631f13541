//! Hugging Face sources: which file of a repository, and its URL.
//!
//! Written against the site's three URL forms instead of the hf-hub crate: its last blocking version (0.5) appends
//! whatever a server sends to a partial file, checks no hash, and brings 67 crates; 1.0 needs tokio.
use serde::Deserialize;

use super::Fault;
use super::cache::Want;
use super::http::{self, Request};
use super::part::Part;
use super::source::{safe_name, web};
use crate::config::{Config, Network};
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
struct Hub<'c> {
    endpoint: String,
    token: Option<String>,
    network: &'c Network,
}

impl<'c> Hub<'c> {
    fn new(config: &'c Config) -> Result<Self, Fault> {
        let endpoint = config.hf_endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/');
        web(endpoint).map_err(|e| {
            Fault::Here(Error::new(
                ErrorKind::Usage,
                format!("environment variable HF_ENDPOINT: {e}"),
            ))
        })?;
        let network = &config.network;
        Ok(Hub { endpoint: endpoint.to_owned(), token: token(config)?, network })
    }

    fn request<'a>(&'a self, url: &'a str) -> Request<'a> {
        Request { url, token: self.token.as_deref(), network: self.network }
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
    http::download(hub.request(&url), &format!("hf:{repo}/{file}"), part, want, progress)
}

/// The file of a repository to take for `format`, or where none is named.
///
/// # Errors
/// [`Fault::Source`] naming the files where there is no such one; else as [`download`].
pub(crate) fn choose(repo: &str, format: Option<&str>, config: &Config) -> Result<String, Fault> {
    let hub = Hub::new(config)?;
    let url = format!("{}/api/models/{repo}", hub.endpoint);
    let text = http::text(hub.request(&url))?;
    let listing: Listing = serde_json::from_str(&text).map_err(|e| {
        Fault::Source(format!("hf:{repo}: the listing is not what it should be: {e}"))
    })?;
    let names: Vec<String> = listing.siblings.into_iter().map(|s| s.rfilename).collect();
    pick(&names, format).map_err(|line| Fault::Source(format!("hf:{repo}: {line}")))
}

/// Chooses as llama.cpp's `-hf` does (`common/download.cpp`): of the models in the order of the listing, the first whose
/// path has the format before a dot or a dash; without a format Q4_K_M, else Q8_0, else the first of all.
pub(crate) fn pick(names: &[String], format: Option<&str>) -> Result<String, String> {
    // Of a split model the first file stands for all.
    let later_shard =
        |name: &str| super::shards(name).is_some_and(|all| all.first().is_some_and(|f| f != name));
    let models: Vec<&String> = names
        .iter()
        .filter(|n| is_model(n) && n.split('/').all(safe_name) && !later_shard(n))
        .collect();
    let of = |format: &str| {
        let format = format.to_ascii_lowercase();
        models.iter().find(|name| {
            let name = name.to_ascii_lowercase();
            name.contains(&format!("{format}.")) || name.contains(&format!("{format}-"))
        })
    };
    let found = match format {
        Some(format) => of(format),
        None => of("Q4_K_M").or_else(|| of("Q8_0")).or_else(|| models.first()),
    };
    if let Some(found) = found {
        return Ok((*found).clone());
    }
    match format {
        Some(format) if !models.is_empty() => {
            let shown = models.iter().take(20).map(|name| name.as_str()).collect::<Vec<_>>();
            let (count, shown) = (models.len(), shown.join(", "));
            Err(format!("no {format} among its {count} GGUF files: {shown}"))
        }
        Some(_) | None => Err("no GGUF model in this repository".to_owned()),
    }
}

/// Whether a file of a repository is a model, not a part that only works beside one.
fn is_model(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or("");
    let beside = ["mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"];
    name.ends_with(".gguf") && !beside.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule of llama.cpp build 11434, `find_best_model`.
    #[test]
    fn the_file_is_chosen_as_llama_cpp_does() {
        let pick = |names: &[&str], format| {
            pick(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), format)
        };
        let usual = |names: &[&str]| pick(names, None).unwrap();
        assert_eq!(usual(&["README.md", "a.gguf"]), "a.gguf");
        assert_eq!(usual(&["a.Q8_0.gguf", "mmproj-Q4_K_M.gguf", "a.q4_k_m.gguf"]), "a.q4_k_m.gguf");
        assert_eq!(usual(&["a-F16.gguf", "a-Q8_0.gguf"]), "a-Q8_0.gguf");
        assert_eq!(usual(&["b-Q5_0.gguf", "a-Q4_0.gguf"]), "b-Q5_0.gguf");
        assert_eq!(
            usual(&["a-Q4_K_M-00002-of-00002.gguf", "a-Q4_K_M-00001-of-00002.gguf"]),
            "a-Q4_K_M-00001-of-00002.gguf"
        );
        let files = [
            "a-Q4_0.gguf",
            "a-Q4_0_4_4.gguf",
            "UD/a-UD-Q4_K_XL.gguf",
            "a-Q6_K_L.gguf",
            "a-Q6_K.gguf",
        ];
        assert_eq!(pick(&files, Some("q4_0")).unwrap(), "a-Q4_0.gguf");
        assert_eq!(pick(&files, Some("Q6_K")).unwrap(), "a-Q6_K.gguf");
        assert_eq!(pick(&files, Some("Q4_K_XL")).unwrap(), "UD/a-UD-Q4_K_XL.gguf");
        let none = pick(&files, Some("Q2_K")).unwrap_err();
        assert!(none.contains("no Q2_K among its 5") && none.contains("a-Q6_K.gguf"), "{none}");
        assert!(pick(&["a.bin"], None).unwrap_err().contains("no GGUF"));
        assert!(pick(&["../a.gguf"], Some("Q4_0")).unwrap_err().contains("no GGUF"));
    }
}
