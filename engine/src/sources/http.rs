//! Downloads over HTTPS: resumed, retried, bounded; what a server sends is believed only as far as it can be checked.
//!
//! Redirects are followed here and not by ureq, so that a token goes to the origin it is meant for and nowhere else.
use std::io::Read;
use std::thread::sleep;
use std::time::Duration;

use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};

use super::Fault;
use super::cache::Want;
use super::part::{Note, Part};
use super::source::{web, without_query};
use crate::config::Network;
use crate::event::Progress;
use crate::net::Net;
use crate::text::shortened;

const MAX_REDIRECTS: usize = 10;
/// Failures in a row, without an advance between them, before a source is given up.
const MAX_FAILURES: u32 = 5;
/// Bytes beyond the furthest point so far that count as an advance. Small enough for a bad line, and a server that
/// never lets a download resume, or that sends a byte at a time, cannot keep us for ever.
const ADVANCE: u64 = 1 << 16;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_LISTING: u64 = 16 << 20;

/// What to ask for.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    /// Where.
    pub(crate) url: &'a str,
    /// Sent to the URL's own origin only.
    pub(crate) token: Option<&'a str>,
    /// Proxies and certificates.
    pub(crate) network: &'a Network,
}

/// Why an attempt failed.
struct Trouble {
    again: bool,
    line: String,
}

impl Trouble {
    fn final_(line: impl Into<String>) -> Trouble {
        Trouble { again: false, line: line.into() }
    }

    fn passing(line: impl Into<String>) -> Trouble {
        Trouble { again: true, line: line.into() }
    }
}

/// An attempt's end: the server's or the network's doing, or this machine's.
enum Stop {
    There(Trouble),
    Here(crate::error::Error),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Stop {
        Stop::There(trouble)
    }
}

/// Downloads to `part`, resuming where a connection breaks off. `want` is what is known of the file, and gains what
/// the first origin says of it (`X-Linked-Size`, `X-Linked-ETag`: Hugging Face's size and SHA-256). What is fetched is
/// noted as the beginning of `source`'s file.
///
/// # Errors
/// [`Fault::Source`] with one line where this source does not work; [`Fault::Here`] where the file cannot be written.
pub(crate) fn download(
    request: Request<'_>,
    source: &str,
    part: &mut Part,
    want: &mut Want,
    progress: &Progress<'_>,
) -> Result<(), Fault> {
    let net = Net::new(request.network);
    let mut download = Download { net, request, source, want };
    let (mut failures, mut best) = (0, 0);
    loop {
        let trouble = match download.attempt(part, progress) {
            Ok(()) => return Ok(()),
            Err(Stop::Here(failure)) => return Err(Fault::Here(failure)),
            Err(Stop::There(trouble)) => trouble,
        };
        failures = if part.len() >= best + ADVANCE { 1 } else { failures + 1 };
        best = best.max(part.len());
        if !trouble.again || failures >= MAX_FAILURES {
            return Err(Fault::Source(trouble.line));
        }
        sleep(FIRST_PAUSE * 2u32.pow(failures - 1));
    }
}

/// Fetches a small text, such as a listing.
///
/// # Errors
/// As [`download`].
pub(crate) fn text(request: Request<'_>) -> Result<String, Fault> {
    let net = Net::new(request.network);
    let mut failures = 0;
    loop {
        let answer = send(&net, request, &[]).and_then(|reply| {
            let body = reply.response.into_body().into_with_config().limit(MAX_LISTING);
            Ok(body.read_to_string().map_err(|e| broken(&e, request.url, &net))?)
        });
        match answer {
            Ok(text) => return Ok(text),
            Err(Stop::Here(failure)) => return Err(Fault::Here(failure)),
            Err(Stop::There(trouble)) => {
                failures += 1;
                if !trouble.again || failures >= MAX_FAILURES {
                    return Err(Fault::Source(trouble.line));
                }
                sleep(FIRST_PAUSE * 2u32.pow(failures - 1));
            }
        }
    }
}

struct Reply {
    response: Response<Body>,
    /// Size and SHA-256 as the first origin states them.
    linked: Want,
}

/// Sends a request and follows its redirects. The reply's status is 200, 206 or 416.
fn send(
    net: &Net<'_>,
    request: Request<'_>,
    headers: &[(header::HeaderName, String)],
) -> Result<Reply, Stop> {
    let first = web(request.url).map_err(|e| Trouble::final_(e.to_string()))?;
    let mut url = request.url.to_owned();
    let mut linked = Want::default();
    for _ in 0..=MAX_REDIRECTS {
        let parts = web(&url).map_err(|e| Trouble::final_(format!("redirected to {e}")))?;
        if first.origin.starts_with("https:") && !parts.origin.starts_with("https:") {
            let line = format!("redirected from https to {}", without_query(&url));
            return Err(Trouble::final_(line).into());
        }
        let mut call = net.agent(&url).map_err(Stop::Here)?.get(&url);
        for (name, value) in headers {
            call = call.header(name, value);
        }
        if let Some(token) = request.token.filter(|_| parts.origin == first.origin) {
            call = call.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = call.call().map_err(|e| broken(&e, &url, net))?;
        if parts.origin == first.origin {
            linked = merge(linked, response.headers());
        }
        if !response.status().is_redirection() {
            status(&response, &url)?;
            return Ok(Reply { response, linked });
        }
        let Some(location) = header_text(response.headers(), header::LOCATION) else {
            let line = format!("{}: redirect without a Location", without_query(&url));
            return Err(Trouble::final_(line).into());
        };
        url = join(&url, &location).ok_or_else(|| {
            Trouble::final_(format!(
                "{}: redirect to nowhere: {}",
                without_query(&url),
                without_query(&location)
            ))
        })?;
    }
    let shown = without_query(request.url);
    Err(Trouble::final_(format!("{shown}: more than {MAX_REDIRECTS} redirects")).into())
}

fn header_text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_owned())
}

fn merge(known: Want, headers: &HeaderMap) -> Want {
    let hash =
        header_text(headers, "x-linked-etag").map(|tag| tag.trim_matches('"').to_ascii_lowercase());
    let is_sha256 = |tag: &String| tag.len() == 64 && tag.bytes().all(|b| b.is_ascii_hexdigit());
    Want {
        size: known.size.or_else(|| header_text(headers, "x-linked-size")?.parse().ok()),
        sha256: known.sha256.or_else(|| hash.filter(is_sha256)),
        remembered: false,
    }
}

fn status(response: &Response<Body>, url: &str) -> Result<(), Trouble> {
    let status = response.status();
    let line = format!("{}: the server answered {status}", without_query(url));
    match status.as_u16() {
        200 | 206 | 416 => Ok(()),
        401 | 403 => Err(Trouble::final_(format!(
            "{line} (gated or private? HF_TOKEN is sent to hf: sources)"
        ))),
        408 | 429 | 500 | 502 | 503 | 504 => Err(Trouble::passing(line)),
        _ => Err(Trouble::final_(line)),
    }
}

/// An absolute URL from a Location header, relative to `base`.
fn join(base: &str, location: &str) -> Option<String> {
    if location.contains("://") {
        return Some(location.to_owned());
    }
    let uri: Uri = base.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    if location.starts_with('/') {
        return Some(format!("{scheme}://{authority}{location}"));
    }
    let folder = uri.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    Some(format!("{scheme}://{authority}{folder}/{location}"))
}

fn broken(error: &ureq::Error, url: &str, net: &Net<'_>) -> Trouble {
    use ureq::Error as E;
    let text = error.to_string();
    // Nobody listening there is an answer, and so is a certificate that nobody vouches for; a line that breaks off is
    // not.
    let refused = matches!(error, E::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused);
    let distrusted = text.contains("invalid peer certificate");
    let again = matches!(error, E::Timeout(_) | E::Io(_) | E::Protocol(_));
    let mut line = format!("{}: {}{}", without_query(url), shortened(&text, 200), net.through(url));
    if distrusted {
        line += "; SSL_CERT_FILE names a file with the certificate of a company's own proxy";
    }
    Trouble { again: again && !refused && !distrusted, line }
}

/// Refuses a reply that says of itself that it is no model file.
fn no_model(response: &Response<Body>, shown: &str) -> Result<(), Trouble> {
    if let Some(kind) = header_text(response.headers(), header::CONTENT_TYPE)
        && kind.to_ascii_lowercase().starts_with("text/html")
    {
        return Err(Trouble::final_(format!("{shown}: an HTML page, not a model file")));
    }
    if let Some(coding) = header_text(response.headers(), header::CONTENT_ENCODING)
        && !coding.eq_ignore_ascii_case("identity")
    {
        let coding = shortened(&coding, 40);
        let line = format!("{shown}: Content-Encoding {coding}, which was not asked for");
        return Err(Trouble::final_(line));
    }
    Ok(())
}

struct Download<'a> {
    net: Net<'a>,
    request: Request<'a>,
    /// What a later download knows the bytes by.
    source: &'a str,
    want: &'a mut Want,
}

impl Download<'_> {
    fn attempt(&mut self, part: &mut Part, progress: &Progress<'_>) -> Result<(), Stop> {
        let mut headers = Vec::new();
        if part.len() > 0 {
            match part.note() {
                Some(note) => {
                    headers.push((header::RANGE, format!("bytes={}-", part.len())));
                    headers.push((header::IF_RANGE, note.validator.clone()));
                }
                None => part.restart().map_err(Stop::Here)?,
            }
        }
        let Reply { response, linked } = send(&self.net, self.request, &headers)?;
        let shown = without_query(self.request.url);
        no_model(&response, &shown)?;
        let had = part.len();
        let sends_the_rest = response.status() == StatusCode::PARTIAL_CONTENT;
        let aligned = if sends_the_rest {
            self.rest(&response, &linked, part)
        } else {
            self.whole(&response, &linked, part)
        };
        if had > 0 && part.len() > 0 {
            progress.note(&format!("{shown}: going on at byte {had}"));
        } else if had > 0 {
            let why = "the server has another file now, or cannot send the rest of this one";
            progress.note(&format!("{shown}: fetched anew, not from byte {had}: {why}"));
        }
        let total = aligned?;
        self.learn(linked, total, &shown)?;
        if let Some(size) = self.want.size {
            part.check_room(size.saturating_sub(part.len())).map_err(Stop::Here)?;
            progress.total(size);
        }
        self.receive(response, part, progress, &shown)
    }

    /// Lines `part` up with a reply that holds the rest of the file: the whole file's size, as far as it is known.
    fn rest(
        &self,
        response: &Response<Body>,
        linked: &Want,
        part: &mut Part,
    ) -> Result<Option<u64>, Stop> {
        let range = header_text(response.headers(), header::CONTENT_RANGE).unwrap_or_default();
        let asked = part.len();
        // A server that passes over If-Range may still say that it has another file now.
        let unlike = |known: Option<&String>, found: Option<&String>| {
            known.is_some() && found.is_some() && known != found
        };
        if let (Some(sent), Some(note)) = (content_range(&range), part.note())
            && sent.start == asked
            && asked > 0
            && (sent.total.is_none() || note.size.is_none() || sent.total == note.size)
            && !unlike(note.sha256.as_ref(), linked.sha256.as_ref())
        {
            let total = sent.total.or(note.size);
            part.goes_on();
            return Ok(total);
        }
        part.restart().map_err(Stop::Here)?;
        let (shown, range) = (without_query(self.request.url), shortened(&range, 60));
        let line = format!("{shown}: asked for bytes from {asked}, got {range:?}");
        Err(Trouble::passing(line).into())
    }

    /// Lines `part` up with a reply that holds the whole file, in place of the rest where the file has changed or the
    /// server cannot send a part of it; its size, where the reply says it.
    fn whole(
        &self,
        response: &Response<Body>,
        linked: &Want,
        part: &mut Part,
    ) -> Result<Option<u64>, Stop> {
        let had = part.len();
        if had > 0 {
            part.restart().map_err(Stop::Here)?;
        }
        let headers = response.headers();
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // The file became shorter.
            let shown = without_query(self.request.url);
            let line = format!("{shown}: the server cannot send the rest of the file");
            return Err(Trouble::passing(line).into());
        }
        let length =
            header_text(headers, header::CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        let tag = header_text(headers, header::ETAG).filter(|tag| tag.starts_with('"'));
        if let Some(validator) = tag.or_else(|| header_text(headers, header::LAST_MODIFIED)) {
            let sha256 = linked.sha256.clone();
            part.keep(Note { source: self.source.to_owned(), validator, size: length, sha256 });
        }
        Ok(length)
    }

    fn learn(&mut self, linked: Want, total: Option<u64>, shown: &str) -> Result<(), Stop> {
        let size = self.want.size.or(linked.size);
        if let (Some(size), Some(total)) = (size, total)
            && size != total
        {
            return Err(self.differs(format!("{shown}: {total} bytes, expected {size}")));
        }
        if let (Some(wanted), Some(found)) = (&self.want.sha256, &linked.sha256)
            && wanted != found
        {
            return Err(self.differs(format!("{shown}: sha256 {found}, expected {wanted}")));
        }
        self.want.size = size.or(total);
        if self.want.sha256.is_none() {
            self.want.sha256 = linked.sha256;
        }
        Ok(())
    }

    /// The server has other bytes than those that are wanted.
    fn differs(&self, line: String) -> Stop {
        match self.want.differs(line) {
            Fault::Source(line) => Trouble::final_(line).into(),
            Fault::Here(error) => Stop::Here(error),
        }
    }

    fn receive(
        &mut self,
        response: Response<Body>,
        part: &mut Part,
        progress: &Progress<'_>,
        shown: &str,
    ) -> Result<(), Stop> {
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let error = shortened(&error.to_string(), 200);
                    return Err(Trouble::passing(format!(
                        "{shown}: broke off at byte {}: {error}",
                        part.len()
                    ))
                    .into());
                }
            };
            if n == 0 {
                break;
            }
            if self.want.size.is_some_and(|size| n as u64 > size - part.len().min(size)) {
                let size = self.want.size.unwrap_or_default();
                part.forget();
                let line = format!("{shown}: more than the expected {size} bytes");
                return Err(Trouble::final_(line).into());
            }
            part.write(&buffer[..n]).map_err(Stop::Here)?;
            progress.at(part.len());
            if part.magic().is_some_and(|magic| magic != *b"GGUF") {
                part.forget();
                return Err(Trouble::final_(format!("{shown}: not a GGUF file")).into());
            }
        }
        match self.want.size {
            Some(size) if part.len() < size => {
                Err(Trouble::passing(format!("{shown}: ended at byte {} of {size}", part.len()))
                    .into())
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// What a `Content-Range` says.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    /// The first byte.
    start: u64,
    /// Bytes of the whole file; a server may leave them open.
    total: Option<u64>,
}

/// Reads `bytes 5-9/10`; the total may be `*`.
fn content_range(text: &str) -> Option<Sent> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some(Sent { start: start.trim().parse().ok()?, total: total.trim().parse().ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined_as_browsers_do() {
        let base = "https://h:1/a/b?q=1";
        for (location, expected) in [
            ("https://x/y", "https://x/y"),
            ("//x/y", "https://x/y"),
            ("/y?z", "https://h:1/y?z"),
            ("y", "https://h:1/a/y"),
        ] {
            assert_eq!(join(base, location).as_deref(), Some(expected));
        }
    }

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some(Sent { start: 5, total: Some(10) }));
        assert_eq!(content_range("bytes 5-9/*"), Some(Sent { start: 5, total: None }));
        for bad in ["", "bytes */10", "bytes=5-9/10", "bytes -1-9/10", "items 5-9/10"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
