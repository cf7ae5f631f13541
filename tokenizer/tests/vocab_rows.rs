//! RELIABILITY rows 44 to 49: vocabularies that are wrong, one test a row.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;

use common::{bpe, spm};
use gguf::Value;
use tokenizer::{
    Ends, ErrorKind, MAX_TOKEN_BYTES, MAX_TOKENS, Show, Special, TokenKind, Tokenizer, Vocab,
};

/// A sound file's metadata.
fn sound() -> BTreeMap<&'static str, Value> {
    BTreeMap::from([
        ("tokenizer.ggml.model", Value::from("gpt2")),
        ("tokenizer.ggml.pre", Value::from("gpt-2")),
        ("tokenizer.ggml.tokens", Value::from(vec!["a", "b", "ab", "<|endoftext|>"])),
        ("tokenizer.ggml.token_type", Value::from(vec![1i32, 1, 1, 3])),
        ("tokenizer.ggml.scores", Value::from(vec![0f32; 4])),
        ("tokenizer.ggml.merges", Value::from(vec!["a b"])),
        ("tokenizer.ggml.eos_token_id", Value::from(3u32)),
        ("tokenizer.ggml.add_bos_token", Value::from(false)),
    ])
}

fn load(meta: &BTreeMap<&str, Value>) -> tokenizer::Result<Tokenizer> {
    Tokenizer::new(Vocab::from_metadata(|key| meta.get(key))?)
}

/// The one-line message of a file that differs from the sound one in `key`.
fn refused(key: &'static str, value: Option<Value>) -> String {
    let mut meta = sound();
    match value {
        Some(value) => meta.insert(key, value),
        None => meta.remove(key),
    };
    let error = load(&meta).expect_err(key);
    assert_eq!(error.kind(), ErrorKind::Vocab);
    let message = error.to_string();
    assert!(message.contains(key) && !message.contains('\n'), "{message}");
    message
}

#[test]
fn the_sound_file_loads() {
    let tokenizer = load(&sound()).unwrap();
    assert_eq!(tokenizer.encode("abba", Special::AsText, Ends::Default).unwrap(), [2, 1, 0]);
    assert_eq!(tokenizer.eog_ids().collect::<Vec<_>>(), [3]);
    assert!(tokenizer.warnings().is_empty(), "{:?}", tokenizer.warnings());
}

#[test]
fn row_44_lists_missing_mistyped_or_of_other_lengths() {
    for key in ["tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"] {
        assert!(refused(key, None).starts_with("missing key"), "{key}");
    }
    let mistyped = [
        ("tokenizer.ggml.model", Value::from(1u32)),
        ("tokenizer.ggml.tokens", Value::from(vec![1u32])),
        ("tokenizer.ggml.tokens", Value::from("a")),
        ("tokenizer.ggml.merges", Value::from(vec![1i32])),
        ("tokenizer.ggml.scores", Value::from(vec!["0"])),
        ("tokenizer.ggml.token_type", Value::from(vec![1f32; 4])),
        ("tokenizer.ggml.add_bos_token", Value::from(1u32)),
        ("tokenizer.ggml.pre", Value::from(1u32)),
        ("tokenizer.chat_template", Value::from(vec!["a"])),
    ];
    for (key, value) in mistyped {
        assert!(refused(key, Some(value)).contains("wanted"), "{key}");
    }
    for length in [0, 3, 5] {
        let message = refused("tokenizer.ggml.scores", Some(Value::from(vec![0f32; length])));
        assert!(message.contains(&format!("{length} entries, expected 4")), "{message}");
        refused("tokenizer.ggml.token_type", Some(Value::from(vec![1i32; length])));
    }
    let message =
        refused("tokenizer.ggml.scores", Some(Value::from(vec![0.0, 0.0, f32::NAN, 0.0])));
    assert!(message.contains("scores[2]"), "{message}");
}

#[test]
fn row_44_malformed_merges() {
    let cases = [
        ("a", "one part"),
        ("a ", "one part"),
        (" ", "one part"),
        ("", "one part"),
        ("a b c", "more than two parts"),
    ];
    for (merge, what) in cases {
        let message = refused("tokenizer.ggml.merges", Some(Value::from(vec!["a b", merge])));
        assert!(message.contains("merges[1]") && message.contains(what), "{merge:?}: {message}");
    }
}

/// A merge of what is no token can never apply. GPT-2's merges.txt begins with such a line.
#[test]
fn row_44_merges_of_no_token_are_left_out() {
    for (first, other) in
        [("x b", "a x"), ("#version: 0.2", "b a"), ("#version: 0.2 - made by", "q zzz")]
    {
        let mut meta = sound();
        meta.insert("tokenizer.ggml.merges", Value::from(vec![first, "a b", other]));
        let tokenizer = load(&meta).unwrap();
        assert_eq!(tokenizer.encode("abba", Special::AsText, Ends::None).unwrap(), [2, 1, 0]);
        let warnings = tokenizer.warnings();
        let wanted = format!(
            "tokenizer.ggml.merges: 2 of 3 name or make something that is no token \
                              and never apply, the first is \"{first}\" at 0"
        );
        assert_eq!(warnings, [wanted]);
    }
}

#[test]
fn row_45_token_texts() {
    let with = |tokens: Vec<&str>| {
        let mut vocab = bpe(&[], &[]);
        let n = tokens.len();
        let all: Vec<Vec<u8>> = vocab.tokens.iter().map(<[u8]>::to_vec).collect();
        let added = tokens.iter().map(|text| text.as_bytes().to_vec());
        vocab.tokens = all.into_iter().chain(added).collect();
        vocab.kinds.extend(vec![TokenKind::Normal; n]);
        vocab.scores.extend(vec![0.0; n]);
        Tokenizer::new(vocab)
    };
    let longest = "a".repeat(MAX_TOKEN_BYTES);
    assert!(with(vec![&longest]).is_ok());
    let message = with(vec![&format!("{longest}a")]).unwrap_err().to_string();
    assert!(message.contains("tokens[256]") && message.contains("65537"), "{message}");

    // A text that occurs twice is the first's; the second and an empty one still decode, and a warning says so.
    let tokenizer = with(vec!["a", "", "a"]).unwrap();
    assert_eq!(tokenizer.encode("a", Special::AsText, Ends::None).unwrap(), [u32::from(b'a')]);
    assert_eq!(tokenizer.decode(&[256, 257, 258], Show::All).unwrap(), "aa");
    assert!(tokenizer.warnings().iter().any(|w| w.contains("2 texts repeat") && w.contains("256")));
    assert!(
        tokenizer.warnings().iter().any(|w| w.contains("1 texts are empty") && w.contains("257"))
    );
}

#[test]
fn row_45_number_of_tokens() {
    let mut vocab =
        Vocab { tokens: std::iter::repeat_n("", MAX_TOKENS + 1).collect(), ..Vocab::default() };
    vocab.kinds = vec![TokenKind::Normal; MAX_TOKENS + 1];
    vocab.scores = vec![0.0; MAX_TOKENS + 1];
    let message = Tokenizer::new(vocab).unwrap_err().to_string();
    assert!(message.contains("4194305 tokens"), "{message}");
    refused("tokenizer.ggml.tokens", Some(Value::from(Vec::<&str>::new())));
}

#[test]
fn row_46_special_ids() {
    let roles = "bos eos eot eom unknown padding fim_pre fim_suf fim_mid fim_pad fim_rep fim_sep prefix suffix middle \
                 seperator cls mask";
    for role in roles.split_whitespace() {
        let key: &'static str = format!("tokenizer.ggml.{role}_token_id").leak();
        for (value, shown) in
            [(Value::from(4u32), "4"), (Value::from(-1i32), "-1"), (u32::MAX.into(), "4294967295")]
        {
            let mut meta = sound();
            meta.insert(key, value);
            let tokenizer = load(&meta).unwrap();
            let wanted = format!(
                "{key}: token id {shown} is outside of the vocabulary (0..4); taken as not given"
            );
            assert!(tokenizer.warnings().contains(&wanted), "{:?}", tokenizer.warnings());
            // As if the key were not there.
            meta.remove(key);
            let without = load(&meta).unwrap();
            assert_eq!(tokenizer.warnings().len(), without.warnings().len() + 1);
            let roles = |t: &Tokenizer| (t.bos(), t.eos(), t.eog_ids().collect::<Vec<_>>());
            assert_eq!(roles(&tokenizer), roles(&without), "{key}");
        }
        refused(key, Some(Value::from("3")));
        let mut meta = sound();
        meta.insert(key, Value::from(3u64));
        assert!(load(&meta).is_ok(), "{key}");
    }
}

#[test]
fn suppressed_ids() {
    let mut meta = sound();
    let key = "tokenizer.ggml.suppress_tokens";
    meta.insert(key, Value::from(vec![2i32, 0, 2, -1, 4]));
    let tokenizer = load(&meta).unwrap();
    assert_eq!(tokenizer.suppressed(), [0, 2]);
    assert!(tokenizer.warnings().iter().any(|w| w.starts_with(key) && w.contains("id -1 ")));
    assert!(refused(key, Some(Value::from(3u32))).contains("wanted an array of i32"));
}

#[test]
fn keys_of_other_tokenizers_are_named_unless_they_say_no() {
    for (key, off, on) in [
        ("tokenizer.ggml.add_sep_token", Value::from(false), Value::from(true)),
        ("tokenizer.ggml.remove_extra_whitespaces", false.into(), true.into()),
        ("tokenizer.ggml.token_type_count", 0u32.into(), 2u32.into()),
        ("tokenizer.ggml.normalizer.lowercase", false.into(), true.into()),
        ("tokenizer.ggml.precompiled_charsmap", Vec::<u32>::new().into(), vec![1u32].into()),
    ] {
        let mut meta = sound();
        meta.insert(key, off);
        assert!(load(&meta).unwrap().warnings().is_empty(), "{key}");
        meta.insert(key, on);
        assert!(load(&meta).unwrap().warnings()[0].starts_with(key), "{key}");
    }
}

#[test]
fn a_second_bos_or_eos_is_told() {
    let mut meta = sound();
    meta.insert("tokenizer.ggml.bos_token_id", Value::from(3u32));
    meta.insert("tokenizer.ggml.add_bos_token", Value::from(true));
    meta.insert("tokenizer.ggml.add_eos_token", Value::from(true));
    let tokenizer = load(&meta).unwrap();
    let doubled = |text: &str| {
        let ids = tokenizer.encode(text, Special::Parse, Ends::Default).unwrap();
        tokenizer.doubled_end(&ids).map(|warning| warning.contains("BOS"))
    };
    assert_eq!(doubled("ab"), None);
    assert_eq!(doubled("<|endoftext|>ab"), Some(true));
    assert_eq!(doubled("ab<|endoftext|>"), Some(false));
}

#[test]
fn row_46_no_special_ids_at_all() {
    let mut vocab = bpe(&[], &[]);
    vocab.add_bos = Some(true);
    vocab.add_eos = Some(true);
    let tokenizer = Tokenizer::new(vocab).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (None, None, false));
    assert_eq!(tokenizer.encode("a", Special::Parse, Ends::Default).unwrap(), [u32::from(b'a')]);
    assert!(tokenizer.warnings().iter().any(|w| w.contains("stops by length only")));

    // One token.
    let tokenizer = Tokenizer::new(Vocab {
        tokens: ["a"].into_iter().collect(),
        kinds: vec![TokenKind::Normal],
        scores: vec![0.0],
        ..Vocab::default()
    })
    .unwrap();
    assert_eq!(tokenizer.encode("aa", Special::AsText, Ends::Default).unwrap(), [0, 0]);
    let error = tokenizer.encode("ab", Special::AsText, Ends::Default).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Text);
    assert!(error.to_string().contains("0x62"), "{error}");
}

#[test]
fn row_47_byte_tokens() {
    // Not bytes' names: texts like any other, whatever their kind says.
    for name in ["<0x-1>", "<0xZZ>", "<0x100>", "<0x1>", "<0x>", "<0x+1>"] {
        let mut vocab = spm(&["a"], &[name]);
        *vocab.kinds.last_mut().unwrap() = TokenKind::Byte;
        let tokenizer = Tokenizer::new(vocab).unwrap();
        let id = u32::try_from(tokenizer.n_vocab() - 1).unwrap();
        assert_eq!(tokenizer.piece(id), name.as_bytes());
    }
    // Without a byte's token the text is unknown, or refused where the vocabulary has no token for that either.
    let mut vocab = spm(&["a"], &[]);
    let mut tokens: Vec<Vec<u8>> = vocab.tokens.iter().map(<[u8]>::to_vec).collect();
    tokens[1 + 0xc3] = b"<0xQQ>".to_vec();
    vocab.tokens = tokens.iter().collect();
    vocab.add_space_prefix = Some(false);
    let encode = |vocab: &Vocab| {
        Tokenizer::new(vocab.clone()).unwrap().encode("aé", Special::AsText, Ends::None)
    };
    assert_eq!(encode(&vocab).unwrap(), [257, 0, 1 + 0xa9]);
    vocab.special.unk = None;
    vocab.kinds[0] = TokenKind::Normal;
    let error = encode(&vocab).unwrap_err();
    assert!(error.kind() == ErrorKind::Text && error.to_string().contains("0xc3"), "{error}");
}

#[test]
fn row_48_kinds_of_tokenizers_with_a_charsmap_are_refused_by_name() {
    for model in ["t5", "bert", "rwkv", "plamo2", "no_vocab", "", "llama\u{1b}[31m"] {
        let message = refused("tokenizer.ggml.model", Some(Value::from(model)));
        assert!(
            message.contains("supported: llama, gpt2") && !message.contains('\u{1b}'),
            "{message}"
        );
    }
    let message = refused("tokenizer.ggml.pre", Some(Value::from("gpt-3")));
    assert!(message.contains("\"gpt-3\"") && message.contains("smollm"), "{message}");
}

/// Texts that collide under multiply-and-add hashes (two-character blocks of equal hash in all combinations).
#[test]
fn row_49_texts_made_to_collide() {
    let n = 15;
    let tokens: Vec<String> = (0..1u32 << n)
        .map(|bits| (0..n).map(|i| if bits >> i & 1 == 0 { "Aa" } else { "BB" }).collect())
        .collect();
    let vocab = Vocab {
        kinds: vec![TokenKind::Normal; tokens.len()],
        scores: vec![0.0; tokens.len()],
        tokens: tokens.iter().collect(),
        ..Vocab::default()
    };
    let start = std::time::Instant::now();
    let tokenizer = Tokenizer::new(vocab).unwrap();
    assert_eq!(tokenizer.id_of(&tokens[12345]), Some(12345));
    // Some 30 ms; with a list per hash it would be 32768² / 2 comparisons.
    assert!(start.elapsed().as_secs() < 3, "{:?}", start.elapsed());
}
