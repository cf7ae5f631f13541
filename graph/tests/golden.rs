//! The reference's bits, held against `golden.txt`: the contract of every backend is to equal the reference, so
//! nothing else would notice a reference that drifts.
//!
//! A change of the numerics contract is made on purpose: argue it in ARCHITECTURE.md, then write the file anew with
//! `KARAT_GOLDEN=write cargo test --release -p karat-graph --test golden` and commit it with the change. A new case
//! adds lines; a line that changes is another arithmetic.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "how much was held against the file is shown")]

use graph::cases::{self, Case, Cut};
use graph::compare::Recording;
use graph::reference::Reference;
use graph::{Backend, LoadOptions, Op};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// FNV-1a of 64 bits: a dozen lines anywhere, the same for ever.
struct Hash(u64);

impl Hash {
    fn add(&mut self, word: u32) {
        for byte in word.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// All NaN are one: their payload differs from machine to machine.
    fn add_float(&mut self, x: f32) {
        self.add(if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() });
    }
}

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

/// One hash for each kind of op: of all rows that such ops gave, in the order of their names, sequences, positions.
fn hashes(recording: &Recording) -> BTreeMap<String, u64> {
    let mut by_op: BTreeMap<String, Hash> = BTreeMap::new();
    for row in recording.rows() {
        let (_, op) = row.key.rsplit_once(':').unwrap();
        let hash = by_op.entry(op.to_owned()).or_default();
        hash.add(row.seq);
        hash.add(row.position);
        hash.add(row.values.len() as u32);
        row.values.iter().for_each(|&x| hash.add_float(x));
    }
    by_op.into_iter().map(|(op, hash)| (op, hash.0)).collect()
}

/// Whether the type of the cache can matter.
fn has_cache(case: &Case) -> bool {
    case.graph.nodes.iter().any(|node| matches!(node.op, Op::StoreKv { .. }))
}

/// The lines of one case under some options: its name, then each op with its hash.
fn lines(case: &Case, options: LoadOptions) -> Vec<String> {
    let mut loaded =
        Reference.load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {}).unwrap();
    let recording = case.record(loaded.as_mut(), Cut::Batch(512)).unwrap();
    assert!(!recording.is_empty());
    let head = format!("{}, {:?}, cache {:?}", case.name, options.arithmetic, options.kv);
    let ops = hashes(&recording).into_iter().map(|(op, hash)| format!("  {op:14} {hash:016x}"));
    std::iter::once(head).chain(ops).collect()
}

#[test]
fn the_reference_gives_the_committed_bits() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden.txt");
    let mut found = Vec::new();
    for case in cases::all().unwrap().into_iter().chain(cases::experts().unwrap()) {
        let all = cases::options();
        let options = all.iter().filter(|o| has_cache(&case) || o.kv == all[0].kv);
        options.for_each(|&options| found.extend(lines(&case, options)));
    }
    #[allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]
    if std::env::var("KARAT_GOLDEN").is_ok_and(|value| value == "write") {
        std::fs::write(&path, found.join("\n") + "\n").unwrap();
        println!("{} lines written", found.len());
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    let committed: Vec<String> = committed.lines().map(str::to_owned).collect();
    let (found, committed) = (by_case(&found), by_case(&committed));
    let differs: Vec<&Key> = found
        .keys()
        .chain(committed.keys())
        .filter(|key| found.get(*key) != committed.get(*key))
        .collect();
    for (case, op) in differs.iter().take(20) {
        println!("not the committed bits: {case}: {op}");
    }
    assert!(
        differs.is_empty(),
        "{} of {} hashes differ from golden.txt",
        differs.len(),
        found.len()
    );
    println!("{} hashes equal the committed ones", found.len());
}

/// A case with its options, and an op.
type Key = (String, String);

/// The hash of each op of each case.
fn by_case(lines: &[String]) -> BTreeMap<Key, String> {
    let mut hashes = BTreeMap::new();
    let mut case = "";
    for line in lines {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [op, hash] if line.starts_with(' ') => {
                hashes.insert((case.to_owned(), op.to_owned()), hash.to_owned());
            }
            _ => case = line,
        }
    }
    hashes
}
