//! A text that goes past the context: what follows is what follows the tokens that are left.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use karat::testing::write_tiny_model;
use karat::{Config, Finish, Model, SamplerParams, Session, Speculation};

const N_CTX: usize = 64;

fn model() -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    write_tiny_model(&path).unwrap();
    Model::builder(&path).config(Config::default()).ctx_size(N_CTX).open().unwrap()
}

fn session(model: &Model) -> Session {
    let params = SamplerParams { ignore_eos: true, ..SamplerParams::greedy() };
    model.session().unwrap().with_sampling(params).unwrap()
}

/// Each stretch between two shifts, from a session of its own that is given the tokens that are left.
fn by_hand(model: &Model, prompt: &[u32], keep: usize, n: usize) -> Vec<u32> {
    let mut seen = prompt.to_vec();
    let mut said = Vec::new();
    while said.len() < n {
        let mut fresh = session(model);
        let answer = fresh.complete_ids(&seen).unwrap().answer().unwrap();
        assert_eq!(answer.finish, Finish::ContextFull);
        seen.extend(&answer.ids);
        said.extend(&answer.ids);
        // The last token does not fit any more: the context holds one less.
        assert_eq!(seen.len(), N_CTX + 1);
        seen.drain(keep..keep + (seen.len() - keep).div_ceil(2));
    }
    said.truncate(n);
    said
}

#[test]
fn what_follows_a_shift_is_what_follows_the_tokens_that_are_left() {
    let model = model();
    let prompt = model.tokenize("one two three four one two three").unwrap();
    for keep in [0, 4, 40] {
        let wanted = by_hand(&model, &prompt, keep, 200);
        for how in [None, Some(Speculation::ngram())] {
            let mut session = session(&model).with_max_tokens(200);
            session.set_context_shift(Some(keep));
            session.set_speculation(how.as_ref()).unwrap();
            let answer = session.complete_ids(&prompt).unwrap().answer().unwrap();
            assert_eq!(answer.ids, wanted, "keep {keep}, {how:?}");
            assert_eq!(answer.finish, Finish::MaxTokens);
            assert!(session.sequence().ids().unwrap().len() <= N_CTX);
        }
    }
}

/// To keep more than there is leaves room for what comes.
#[test]
fn keeping_everything_still_goes_on() {
    let model = model();
    let mut session = session(&model).with_max_tokens(100);
    session.set_context_shift(Some(usize::MAX));
    let answer = session.complete("one two").unwrap().answer().unwrap();
    assert_eq!((answer.ids.len(), answer.finish), (100, Finish::MaxTokens));
}
