//! Proxies and certificates of `karat pull`, against servers on this machine: a certificate authority of our own, a
//! SOCKS5 proxy and one that understands CONNECT. The names of hosts are made up: only a proxy can reach them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

mod local;

use local::{Home, Ran, Server, bytes};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

const HOST: &str = "models.test";

/// Answers each connection in a thread of its own, until the test program ends.
fn listen(answer: impl Fn(TcpStream) -> io::Result<()> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    let serve = move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            // A client that went away is no failure of the test.
            std::thread::Builder::new().spawn(move || drop(answer(stream))).unwrap();
        }
    };
    std::thread::Builder::new().spawn(serve).unwrap();
    port
}

/// Reads to the empty line behind the head of a request or reply.
fn head(stream: &mut impl Read) -> io::Result<String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        text.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Both directions between two connections.
fn tie(one: TcpStream, other: TcpStream) -> io::Result<()> {
    let (mut from_one, mut to_other) = (one.try_clone()?, other.try_clone()?);
    let forth = move || {
        let _ = io::copy(&mut from_one, &mut to_other);
        let _ = to_other.shutdown(std::net::Shutdown::Write);
    };
    std::thread::Builder::new().spawn(forth)?;
    let (mut from_other, mut to_one) = (other, one);
    io::copy(&mut from_other, &mut to_one)?;
    to_one.shutdown(std::net::Shutdown::Write)
}

/// A model on a server that speaks TLS, with a certificate that no system knows.
struct Secure {
    port: u16,
    /// The certificate of the authority, in a folder of its own.
    authority: PathBuf,
    home: Home,
    data: Vec<u8>,
    _plain: Server,
}

impl Secure {
    fn start() -> Secure {
        let data = bytes(100_000);
        let body = data.clone();
        let plain = Server::start(move |_, _, reply| reply.whole(&body, &[]));
        let behind = plain.port;

        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let names = vec![HOST.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        let own = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let port = listen(move |stream| {
            let connection =
                ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
            let mut client = StreamOwned::new(connection, stream);
            let request = head(&mut client)?;
            let mut server = TcpStream::connect(("127.0.0.1", behind))?;
            server.write_all(request.as_bytes())?;
            io::copy(&mut server, &mut client)?;
            client.conn.send_close_notify();
            client.flush()
        });

        let home = Home::new();
        let folder = home.dir.path().join("certificates");
        fs::create_dir(&folder).unwrap();
        let path = folder.join("authority.pem");
        fs::write(&path, authority.pem()).unwrap();
        Secure { port, authority: path, home, data, _plain: plain }
    }

    /// Pulls the model from `host`, with these variables set.
    fn pull(&self, host: &str, variables: &[(&str, &str)]) -> Ran {
        let url = format!("https://{host}:{}/t.gguf", self.port);
        let config = self.home.dir.path().join("config/karat");
        fs::create_dir_all(&config).unwrap();
        let text = format!(
            "[[model]]\nname = \"t\"\nlicence = \"MIT\"\nfile = \"t.gguf\"\nsize = {}\nsha256 = \"{}\"\nsources = [{url:?}]\n",
            self.data.len(),
            local::sha256(&self.data),
        );
        fs::write(config.join("catalogue.toml"), text).unwrap();
        let mut command = self.home.karat(&["pull", "--force", "t"]);
        command.envs(variables.iter().copied());
        Ran::of(command.output().unwrap())
    }

    /// As [`Secure::pull`], with the authority known.
    fn pull_known(&self, host: &str, variables: &[(&str, &str)]) -> Ran {
        let file = ("SSL_CERT_FILE", self.authority.to_str().unwrap());
        self.pull(host, &[&[file], variables].concat())
    }
}

/// A proxy, and what it was asked for.
struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// A proxy that understands CONNECT, and reaches every host at `port` of this machine. With `password`, only for
    /// those who know it: base64 of user and password.
    fn connect(port: u16, password: Option<&'static str>) -> Proxy {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let own = listen(move |mut client| {
            let request = head(&mut client)?;
            log.lock().unwrap().push(request.lines().next().unwrap_or_default().to_owned());
            if password.is_some_and(|password| !request.contains(&format!("Basic {password}\r\n")))
            {
                return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
            }
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            tie(client, TcpStream::connect(("127.0.0.1", port))?)
        });
        Proxy { port: own, asked }
    }

    /// A SOCKS5 proxy (RFC 1928) that reaches every host at `port` of this machine.
    fn socks5(port: u16) -> Proxy {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let own = listen(move |mut client| {
            let mut greeting = [0; 2];
            client.read_exact(&mut greeting)?;
            let mut methods = vec![0; greeting[1].into()];
            client.read_exact(&mut methods)?;
            client.write_all(&[5, 0])?;
            let mut request = [0; 4];
            client.read_exact(&mut request)?;
            let host = match request[3] {
                1 => {
                    let mut address = [0; 4];
                    client.read_exact(&mut address)?;
                    format!("IPv4 {address:?}")
                }
                3 => {
                    let mut len = [0];
                    client.read_exact(&mut len)?;
                    let mut name = vec![0; len[0].into()];
                    client.read_exact(&mut name)?;
                    format!("name {}", String::from_utf8_lossy(&name))
                }
                kind => {
                    let mut address = [0; 16];
                    client.read_exact(&mut address)?;
                    format!("kind {kind} {address:?}")
                }
            };
            client.read_exact(&mut [0; 2])?;
            log.lock().unwrap().push(host);
            client.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0])?;
            tie(client, TcpStream::connect(("127.0.0.1", port))?)
        });
        Proxy { port: own, asked }
    }

    /// What was asked for since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[test]
fn the_certificates_of_a_company_are_those_that_the_user_names() {
    let secure = Secure::start();
    let folder = secure.authority.parent().unwrap().to_str().unwrap();
    let unknown = secure.pull("localhost", &[]).fails(4, &["UnknownIssuer", "SSL_CERT_FILE"]);
    assert!(!unknown.stdout.contains("t.gguf"));
    secure.pull_known("localhost", &[]).ok();
    assert_eq!(fs::read(secure.home.models().join("t.gguf")).unwrap(), secure.data);
    secure.pull("localhost", &[("SSL_CERT_DIR", folder)]).ok();
    // Another name than the certificate's is not the server that was asked for.
    let proxy = Proxy::connect(secure.port, None);
    let address = format!("http://127.0.0.1:{}", proxy.port);
    secure.pull_known("other.test", &[("HTTPS_PROXY", &address)]).fails(4, &["certificate"]);
    secure
        .pull("localhost", &[("SSL_CERT_FILE", "/absent.pem")])
        .fails(2, &["SSL_CERT_FILE", "/absent.pem"]);
    secure.pull("localhost", &[("SSL_CERT_DIR", "/absent")]).fails(2, &["SSL_CERT_DIR", "/absent"]);
}

#[test]
fn a_proxy_is_for_its_own_scheme() {
    let secure = Secure::start();
    let proxy = Proxy::connect(secure.port, None);
    let address = format!("http://127.0.0.1:{}", proxy.port);
    for name in ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        secure.pull_known(HOST, &[(name, &address)]).ok();
        assert_eq!(proxy.asked(), [format!("CONNECT {HOST}:{} HTTP/1.1", secure.port)], "{name}");
    }
    // No scheme means http.
    secure.pull_known(HOST, &[("HTTPS_PROXY", &address["http://".len()..])]).ok();
    assert_eq!(proxy.asked().len(), 1);
    for variables in [
        &[("HTTP_PROXY", address.as_str())][..],
        &[("HTTPS_PROXY", &address), ("NO_PROXY", "other.test,localhost")],
        &[("ALL_PROXY", &address), ("no_proxy", "*")],
        &[("HTTPS_PROXY", "")],
    ] {
        secure.pull_known("localhost", variables).ok();
        assert!(proxy.asked().is_empty(), "{variables:?}");
    }
    // The spelling in small letters and the scheme's own variable come first, as in curl.
    let dead = "http://127.0.0.1:1";
    secure.pull_known(HOST, &[("https_proxy", &address), ("HTTPS_PROXY", dead)]).ok();
    secure.pull_known(HOST, &[("HTTPS_PROXY", &address), ("all_proxy", dead)]).ok();
    assert_eq!(proxy.asked().len(), 2);
}

#[test]
fn http_has_its_own_proxy() {
    let data = bytes(5000);
    let body = data.clone();
    let server = Server::start(move |_, _, reply| reply.whole(&body, &[]));
    let proxy = Proxy::connect(server.port, None);
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let home = Home::with(&data, &[server.url("t.gguf")]);
    let pull = |name: &str| {
        Ran::of(home.karat(&["pull", "--force", "t"]).env(name, &address).output().unwrap()).ok();
        proxy.asked().len()
    };
    assert_eq!(pull("HTTPS_PROXY"), 0);
    assert_eq!(pull("http_proxy"), 1);
    assert_eq!(pull("HTTP_PROXY"), 1);
}

#[test]
fn a_socks_proxy_is_told_the_name_or_the_address() {
    let secure = Secure::start();
    let proxy = Proxy::socks5(secure.port);
    let address = |scheme: &str| format!("{scheme}://127.0.0.1:{}", proxy.port);
    secure.pull_known(HOST, &[("ALL_PROXY", &address("socks5h"))]).ok();
    assert_eq!(proxy.asked(), [format!("name {HOST}")]);
    // Without the h the name is looked up here, where nobody knows it.
    secure.pull_known(HOST, &[("ALL_PROXY", &address("socks5"))]).fails(4, &["t: "]);
    assert!(proxy.asked().is_empty());
    secure.pull_known("127.0.0.1", &[("https_proxy", &address("socks5"))]).ok();
    assert_eq!(proxy.asked(), ["IPv4 [127, 0, 0, 1]"]);
}

#[test]
fn a_proxy_that_cannot_be_used_is_an_error_by_name() {
    let secure = Secure::start();
    for value in ["socks6://user:topsecret@127.0.0.1:1", "ftp://127.0.0.1:1", "http://"] {
        let ran = secure.pull_known("localhost", &[("ALL_PROXY", value)]);
        let ran = ran.fails(2, &["ALL_PROXY", "not a proxy that karat can use"]);
        assert!(!ran.stderr.contains("topsecret"), "{}", ran.stderr);
    }
    let refused = secure.pull_known("localhost", &[("HTTPS_PROXY", "http://127.0.0.1:1")]);
    refused.fails(4, &["through the proxy of HTTPS_PROXY, http://127.0.0.1:1"]);
    // "user:topsecret" in base64.
    let proxy = Proxy::connect(secure.port, Some("dXNlcjp0b3BzZWNyZXQ="));
    let with = |user: &str| format!("http://{user}127.0.0.1:{}", proxy.port);
    let ran = secure.pull_known(HOST, &[("HTTPS_PROXY", &with("user:wrongsecret@"))]);
    let ran = ran.fails(4, &["407", "HTTPS_PROXY"]);
    assert!(!ran.stderr.contains("wrongsecret"), "{}", ran.stderr);
    secure.pull_known(HOST, &[("HTTPS_PROXY", &with("user:topsecret@"))]).ok();
}
