//! Texts of a given form. The model's weights are random, so that whatever a grammar does not forbid is said soon.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use karat::testing::write_tiny_model;
use karat::{
    AtLimit, Config, ErrorKind, Finish, Grammar, Model, Probabilities, ProbabilitiesOf,
    SamplerParams, Session,
};
use serde_json::{Value, json};

const PROMPT: &str = "the capital of";

fn model() -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    write_tiny_model(&path).unwrap();
    Model::builder(&path).config(Config::default()).threads(2).open().unwrap()
}

/// A session that says anything: a high temperature, and no token left out.
fn session(model: &Model, seed: u64, n: usize) -> Session {
    let params = SamplerParams {
        temperature: 5.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed,
        ..SamplerParams::default()
    };
    model.session().unwrap().with_sampling(params).unwrap().with_max_tokens(n)
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            "friend": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}
        },
        "required": ["name", "age", "tags", "friend"],
        "additionalProperties": false
    })
}

/// What `person` says, in plain words.
fn is_person(value: &Value) -> bool {
    let Some(object) = value.as_object() else { return false };
    let name = object["name"].as_str().is_some_and(|name| name.chars().count() <= 12);
    let age = object["age"].as_u64().is_some_and(|age| age <= 150);
    let tags = object["tags"].as_array().is_some_and(|tags| {
        tags.len() <= 3 && tags.iter().all(|tag| [json!("a"), json!("b")].contains(tag))
    });
    let friend = object["friend"].is_null() || is_person(&object["friend"]);
    object.len() == 4 && name && age && tags && friend
}

#[test]
fn every_answer_parses_and_is_what_the_schema_says() {
    let model = model();
    let grammar = Grammar::JsonSchema(person());
    let mut closed = 0;
    for seed in 0..30 {
        // Some are long enough to end by themselves, most are not.
        let mut session = session(&model, seed, 10 + 4 * seed as usize);
        session.set_grammar(Some(&grammar), AtLimit::Close).unwrap();
        session.set_probabilities(Some(Probabilities { of: ProbabilitiesOf::Sampler, best: 1 }));
        let answer = session.complete(PROMPT).unwrap().answer().unwrap();
        // What closes the text was not chosen.
        assert_eq!(answer.told.len(), answer.ids.len().min(10 + 4 * seed as usize));
        let value: Value = serde_json::from_str(&answer.text).unwrap();
        assert!(is_person(&value), "{}", answer.text);
        assert_eq!(model.detokenize(&answer.ids).unwrap(), answer.text);
        closed += usize::from(answer.finish == Finish::MaxTokens);
    }
    assert!((1..30).contains(&closed), "{closed} of 30 were closed");
}

#[test]
fn any_json_is_an_object_that_parses() {
    let model = model();
    for seed in 0..20 {
        let mut session = session(&model, seed, 40);
        session.set_grammar(Some(&Grammar::json()), AtLimit::Close).unwrap();
        let text = session.complete(PROMPT).unwrap().text().unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value.is_object(), "{text}");
    }
}

/// A character of a grammar is one of the text, whatever its neighbours could have swallowed.
#[test]
fn gbnf_is_about_characters() {
    let model = model();
    type Holds = fn(&str) -> bool;
    let cases: [(&str, Holds); 7] = [
        ("root ::= [a-z]* \"b\"", |text| {
            text.ends_with('b') && text.chars().all(|c| c.is_ascii_lowercase())
        }),
        ("root ::= (\"- \" item){2,3}\nitem ::= [^\\n]{1,5} \"\\n\" # a list", |text| {
            let items: Vec<&str> = text.lines().collect();
            let is_item =
                |item: &&str| item.starts_with("- ") && (3..=7).contains(&item.chars().count());
            (2..=3).contains(&items.len()) && items.iter().all(is_item)
        }),
        ("root ::= \"x\" root? |\n  \"(\" root \")\"", |text| {
            let depth = text.chars().filter(|c| *c == '(').count();
            depth == text.chars().filter(|c| *c == ')').count() && text.contains('x')
        }),
        ("root ::= \"ja\"+ end\nend ::= \"\" | \"!\"", |text| {
            let text = text.strip_suffix('!').unwrap_or(text);
            !text.is_empty() && text.replace("ja", "").is_empty()
        }),
        ("root ::= [\\x30-\\x39] \"\\u00e9\" [^a-z] .", |text| {
            let chars: Vec<char> = text.chars().collect();
            let [digit, e, other, _] = chars[..] else { return false };
            digit.is_ascii_digit() && e == '\u{e9}' && !other.is_ascii_lowercase()
        }),
        ("root ::= [a-] [\\]\\\\] [-z]", |text| {
            text.len() == 3
                && "a-".contains(&text[..1])
                && "]\\".contains(&text[1..2])
                && "-z".contains(&text[2..])
        }),
        ("root ::= a-b \"1\"\na-b ::= \"2\"\n# the end", |text| text == "21"),
    ];
    for (grammar, holds) in cases {
        for seed in 0..8 {
            let mut session = session(&model, seed, 12);
            session.set_grammar(Some(&Grammar::from_text(grammar)), AtLimit::Close).unwrap();
            let text = session.complete(PROMPT).unwrap().text().unwrap();
            assert!(holds(&text), "{grammar:?} gave {text:?}");
        }
    }
}

#[test]
fn regular_expressions_and_lark_hold_for_the_whole_text() {
    let model = model();
    let date = Grammar::Regex(r"20[0-9]{2}-(0[1-9]|1[0-2])".to_owned());
    let lark = Grammar::from_text("%llguidance {}\nstart: \"yes\" | \"no\"\n");
    for seed in 0..8 {
        let mut session = session(&model, seed, 20);
        session.set_grammar(Some(&date), AtLimit::Cut).unwrap();
        let answer = session.complete(PROMPT).unwrap().answer().unwrap();
        assert_eq!((answer.text.len(), answer.finish), (7, Finish::Complete), "{}", answer.text);
        let month: u32 = answer.text[5..].parse().unwrap();
        assert!(answer.text.starts_with("20") && (1..=12).contains(&month), "{}", answer.text);
        session.set_grammar(Some(&lark), AtLimit::Cut).unwrap();
        let text = session.complete(PROMPT).unwrap().text().unwrap();
        assert!(["yes", "no"].contains(&text.as_str()), "{text}");
    }
}

/// Each text begins anew, settings keep the grammar, and without one everything may be said again.
#[test]
fn a_grammar_is_for_every_text_until_it_is_taken_away() {
    let model = model();
    let mut session = session(&model, 1, 30);
    session.set_grammar(Some(&Grammar::Regex("[0-9]{3}".to_owned())), AtLimit::Cut).unwrap();
    for seed in 0..4 {
        let params = SamplerParams { seed, ..session.sampling().clone() };
        session.set_sampling(params).unwrap();
        let text = session.complete(PROMPT).unwrap().text().unwrap();
        assert!(text.len() == 3 && text.parse::<u32>().is_ok(), "{text}");
    }
    session.set_grammar(None, AtLimit::Cut).unwrap();
    let text = session.complete(PROMPT).unwrap().text().unwrap();
    assert!(text.parse::<u32>().is_err(), "{text}");
}

#[test]
fn a_text_that_is_not_to_be_closed_ends_where_it_is() {
    let model = model();
    let mut session = session(&model, 3, 5);
    session.set_grammar(Some(&Grammar::JsonSchema(person())), AtLimit::Cut).unwrap();
    let answer = session.complete(PROMPT).unwrap().answer().unwrap();
    assert_eq!((answer.ids.len(), answer.finish), (5, Finish::MaxTokens));
    assert!(serde_json::from_str::<Value>(&answer.text).is_err(), "{}", answer.text);
}

/// What a short end needs is not only brackets.
#[test]
fn texts_of_any_form_are_closed_or_said_to_be_open() {
    let model = model();
    for (regex, n) in
        [("[a-z]+@", 2), ("[0-9]+-[0-9]+-[0-9]+", 5), ("[a-z]+@y\\.Z", 3), ("[0-9]{300}", 4)]
    {
        let mut session = session(&model, 2, n);
        session.set_grammar(Some(&Grammar::Regex(regex.to_owned())), AtLimit::Close).unwrap();
        let answer = session.complete(PROMPT).unwrap().answer().unwrap();
        let tail = regex.chars().last().unwrap();
        let ends =
            answer.text.ends_with(tail) || answer.text.ends_with(|c: char| c.is_ascii_digit());
        assert!(ends && !answer.unclosed && answer.ids.len() > n, "{regex}: {answer:?}");
    }
    let mut session = session(&model, 2, 4);
    session.set_grammar(Some(&Grammar::Regex("[0-9]{3000}".to_owned())), AtLimit::Close).unwrap();
    assert!(session.complete(PROMPT).unwrap().answer().unwrap().unclosed);
}

#[test]
fn deep_and_endless_grammars() {
    let model = model();
    let mut session = session(&model, 1, 12);
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(150), ")?".repeat(150));
    session.set_grammar(Some(&Grammar::from_text(&deep)), AtLimit::Close).unwrap();
    let text = session.complete(PROMPT).unwrap().text().unwrap();
    assert!(["", "a"].contains(&text.as_str()), "{text}");
    // Left recursion is a repetition.
    session
        .set_grammar(Some(&Grammar::from_text("root ::= root \"a\" | \"b\"")), AtLimit::Close)
        .unwrap();
    let text = session.complete(PROMPT).unwrap().text().unwrap();
    assert!(text.starts_with('b') && text[1..].chars().all(|c| c == 'a'), "{text}");
    // Rules that lead to one another, as many as there may be.
    let chain = |n: usize| {
        let rules = (0..n).map(|i| format!("r{i} ::= \"w{i}\" | r{}\n", i + 1));
        format!("root ::= r0\n{}r{n} ::= \"z\"\n", rules.collect::<String>())
    };
    session.set_grammar(Some(&Grammar::from_text(&chain(4000))), AtLimit::Close).unwrap();
    let error = session.set_grammar(Some(&Grammar::from_text(&chain(60_000))), AtLimit::Close);
    assert!(error.unwrap_err().to_string().contains("at most 20000 are allowed"));
    // A rule of itself alone says nothing.
    session.set_grammar(Some(&Grammar::from_text("root ::= root")), AtLimit::Close).unwrap();
    let error = session.complete(PROMPT).unwrap().text().unwrap_err();
    assert!(error.to_string().contains("nothing may follow"), "{error}");
}

#[test]
fn what_is_no_grammar_is_refused_in_one_line() {
    let model = model();
    let mut session = session(&model, 1, 5);
    let schema = |text: &str| Grammar::json_schema(text).unwrap();
    let cases = [
        (Grammar::from_text(""), "no rule root"),
        (Grammar::from_text("root ::= a"), "line 1: rule a is not defined"),
        (Grammar::from_text("root ::= \"a\"\nroot2 = \"b\""), "line 2: expected ::="),
        (Grammar::from_text("root ::= \"a"), "line 1: a text or a class has no end"),
        (Grammar::from_text("root ::= [z-a]"), "ends before it begins"),
        (Grammar::from_text("root ::= []"), "a class without characters"),
        (Grammar::from_text("root ::= \"a\"{3,2}"), "the second count is less"),
        (Grammar::from_text("root ::= \"a\"{9999}"), "over 2000 repetitions"),
        (Grammar::from_text("root ::= (\"a\""), "expected )"),
        (Grammar::from_text("root ::= \"\\q\""), "unknown escape"),
        (Grammar::from_text("root ::= \"\\xZZ\""), "expected 2 hexadecimal digits"),
        (Grammar::from_text("root ::= <no-such>"), "no such token"),
        (Grammar::from_text("root ::= <[99999]>"), "no such token"),
        (Grammar::from_text(&format!("root ::= {}", "(".repeat(100_000))), "over 200 parentheses"),
        (Grammar::Regex("(".to_owned()), "error: unclosed group"),
        (Grammar::Lark("start: foo".to_owned()), "grammar: "),
        (schema("{\"type\": \"strange\"}"), "JSON schema: "),
        (schema("{\"$ref\": \"#/nowhere\"}"), "JSON schema: "),
        (
            schema("{\"type\": \"object\", \"unevaluatedProperties\": false}"),
            "unevaluatedProperties",
        ),
        (
            schema("{\"$ref\": \"http://a.b/c\"}"),
            "a $ref is #/ and what follows; found 'http://a.b/c'",
        ),
        (schema("false"), "JSON schema: "),
        (schema("[]"), "JSON schema: "),
    ];
    for (grammar, why) in cases {
        let error = session.set_grammar(Some(&grammar), AtLimit::Cut).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
        let text = error.to_string();
        assert!(text.contains(why) && !text.contains('\n'), "{text}, wanted {why}");
        assert!(text.len() < 400, "{text}");
    }
    assert!(Grammar::json_schema("{").unwrap_err().to_string().starts_with("JSON schema: "));
    // Nothing of it stays.
    assert!(!session.complete(PROMPT).unwrap().text().unwrap().is_empty());
}
