//! Says what a file that is not GGUF looks like, from its first bytes, so that the message can help.

use crate::error::{Error, ErrorKind, Shown};

const CONVERT: &str =
    "convert it with llama.cpp's convert_hf_to_gguf.py, or get the GGUF version of the model";

/// The error for a file whose first bytes (up to 512) are `head` and not GGUF's.
pub(crate) fn not_gguf(head: &[u8]) -> Error {
    let (looks, hint) = match guess(head) {
        Some((looks, hint)) => (format!("it looks like {looks}"), Some(hint)),
        None => (format!("it begins with {}", quoted(&head[..head.len().min(4)])), None),
    };
    let error = Error::new(ErrorKind::NotGguf, format!("not a GGUF file: {looks}"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn guess(head: &[u8]) -> Option<(&'static str, &'static str)> {
    let starts = |magic: &[u8]| head.starts_with(magic);
    if starts(b"tjgg") || starts(b"fmgg") || starts(b"lmgg") || starts(b"algg") {
        return Some(("a GGML file of before GGUF (ggjt, ggmf, ggml or ggla)", CONVERT));
    }
    if starts(b"FUGG") {
        return Some((
            "a GGUF file with its bytes swapped",
            "get the little-endian version of the model",
        ));
    }
    if starts(b"PK\x03\x04") {
        return Some(("a zip archive or PyTorch checkpoint", CONVERT));
    }
    if starts(b"\x1f\x8b") {
        return Some(("gzip-compressed data", "decompress it first"));
    }
    if starts(b"\x28\xb5\x2f\xfd") {
        return Some(("zstd-compressed data", "decompress it first"));
    }
    if starts(b"version https://git-lfs") {
        return Some(("a git-lfs pointer, not the file itself", "fetch it with `git lfs pull`"));
    }
    if is_safetensors(head) {
        return Some(("a safetensors file", CONVERT));
    }
    if is_html(head) {
        return Some((
            "an HTML page",
            "the download got an error page: check the address, and log in if it asks",
        ));
    }
    if starts(b"{") {
        return Some((
            "JSON text",
            "the download may have got an error message: look into the file",
        ));
    }
    if starts(b"\x80\x02") {
        return Some(("a Python pickle", CONVERT));
    }
    None
}

/// A safetensors file is the length of a JSON header, then the header.
fn is_safetensors(head: &[u8]) -> bool {
    match head.first_chunk::<8>() {
        Some(len) => u64::from_le_bytes(*len) < 1 << 32 && head.get(8) == Some(&b'{'),
        None => false,
    }
}

fn is_html(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head)
        .trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n'])
        .to_lowercase();
    ["<!doctype html", "<html", "<head", "<?xml", "<!--"].iter().any(|tag| text.starts_with(tag))
}

fn quoted(bytes: &[u8]) -> String {
    let text: String =
        bytes.iter().map(|&b| if b.is_ascii_graphic() { char::from(b) } else { '.' }).collect();
    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("\"{}\" ({})", Shown(&text), hex.join(" "))
}
