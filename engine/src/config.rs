//! Folders and services that karat uses. [`Config::from_env`] is the only place that reads the environment.

use crate::error::{Error, ErrorKind, Result};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Folders and services: where models are kept, and whom to ask for them. A value, so that a program can have several
/// or read none of the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Models lie in `models` below it, answers of the self-test in `checks`. Nothing can be fetched without it.
    pub cache_dir: Option<PathBuf>,
    /// What a program keeps for its user, such as the history of `karat chat`. The library keeps nothing there.
    pub state_dir: Option<PathBuf>,
    /// The user's own names for models; the file need not exist.
    pub user_catalogue: Option<PathBuf>,
    /// `HF_ENDPOINT`: another server for `hf:` sources.
    pub hf_endpoint: Option<String>,
    /// `HF_TOKEN`: for `hf:` sources that need one.
    pub hf_token: Option<String>,
    /// Where `hf auth login` leaves a token: `HF_TOKEN_PATH`, or `token` in `HF_HOME`. The file need not exist.
    pub hf_token_file: Option<PathBuf>,
    /// Proxies and certificates.
    pub network: Network,
    /// `NO_COLOR` is set, or `TERM` is `dumb`: a program prints no colours. The library prints nothing.
    pub no_colours: bool,
}

/// How servers are reached: proxies as curl has them, certificates as OpenSSL has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// For `https://`: `https_proxy` or `HTTPS_PROXY`.
    pub https_proxy: Option<Variable>,
    /// For `http://`: `http_proxy` or `HTTP_PROXY`.
    pub http_proxy: Option<Variable>,
    /// For a scheme that has no proxy of its own: `all_proxy` or `ALL_PROXY`.
    pub all_proxy: Option<Variable>,
    /// Hosts that are reached without a proxy, with commas between them: `no_proxy` or `NO_PROXY`.
    pub no_proxy: Option<String>,
    /// A file of certificates in PEM form that stands in place of the system's store: `SSL_CERT_FILE`.
    pub cert_file: Option<PathBuf>,
    /// Folders of such files: `SSL_CERT_DIR`.
    pub cert_dirs: Vec<PathBuf>,
}

/// A setting of the environment, with the variable that an error names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The variable.
    pub name: String,
    /// What it is set to.
    pub value: String,
}

impl Network {
    /// Of two spellings of a variable the one in small letters comes first, as in curl.
    fn new(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let setting = |names: [&str; 2]| {
            names.iter().find_map(|name| {
                let value = var(name)?.to_string_lossy().into_owned();
                Some(Variable { name: (*name).to_owned(), value })
            })
        };
        let dirs = var("SSL_CERT_DIR").unwrap_or_default();
        Self {
            https_proxy: setting(["https_proxy", "HTTPS_PROXY"]),
            http_proxy: setting(["http_proxy", "HTTP_PROXY"]),
            all_proxy: setting(["all_proxy", "ALL_PROXY"]),
            no_proxy: setting(["no_proxy", "NO_PROXY"]).map(|variable| variable.value),
            cert_file: var("SSL_CERT_FILE").map(PathBuf::from),
            cert_dirs: env::split_paths(&dirs).filter(|dir| !dir.as_os_str().is_empty()).collect(),
        }
    }
}

/// Where a system has users' files: names of variables, and folders below the user's own.
#[derive(Clone, Copy, Debug)]
struct Places {
    /// Names the user's own folder.
    home: &'static str,
    cache: Place,
    state: Place,
    config: Place,
}

/// The folder of one kind of files.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Names it, after XDG's variable.
    variable: Option<&'static str>,
    /// Where it is if nothing names it.
    below_home: &'static str,
}

const UNIX: Places = Places {
    home: "HOME",
    cache: Place { variable: None, below_home: ".cache" },
    state: Place { variable: None, below_home: ".local/state" },
    config: Place { variable: None, below_home: ".config" },
};

/// What stays on the machine and what goes with its user, as Windows tells them apart.
const WINDOWS: Places = {
    let local = Place { variable: Some("LOCALAPPDATA"), below_home: "AppData/Local" };
    let roaming = Place { variable: Some("APPDATA"), below_home: "AppData/Roaming" };
    Places { home: "USERPROFILE", cache: local, state: local, config: roaming }
};

const HERE: Places = if cfg!(windows) { WINDOWS } else { UNIX };

impl Config {
    /// Reads the environment: `KARAT_CACHE`, the XDG folders, on Windows `LOCALAPPDATA` and `APPDATA`, `HF_ENDPOINT`,
    /// `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HOME`, and the proxies and certificates of [`Network`].
    pub fn from_env() -> Self {
        #[allow(clippy::disallowed_methods, reason = "this is Config::from_env")]
        Self::new(|name| env::var_os(name), HERE)
    }

    /// Empty variables count as unset, as XDG and most programs have it.
    fn new(var: impl Fn(&str) -> Option<OsString>, places: Places) -> Self {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let below_home = |folders: &str| {
            Some(PathBuf::from(var(places.home)?).join(folders.split('/').collect::<PathBuf>()))
        };
        let dir = |xdg: &str, place: Place| {
            let absolute = |name| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
            let base = absolute(xdg)
                .or_else(|| var(place.variable?).map(PathBuf::from))
                .or_else(|| below_home(place.below_home))?;
            Some(base.join("karat"))
        };
        let hf_home =
            var("HF_HOME").map(PathBuf::from).or_else(|| below_home(".cache/huggingface"));
        let text = |name: &str| var(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            cache_dir: var("KARAT_CACHE")
                .map(PathBuf::from)
                .or_else(|| dir("XDG_CACHE_HOME", places.cache)),
            state_dir: dir("XDG_STATE_HOME", places.state),
            user_catalogue: dir("XDG_CONFIG_HOME", places.config)
                .map(|dir| dir.join("catalogue.toml")),
            hf_endpoint: text("HF_ENDPOINT"),
            hf_token: text("HF_TOKEN"),
            hf_token_file: var("HF_TOKEN_PATH")
                .map(PathBuf::from)
                .or_else(|| hf_home.map(|dir| dir.join("token"))),
            no_colours: var("NO_COLOR").is_some() || var("TERM").is_some_and(|term| term == "dumb"),
            network: Network::new(var),
        }
    }

    /// The folder for models; from the environment `KARAT_CACHE`, or `karat` in `XDG_CACHE_HOME`, or else in `~/.cache`, on
    /// Windows in `%LOCALAPPDATA%`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where none is known.
    pub fn cache_dir(&self) -> Result<&Path> {
        self.cache_dir.as_deref().ok_or_else(|| no_home("KARAT_CACHE"))
    }

    /// The folder for what is kept for the user; from the environment `karat` in `XDG_STATE_HOME`, or else in
    /// `~/.local/state`, on Windows in `%LOCALAPPDATA%`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where none is known.
    pub fn state_dir(&self) -> Result<&Path> {
        self.state_dir.as_deref().ok_or_else(|| no_home("XDG_STATE_HOME"))
    }
}

fn no_home(other: &str) -> Error {
    let home = HERE.home;
    let what =
        format!("environment variable {home}: not set, so there is no folder for karat's files");
    Error::new(ErrorKind::Usage, what).with_hint(format!("set {home} or {other}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(places: Places, vars: &[(&str, &str)]) -> Config {
        let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into());
        Config::new(var, places)
    }

    fn config(vars: &[(&str, &str)]) -> Config {
        on(UNIX, vars)
    }

    #[test]
    fn folders() {
        let home = config(&[("HOME", "/u"), ("XDG_STATE_HOME", "relative"), ("HF_TOKEN", "")]);
        assert_eq!(home.cache_dir().unwrap(), Path::new("/u/.cache/karat"));
        assert_eq!(home.state_dir().unwrap(), Path::new("/u/.local/state/karat"));
        assert_eq!(home.user_catalogue.unwrap(), Path::new("/u/.config/karat/catalogue.toml"));
        assert_eq!(home.hf_token, None);
        let own = config(&[("KARAT_CACHE", "c"), ("XDG_CACHE_HOME", "/x")]);
        assert_eq!(own.cache_dir().unwrap(), Path::new("c"));
        assert!(own.user_catalogue.is_none());
    }

    #[test]
    fn folders_on_windows() {
        let user = [("USERPROFILE", "/u"), ("LOCALAPPDATA", "/l"), ("APPDATA", "/r")];
        let usual = on(WINDOWS, &user);
        assert_eq!(usual.cache_dir().unwrap(), Path::new("/l/karat"));
        assert_eq!(usual.state_dir().unwrap(), Path::new("/l/karat"));
        assert_eq!(usual.user_catalogue.unwrap(), Path::new("/r/karat/catalogue.toml"));
        // As huggingface_hub has it: below the user's own folder on every system.
        assert_eq!(usual.hf_token_file.unwrap(), Path::new("/u/.cache/huggingface/token"));
        let bare = on(WINDOWS, &user[..1]);
        assert_eq!(bare.cache_dir().unwrap(), Path::new("/u/AppData/Local/karat"));
        assert_eq!(
            bare.user_catalogue.unwrap(),
            Path::new("/u/AppData/Roaming/karat/catalogue.toml")
        );
    }

    #[test]
    fn proxies_and_certificates() {
        let network = config(&[
            ("HTTPS_PROXY", "http://big:1"),
            ("https_proxy", "http://small:1"),
            ("HTTP_PROXY", ""),
            ("ALL_PROXY", "socks5://all:1"),
            ("no_proxy", "a.b"),
            ("SSL_CERT_FILE", "/c.pem"),
            ("SSL_CERT_DIR", if cfg!(windows) { "/d;;/e" } else { "/d::/e" }),
        ])
        .network;
        let variable =
            |name: &str, value: &str| Variable { name: name.to_owned(), value: value.to_owned() };
        assert_eq!(network.https_proxy, Some(variable("https_proxy", "http://small:1")));
        assert_eq!(network.http_proxy, None);
        assert_eq!(network.all_proxy, Some(variable("ALL_PROXY", "socks5://all:1")));
        assert_eq!(network.no_proxy.as_deref(), Some("a.b"));
        assert_eq!(network.cert_file.as_deref(), Some(Path::new("/c.pem")));
        assert_eq!(network.cert_dirs, [Path::new("/d"), Path::new("/e")]);
    }

    #[test]
    fn colours() {
        for (vars, none) in [
            (&[][..], false),
            (&[("NO_COLOR", "")], false),
            (&[("NO_COLOR", "1")], true),
            (&[("TERM", "dumb")], true),
            (&[("TERM", "xterm")], false),
        ] {
            assert_eq!(config(vars).no_colours, none, "{vars:?}");
        }
    }

    #[test]
    fn without_home_the_variable_is_named() {
        let error = config(&[]).cache_dir().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(HERE.home), "{error}");
    }
}
