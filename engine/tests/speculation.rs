//! Guesses change how soon a text is there, and nothing else of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use karat::testing::write_tiny_model;
use karat::{
    Answer, AtLimit, Config, ErrorKind, Finish, Grammar, Model, Probabilities, ProbabilitiesOf,
    SamplerParams, Session, Speculation,
};
use model::output::Existing;
use model::synth;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::Path;

/// A text that repeats itself, so that there is something to guess by.
const PROMPT: &str = "one two three four one two three four one two three";

fn open(path: &Path) -> Model {
    Model::builder(path).config(Config::default()).threads(2).open().unwrap()
}

fn tiny() -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    write_tiny_model(&path).unwrap();
    open(&path)
}

/// A model of another architecture, or with other weights.
fn other(arch: &'static str, seed: u64, n_vocab: usize) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.gguf");
    let shape = synth::Shape { n_vocab, n_ctx: 512, ..synth::small(arch).unwrap() };
    let (format, threads) = ("Q8_0".parse().unwrap(), NonZero::<usize>::MIN);
    let experts = synth::ExpertNumbers::default();
    let request =
        synth::Request { arch, shape, experts, format, seed, existing: Existing::Replace, threads };
    synth::synth(&request, &path, |_| ControlFlow::Continue(())).unwrap();
    open(&path)
}

fn settings() -> Vec<SamplerParams> {
    let base = SamplerParams { seed: 5, ..SamplerParams::default() };
    vec![
        SamplerParams::greedy(),
        // Greedy, but not by the argmax of the device.
        SamplerParams { repeat_penalty: 1.01, ..SamplerParams::greedy() },
        base.clone(),
        SamplerParams { temperature: 0.3, presence_penalty: 0.1, ..base },
    ]
}

fn answer(session: &mut Session, how: Option<&Speculation>, prompt: &str) -> Answer {
    session.set_speculation(how).unwrap();
    session.complete(prompt).unwrap().answer().unwrap()
}

/// All that a program sees of a text, but for how it was computed.
fn seen(session: &Session, answer: &Answer) -> impl PartialEq + std::fmt::Debug + use<> {
    let ids = session.sequence().ids().unwrap();
    (answer.text.clone(), answer.ids.clone(), answer.told.clone(), answer.finish, ids)
}

#[test]
fn the_text_is_the_same_to_the_bit() {
    let model = tiny();
    let draft = Speculation::draft(other("llama", 1, 1000));
    for params in settings() {
        for how in [Speculation::ngram(), Speculation::ngram().with_most(2), draft.clone()] {
            let mut texts = Vec::new();
            for how in [None, Some(&how)] {
                let session = model.session().unwrap().with_sampling(params.clone()).unwrap();
                let mut session = session.with_max_tokens(60);
                let all = Probabilities { of: ProbabilitiesOf::Model, best: 2 };
                session.set_probabilities((params.seed == 5).then_some(all));
                // The second text goes on from the same generator, and from what is in the cache.
                for prompt in [PROMPT, "one two three four five one two three"] {
                    let answer = answer(&mut session, how, prompt);
                    texts.push(seen(&session, &answer));
                    assert!(answer.guesses.taken <= answer.guesses.n);
                    // An end takes a step, too, and is not among the ids.
                    let end = usize::from(matches!(answer.finish, Finish::EndToken(_)));
                    let n = answer.ids.len() + end;
                    assert_eq!(answer.n_steps + answer.guesses.taken + 1, n);
                }
            }
            assert!(texts[..2] == texts[2..], "{params:?} {how:?}: {texts:#?}");
        }
    }
}

#[test]
fn lengths_and_grammars_end_a_text_as_they_do_without() {
    let model = tiny();
    let form = Grammar::from_text("root ::= \"ab \"{9} \"c\"");
    let mut taken = 0;
    for n in 0..12 {
        for grammar in [None, Some(&form)] {
            let texts: Vec<_> = [None, Some(Speculation::ngram())]
                .iter()
                .map(|how| {
                    let session = model.session().unwrap().with_sampling(SamplerParams::greedy());
                    let mut session = session.unwrap().with_max_tokens(4 * n);
                    session.set_grammar(grammar, AtLimit::Close).unwrap();
                    let answer = answer(&mut session, how.as_ref(), PROMPT);
                    taken += answer.guesses.taken;
                    seen(&session, &answer)
                })
                .collect();
            assert!(texts[0] == texts[1], "{n}: {texts:#?}");
        }
    }
    // The grammar has the text repeat itself.
    assert!(taken > 50, "{taken} guessed tokens were taken");
}

/// The sequence holds what was said, and nothing of a guess.
#[test]
fn a_text_that_is_stopped_leaves_no_guess_behind() {
    let model = tiny();
    let whole = {
        let mut session = model.session().unwrap().with_max_tokens(40);
        session.set_sampling(SamplerParams::greedy()).unwrap();
        answer(&mut session, None, PROMPT)
    };
    for n in [1, 2, 5, 13, 20] {
        let mut session = model.session().unwrap().with_max_tokens(40);
        session.set_sampling(SamplerParams::greedy()).unwrap();
        session.set_speculation(Some(&Speculation::ngram())).unwrap();
        let n_prompt = model.tokenize(PROMPT).unwrap().len();
        let stream = session.complete(PROMPT).unwrap();
        let ids: Vec<u32> = stream.take(n).filter_map(|piece| piece.unwrap().id).collect();
        assert_eq!(ids, whole.ids[..n]);
        let held = session.sequence().ids().unwrap();
        assert!(held.len() <= n_prompt + n, "{} of {n_prompt} + {n}", held.len());
        assert_eq!(held[n_prompt..], whole.ids[..held.len() - n_prompt]);
        // What follows is as it is without.
        let mut plain = model.session().unwrap().with_max_tokens(10);
        plain.set_sampling(SamplerParams::greedy()).unwrap();
        let next = "one two three four";
        let (guessed, wanted) = (answer(&mut session, None, next), answer(&mut plain, None, next));
        assert_eq!(guessed.ids[..10], wanted.ids[..10]);
    }
}

/// A full context, as it ends a text without guesses.
#[test]
fn guesses_stay_within_the_context() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    write_tiny_model(&path).unwrap();
    let model = Model::builder(&path).config(Config::default()).ctx_size(64).open().unwrap();
    let texts: Vec<_> = [None, Some(Speculation::ngram())]
        .iter()
        .map(|how| {
            let mut session = model.session().unwrap();
            let params = SamplerParams { ignore_eos: true, ..SamplerParams::greedy() };
            session.set_sampling(params).unwrap();
            let answer = answer(&mut session, how.as_ref(), PROMPT);
            assert_eq!(answer.finish, Finish::ContextFull);
            seen(&session, &answer)
        })
        .collect();
    assert!(texts[0] == texts[1], "{texts:#?}");
}

#[test]
fn what_cannot_be_guessed_for_is_refused() {
    let model = tiny();
    let mut session = model.session().unwrap();
    let itself = session.set_speculation(Some(&Speculation::draft(model.clone()))).unwrap_err();
    assert_eq!(itself.kind(), ErrorKind::Usage);
    assert!(itself.to_string().contains("it is the model itself"), "{itself}");
    let stateful = other("lfm2", 1, 1000);
    let mut session = stateful.session().unwrap();
    session.set_speculation(Some(&Speculation::ngram())).unwrap();
    let error = session.complete(PROMPT).err().unwrap();
    assert!(error.to_string().contains("keep a state"), "{error}");
}
