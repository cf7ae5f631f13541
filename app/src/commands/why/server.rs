//! A running server as a side of `karat why`: its token ids, what it answers greedily, and its log-probabilities, against
//! those of a backend that is given the same tokens. llama.cpp's server tells ids; of another OpenAI-compatible one the
//! texts of tokens are looked up.

use super::{PromptArgs, Prompted};
use crate::exit::{Code, Failure, failure};
use crate::out::{Controls, Out};
use anyhow::{Context as _, Result};
use graph::{Best, Loaded};
use karat::ask::Client;
use karat::{ErrorKind, Network, Parts, text};
use serde::Serialize;
use serde_json::{Value, json};

const RUNNING: &str = "is the server running?";
/// Log-probabilities asked for at each place.
const TOP: usize = 5;
/// Two engines are this near in the log-probability of a likely token. Measured between karat and llama.cpp, SmolLM2-135M
/// in Q4_1: 0.24 on the average of four prompts with 41 tokens each, 0.82 at most. With the base of its rotary embedding
/// ten times too small llama.cpp's server was 1.0 away on the average, and further than this at 22 of 62 places.
const NEAR: f64 = 1.0;

/// A server.
pub(super) struct Server<'n> {
    client: Client<'n>,
    base: String,
    /// llama.cpp's own interface, which tells the ids of tokens.
    tells_ids: bool,
}

/// A server that does not answer may not run; a proxy that cannot be used has a hint of its own.
fn unreached(error: karat::Error) -> karat::Error {
    if error.kind() == ErrorKind::Fetch { error.with_hint(RUNNING) } else { error }
}

/// One place of the answer.
struct Place {
    id: u32,
    /// Ids with their log-probability.
    top: Vec<(u32, f64)>,
}

/// What was found at one place.
#[derive(Debug, Serialize)]
struct Row {
    /// Place in the answer, from 0.
    step: usize,
    theirs: u32,
    ours: u32,
    /// The largest difference of the log-probabilities that the server gave.
    difference: f64,
    right: bool,
}

/// `http://` or `https://`.
pub(super) fn is_url(side: &str) -> bool {
    side.starts_with("http://") || side.starts_with("https://")
}

impl<'n> Server<'n> {
    /// Finds out what answers there.
    ///
    /// # Errors
    /// Exit 4 where nothing does.
    pub(super) fn find(url: &str, network: &'n Network) -> Result<Self> {
        let base = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let mut server = Self { client: Client::new(network), base, tells_ids: false };
        server.tells_ids = server
            .get("/props")
            .is_ok_and(|props| props.get("default_generation_settings").is_some());
        if !server.tells_ids {
            server.get("/v1/models")?;
        }
        Ok(server)
    }

    fn wrong(&self, path: &str, what: impl std::fmt::Display) -> anyhow::Error {
        let what = format!("{}{path}: {what}", text::one_line(&self.base));
        Failure::new(Code::Io, what).hint(RUNNING).into()
    }

    fn get(&self, path: &str) -> Result<Value> {
        let answer = self.client.get(&format!("{}{path}", self.base));
        answer.map_err(|error| unreached(error).into())
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.client.post(&format!("{}{path}", self.base), body);
        answer.map_err(|error| unreached(error).into())
    }

    /// The prompt's ids, where the server tells them.
    fn tokens(&self, prompt: &str) -> Result<Option<Vec<u32>>> {
        if !self.tells_ids {
            return Ok(None);
        }
        let body = json!({"content": prompt, "add_special": true, "parse_special": true});
        let answer = self.post("/tokenize", &body)?;
        let ids = answer["tokens"].as_array().context("no tokens")?.iter();
        Ok(Some(ids.filter_map(|id| Some(id.as_u64()? as u32)).collect()))
    }

    /// A user's message in the server's chat template.
    fn template(&self, message: &str) -> Result<String> {
        let body = json!({"messages": [{"role": "user", "content": message}]});
        let answer = self.post("/apply-template", &body)?;
        let prompt = answer["prompt"].as_str();
        prompt.map(str::to_owned).ok_or_else(|| self.wrong("/apply-template", "no prompt"))
    }

    /// A greedy answer of `n` tokens.
    fn answer(&self, ids: &[u32], prompt: &str, n: usize, parts: &Parts) -> Result<Vec<Place>> {
        if self.tells_ids {
            let body = json!({"prompt": ids, "n_predict": n, "temperature": 0.0, "n_probs": TOP, "repeat_penalty": 1.0, "cache_prompt": false});
            let answer = self.post("/completion", &body)?;
            let places = answer["completion_probabilities"].as_array().cloned().unwrap_or_default();
            let pair = |v: &Value| Some((v["id"].as_u64()? as u32, v["logprob"].as_f64()?));
            let place = |v: &Value| {
                let top = v["top_logprobs"].as_array()?.iter().filter_map(pair).collect();
                Some(Place { id: v["id"].as_u64()? as u32, top })
            };
            return Ok(places.iter().filter_map(place).collect());
        }
        let models = self.get("/v1/models")?;
        let model = models["data"][0]["id"].as_str().unwrap_or("default").to_owned();
        let body = json!({"model": model, "prompt": prompt, "max_tokens": n, "temperature": 0.0, "logprobs": TOP, "repeat_penalty": 1.0});
        let answer = self.post("/v1/completions", &body)?;
        let found = &answer["choices"][0]["logprobs"];
        let id_of = |piece: &str| {
            let n_vocab = parts.graph.n_vocab as u32;
            (0..n_vocab).find(|&id| parts.tokenizer.piece(id) == piece.as_bytes())
        };
        let texts = found["tokens"].as_array().cloned().unwrap_or_default();
        let tops = found["top_logprobs"].as_array().cloned().unwrap_or_default();
        let mut places = Vec::new();
        for (piece, top) in texts.iter().zip(&tops) {
            // A token of half a character has no text; from there on nothing can be told.
            let Some(id) = piece.as_str().and_then(id_of) else { break };
            let pairs = top.as_object().into_iter().flatten();
            let top = pairs.filter_map(|(piece, p)| Some((id_of(piece)?, p.as_f64()?))).collect();
            places.push(Place { id, top });
        }
        Ok(places)
    }
}

/// The backend that the server is compared with.
pub(super) struct Trusted<'a> {
    pub(super) name: &'a str,
    pub(super) loaded: &'a mut dyn Loaded,
}

/// Runs it: ids of the prompt, then place by place.
pub(super) fn run(
    server: &Server<'_>,
    trusted: Trusted<'_>,
    args: &PromptArgs,
    prompted: &Prompted,
    json: bool,
) -> Result<()> {
    let Trusted { name, loaded } = trusted;
    let Prompted { parts, ids } = prompted;
    let mut prompt = args.text().to_owned();
    if let Some(ours) = args.rendered(parts)? {
        if !server.tells_ids {
            let what = "--chat: only with llama.cpp's server, which tells what its template makes of a message";
            return Err(failure(Code::Usage, what));
        }
        prompt = server.template(&prompt)?;
        check_template(&prompt, &ours)?;
    }
    if let Some(theirs) = server.tokens(&prompt)? {
        check_ids(&theirs, ids)?;
    }
    let places = server.answer(ids, &prompt, args.n_predict + 1, parts)?;
    if places.is_empty() {
        return Err(server.wrong("", "no log-probabilities in its answer"));
    }
    let behind: Vec<u32> = places[..places.len() - 1].iter().map(|place| place.id).collect();
    let steps = why::forced(loaded.graph(), ids, &behind);
    let logits = why::logits(loaded, &steps)?;
    let rows: Vec<Row> = places
        .iter()
        .zip(&logits)
        .enumerate()
        .map(|(step, (place, logits))| row(step, place, logits))
        .collect();
    let mut out = Out::new(Controls::Escaped);
    if json {
        let kind = if server.tells_ids { "llama.cpp" } else { "OpenAI-compatible" };
        out.json(
            &json!({"sides": [name, server.base], "server": kind, "near": NEAR, "rows": rows}),
        )?;
    } else {
        out.line(&format!("sides    A {name}"))?;
        out.line(&format!("         B {}", text::one_line(&server.base)))?;
        for row in &rows {
            let piece = text::quoted(parts.tokenizer.piece(row.theirs));
            let verdict = if row.right { "RIGHT" } else { "WRONG" };
            out.line(&format!(
                "  step {:<3} {:>6} {piece:<16} {verdict}  log-probabilities differ by {:.4}",
                row.step, row.theirs, row.difference
            ))?;
        }
    }
    verdict(&rows)
}

/// A template that makes another text ends the walk.
fn check_template(theirs: &str, ours: &str) -> Result<()> {
    if theirs == ours {
        return Ok(());
    }
    let at = theirs.chars().zip(ours.chars()).take_while(|(a, b)| a == b).count();
    let show =
        |text: &str| text::quoted(text.chars().skip(at).take(24).collect::<String>().as_bytes());
    let what = format!(
        "template: at character {at} the server has {}, karat {}",
        show(theirs),
        show(ours)
    );
    Err(failure(Code::Device, what))
}

/// Ids of the prompt that are not ours end the walk.
fn check_ids(theirs: &[u32], ours: &[u32]) -> Result<()> {
    if theirs == ours {
        return Ok(());
    }
    let at = theirs.iter().zip(ours).take_while(|(a, b)| a == b).count();
    let show = |ids: &[u32]| ids.get(at).map_or("none".to_owned(), u32::to_string);
    let what = format!(
        "tokens: at {at} the server has {}, karat {}: another tokenizer, or another model",
        show(theirs),
        show(ours)
    );
    Err(failure(Code::Device, what))
}

/// Exit 0 only if all is right.
fn verdict(rows: &[Row]) -> Result<()> {
    let wrong = rows.iter().find(|row| !row.right);
    let Some(row) = wrong else { return Ok(()) };
    let what = format!(
        "step {}: the server says {}, karat {}; log-probabilities differ by {:.3}, allowed {NEAR}",
        row.step, row.theirs, row.ours, row.difference
    );
    let hint = "a trace of that engine names the op: docs/traces.md";
    Err(Failure::new(Code::Device, what).hint(hint).into())
}

/// One place: the same token, or one as likely, and log-probabilities as near as two engines come.
fn row(step: usize, place: &Place, logits: &[f32]) -> Row {
    let most = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let sum: f64 = logits.iter().map(|&v| f64::from(v - most).exp()).sum();
    let ours_of = |id: u32| {
        let logit = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        f64::from(logit - most) - sum.ln()
    };
    let ours = Best::of(logits).id;
    let difference = place.top.iter().map(|&(id, p)| (ours_of(id) - p).abs()).fold(0.0, f64::max);
    // Where the server's choice is not ours, ours must be as likely as makes no difference.
    let tie = ours_of(ours) - ours_of(place.id);
    let right = difference <= NEAR && tie <= NEAR && most.is_finite();
    Row { step, theirs: place.id, ours, difference, right }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_token_is_wrong_unless_it_is_as_likely() {
        let logits = [0.0, 2.0, 1.9, -3.0];
        let sum: f64 = logits.iter().map(|&v: &f32| f64::from(v - 2.0).exp()).sum();
        let of = |i: usize| f64::from(logits[i] - 2.0) - sum.ln();
        let place =
            |id: u32, shift: f64| Place { id, top: vec![(1, of(1) + shift), (2, of(2) + shift)] };
        assert!(row(0, &place(1, 0.0), &logits).right);
        assert!(row(0, &place(2, 0.01), &logits).right, "a tie within rounding");
        assert!(!row(0, &place(0, 0.0), &logits).right, "another token");
        assert!(!row(0, &place(1, 1.5), &logits).right, "other probabilities");
        assert!(!row(0, &place(1, 0.0), &[f32::NAN; 4]).right, "no numbers");
    }
}
