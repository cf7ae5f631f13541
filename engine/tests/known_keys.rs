//! The law that no known key of a file is ignored without a word: it changes what is read, or a warning or an error names
//! it. `known_keys.txt` lists the keys, from llama.cpp.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use gguf::{Array, File, Value};
use karat::{Recommended, gguf, tokenizer};
use tokenizer::Vocab;

/// Keys that say how a model was made and change no number of it, whatever they say.
const INFORMATION: &[&str] = &["{arch}.rope.scaling.finetuned", "{arch}.tensor_data_layout"];

/// The metadata of a small model, with one key in place of its own.
fn file(arch: &str, key: &str, value: Value) -> File {
    let tokens = Value::from(vec!["<unk>", "<s>", "</s>", "a", "b", "ab", "c", "d"]);
    let kinds = vec![2i32, 3, 3, 1, 1, 1, 1, 1];
    let mut keys: Vec<(String, Value)> = vec![
        ("general.architecture".into(), arch.into()),
        ("tokenizer.ggml.model".into(), "gpt2".into()),
        ("tokenizer.ggml.pre".into(), "gpt-2".into()),
        ("tokenizer.ggml.tokens".into(), tokens),
        ("tokenizer.ggml.token_type".into(), kinds.into()),
        ("tokenizer.ggml.merges".into(), vec!["a b"].into()),
    ];
    let counts = [
        ("block_count", 7u32),
        ("context_length", 512),
        ("embedding_length", 96),
        ("feed_forward_length", 160),
        ("attention.head_count", 6),
        ("attention.head_count_kv", 2),
        ("rope.dimension_count", 16),
        ("attention.sliding_window", 0),
    ];
    keys.extend(counts.map(|(key, n)| (format!("{arch}.{key}"), n.into())));
    let known = model::arch::ARCHS.iter().find(|known| known.name == arch).unwrap();
    keys.push((format!("{arch}.{}", known.eps_key()), 1e-5f32.into()));
    for (name, value) in known.usual_keys() {
        let name = format!("{arch}.{name}");
        keys.retain(|(own, _)| *own != name);
        keys.push((name, value.clone()));
    }
    if arch == "lfm2" {
        // Layers of both sorts: those without heads have a convolution.
        let heads = format!("{arch}.attention.head_count_kv");
        keys.retain(|(own, _)| *own != heads);
        keys.push((heads, vec![0u32, 2, 0, 2, 0, 2, 0].into()));
        keys.push((format!("{arch}.shortconv.l_cache"), 3u32.into()));
    }
    if arch.ends_with("moe") {
        keys.push((format!("{arch}.expert_count"), 4u32.into()));
        keys.push((format!("{arch}.expert_used_count"), 2u32.into()));
    }
    // So that a factor and an original context mean something.
    keys.push((format!("{arch}.rope.scaling.type"), "yarn".into()));
    keys.push((format!("{arch}.rope.scaling.factor"), 4.0f32.into()));
    keys.retain(|(own, _)| own != key);
    keys.push((key.to_owned(), value));
    let mut builder = gguf::Builder::new();
    for (key, value) in keys {
        builder = builder.kv(&key, value);
    }
    File::from_bytes(builder.build().unwrap()).unwrap()
}

/// Everything that karat reads of a file's metadata, as text without the warnings; and what it says of it.
struct Read {
    data: String,
    said: Vec<String>,
}

fn read(file: &File) -> Read {
    let (mut data, mut said) = (String::new(), Vec::new());
    match model::spec(file) {
        Ok(mut spec) => {
            said.append(&mut spec.warnings);
            data += &format!("{spec:?}");
        }
        Err(error) => said.push(error.to_string()),
    }
    match Vocab::from_metadata(|key| file.get(key)) {
        Ok(mut vocab) => {
            said.append(&mut vocab.warnings);
            data += &format!("{vocab:?}");
        }
        Err(error) => said.push(error.to_string()),
    }
    let mut sampling = Recommended::of(file);
    said.append(&mut sampling.warnings);
    Read { data: data + &format!("{sampling:?}"), said }
}

/// Values of every type that keys have.
fn probes() -> Vec<Value> {
    let mut all: Vec<Value> = vec![true.into(), false.into()];
    all.extend([0u32, 1, 2, 3, 4, 7, 8, 64, 100_000].map(Value::from));
    all.push((-1i32).into());
    all.extend([0.0f32, 0.25, 2.0, 5000.0].map(Value::from));
    all.extend(["x", "none", "llama", "top_k"].map(Value::from));
    all.push(vec![0.5f32; 8].into());
    all.push(vec![1i32; 7].into());
    all.push(vec![2u32; 8].into());
    all.push(Value::Array(Array::Bool(vec![true; 7])));
    all.push(Value::from(vec!["a b", "b a"]));
    all.push(Value::from(vec!["a", "b", "c", "d", "e", "f", "ab", "g"]));
    all
}

/// Whether some value of the right type makes a difference: in what is read, or in what is said of the key.
fn is_noticed(arch: &str, key: &str) -> bool {
    let key = key.replace("{arch}", arch);
    let probes = probes();
    let mut seen = Vec::new();
    for value in probes {
        let Read { data, said } = read(&file(arch, &key, value));
        let names = |line: &&String| line.contains(&key);
        let is_wrong_type = |line: &String| line.contains("wanted");
        match said.iter().find(names) {
            // That a type is wrong says nothing of whether the value is used.
            Some(line) if is_wrong_type(line) => {}
            Some(_) => return true,
            None => seen.push(data),
        }
    }
    seen.windows(2).any(|pair| pair[0] != pair[1])
}

#[test]
fn no_known_key_is_ignored_without_a_word() {
    let list = include_str!("known_keys.txt");
    let keys: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(keys.len() > 200);
    let mut ignored = Vec::new();
    for arch in model::arch::ARCHS {
        let whole = file(arch.name, "general.name", "x".into());
        assert!(model::spec(&whole).is_ok(), "{}: {:?}", arch.name, read(&whole).said);
        for key in &keys {
            if !INFORMATION.contains(key) && !is_noticed(arch.name, key) {
                ignored.push(format!("{}: {key}", arch.name));
            }
        }
    }
    assert!(ignored.is_empty(), "{ignored:#?}");
}

/// What keeps the test above honest: it sees a key that nobody reads.
#[test]
fn a_key_that_nobody_reads_is_seen() {
    for key in ["general.sampling.made_up", "tokenizer.ggml.made_up", "general.name_of_nothing"] {
        assert!(!is_noticed("llama", key), "{key}");
    }
    assert!(!is_noticed("llama", INFORMATION[0]));
}
