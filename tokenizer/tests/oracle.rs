//! The ids that llama.cpp gives, for every vocabulary with cases, and the round trip back to the text.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests")]

mod common;

use std::path::Path;

use common::{beside, from_env, model, say_skipped, shared, vocabularies};
use gguf::{Access, File};
use tokenizer::{Chat, ChatTemplate, Ends, ErrorKind, Message, Show, Special, Tokenizer};

#[test]
fn vocabulary_cases() {
    let folders: Vec<_> =
        [shared("oracle/vocab"), from_env("KARAT_VOCAB_DIR")].into_iter().flatten().collect();
    let mut failures = Vec::new();
    for path in folders.iter().flat_map(|folder| vocabularies(folder)) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let file = File::open(&path, Access::Pread).unwrap();
        match Tokenizer::from_gguf(&file) {
            Ok(tokenizer) => {
                println!("{name}: {} warnings {:?}", tokenizer.n_vocab(), tokenizer.warnings());
                failures.extend(failures_of(&tokenizer, &path));
            }
            Err(error) if error.to_string().contains("unsupported") => {
                assert_eq!(error.kind(), ErrorKind::Vocab);
                say_skipped(&format!("{name}: {error}"));
            }
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// The cases of one vocabulary that come out differently.
fn failures_of(tokenizer: &Tokenizer, path: &Path) -> Vec<String> {
    let input = std::fs::read_to_string(beside(path, ".inp")).unwrap();
    let output = std::fs::read_to_string(beside(path, ".out")).unwrap();
    let texts: Vec<&str> = input.split("\n__ggml_vocab_test__\n").collect();
    let expected: Vec<Vec<u32>> = output
        .lines()
        .map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect())
        .collect();
    // The list of texts ends with a separator.
    assert_eq!(texts.len(), expected.len() + 1, "{}", path.display());
    let mut failures = Vec::new();
    for (text, expected) in texts.iter().zip(&expected) {
        let ids = tokenizer.encode(text, Special::AsText, Ends::None).unwrap();
        if &ids != expected {
            failures.push(format!("{}: {text:?}: {ids:?}, expected {expected:?}", path.display()));
        }
        let back = tokenizer.decode(&ids, Show::All).unwrap();
        let prefix = tokenizer.adds_space_prefix() && !text.is_empty();
        if back != format!("{}{text}", if prefix { " " } else { "" }) {
            failures.push(format!("{}: {text:?} came back as {back:?}", path.display()));
        }
    }
    println!("{}: {} cases", path.file_name().unwrap().to_string_lossy(), expected.len());
    failures
}

/// The prompts of the greedy runs, chat prompt included, with the ids that llama.cpp had.
#[test]
fn prompts_of_the_default_model() {
    let (Some(runs), Some(model)) = (
        shared("oracle/smollm2_greedy.json"),
        model("KARAT_TEST_MODEL", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ) else {
        return;
    };
    let tokenizer = Tokenizer::from_gguf(&File::open(&model, Access::Pread).unwrap()).unwrap();
    let runs: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(runs).unwrap()).unwrap();
    let cases = runs["cases"].as_object().unwrap();
    for (name, case) in cases {
        let (_, prompt) = name.split_once('/').unwrap();
        let text =
            std::fs::read_to_string(shared(&format!("oracle/prompts/{prompt}.txt")).unwrap())
                .unwrap();
        let expected: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        let ids = tokenizer.encode(&text, Special::Parse, Ends::Default).unwrap();
        assert_eq!(ids, expected, "{name}");
        assert_eq!(tokenizer.decode(&ids, Show::All).unwrap(), text, "{name}");
    }
    assert_eq!(cases.len(), 35);

    // The chat prompt is what the file's template makes.
    let template = ChatTemplate::from_tokenizer(&tokenizer).unwrap();
    let messages = [Message::new("user", "Why is the sky blue?")];
    let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
    let text = std::fs::read_to_string(shared("oracle/prompts/chat.txt").unwrap()).unwrap();
    assert_eq!(template.render(&chat).unwrap(), text);
    let expected: Vec<u32> = serde_json::from_value(cases["Q4_1/chat"]["tokens"].clone()).unwrap();
    assert_eq!(template.encode(&tokenizer, &chat).unwrap(), expected);
    let ends: Vec<&str> =
        tokenizer.eog_ids().map(|id| std::str::from_utf8(tokenizer.piece(id)).unwrap()).collect();
    println!("ends a generation: {ends:?}");
    assert!(ends.contains(&"<|im_end|>") && ends.contains(&"<|endoftext|>"));
}

/// Gemma 3: SentencePiece without a space prefix, thousands of special tokens, white space as user-defined tokens.
#[test]
fn gemma_3() {
    let Some(path) = model("KARAT_TEST_GEMMA", "gemma-3-270m-q4_k_m.gguf") else { return };
    let tokenizer = Tokenizer::from_gguf(&File::open(&path, Access::Pread).unwrap()).unwrap();
    println!("{} tokens, {:?}", tokenizer.n_vocab(), tokenizer.warnings());
    assert!(tokenizer.adds_bos() && !tokenizer.adds_space_prefix());
    for text in
        ["Hello world", " a\n\n\nb  c\t\td", "日本語 é😀", "<start_of_turn>user\nHi<end_of_turn>"]
    {
        let ids = tokenizer.encode(text, Special::Parse, Ends::None).unwrap();
        println!("{text:?}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids, Show::All).unwrap(), text);
    }
    // What Google's tokenizer gives.
    let encode = |text| tokenizer.encode(text, Special::Parse, Ends::Default).unwrap();
    assert_eq!(encode("Hello world"), [2, 9259, 1902]);
    let prompt = "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n";
    let ids = [2, 105, 2364, 107, 10979, 106, 107, 105, 4368, 107];
    assert_eq!(encode(prompt), ids);
    if let Ok(template) = ChatTemplate::from_tokenizer(&tokenizer) {
        let messages = [Message::new("user", "Hi")];
        let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
        assert_eq!(template.render(&chat).unwrap(), format!("<bos>{prompt}"));
        assert_eq!(template.encode(&tokenizer, &chat).unwrap(), ids);
        println!("the template agrees");
    }
    let start = std::time::Instant::now();
    let text = "Some text of a usual sort,\nin lines. ".repeat(28_000);
    let ids = tokenizer.encode(&text, Special::Parse, Ends::Default).unwrap();
    println!("{} bytes, {} ids, {:?}", text.len(), ids.len(), start.elapsed());
    assert_eq!(tokenizer.decode(&ids[1..], Show::All).unwrap(), text);
}
