//! Asks servers that answer in JSON, such as a running llama.cpp, on the way that downloads take: its proxies and
//! certificates. A server on this machine is reached without a proxy.

use crate::config::Network;
use crate::error::{Error, ErrorKind, Result};
use crate::net::Net;
use crate::text::{one_line, shortened};
use serde_json::Value;
use std::time::Duration;
use ureq::Body;
use ureq::http::Response;

/// A server that does not answer in this time is not there.
const PATIENCE: Duration = Duration::from_secs(120);
/// Answers are shorter than this.
const MOST_BYTES: u64 = 64 << 20;

/// Whoever asks.
pub struct Client<'n> {
    net: Net<'n>,
}

impl<'n> Client<'n> {
    /// With these proxies and certificates; nothing is read yet.
    pub fn new(network: &'n Network) -> Self {
        Self { net: Net::to_ask(network, PATIENCE) }
    }

    /// Asks for what is at a URL.
    ///
    /// # Errors
    /// [`ErrorKind::Fetch`] where nobody answers, or not with JSON; [`ErrorKind::Usage`] for a proxy, or certificates, that
    /// cannot be used.
    pub fn get(&self, url: &str) -> Result<Value> {
        let answer = self.net.agent(url)?.get(url).call();
        self.read(url, answer)
    }

    /// Sends JSON to a URL.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, url: &str, body: &Value) -> Result<Value> {
        let request = self.net.agent(url)?.post(url).header("content-type", "application/json");
        let answer = request.send(body.to_string());
        self.read(url, answer)
    }

    fn read(&self, url: &str, answer: Result<Response<Body>, ureq::Error>) -> Result<Value> {
        let wrong = |what: String| {
            let what = shortened(&one_line(&what), 200);
            Error::new(ErrorKind::Fetch, format!("{}: {what}", one_line(url)))
        };
        let lost = |e: ureq::Error| wrong(format!("{e}{}", self.net.through(url)));
        let mut answer = answer.map_err(lost)?;
        if !answer.status().is_success() {
            return Err(wrong(format!("the server answered {}", answer.status())));
        }
        let body = answer.body_mut().with_config().limit(MOST_BYTES).read_to_string();
        serde_json::from_str(&body.map_err(lost)?).map_err(|e| wrong(format!("no JSON: {e}")))
    }
}
