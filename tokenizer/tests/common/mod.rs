//! Where the tests find real vocabularies (beside the project, and where `KARAT_VOCAB_DIR` points), and small made ones.
#![allow(dead_code, reason = "every test program uses its part of these")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use tokenizer::{Model, TokenKind, Vocab};

/// Says what a test leaves out, past the test harness, which shows what a test prints only if it fails.
pub(crate) fn say_skipped(what: &str) {
    let _ = std::io::stderr().write_all(format!("skipped: {what}\n").as_bytes());
}

/// A file or folder of `../shared` beside the project, or `None` with a line that says what is skipped.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    say_skipped(&format!("../shared/{path} is not beside the project"));
    None
}

/// The path in an environment variable, or `None` with a line that says what is skipped.
#[allow(
    clippy::disallowed_methods,
    reason = "tests take their optional inputs from the environment"
)]
pub(crate) fn from_env(variable: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable);
    if path.is_none() {
        say_skipped(&format!("{variable} is not set"));
    }
    path.map(PathBuf::from)
}

/// A model file: where the variable points, else in karat's cache; or `None` with a line that says what is skipped.
#[allow(
    clippy::disallowed_methods,
    reason = "tests take their optional inputs from the environment"
)]
pub(crate) fn model(variable: &str, cached: &str) -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || Some(from("HOME")?.join(".cache/karat/models").join(cached));
    let path = from(variable).or_else(cache).filter(|path| path.is_file());
    if path.is_none() {
        say_skipped(&format!("no {cached} at {variable} or in the cache"));
    }
    path
}

/// All `*.gguf` files in a folder that have their cases beside them, in order.
pub(crate) fn vocabularies(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| {
        path.extension().is_some_and(|e| e == "gguf") && beside(path, ".inp").exists()
    });
    found.sort();
    found
}

/// `x.gguf` to `x.gguf.inp`.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A byte-level vocabulary: the 256 bytes, what `merges` make, then `specials` as control tokens.
///
/// Both parts of a merge are plain ASCII without spaces, for which the file's spelling is the text itself.
pub(crate) fn bpe(merges: &[(&str, &str)], specials: &[&str]) -> Vocab {
    let mut tokens: Vec<String> = (0..=255).map(|byte| printable(byte).to_string()).collect();
    tokens.extend(merges.iter().map(|(left, right)| format!("{left}{right}")));
    let normal = tokens.len();
    tokens.extend(specials.iter().map(|&text| text.to_owned()));
    Vocab {
        model: Model::Bpe,
        pre: Some("gpt-2".to_owned()),
        merges: merges.iter().map(|(left, right)| format!("{left} {right}")).collect(),
        add_bos: Some(false),
        ..vocabulary(&tokens, normal)
    }
}

/// A SentencePiece vocabulary: `<unk>`, the 256 bytes, `pieces` with falling scores, then `specials`.
pub(crate) fn spm(pieces: &[&str], specials: &[&str]) -> Vocab {
    let mut tokens = vec!["<unk>".to_owned()];
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(pieces.iter().map(|&text| text.to_owned()));
    let normal = tokens.len();
    tokens.extend(specials.iter().map(|&text| text.to_owned()));
    let mut vocab = vocabulary(&tokens, normal);
    vocab.model = Model::Spm;
    vocab.kinds[0] = TokenKind::Unknown;
    vocab.kinds[1..=256].fill(TokenKind::Byte);
    vocab.scores = (0..tokens.len()).map(|i| -(i as f32)).collect();
    vocab.special.unk = Some(0);
    vocab.add_bos = Some(false);
    vocab
}

fn vocabulary(tokens: &[String], normal: usize) -> Vocab {
    let mut kinds = vec![TokenKind::Normal; normal];
    kinds.resize(tokens.len(), TokenKind::Control);
    Vocab {
        scores: vec![0.0; tokens.len()],
        kinds,
        tokens: tokens.iter().collect(),
        ..Vocab::default()
    }
}

/// GPT-2's character for a byte.
pub(crate) fn printable(byte: u8) -> char {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if plain(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&byte| !plain(byte)).count();
    char::from_u32(0x100 + u32::try_from(before).unwrap()).unwrap()
}

/// A small random generator: the same cases in every run.
pub(crate) struct Random(pub u64);

impl Random {
    /// A number below `below`.
    pub(crate) fn next(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    /// Any character, common ones more often.
    pub(crate) fn char(&mut self) -> char {
        let limit = [0x80, 0x80, 0x80, 0x250, 0x3000, 0x1_0000, 0x2_0000, 0x11_0000][self.next(8)];
        char::from_u32(u32::try_from(self.next(limit)).unwrap()).unwrap_or('\u{fffd}')
    }
}
