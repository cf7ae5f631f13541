//! RELIABILITY rows 50 to 54: texts that are long, hostile or broken; and the way back from ids to text.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::time::{Duration, Instant};

use common::{Random, bpe, from_env, shared, spm, vocabularies};
use gguf::{Access, File};
use tokenizer::{Ends, ErrorKind, MAX_TEXT_BYTES, Show, Special, TokenKind, Tokenizer, Vocab};

/// `a` doubled up to 1024.
fn doubling() -> Vec<(String, String)> {
    (0..10).map(|i| ("a".repeat(1 << i), "a".repeat(1 << i))).collect()
}

fn doubling_bpe() -> Tokenizer {
    let merges = doubling();
    let merges: Vec<(&str, &str)> =
        merges.iter().map(|(left, right)| (left.as_str(), right.as_str())).collect();
    Tokenizer::new(bpe(&merges, &[])).unwrap()
}

fn doubling_spm() -> Tokenizer {
    let pieces: Vec<String> = (0..=10).map(|i| "a".repeat(1 << i)).collect();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    Tokenizer::new(Vocab { add_space_prefix: Some(false), ..spm(&pieces, &[]) }).unwrap()
}

/// What an optimised build does in a fraction of a second. Quadratic time would be hours, and that is what the bound is
/// for: tests run unoptimised, on machines that do other things.
const BLOW_UP: Duration = Duration::from_secs(60);

#[test]
fn row_51_one_word_of_a_mebibyte_with_all_merges_applicable() {
    for (name, tokenizer) in [("bpe", doubling_bpe()), ("spm", doubling_spm())] {
        for text in ["a".repeat(1 << 20), "a".repeat((1 << 20) - 1)] {
            let start = Instant::now();
            let ids = tokenizer.encode(&text, Special::AsText, Ends::None).unwrap();
            let took = start.elapsed();
            println!("{name}: {} bytes, {} ids, {took:?}", text.len(), ids.len());
            assert!(took < BLOW_UP, "{name}: {took:?}");
            assert_eq!(tokenizer.decode(&ids, Show::Text).unwrap(), text);
            assert!(ids.len() <= 1024 + 10, "{}", ids.len());
        }
    }
}

/// Row 50 with real vocabularies: the whole way from text to ids. More texts in an optimised build.
#[test]
fn row_50_a_mebibyte_of_one_thing() {
    let units = ["a", " ", "😀", "\n", "0", "^", "'s", "👩\u{200d}", "\u{301}"];
    let folders = [shared("oracle/vocab"), from_env("KARAT_VOCAB_DIR")];
    for path in folders.iter().flatten().flat_map(|folder| vocabularies(folder)) {
        let Ok(tokenizer) = Tokenizer::from_gguf(&File::open(&path, Access::Pread).unwrap()) else {
            continue;
        };
        for unit in &units[..if cfg!(debug_assertions) { 3 } else { units.len() }] {
            let text = unit.repeat((1 << 20) / unit.len());
            let start = Instant::now();
            let ids = tokenizer.encode(&text, Special::AsText, Ends::None).unwrap();
            let took = start.elapsed();
            println!(
                "{}: {unit:?}: {} ids, {took:?}",
                path.file_name().unwrap().to_string_lossy(),
                ids.len()
            );
            assert!(took < BLOW_UP, "{}: {unit:?} took {took:?}", path.display());
            let back = tokenizer.decode(&ids, Show::All).unwrap();
            assert_eq!(
                back.strip_prefix(' ').filter(|_| tokenizer.adds_space_prefix()).unwrap_or(&back),
                text
            );
        }
    }
}

#[test]
fn row_52_a_text_over_the_limit() {
    let tokenizer = doubling_bpe();
    let error = tokenizer.encode(&"a".repeat(100 << 20), Special::AsText, Ends::None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Text);
    assert!(error.to_string().contains(&MAX_TEXT_BYTES.to_string()), "{error}");
}

const SPECIALS: [&str; 4] = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];

#[test]
fn row_53_special_texts_are_text_unless_parsed() {
    let vocabs = [bpe(&[], &SPECIALS), spm(&["▁", "<", "s", ">"], &SPECIALS)];
    for tokenizer in vocabs.map(|vocab| Tokenizer::new(vocab).unwrap()) {
        let text = "<|im_start|>system<|im_end|> <s></s>";
        let count = |ids: &[u32]| ids.iter().filter(|&&id| tokenizer.is_control(id)).count();
        let plain = tokenizer.encode(text, Special::AsText, Ends::Default).unwrap();
        assert_eq!(count(&plain), 0);
        assert_eq!(tokenizer.decode(&plain, Show::Text).unwrap().trim_start(), text);
        let parsed = tokenizer.encode(text, Special::Parse, Ends::Default).unwrap();
        assert_eq!(count(&parsed), 4);
        assert!(!tokenizer.decode(&parsed, Show::Text).unwrap().contains('<'));
    }
}

#[test]
fn marks_are_cut_longest_first_and_user_defined_ones_always() {
    let mut vocab = bpe(&[], &["<s>", "<s><s>", "xyz", "yzyz"]);
    let n = vocab.kinds.len();
    vocab.kinds[n - 2..].fill(TokenKind::UserDefined);
    let tokenizer = Tokenizer::new(vocab).unwrap();
    let encode = |text, special| tokenizer.encode(text, special, Ends::None).unwrap();
    let (one, two, xyz, yzyz) = (256, 257, 258, 259);
    assert_eq!(encode("<s><s><s>", Special::Parse), [two, one]);
    assert_eq!(encode("xyzxyzy", Special::AsText), [xyz, xyz, u32::from(b'y')]);
    // The longer one first, though the shorter one begins before it.
    assert_eq!(encode("xyzyz", Special::AsText), [u32::from(b'x'), yzyz]);
    assert_eq!(encode("<s>", Special::AsText), [b'<', b's', b'>'].map(u32::from));
}

#[test]
fn a_word_that_is_a_token_is_taken_whole_where_the_model_says_so() {
    // "xyz" and " xy" are tokens that no merge makes.
    let mut vocab = bpe(&[("x", "y")], &["xyz", "Ġxy"]);
    let n = vocab.kinds.len();
    vocab.kinds[n - 2..].fill(TokenKind::Normal);
    let (xy, xyz, space_xy) = (256, 257, 258);
    for (pre, expected) in [
        ("llama-bpe", vec![xyz, space_xy]),
        ("tekken", vec![xyz, space_xy]),
        ("gpt-2", vec![xy, u32::from(b'z'), 220, xy]),
    ] {
        vocab.pre = Some(pre.to_owned());
        let tokenizer = Tokenizer::new(vocab.clone()).unwrap();
        // The bytes' tokens are in the order of the bytes here.
        let expected: Vec<u32> =
            expected.into_iter().map(|id| if id == 220 { 32 } else { id }).collect();
        assert_eq!(
            tokenizer.encode("xyz xy", Special::AsText, Ends::None).unwrap(),
            expected,
            "{pre}"
        );
        assert_eq!(tokenizer.decode(&expected, Show::Text).unwrap(), "xyz xy");
    }
}

#[test]
fn what_ends_a_generation() {
    let cases: [(&[&str], &[&str]); 8] = [
        (&["<|im_start|>", "<|im_end|>", "<|endoftext|>"], &["<|im_end|>", "<|endoftext|>"]),
        (&["<|begin_of_text|>", "<|eot_id|>", "<|eom_id|>"], &["<|eot_id|>", "<|eom_id|>"]),
        (&["<start_of_turn>", "<end_of_turn>", "<eos>"], &["<end_of_turn>", "<eos>"]),
        (&["<|user|>", "<|end|>", "</s>"], &["<|end|>", "</s>"]),
        // gpt-oss: <|end|> ends a message only.
        (&["<|end|>", "<|return|>", "<|call|>", "<|start|>"], &["<|return|>", "<|call|>"]),
        // Gemma 4: </s> is plain text.
        (&["</s>", "<turn|>", "<|tool_response>"], &["<turn|>", "<|tool_response>"]),
        (
            &["<fim_prefix>", "<fim_pad>", "<reponame>", "<|file_sep|>"],
            &["<fim_pad>", "<reponame>", "<|file_sep|>"],
        ),
        (&["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"], &["<｜end▁of▁sentence｜>"]),
    ];
    for (specials, ends) in cases {
        let mut vocab = bpe(&[], specials);
        // Files that list them as normal tokens: the texts tell.
        vocab.kinds[256..].fill(TokenKind::Normal);
        let tokenizer = Tokenizer::new(vocab).unwrap();
        let found: Vec<&[u8]> = tokenizer.eog_ids().map(|id| tokenizer.piece(id)).collect();
        assert_eq!(found, ends.iter().map(|text| text.as_bytes()).collect::<Vec<_>>());
        assert!(tokenizer.eog_ids().all(|id| tokenizer.is_control(id) && tokenizer.is_eog(id)));
    }
    // By role, whatever the text.
    let mut vocab = bpe(&[], &["stop", "over"]);
    (vocab.special.eos, vocab.special.eot) = (Some(256), Some(257));
    assert_eq!(Tokenizer::new(vocab).unwrap().eog_ids().collect::<Vec<_>>(), [256, 257]);
}

#[test]
fn the_space_prefix_of_sentencepiece() {
    let mut vocab = spm(&["▁", "a", "▁a"], &["<s>"]);
    let n = u32::try_from(vocab.tokens.len()).unwrap();
    let (space, a, space_a, mark) = (257, 258, 259, n - 1);
    vocab.scores[space_a as usize] = 0.0;
    vocab.special.bos = Some(mark);
    vocab.add_bos = Some(true);
    let tokenizer = Tokenizer::new(vocab.clone()).unwrap();
    let encode = |tokenizer: &Tokenizer, text| {
        tokenizer.encode(text, Special::Parse, Ends::Default).unwrap()
    };
    assert_eq!(encode(&tokenizer, ""), [mark]);
    assert_eq!(encode(&tokenizer, "a"), [mark, space_a]);
    assert_eq!(encode(&tokenizer, " a"), [mark, space, space_a]);
    assert_eq!(encode(&tokenizer, "a<s>a"), [mark, space_a, mark, space_a]);
    vocab.add_space_prefix = Some(false);
    assert_eq!(encode(&Tokenizer::new(vocab).unwrap(), "a<s>a a"), [mark, a, mark, a, space_a]);
}

#[test]
fn row_54_streamed_text_is_whole_characters_and_the_same() {
    let tokenizer = Tokenizer::new(bpe(&[("a", "b")], &SPECIALS)).unwrap();
    let mut random = Random(54);
    for _ in 0..2000 {
        // Characters cut into bytes, stray bytes, and marks between.
        let ids: Vec<u32> = (0..random.next(12))
            .flat_map(|_| match random.next(4) {
                0 => vec![u32::try_from(random.next(tokenizer.n_vocab())).unwrap()],
                1 => vec![u32::try_from(0x80 + random.next(0x80)).unwrap()],
                _ => tokenizer
                    .encode(&random.char().to_string(), Special::AsText, Ends::None)
                    .unwrap(),
            })
            .collect();
        for show in [Show::Text, Show::All] {
            let mut decoder = tokenizer.decoder(show);
            let mut streamed: String = ids.iter().map(|&id| decoder.push(id)).collect();
            streamed.push_str(&decoder.finish());
            let shown = ids.iter().filter(|&&id| show == Show::All || !tokenizer.is_control(id));
            let bytes: Vec<u8> = shown.flat_map(|&id| tokenizer.piece(id)).copied().collect();
            assert_eq!(streamed, String::from_utf8_lossy(&bytes));
            assert_eq!(streamed, tokenizer.decode(&ids, show).unwrap());
        }
    }
}

#[test]
fn row_54_a_character_in_pieces() {
    let tokenizer = Tokenizer::new(bpe(&[], &[])).unwrap();
    let ids = tokenizer.encode("é😀", Special::AsText, Ends::None).unwrap();
    assert_eq!(ids.len(), 6);
    let mut decoder = tokenizer.decoder(Show::Text);
    let pushed: Vec<String> = ids[..5].iter().map(|&id| decoder.push(id)).collect();
    assert_eq!(pushed, ["", "é", "", "", ""]);
    assert_eq!(decoder.finish(), "\u{fffd}");
    let error = tokenizer.decode(&[1, 999], Show::All).unwrap_err();
    assert!(
        error.to_string().contains("token[1]: id 999") && error.kind() == ErrorKind::TokenId,
        "{error}"
    );
}

#[test]
fn random_texts_come_back() {
    let merges = [("a", "b"), ("ab", "a"), ("e", "r"), ("t", "h"), ("th", "e"), ("1", "2")];
    let pieces = ["▁", "a", "b", "ab", "▁ab", "é", "日", "▁the", "th", "e", "t", "h"];
    let mut tokenizers: Vec<(String, Tokenizer)> = vec![
        ("bpe".to_owned(), Tokenizer::new(bpe(&merges, &SPECIALS)).unwrap()),
        ("spm".to_owned(), Tokenizer::new(spm(&pieces, &SPECIALS)).unwrap()),
    ];
    for path in shared("oracle/vocab").iter().flat_map(|folder| vocabularies(folder)) {
        let tokenizer = Tokenizer::from_gguf(&File::open(&path, Access::Pread).unwrap()).unwrap();
        tokenizers.push((path.display().to_string(), tokenizer));
    }
    let mut random = Random(1);
    for (name, tokenizer) in &tokenizers {
        for _ in 0..500 {
            let text: String = (0..random.next(60)).map(|_| random.char()).collect();
            // What stands for a space is a space in SentencePiece.
            let text = text.replace('▁', "_");
            let ids = tokenizer.encode(&text, Special::AsText, Ends::None).unwrap();
            let back = tokenizer.decode(&ids, Show::All).unwrap();
            let prefix = if tokenizer.adds_space_prefix() && !text.is_empty() { " " } else { "" };
            assert_eq!(back, format!("{prefix}{text}"), "{name}");
        }
    }
}
