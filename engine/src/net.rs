//! How a server is reached: through which proxy, as curl reads the environment, and by whose certificates.
//!
//! ureq reads the environment by itself, too, but takes one proxy for every scheme and skips what it cannot read.
use std::cell::OnceCell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Proxy};

use crate::config::{Network, Variable};
use crate::error::{Error, ErrorKind, Result};
use crate::sources::{is_loopback, without_query};
use crate::text::{one_line, path as show_path};

const PROXY_SCHEMES: [&str; 7] =
    ["http", "https", "socks4", "socks4a", "socks", "socks5", "socks5h"];

/// The way to servers.
pub(crate) struct Net<'n> {
    network: &'n Network,
    purpose: Purpose,
    roots: OnceCell<RootCerts>,
}

/// What servers are reached for.
#[derive(Clone, Copy)]
enum Purpose {
    /// Files, which may take long, as long as something comes.
    Fetch,
    /// An answer within this time. A server on this machine is reached without a proxy.
    Ask(Duration),
}

impl<'n> Net<'n> {
    /// To fetch files; reads nothing yet.
    pub(crate) fn new(network: &'n Network) -> Self {
        Self { network, purpose: Purpose::Fetch, roots: OnceCell::new() }
    }

    /// To ask a server that has `patience` to answer.
    pub(crate) fn to_ask(network: &'n Network, patience: Duration) -> Self {
        Self { network, purpose: Purpose::Ask(patience), roots: OnceCell::new() }
    }

    /// A client for one URL.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a proxy that cannot be used, [`ErrorKind::Io`] for certificates that cannot be read.
    pub(crate) fn agent(&self, url: &str) -> Result<Agent> {
        let proxy = match self.proxy(url)? {
            Some(variable) => Some(usable(variable)?),
            None => None,
        };
        let mut tls = TlsConfig::builder();
        // A proxy may speak TLS where the server does not.
        let tls_proxy = proxy.as_ref().is_some_and(|p| p.protocol() == ureq::ProxyProtocol::Https);
        if url.starts_with("https:") || tls_proxy {
            tls = tls.root_certs(self.roots()?);
        }
        let config = Agent::config_builder()
            .proxy(proxy)
            .tls_config(tls.build())
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .accept_encoding("identity")
            .user_agent(concat!("karat/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(30)));
        let config = match self.purpose {
            Purpose::Fetch => config
                .timeout_recv_response(Some(Duration::from_secs(60)))
                // For each read, not for the whole body: a slow line is no error, a dead one is.
                .timeout_per_read(Some(Duration::from_secs(30))),
            Purpose::Ask(patience) => config.timeout_global(Some(patience)),
        };
        Ok(config.build().new_agent())
    }

    fn proxy(&self, url: &str) -> Result<Option<&'n Variable>> {
        match self.purpose {
            Purpose::Ask(_) if is_loopback(&host_of(url)?) => Ok(None),
            Purpose::Ask(_) | Purpose::Fetch => proxy_of(self.network, url),
        }
    }

    /// What a failure adds to its message: the proxy that it went through, without its password.
    pub(crate) fn through(&self, url: &str) -> String {
        match self.proxy(url) {
            Ok(Some(Variable { name, value })) => {
                format!(" (through the proxy of {name}, {})", without_query(value))
            }
            Ok(None) | Err(_) => String::new(),
        }
    }

    fn roots(&self) -> Result<RootCerts> {
        if let Some(roots) = self.roots.get() {
            return Ok(roots.clone());
        }
        let roots = read_roots(self.network)?;
        Ok(self.roots.get_or_init(|| roots).clone())
    }
}

/// The certificates that vouch for a server: the user's own, else the system's, else those that karat was built with.
fn read_roots(network: &Network) -> Result<RootCerts> {
    let Network { cert_file, cert_dirs, .. } = network;
    let found = if cert_file.is_none() && cert_dirs.is_empty() {
        // One bad file among a system's hundreds is none of the user's business.
        let system = rustls_native_certs::load_native_certs().certs;
        if system.is_empty() {
            return Ok(RootCerts::WebPki); // As in many a container.
        }
        system
    } else {
        own_certificates(cert_file.as_deref(), cert_dirs)?
    };
    Ok(RootCerts::from(found.iter().map(|der| Certificate::from_der(der).to_owned())))
}

/// The certificates of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
fn own_certificates(file: Option<&Path>, dirs: &[PathBuf]) -> Result<Vec<CertificateDer<'static>>> {
    let refused = |name: &str, path: &Path, what: &str| {
        let line = format!("environment variable {name}: {}: {what}", show_path(path));
        Error::new(ErrorKind::Usage, line)
    };
    let mut found = Vec::new();
    if let Some(path) = file {
        let read = rustls_native_certs::load_certs_from_paths(Some(path), None);
        if let Some(error) = read.errors.first() {
            return Err(refused("SSL_CERT_FILE", path, &one_line(&error.to_string())));
        }
        if read.certs.is_empty() {
            return Err(refused("SSL_CERT_FILE", path, "no certificate in PEM form in it"));
        }
        found.extend(read.certs);
    }
    for dir in dirs {
        let read = rustls_native_certs::load_certs_from_paths(None, Some(dir));
        // Such a folder holds other files, too: a bad one among good ones is passed over.
        if let Some(error) = read.errors.first().filter(|_| read.certs.is_empty()) {
            return Err(refused("SSL_CERT_DIR", dir, &one_line(&error.to_string())));
        }
        found.extend(read.certs);
    }
    match dirs.first() {
        Some(dir) if found.is_empty() => {
            Err(refused("SSL_CERT_DIR", dir, "no certificate in PEM form in it"))
        }
        Some(_) | None => Ok(found),
    }
}

/// The proxy for a URL, unless `no_proxy` names its host.
///
/// # Errors
/// [`ErrorKind::Usage`] for a URL that cannot be.
fn proxy_of<'n>(network: &'n Network, url: &str) -> Result<Option<&'n Variable>> {
    let host = host_of(url)?;
    let own = if url.starts_with("https:") { &network.https_proxy } else { &network.http_proxy };
    let proxy = own.as_ref().or(network.all_proxy.as_ref());
    let direct = network.no_proxy.as_ref().is_some_and(|list| goes_direct(list, &host));
    Ok(proxy.filter(|_| !direct))
}

/// The host of a URL in small letters, brackets of an IPv6 address included.
fn host_of(url: &str) -> Result<String> {
    let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase));
    host.ok_or_else(|| {
        let what = format!("{}: no URL with a host", without_query(url));
        Error::new(ErrorKind::Usage, what)
    })
}

/// Whether `no_proxy` names a host: as itself, by a domain that it lies in, by a network in the form `10.0.0.0/8`, by
/// its beginning (`10.0.*`), or with all others (`*`).
fn goes_direct(list: &str, host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches([']', '.']);
    let address: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return true;
        }
        if let Some(beginning) = entry.strip_suffix('*') {
            return host.starts_with(beginning);
        }
        if let (Some(address), Some((network, bits))) = (address, entry.split_once('/')) {
            return in_network(address, network, bits);
        }
        let entry = entry.trim_start_matches('*').trim_matches(['.', '[', ']']);
        let before = host.strip_suffix(entry);
        before
            .is_some_and(|before| before.is_empty() || (address.is_none() && before.ends_with('.')))
    })
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    // Both as 128 bits from the top.
    let (found, wanted, len) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96, 32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    bits <= len && (found ^ wanted).checked_shr(128 - bits).unwrap_or(0) == 0
}

/// The proxy of a variable; one that karat cannot use is never passed over.
///
/// # Errors
/// [`ErrorKind::Usage`] naming the variable.
fn usable(variable: &Variable) -> Result<Proxy> {
    let Variable { name, value } = variable;
    let refused = || {
        let shown = without_query(value);
        let what =
            format!("environment variable {name}: {shown:?}: not a proxy that karat can use");
        let hint = format!(
            "the form is [scheme://]host[:port], the scheme one of {}",
            PROXY_SCHEMES.join(", ")
        );
        Error::new(ErrorKind::Usage, what).with_hint(hint)
    };
    let scheme = value.split_once("://").map_or("http", |(scheme, _)| scheme).to_ascii_lowercase();
    if !PROXY_SCHEMES.contains(&scheme.as_str()) {
        return Err(refused());
    }
    let proxy = Proxy::new(value).map_err(|_| refused())?;
    // The rest behind the host can only be a port; one that is no number would count as left out.
    let bad_port = proxy.uri().authority().is_some_and(|authority| {
        let address = authority.as_str().rsplit('@').next().unwrap_or("");
        address.len() > proxy.host().len() && authority.port_u16().is_none()
    });
    if bad_port || proxy.host().is_empty() { Err(refused()) } else { Ok(proxy) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, value: &str) -> Option<Variable> {
        Some(Variable { name: name.to_owned(), value: value.to_owned() })
    }

    #[test]
    fn each_scheme_has_its_own_proxy() {
        let network =
            Network { https_proxy: variable("HTTPS_PROXY", "http://a:1"), ..Network::default() };
        let name = |network: &Network, url: &str| {
            proxy_of(network, url).unwrap().map(|variable| variable.name.clone())
        };
        assert_eq!(name(&network, "https://example.org/x").as_deref(), Some("HTTPS_PROXY"));
        assert_eq!(name(&network, "http://localhost/x"), None);
        let both = Network {
            http_proxy: variable("http_proxy", "b:1"),
            all_proxy: variable("ALL_PROXY", "socks5h://c:1"),
            no_proxy: Some("example.org".to_owned()),
            ..Network::default()
        };
        assert_eq!(name(&both, "http://localhost/x").as_deref(), Some("http_proxy"));
        assert_eq!(name(&both, "https://other.org/x").as_deref(), Some("ALL_PROXY"));
        assert_eq!(name(&both, "https://example.org/x"), None);
    }

    #[test]
    fn a_server_on_this_machine_is_asked_without_a_proxy() {
        let network =
            Network { all_proxy: variable("ALL_PROXY", "http://a:1"), ..Network::default() };
        let patience = Duration::from_secs(1);
        let proxied = |net: Net<'_>, url: &str| net.proxy(url).unwrap().is_some();
        for url in ["http://localhost:8080/x", "http://127.0.0.2/x", "http://[::1]:80/x"] {
            assert!(!proxied(Net::to_ask(&network, patience), url), "{url}");
            assert!(proxied(Net::new(&network), url), "{url}: NO_PROXY is for that");
        }
        assert!(proxied(Net::to_ask(&network, patience), "http://192.168.0.9:8080/x"));
        assert!(Net::to_ask(&network, patience).proxy("http://").is_err());
    }

    /// What curl 8 does with each, and for the last four what ureq did before.
    #[test]
    fn hosts_without_a_proxy() {
        for (list, host, direct) in [
            ("example.org", "example.org", true),
            ("example.org", "www.example.org", true),
            ("example.org", "badexample.org", false),
            (".example.org", "example.org", true),
            ("a.b, example.org", "example.org", true),
            ("a.b example.org", "example.org", true),
            ("EXAMPLE.org", "example.org", true),
            ("*", "example.org", true),
            ("", "example.org", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("0.0.1", "127.0.0.1", false),
            ("10.0.0.0/8", "10.200.3.4", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/0", "11.0.0.1", true),
            ("10.0.0.0/33", "10.0.0.0", false),
            ("fe80::/10", "[fe81::1]", true),
            ("fe80::/10", "10.0.0.1", false),
            ("[::1]", "[::1]", true),
            ("*.example.org", "www.example.org", true),
            ("*example.org", "example.org", true),
            ("192.168.*", "192.168.3.4", true),
            ("192.168.*", "192.169.3.4", false),
        ] {
            assert_eq!(goes_direct(list, host), direct, "{list} {host}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named_without_its_password() {
        for value in ["ftp://h:1", "socks6://u:topsecret@h", "http://", "::", "http://h:port"] {
            let error = usable(&variable("ALL_PROXY", value).unwrap()).expect_err(value);
            assert_eq!(error.kind(), ErrorKind::Usage);
            let line = error.to_string();
            assert!(line.contains("ALL_PROXY") && line.contains("socks5h"), "{line}");
            assert!(!line.contains("topsecret"), "{line}");
        }
        for value in ["h", "h:1", "http://u:p@h:1/", "HTTPS://h", "socks5://[::1]:1", "socks4a://h"]
        {
            assert!(usable(&variable("ALL_PROXY", value).unwrap()).is_ok(), "{value}");
        }
    }

    #[test]
    fn certificates_that_cannot_be_read_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("own.pem");
        let read = |cert_file: Option<&Path>, cert_dirs: &[&Path]| {
            read_roots(&Network {
                cert_file: cert_file.map(Path::to_owned),
                cert_dirs: cert_dirs.iter().map(|dir| (*dir).to_owned()).collect(),
                ..Network::default()
            })
        };
        let line = |read: Result<RootCerts>| read.expect_err("no certificate").to_string();
        assert!(line(read(Some(&file), &[])).contains("SSL_CERT_FILE"));
        std::fs::write(&file, "nothing").unwrap();
        assert!(line(read(Some(&file), &[])).contains("own.pem: no certificate"));
        assert!(line(read(None, &[dir.path()])).contains("SSL_CERT_DIR"));
        assert!(line(read(None, &[&dir.path().join("absent")])).contains("absent"));
    }
}
