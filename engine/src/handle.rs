//! [`Model`]: a handle to a loaded model, and how it is opened.

use crate::chat::{Chat, ChatForm};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::grammar::{AtLimit, Compiled, Grammar, Grammars};
use crate::load::{self, Info, Opened, Sampling};
use crate::options::{Backend, Options};
use crate::sampling;
use crate::sequence::{Sequence, Work};
use crate::session::Session;
use graph::{Arithmetic, KvType, NoTap};
use model::{Engine, Recommended, Sampler, SamplerParams, SeqId, StopRules};
use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use tokenizer::{ChatTemplate, Ends, Show, Special, Tokenizer};

/// A model that is ready to run. A handle: clones share the weights and the cache, and may be used from several threads,
/// which then compute by turns.
#[derive(Clone)]
pub struct Model(Arc<Shared>);

struct Shared {
    engine: Mutex<Engine>,
    tokenizer: Tokenizer,
    stop: StopRules,
    sampling: Sampling,
    info: Info,
    /// Made when the first grammar is asked for.
    grammars: OnceLock<Grammars>,
}

/// How to open a model: [`Options`], each with a method of its name, and where it comes from.
pub struct Builder<'l> {
    source: Option<OsString>,
    options: Options,
    config: Option<Config>,
    listener: Box<dyn Fn(Event<'_>) + 'l>,
}

impl Model {
    /// Opens a model on the CPU: the path of a GGUF file, a name of the catalogue, or a source such as
    /// `hf:owner/repo/file.gguf`. Fetches it if it is not in the cache.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open(source: impl AsRef<OsStr>) -> Result<Self> {
        Self::builder(source).open()
    }

    /// The same with options.
    pub fn builder<'l>(source: impl AsRef<OsStr>) -> Builder<'l> {
        Builder { source: Some(source.as_ref().to_owned()), ..Builder::default() }
    }

    /// What the model is and how it was loaded.
    pub fn info(&self) -> &Info {
        &self.0.info
    }

    /// How the file wants tokens to be chosen, or its makers in the catalogue: what its sessions and chats begin with.
    pub fn recommended_sampling(&self) -> &Recommended {
        &self.0.sampling.recommended
    }

    /// What of [`Model::recommended_sampling`] its makers say in the catalogue, and not the file.
    pub fn card_sampling(&self) -> &Recommended {
        &self.0.sampling.card
    }

    /// Text to ids and back, with all that can be asked of it.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.0.tokenizer
    }

    /// The ids of a text, with the token that begins a text where the model has one. Names of special tokens in the text
    /// are text.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] for a text that is too long for any context.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer().encode(text, Special::AsText, Ends::Default)?)
    }

    /// The text of ids, without special tokens.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] for ids out of the vocabulary.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String> {
        Ok(self.tokenizer().decode(ids, Show::Text)?)
    }

    /// The file's chat template.
    ///
    /// # Errors
    /// [`ErrorKind::Rejected`] where there is none, or it cannot be compiled.
    pub fn template(&self) -> Result<ChatTemplate> {
        let template = ChatTemplate::from_tokenizer(self.tokenizer());
        let hint = "a completion takes the text as it is, without a template";
        template.map_err(|e| Error::from(e).with_hint(hint))
    }

    /// Another chat template than the file's: its source, or one of llama.cpp's names for templates, such as `llama3`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a word that is no such name; [`ErrorKind::Rejected`] for what cannot be compiled.
    pub fn template_by(&self, text: &str) -> Result<ChatTemplate> {
        ChatTemplate::other(text, self.tokenizer()).map_err(|error| {
            if error.kind() == tokenizer::ErrorKind::Argument {
                return Error::new(ErrorKind::Usage, error.to_string());
            }
            Error::from(error)
        })
    }

    /// Whether the file has a chat template.
    pub fn has_template(&self) -> bool {
        self.tokenizer().chat_template().is_some()
    }

    /// Begins a conversation in the model's template.
    ///
    /// # Errors
    /// As [`Model::template`].
    pub fn chat(&self) -> Result<Chat> {
        self.chat_as(ChatForm::Template)
    }

    /// Begins a conversation in another form, such as one for a model without a template.
    ///
    /// # Errors
    /// As [`Model::template`], for [`ChatForm::Template`].
    pub fn chat_as(&self, form: ChatForm) -> Result<Chat> {
        Chat::new(self, form)
    }

    /// Begins a conversation in another template, or in the model's with variables of its own: [`Model::template_by`],
    /// [`ChatTemplate::with_variables`].
    ///
    /// # Errors
    /// As [`Model::session`].
    pub fn chat_by(&self, template: ChatTemplate) -> Result<Chat> {
        Chat::by(self, Some(template))
    }

    /// Begins a session: texts that go on from a prompt.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] as for [`Model::engine`].
    pub fn session(&self) -> Result<Session> {
        Session::new(self)
    }

    /// Begins an empty sequence, for programs that run the steps themselves.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] as for [`Model::engine`].
    pub fn sequence(&self) -> Result<Sequence> {
        let id = self.engine()?.add();
        Ok(Sequence::new(self.clone(), id))
    }

    /// A sampler for the model's vocabulary, for programs that run the steps themselves: it never takes what the file
    /// suppresses. Tell it of the prompt ([`Sampler::begin`]) and of each token of the text ([`Sampler::accept`]).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a setting out of range, and for a bias of an id out of the vocabulary.
    pub fn sampler(&self, params: SamplerParams) -> Result<Sampler> {
        sampling::sampler(self.tokenizer(), params)
    }

    /// A grammar, ready for a text.
    pub(crate) fn compile(&self, grammar: &Grammar, at_limit: AtLimit) -> Result<Compiled> {
        let grammars = match self.0.grammars.get() {
            Some(grammars) => grammars,
            None => {
                let made = Grammars::new(self.tokenizer())?;
                self.0.grammars.get_or_init(|| made)
            }
        };
        grammars.compile(grammar, self.tokenizer(), at_limit)
    }

    /// Runs one step over several sequences of this model and returns the wanted logits of each item, row by row. What
    /// one sequence gives does not depend on the others, to the bit. A step that fails leaves all as they were.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a sequence of another model, one that occurs twice, and more tokens than
    /// [`Options::batch_size`]; [`ErrorKind::Rejected`] for ids out of the vocabulary and sequences over the context;
    /// [`ErrorKind::DoesNotFit`] where the cache is full; [`ErrorKind::Device`] where the device fails.
    pub fn step(&self, work: &[Work<'_>]) -> Result<Vec<Vec<f32>>> {
        if work.iter().any(|item| !item.sequence.is_of(self)) {
            return Err(Error::new(ErrorKind::Usage, "step: a sequence of another model"));
        }
        let items: Vec<model::Work<'_>> = work.iter().map(Work::item).collect();
        self.engine()?.step(&items, &mut NoTap).map_err(callers)
    }

    /// The engine below: its sequences are not those of [`Model::sequence`]. Who holds it keeps all others waiting.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] where a step has panicked before.
    pub fn engine(&self) -> Result<MutexGuard<'_, Engine>> {
        let broken = "an earlier step of this model panicked; it can no longer be used";
        self.0.engine.lock().map_err(|_| Error::new(ErrorKind::Internal, broken))
    }

    pub(crate) fn stop_rules(&self, max_tokens: Option<usize>) -> StopRules {
        StopRules { max_tokens, ..self.0.stop.clone() }
    }

    pub(crate) fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn remove(&self, seq: SeqId) {
        // A model that panicked is of no use to anybody, whatever its cache holds.
        if let Ok(mut engine) = self.engine() {
            let _ = engine.remove(seq);
        }
    }
}

/// What breaks the rules of a step comes from the caller: no bug of ours.
pub(crate) fn callers(error: model::Error) -> Error {
    if error.kind() == model::ErrorKind::Usage {
        return Error::new(ErrorKind::Usage, error.to_string());
    }
    error.into()
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Model").field(self.info()).finish()
    }
}

impl Default for Builder<'_> {
    /// The default model on the CPU.
    fn default() -> Self {
        Self { source: None, options: Options::default(), config: None, listener: Box::new(|_| {}) }
    }
}

/// A method that sets the option of its name.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $name: $type) -> Self {
            self.options.$name = $name.into();
            self
        }
    )*};
}

impl<'l> Builder<'l> {
    setters! {
        /// [`Options::ctx_size`].
        ctx_size: usize,
        /// [`Options::batch_size`].
        batch_size: usize,
        /// [`Options::threads`].
        threads: usize,
        /// [`Options::backend`].
        backend: Backend,
        /// [`Options::gpu_layers`].
        gpu_layers: usize,
        /// [`Options::gpu_memory`].
        gpu_memory: u64,
        /// [`Options::unchecked`].
        unchecked: bool,
        /// [`Options::arithmetic`].
        arithmetic: Arithmetic,
        /// [`Options::cache_type`].
        cache_type: KvType,
        /// [`Options::mmap`].
        mmap: bool,
        /// [`Options::check_tensors`].
        check_tensors: bool,
        /// [`Options::sequences`].
        sequences: usize,
    }

    /// [`Options::device`].
    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.options.device = Some(device.into());
        self
    }

    /// All options at once.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Folders and services, in place of those of the environment.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Who hears of progress and warnings while the model is opened; without it nobody.
    #[must_use]
    pub fn on_event(mut self, listener: impl Fn(Event<'_>) + 'l) -> Self {
        self.listener = Box::new(listener);
        self
    }

    /// Opens the model. Everything that can be refused is refused before memory for weights is taken.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for impossible options; those of [`crate::sources::resolve`] where there is no such model;
    /// [`ErrorKind::ModelFile`] where it is none that karat runs; [`ErrorKind::DoesNotFit`] where it needs more memory
    /// than there is; [`ErrorKind::Device`] where the device is missing or computes wrong numbers.
    pub fn open(self) -> Result<Model> {
        let config = self.config.unwrap_or_else(Config::from_env);
        let source = self.source.as_deref();
        let Opened { engine, tokenizer, sampling, info } =
            load::open(source, &self.options, &config, &*self.listener)?;
        let stop = StopRules { end_ids: tokenizer.eog_ids().collect(), max_tokens: None };
        stop.check(engine.n_vocab())?;
        let (engine, grammars) = (Mutex::new(engine), OnceLock::new());
        Ok(Model(Arc::new(Shared { engine, tokenizer, stop, sampling, info, grammars })))
    }
}
