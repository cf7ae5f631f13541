//! Writes GGUF files byte by byte, wrong ones above all: nothing here checks anything.
#![allow(dead_code, reason = "each test program uses some of it")]

use gguf::{Error, ErrorKind, File};

/// Type ids of metadata values.
pub(crate) const U8: u32 = 0;
pub(crate) const I32: u32 = 5;
pub(crate) const U32: u32 = 4;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const U64: u32 = 10;

/// A file as a list of pieces.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) n_tensors: Option<u64>,
    pub(crate) n_kv: Option<u64>,
    pub(crate) kvs: Vec<Vec<u8>>,
    pub(crate) infos: Vec<Vec<u8>>,
    pub(crate) alignment: usize,
    pub(crate) data: Vec<u8>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            n_tensors: None,
            n_kv: None,
            kvs: Vec::new(),
            infos: Vec::new(),
            alignment: 32,
            data: Vec::new(),
        }
    }
}

impl Raw {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds a key-value pair whose value has these bytes.
    pub(crate) fn kv(mut self, key: &[u8], value_type: u32, value: &[u8]) -> Self {
        let mut kv = string(key);
        kv.extend(value_type.to_le_bytes());
        kv.extend(value);
        self.kvs.push(kv);
        self
    }

    /// Adds a tensor info.
    pub(crate) fn tensor(self, name: &[u8], dims: &[u64], dtype: u32, offset: u64) -> Self {
        self.tensor_n_dims(name, dims.len() as u32, dims, dtype, offset)
    }

    pub(crate) fn tensor_n_dims(
        mut self,
        name: &[u8],
        n_dims: u32,
        dims: &[u64],
        dtype: u32,
        offset: u64,
    ) -> Self {
        let mut info = string(name);
        info.extend(n_dims.to_le_bytes());
        info.extend(dims.iter().flat_map(|n| n.to_le_bytes()));
        info.extend(dtype.to_le_bytes());
        info.extend(offset.to_le_bytes());
        self.infos.push(info);
        self
    }

    pub(crate) fn data(mut self, n: usize) -> Self {
        self.data = (0..n).map(|i| i as u8).collect();
        self
    }

    /// Everything before the data section, its padding included if there are tensors.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.n_tensors.unwrap_or(self.infos.len() as u64).to_le_bytes());
        out.extend(self.n_kv.unwrap_or(self.kvs.len() as u64).to_le_bytes());
        out.extend(self.kvs.concat());
        out.extend(self.infos.concat());
        if !self.infos.is_empty() {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
        }
        out
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.extend(&self.data);
        out
    }
}

/// Length and bytes.
pub(crate) fn string(bytes: &[u8]) -> Vec<u8> {
    string_of_len(bytes.len() as u64, bytes)
}

/// A length that need not be the bytes'.
pub(crate) fn string_of_len(len: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = len.to_le_bytes().to_vec();
    out.extend(bytes);
    out
}

/// Element type, a length that need not be the elements', elements.
pub(crate) fn array_of_len(element_type: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    let mut out = element_type.to_le_bytes().to_vec();
    out.extend(len.to_le_bytes());
    out.extend(elements);
    out
}

/// A small model with one of everything, data included.
pub(crate) fn tiny() -> Raw {
    Raw::new()
        .kv(b"general.architecture", STRING, &string(b"llama"))
        .kv(b"llama.block_count", U32, &2u32.to_le_bytes())
        .kv(b"llama.eps", F32, &1e-5f32.to_le_bytes())
        .kv(b"a.bool", BOOL, &[1])
        .kv(b"a.u64", U64, &7u64.to_le_bytes())
        .kv(b"a.list", ARRAY, &array_of_len(U8, 3, &[1, 2, 3]))
        .kv(
            b"tokens",
            ARRAY,
            &array_of_len(STRING, 3, &[string(b"a"), string(b""), string(b"\xff")].concat()),
        )
        .tensor(b"norm", &[4], 0, 0)
        .tensor(b"q", &[32, 2], 2, 32)
        .tensor(b"one", &[], 0, 96)
        .data(100)
}

/// The error of a file that must be refused: of that kind, one line, with these pieces in it.
pub(crate) fn refused(case: &str, bytes: Vec<u8>, kind: ErrorKind, pieces: &[&str]) {
    match File::from_bytes(bytes) {
        Ok(_) => panic!("{case}: accepted"),
        Err(error) => check_error(case, &error, kind, pieces),
    }
}

pub(crate) fn check_error(case: &str, error: &Error, kind: ErrorKind, pieces: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{case}: {text}");
    assert!(!text.chars().any(char::is_control), "{case}: more than a line: {text:?}");
    assert!(text.chars().count() < 1200, "{case}: long: {text}");
    for piece in pieces {
        assert!(text.contains(piece), "{case}: no {piece:?} in: {text}");
    }
}

/// SplitMix64: the same numbers on every run.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}
