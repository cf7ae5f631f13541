//! The library as a program uses it: streams, chats, several models and threads, and the errors of wrong calls. All on a
//! tiny random model, so nothing is fetched.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
use karat::Stop;
use karat::testing::write_tiny_model;
use karat::{
    Backend, Chat, Config, Error, ErrorKind, Event, Finish, Listener, Message, Model, Options,
    Sequence, Session, Stream, Task, Wanted, Work, tokenizer,
};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PROMPT: &str = "the capital of";

/// A folder with a tiny model, which is gone at the end of the test.
struct Tiny {
    _folder: TempDir,
    path: PathBuf,
}

impl Tiny {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        write_tiny_model(&path).unwrap();
        Self { _folder: folder, path }
    }

    fn builder(&self) -> karat::Builder<'static> {
        // No cache folder: these tests leave nothing behind.
        Model::builder(&self.path).config(Config::default()).threads(2)
    }

    fn model(&self) -> Model {
        self.builder().open().unwrap()
    }
}

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn handles_go_to_other_threads() {
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<Model>();
    sync::<Model>();
    send::<Chat>();
    send::<Session>();
    send::<Stream<'static>>();
    send::<Sequence>();
    send::<Error>();
    sync::<Error>();
}

#[test]
fn a_stream_gives_the_text_the_ids_and_the_engine_s_own_result() {
    let model = Tiny::new().model();
    let whole = {
        let mut session = model.session().unwrap().with_max_tokens(20);
        session.complete(PROMPT).unwrap().answer().unwrap()
    };
    assert_eq!((whole.ids.len(), whole.finish), (20, Finish::MaxTokens));

    let mut session = model.session().unwrap().with_max_tokens(20);
    let pieces: Vec<karat::Piece> = session.complete(PROMPT).unwrap().map(Result::unwrap).collect();
    assert_eq!(pieces.iter().map(ToString::to_string).collect::<String>(), whole.text);
    assert_eq!(pieces.iter().filter_map(|piece| piece.id).collect::<Vec<u32>>(), whole.ids);

    // What karat-model itself generates, without the library.
    let ids = model
        .tokenizer()
        .encode(PROMPT, tokenizer::Special::Parse, tokenizer::Ends::Default)
        .unwrap();
    let mut engine = model.engine().unwrap();
    let stop = ::model::StopRules { end_ids: vec![257], max_tokens: Some(20) };
    let request = ::model::Request { seq: engine.add(), prompt: &ids, stop: &stop };
    let mut sampler = ::model::Sampler::new(karat::SamplerParams::default()).unwrap();
    let below = ::model::generate(&mut engine, request, &mut sampler, &mut |_| {
        std::ops::ControlFlow::Continue(())
    });
    assert_eq!(below.unwrap().ids, whole.ids);
}

#[test]
fn an_id_belongs_to_each_piece_and_the_rest_comes_without() {
    let model = Tiny::new().model();
    let mut session = model.session().unwrap().with_max_tokens(40);
    let mut stream = session.complete(PROMPT).unwrap();
    let mut text = String::new();
    for piece in stream.by_ref() {
        let piece = piece.unwrap();
        text.push_str(&piece.text);
        assert!(piece.id.is_some() || !piece.text.is_empty(), "{piece:?}");
    }
    let answer = stream.answer().unwrap();
    assert_eq!(answer.text, text);
    assert_eq!(model.detokenize(&answer.ids).unwrap(), text);
}

#[test]
fn models_and_chats_in_several_threads_say_what_they_say_alone() {
    let (a, b) = (Tiny::new().model(), Tiny::new().builder().threads(1).open().unwrap());
    let say = |model: &Model, seed: u64| {
        let params = karat::SamplerParams { seed, ..karat::SamplerParams::default() };
        let chat = model.chat().unwrap().with_sampling(params).unwrap();
        let mut chat = chat.with_max_tokens(12);
        let first = chat.send("hello").unwrap().text().unwrap();
        first + &chat.send("and now").unwrap().text().unwrap()
    };
    let alone: Vec<String> = (0..4).map(|seed| say(&a, seed)).collect();
    assert!(alone[0] != alone[1], "seeds give unlike texts: {alone:?}");
    let together: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let model = if seed % 2 == 0 { a.clone() } else { b.clone() };
                scope.spawn(move || say(&model, seed))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn a_stream_dropped_early_counts_as_said_as_far_as_it_came() {
    let tiny = Tiny::new();
    let model = tiny.model();
    let mut chat = model.chat().unwrap().with_max_tokens(30);
    let said: String =
        chat.send("hello").unwrap().take(5).map(|piece| piece.unwrap().text).collect();
    let messages = chat.messages().to_vec();
    assert_eq!((messages[0].role.as_str(), messages[0].content.as_str()), ("user", "hello"));
    assert_eq!(messages.len(), 2);
    assert!(messages[1].content.starts_with(&said), "{messages:?}, heard {said:?}");
    let next = chat.send("go on").unwrap().answer().unwrap();

    // The same conversation, told to a model that has computed nothing of it.
    let mut other = tiny.model().chat().unwrap().with_max_tokens(30);
    other.set_messages(messages);
    // Both samplers have drawn as often: five times.
    let mut draws = other.session_mut().complete("x").unwrap();
    (0..5).for_each(|_| drop(draws.next()));
    drop(draws);
    let fresh = other.send("go on").unwrap().answer().unwrap();
    assert_eq!(fresh.ids, next.ids);
    assert!(next.n_reused > fresh.n_reused, "{} {}", next.n_reused, fresh.n_reused);
}

#[test]
fn a_stop_ends_the_text_and_what_got_no_answer_was_not_said() {
    let model = Tiny::new().model();
    let stop = Stop::new();
    let mut chat = model.chat().unwrap().stop_with(stop.clone());
    let mut stream = chat.send("hello").unwrap();
    for _ in 0..3 {
        stream.next().unwrap().unwrap();
    }
    assert!(!stop.request());
    let answer = stream.answer().unwrap();
    assert_eq!((answer.ids.len(), answer.finish), (3, Finish::Stopped));
    assert_eq!(chat.messages().len(), 2);
    let answer = chat.send("again").unwrap().answer().unwrap();
    assert_eq!((answer.ids.len(), answer.finish), (0, Finish::Stopped));
    assert_eq!(chat.messages().len(), 2);
}

/// Worked out by hand: what the model is given is what was said, in the plain form with the names of who said it.
#[test]
fn a_model_without_a_template_talks_too() {
    let model = Tiny::new().model();
    assert!(model.has_template());
    let bos = |text: &str| model.tokenize(text).unwrap();
    let mut chat = model.chat_as(karat::ChatForm::Raw).unwrap().with_max_tokens(2);
    let first = chat.send("one").unwrap().answer().unwrap();
    assert_eq!(first.n_prompt, bos("one").len());
    let second = chat.send("two").unwrap().answer().unwrap();
    assert_eq!(second.n_prompt, bos(&format!("one{}two", first.text)).len());
    let mut chat = model.chat_as(karat::ChatForm::Plain).unwrap().with_max_tokens(2);
    let plain = chat.send("one").unwrap().answer().unwrap();
    assert_eq!(plain.n_prompt, bos("User: one\n\nAssistant:").len());
}

/// The first token comes with the prompt: a rate that counted it would divide it by no time at all.
#[test]
fn rates_count_steps() {
    let model = Tiny::new().model();
    let timings = |n| {
        let mut session = model.session().unwrap().with_max_tokens(n);
        let answer = session.complete("hello").unwrap().answer().unwrap();
        assert_eq!((answer.ids.len(), answer.n_steps), (n, n - 1));
        answer.timings()
    };
    assert_eq!(timings(1).generated_per_second, None);
    let timings = timings(9);
    let rate = timings.generated_per_second.unwrap();
    assert!((rate * timings.generated_seconds - 8.0).abs() < 1e-6, "{timings:?}");
}

/// While a prompt is read, from another thread: the conversation stays, and goes on.
#[test]
fn a_stop_in_a_prompt_keeps_the_conversation() {
    let model = Tiny::new().model();
    let stop = Stop::new();
    let mut chat = model.chat().unwrap().stop_with(stop.clone()).with_max_tokens(3);
    chat.send("hello").unwrap().answer().unwrap();
    stop.request();
    let answer = chat.send("a long one ".repeat(20)).unwrap().answer().unwrap();
    assert_eq!((answer.ids.len(), answer.finish), (0, Finish::Stopped));
    stop.clear();
    assert_eq!(chat.messages().len(), 2);
    let mut other = model.chat().unwrap().with_max_tokens(3);
    other.send("hello").unwrap().answer().unwrap();
    let (a, b) = (chat.send("go on").unwrap().answer(), other.send("go on").unwrap().answer());
    assert_eq!(a.unwrap().ids, b.unwrap().ids);
}

#[test]
fn a_conversation_is_saved_and_loaded() {
    let tiny = Tiny::new();
    let mut chat = tiny.model().chat().unwrap().with_system("Be brief.").with_max_tokens(4);
    let answer = chat.send("hello").unwrap().text().unwrap();
    let file = tiny.path.with_extension("json");
    assert_eq!(chat.save(&file, karat::Existing::Keep).unwrap(), 2);
    let mut other = tiny.model().chat().unwrap();
    assert_eq!(other.load(&file).unwrap(), 2);
    assert_eq!(other.system(), Some("Be brief."));
    let said: Vec<(&str, &str)> =
        other.messages().iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
    assert_eq!(said, [("user", "hello"), ("assistant", answer.as_str())]);
    assert_eq!(other.load(&tiny.path).unwrap_err().kind(), ErrorKind::Io);
}

#[test]
fn sequences_in_one_step_give_what_each_gives_alone() {
    let model = Tiny::new().builder().sequences(3).open().unwrap();
    let texts = ["one", "a longer text than the others have", "three of them"];
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| model.tokenize(text).unwrap()).collect();
    let alone: Vec<Vec<u32>> =
        ids.iter().map(|ids| bits(&model.sequence().unwrap().feed(ids).unwrap())).collect();
    let sequences: Vec<Sequence> = ids.iter().map(|_| model.sequence().unwrap()).collect();
    let work: Vec<Work<'_>> = sequences
        .iter()
        .zip(&ids)
        .map(|(sequence, tokens)| Work { sequence, tokens, wanted: Wanted::Last })
        .collect();
    let together: Vec<Vec<u32>> = model.step(&work).unwrap().iter().map(|row| bits(row)).collect();
    assert_eq!(together, alone);
    assert_eq!(sequences[1].ids().unwrap(), ids[1]);
}

#[test]
fn backends_give_the_same_bits() {
    let tiny = Tiny::new();
    let logits = |backend| {
        let model = tiny.builder().backend(backend).open().unwrap();
        let ids = model.tokenize(PROMPT).unwrap();
        bits(&model.sequence().unwrap().feed(&ids).unwrap())
    };
    assert_eq!(logits(Backend::Cpu), logits(Backend::Reference));
}

#[test]
fn a_fork_goes_its_own_way_and_positions_come_back() {
    let model = Tiny::new().builder().ctx_size(128).open().unwrap();
    let ids: Vec<u32> = (300..400).collect();
    let mut sequence = model.sequence().unwrap();
    let last = bits(&sequence.feed(&ids).unwrap());
    let mut fork = sequence.fork(64).unwrap();
    assert_eq!(fork.ids().unwrap(), ids[..64]);
    assert_eq!(sequence.truncate(90).unwrap(), 90);
    assert_eq!(bits(&sequence.feed(&ids[90..]).unwrap()), last);
    // The cache has two blocks of 64 positions, and the first sequence has both.
    let full = fork.feed(&ids[64..]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::DoesNotFit, "{full}");
    assert_eq!(full.option(), Some("sequences"), "{full}");
    assert!(full.hint().unwrap().contains("Options::sequences"), "{full}");
    drop(sequence);
    assert_eq!(bits(&fork.feed(&ids[64..]).unwrap()), last);
}

#[test]
fn scores_are_the_logarithms_of_probabilities() {
    let model = Tiny::new().model();
    // More than are scored at once.
    let ids: Vec<u32> = (0..150).map(|i| 261 + i * 37 % 700).collect();
    let scores = model.sequence().unwrap().score(&ids).unwrap();
    assert_eq!(scores.len(), ids.len() - 1);
    for n in [1, 64, 65, 149] {
        let logits = model.sequence().unwrap().feed(&ids[..n]).unwrap();
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let expected = f64::from(logits[ids[n] as usize]) - sum.ln();
        assert!((scores[n - 1] - expected).abs() < 1e-9, "{n}: {} {expected}", scores[n - 1]);
    }
}

#[test]
fn wrong_options_and_calls_are_errors_of_the_right_kind() {
    let tiny = Tiny::new();
    let kind = |builder: karat::Builder<'_>| builder.open().unwrap_err().kind();
    assert_eq!(kind(tiny.builder().threads(0)), ErrorKind::Usage);
    assert_eq!(kind(tiny.builder().batch_size(0)), ErrorKind::Usage);
    assert_eq!(kind(tiny.builder().sequences(0)), ErrorKind::Usage);
    assert_eq!(kind(tiny.builder().device("0")), ErrorKind::Usage);
    assert_eq!(kind(tiny.builder().ctx_size(1 << 40)), ErrorKind::DoesNotFit);
    let no_gpu = tiny.builder().backend(Backend::Gpu).device("no such device");
    assert_eq!(kind(no_gpu), ErrorKind::Device);
    let of = |source: &str| Model::builder(source).config(Config::default());
    assert_eq!(kind(of("no/such/file.gguf")), ErrorKind::NotFound);
    assert_eq!(kind(of("no-such-model")), ErrorKind::NotFound);
    assert_eq!(kind(of("hf:owner")), ErrorKind::Usage);
    // Known, but there is no folder to fetch it to.
    assert_eq!(kind(of("smollm2:135m")), ErrorKind::Usage);
    let junk = tiny.path.with_extension("txt");
    std::fs::write(&junk, "Dear reader").unwrap();
    assert_eq!(kind(Model::builder(&junk)), ErrorKind::ModelFile);

    let model = tiny.builder().ctx_size(64).open().unwrap();
    let mut session = model.session().unwrap();
    let kind = |result: karat::Result<Stream<'_>>| result.err().unwrap().kind();
    assert_eq!(kind(session.complete_ids(&[])), ErrorKind::Rejected);
    assert_eq!(kind(session.complete_ids(&[1 << 20])), ErrorKind::Rejected);
    assert_eq!(kind(session.complete_ids(&[300; 65])), ErrorKind::Rejected);
    let mut chat = model.chat().unwrap();
    assert_eq!(kind(chat.send("word ".repeat(100))), ErrorKind::Rejected);
    assert!(chat.messages().is_empty());
    let hot = karat::SamplerParams { temperature: f32::NAN, ..karat::SamplerParams::default() };
    assert_eq!(session.set_sampling(hot).unwrap_err().kind(), ErrorKind::Usage);

    let (one, of_another) = (model.sequence().unwrap(), tiny.model().sequence().unwrap());
    let work = |sequence| Work { sequence, tokens: &[300], wanted: Wanted::Last };
    let kind = |work: &[Work<'_>]| model.step(work).unwrap_err().kind();
    assert_eq!(kind(&[work(&of_another)]), ErrorKind::Usage);
    assert_eq!(kind(&[work(&one), work(&one)]), ErrorKind::Usage);
    // None of this has harmed the model.
    assert_eq!(session.complete_ids(&[300]).unwrap().take(3).count(), 3);
}

#[test]
fn a_listener_hears_of_the_load_and_of_what_does_not_fit() {
    let tiny = Tiny::new();
    let heard = RefCell::new(Vec::new());
    let listener: Listener<'_> = &|event: Event<'_>| heard.borrow_mut().push(format!("{event:?}"));
    let model = tiny.builder().check_tensors(true).on_event(listener).open().unwrap();
    let heard_of = heard.take();
    for task in [Task::CheckTensors, Task::Load] {
        let of_task: Vec<&String> =
            heard_of.iter().filter(|event| event.contains(&format!("{task:?}"))).collect();
        assert!(of_task[0].contains("done: 0,"), "{heard_of:?}");
        assert_eq!(**of_task.last().unwrap(), format!("Ended({task:?})"));
    }
    drop(model);
    tiny.builder().ctx_size(1 << 40).on_event(listener).open().unwrap_err();
    assert!(heard.take().iter().any(|event| event.starts_with("DoesNotFit")));
}

#[test]
fn a_model_of_a_catalogue_is_copied_into_the_cache_and_removed() {
    let tiny = Tiny::new();
    let folder = tiny.path.parent().unwrap();
    let catalogue = folder.join("catalogue.toml");
    let bytes = std::fs::read(&tiny.path).unwrap();
    std::fs::write(&catalogue, entry(&bytes)).unwrap();
    let cache = folder.join("cache");
    let config = Config {
        cache_dir: Some(cache.clone()),
        user_catalogue: Some(catalogue),
        ..Config::default()
    };
    let pulls = RefCell::new(0);
    let open = || {
        let builder = Model::builder("my:tiny").config(config.clone());
        let heard = |event: Event<'_>| {
            *pulls.borrow_mut() += usize::from(matches!(event, Event::Pulling(_)));
        };
        builder.on_event(heard).open()
    };
    let path = open().unwrap().info().path.clone();
    assert!(Path::new(&path).starts_with(&cache), "{path}");
    open().unwrap();
    assert_eq!(*pulls.borrow(), 1, "the second time it is there already");
    let listed = karat::sources::list(&config).unwrap();
    assert!(listed.iter().any(|model| model.name == "my:tiny" && model.cached));

    // A changed byte is seen by its hash, a missing one by the size alone.
    let [file] = &karat::sources::cached(&config).unwrap()[..] else { panic!("one file") };
    let verify = || file.remote.as_ref().unwrap().verify(&file.path, &|_| {});
    verify().unwrap();
    let mut changed = bytes.clone();
    changed[5000] ^= 1;
    std::fs::write(&file.path, &changed).unwrap();
    assert_eq!(verify().unwrap_err().kind(), ErrorKind::Damaged);
    std::fs::write(&file.path, &bytes[1..]).unwrap();
    assert_eq!(open().unwrap_err().kind(), ErrorKind::Damaged);
    let files = karat::sources::named("my:tiny".as_ref(), &config).unwrap();
    karat::sources::remove(&files, &config).unwrap();
    let gone = karat::sources::named("my:tiny".as_ref(), &config).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
}

/// A catalogue whose model is `tiny.gguf` beside it.
fn entry(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(bytes);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "[[model]]\nname = \"my:tiny\"\nlicence = \"MIT\"\nfile = \"my-tiny.gguf\"\nsize = {}\n\
         sha256 = \"{hash}\"\nsources = [\"tiny.gguf\"]\n",
        bytes.len()
    )
}

#[test]
fn options_of_the_builder_are_those_of_the_command_line() {
    let tiny = Tiny::new();
    let options = Options { ctx_size: Some(100), batch_size: 7, ..Options::default() };
    let model = tiny.builder().options(options).arithmetic(karat::Arithmetic::F32).open().unwrap();
    let info = model.info();
    assert_eq!((info.n_ctx, info.n_batch, info.arithmetic), (100, 7, "f32"));
    let mut chat = model.chat().unwrap().with_max_tokens(2);
    chat.set_messages(vec![Message::new("user", "a"), Message::new("assistant", "b")]);
    chat.send("a prompt that is cut into several steps").unwrap().text().unwrap();
}

/// The prompt is another text, and the answer another one.
#[test]
fn a_chat_in_another_template() {
    let model = Tiny::new().model();
    let mut answers = Vec::new();
    for name in ["chatml", "gemma", "{% for m in messages %}{{ m.content }}{% endfor %}"] {
        let chat = model.chat_by(model.template_by(name).unwrap()).unwrap();
        let mut chat = chat.with_max_tokens(8);
        let answer = chat.send("hello").unwrap().answer().unwrap();
        answers.push((answer.n_prompt, answer.ids));
    }
    assert_eq!(answers[2].0, model.tokenize("hello").unwrap().len());
    assert!(answers[0] != answers[1] && answers[1] != answers[2]);
    let error = model.template_by("chatmi").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    assert!(error.to_string().contains("names: chatml, "), "{error}");
    let error = model.template_by("{% for %}").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected, "{error}");
}

#[test]
fn a_text_ends_before_a_stop_text() {
    let model = Tiny::new().model();
    let mut session = model.session().unwrap().with_max_tokens(30);
    session.set_sampling(karat::SamplerParams::greedy()).unwrap();
    let whole = session.complete(PROMPT).unwrap().text().unwrap();
    for at in [1, 4, whole.len() / 2] {
        let at = (at..whole.len()).find(|&at| whole.is_char_boundary(at)).unwrap();
        let end = (at + 3..).find(|&end| whole.is_char_boundary(end)).unwrap();
        let stop = &whole[at..end];
        session.set_stop_texts(vec!["never said".to_owned(), stop.to_owned()]);
        let mut stream = session.complete(PROMPT).unwrap();
        let pieces: Vec<String> = stream.by_ref().map(|piece| piece.unwrap().text).collect();
        let answer = stream.answer().unwrap();
        let wanted = &whole[..whole.find(stop).unwrap()];
        assert_eq!((pieces.concat().as_str(), answer.text.as_str()), (wanted, wanted));
        assert_eq!((answer.finish, answer.finish_reason()), (Finish::StopText, "stop"));
    }
    session.set_stop_texts(Vec::new());
    assert_eq!(session.complete(PROMPT).unwrap().text().unwrap(), whole);
}

/// A grammar has the random model think and answer.
#[test]
fn a_thought_is_apart_from_the_answer_and_not_said_again() {
    let model = Tiny::new().model();
    let thinks = karat::Grammar::Regex("<think>\n[a-z]{5}\n</think>\n\n[A-Z]{4}".to_owned());
    let mut chat = model.chat().unwrap();
    chat.session_mut().set_grammar(Some(&thinks), karat::AtLimit::Cut).unwrap();
    let mut stream = chat.send("hello").unwrap();
    let pieces: Vec<karat::Piece> = stream.by_ref().map(|piece| piece.unwrap()).collect();
    let answer = stream.answer().unwrap();
    let all = |of: fn(&karat::Piece) -> &str| pieces.iter().map(of).collect::<String>();
    let lower = answer.thought.chars().all(|c| c.is_ascii_lowercase());
    let upper = answer.text.chars().all(|c| c.is_ascii_uppercase());
    assert!(answer.thought.len() == 5 && lower && answer.text.len() == 4 && upper, "{answer:?}");
    assert_eq!(
        (all(|p| &p.thought), all(|p| &p.text)),
        (answer.thought.clone(), answer.text.clone())
    );
    assert_eq!(chat.messages()[1].content, answer.text);
    chat.session_mut().set_thoughts(karat::Thoughts::InText);
    let whole = chat.send("again").unwrap().answer().unwrap();
    assert!(whole.thought.is_empty() && whole.text.starts_with("<think>\n"), "{whole:?}");
}
