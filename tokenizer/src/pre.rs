//! Which regexes each `tokenizer.ggml.pre` stands for: one table, checked against llama.cpp's splits.
//! How the shapes match is in `split.rs`.

use std::fmt;

use super::split::{Alt, Case, Lead, Set, Suffix, Tail};
use super::unicode::Class;

/// What a pre-tokenizer's name stands for.
pub(crate) struct Pre {
    /// The values of `tokenizer.ggml.pre` that mean this.
    pub(crate) names: &'static [&'static str],
    /// The regexes, each cutting the pieces that the one before it left.
    pub(crate) steps: &'static [&'static [Alt]],
    /// A word that is a token is taken whole, without merging.
    pub(crate) ignore_merges: bool,
    /// Whether a text begins with BOS where `tokenizer.ggml.add_bos_token` does not say.
    pub(crate) add_bos: bool,
}

impl fmt::Debug for Pre {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pre").field(&self.names).finish()
    }
}

/// The pre-tokenizer called `name`.
pub(crate) fn find(name: &str) -> Option<&'static Pre> {
    PRES.iter().find(|pre| pre.names.contains(&name))
}

/// Every kind once, by its first name.
#[cfg(test)]
pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
    PRES.iter().map(|pre| pre.names[0])
}

/// All names that [`find`] knows, in the table's order.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PRES.iter().flat_map(|pre| pre.names.iter().copied())
}

/// The pre-tokenizer of files that name none.
pub(crate) const DEFAULT: &str = "default";

static PRES: &[Pre] = &[
    Pre { steps: &[&[FALCON_SIGNS_1], GPT2, &[NUMBERS], &[Alt::ThreeDigits]], ..pre(&[DEFAULT]) },
    Pre {
        steps: &[GPT2],
        ..pre(&[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
        ])
    },
    Pre {
        steps: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..pre(&[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ])
    },
    Pre { steps: &[LLAMA3], ..pre(&["dbrx", "smaug-bpe", "chatglm-bpe"]) },
    Pre { steps: &[LLAMA3], ignore_merges: true, ..pre(&["glm4", "glm5"]) },
    Pre {
        steps: &[QWEN2],
        ..pre(&[
            "qwen2",
            "deepseek-r1-qwen",
            "stablelm2",
            "megrez",
            "hunyuan",
            "solar-open",
            "grok-2",
            "kormo",
            "f2llmv2",
        ])
    },
    Pre { steps: &[QWEN35], ..pre(&["qwen35"]) },
    Pre {
        steps: &[&[DIGIT], GPT2],
        ..pre(&[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ])
    },
    Pre {
        steps: &[
            &[BREAK],
            &[run(Lead::White, deepseek_letter)],
            &[run(Lead::White, deepseek_sign)],
            &[Alt::SpacesAtEnd],
            &[EAST_ASIAN],
            &[NUMBERS],
        ],
        ..pre(&["deepseek-llm"])
    },
    Pre {
        steps: &[
            &[BREAK],
            &[run(Lead::White, |_, class| class == Class::L)],
            &[run(Lead::White, |_, class| class == Class::P)],
            &[EAST_ASIAN],
            &[DIGIT],
        ],
        ..pre(&["deepseek-coder"])
    },
    Pre {
        steps: &[&[NUMBERS_3], &[CJK], DEEPSEEK_V3],
        ..pre(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"])
    },
    Pre { steps: &[&[FALCON_SIGNS], GPT2, &[Alt::ThreeDigits]], ..pre(&["falcon"]) },
    Pre { steps: &[TEKKEN], ignore_merges: true, add_bos: true, ..pre(&["tekken"]) },
    Pre { steps: &[GPT4O], ..pre(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"]) },
    Pre { steps: &[&[BLOOM]], ..pre(&["bloom", "gpt3-finnish", "poro-chat"]) },
    Pre { steps: &[&[BLOOM], &[DIGIT]], ..pre(&["viking"]) },
    // Its last line-break alternative is `\s*[\r\n]`, which ends where `\s*[\r\n]+` does.
    Pre { steps: &[QWEN2], ..pre(&["bailingmoe", "bailingmoe2", "llada-moe"]) },
    Pre { steps: &[&[NOT_NEWLINES, NEWLINES], QWEN2], ..pre(&["laguna"]) },
    Pre { steps: &[UFAKZEKA], ..pre(&["ufakzeka"]) },
    Pre { steps: &[&[NUMBERS_3], LLAMA3], ignore_merges: true, ..pre(&["minicpm5"]) },
    Pre { steps: &[&[NUMBERS_3], &[CJK], SPARK, &[DIGIT]], ..pre(&["spark2_5"]) },
    Pre { steps: &[SEED_CODER], ..pre(&["seed-coder"]) },
];

const fn pre(names: &'static [&'static str]) -> Pre {
    Pre { names, steps: &[], ignore_merges: false, add_bos: false }
}

const fn run(lead: Lead, set: Set) -> Alt {
    Alt::Run { lead, set, max: usize::MAX, tail: Tail::None }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`
const GPT2: &[Alt] = &[
    Alt::Contraction(Case::Lower),
    run(Lead::Space, |_, class| class == Class::L),
    run(Lead::Space, |_, class| class == Class::N),
    run(Lead::Space, other),
    Alt::SpacesBeforeSpace,
    Alt::Spaces,
];

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
const LLAMA3: &[Alt] = &[
    Alt::Contraction(Case::Any),
    run(Lead::NotWord, |_, class| class == Class::L),
    NUMBERS_3,
    Alt::Run { lead: Lead::Space, set: other, max: usize::MAX, tail: Tail::Breaks },
    Alt::LineBreaks,
    Alt::SpacesBeforeSpace,
    Alt::Spaces,
];

/// As [`LLAMA3`] with `\p{N}` one at a time.
const QWEN2: &[Alt] = &[
    Alt::Contraction(Case::Any),
    run(Lead::NotWord, |_, class| class == Class::L),
    DIGIT,
    Alt::Run { lead: Lead::Space, set: other, max: usize::MAX, tail: Tail::Breaks },
    Alt::LineBreaks,
    Alt::SpacesBeforeSpace,
    Alt::Spaces,
];

/// As [`QWEN2`] with marks among the letters: `[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+` and ` ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*`.
const QWEN35: &[Alt] = &[
    Alt::Contraction(Case::Any),
    run(Lead::NotWord, letter_or_mark),
    DIGIT,
    Alt::Run {
        lead: Lead::Space,
        set: |c, class| other(c, class) && class != Class::M,
        max: usize::MAX,
        tail: Tail::Breaks,
    },
    Alt::LineBreaks,
    Alt::SpacesBeforeSpace,
    Alt::Spaces,
];

/// The third regex of DeepSeek V3: ASCII punctuation glued to a word, words with marks, signs, white space.
const DEEPSEEK_V3: &[Alt] = &[
    Alt::PunctuatedWord,
    run(Lead::NotLetterOrSign, letter_or_mark),
    Alt::Run {
        lead: Lead::Space,
        set: |_, class| matches!(class, Class::P | Class::S),
        max: usize::MAX,
        tail: Tail::Breaks,
    },
    Alt::LineBreaks,
    Alt::SpacesBeforeSpace,
    Alt::Spaces,
];

const TEKKEN: &[Alt] = &[
    Alt::CasedWord(Suffix::None),
    DIGIT,
    Alt::Run { lead: Lead::Space, set: other, max: usize::MAX, tail: Tail::BreaksAndSlashes },
    Alt::LineBreaks,
    Alt::SpacesBeforeSpace,
    Alt::Spaces,
];

const GPT4O: &[Alt] = &[
    Alt::CasedWord(Suffix::Contraction),
    NUMBERS_3,
    Alt::Run { lead: Lead::Space, set: other, max: usize::MAX, tail: Tail::BreaksAndSlashes },
    Alt::LineBreaks,
    Alt::SpacesBeforeSpace,
    Alt::Spaces,
];

/// As [`QWEN2`] without contractions.
const UFAKZEKA: &[Alt] = &[
    run(Lead::NotWord, |_, class| class == Class::L),
    DIGIT,
    Alt::Run { lead: Lead::Space, set: other, max: usize::MAX, tail: Tail::Breaks },
    Alt::LineBreaks,
    Alt::SpacesBeforeSpace,
    Alt::Spaces,
];

/// As [`DEEPSEEK_V3`] with each line break on its own.
const SPARK: &[Alt] = &[
    Alt::PunctuatedWord,
    run(Lead::NotLetterOrSign, letter_or_mark),
    run(Lead::Space, |_, class| matches!(class, Class::P | Class::S)),
    BREAK,
    Alt::SpacesBeforeSpace,
    Alt::Spaces,
];

/// As [`QWEN2`] with no line breaks after signs.
const SEED_CODER: &[Alt] = &[
    Alt::Contraction(Case::Any),
    run(Lead::NotWord, |_, class| class == Class::L),
    DIGIT,
    run(Lead::Space, other),
    Alt::LineBreaks,
    Alt::SpacesBeforeSpace,
    Alt::Spaces,
];

/// `\p{N}`
const DIGIT: Alt =
    Alt::Run { lead: Lead::None, set: |_, class| class == Class::N, max: 1, tail: Tail::None };
/// `\p{N}{1,3}`
const NUMBERS_3: Alt =
    Alt::Run { lead: Lead::None, set: |_, class| class == Class::N, max: 3, tail: Tail::None };
/// `\p{N}+`
const NUMBERS: Alt = run(Lead::None, |_, class| class == Class::N);
/// `[^\n]+`
const NOT_NEWLINES: Alt = run(Lead::None, |c, _| c != '\n');
/// `[\n]+`
const NEWLINES: Alt = run(Lead::None, |c, _| c == '\n');
/// `[\r\n]`
const BREAK: Alt =
    Alt::Run { lead: Lead::None, set: |c, _| matches!(c, '\r' | '\n'), max: 1, tail: Tail::None };
/// ``[\p{P}\$\+<=>\^~\|`]+``
const FALCON_SIGNS: Alt = run(Lead::None, |c, class| class == Class::P || "$+<=>^~|`".contains(c));
/// `[\p{P}\$\+<=>\^~\|]+`: the default lacks the backtick.
const FALCON_SIGNS_1: Alt = run(Lead::None, |c, class| class == Class::P || "$+<=>^~|".contains(c));
/// `[一-龥ࠀ-一가-퟿]+`: from U+0800 on, in truth.
const EAST_ASIAN: Alt = run(Lead::None, |c, class| {
    class != Class::Space && matches!(c, '\u{800}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7ff}')
});
/// `[一-龥぀-ゟ゠-ヿ]+`
const CJK: Alt =
    run(Lead::None, |c, _| matches!(c, '\u{4e00}'..='\u{9fa5}' | '\u{3040}'..='\u{30ff}'));
/// ` ?[^(\s|.,!?…。，、।۔،)]+`
const BLOOM: Alt =
    run(Lead::Space, |c, class| class != Class::Space && !"(|.,!?…。，、।۔،)".contains(c));

/// `[^\s\p{L}\p{N}]`
fn other(_: char, class: Class) -> bool {
    !matches!(class, Class::Space | Class::L | Class::N)
}

/// `[\p{L}\p{M}]`
fn letter_or_mark(_: char, class: Class) -> bool {
    matches!(class, Class::L | Class::M)
}

/// ``[!-/:-~！-／：-～‘-‟　-。]``. Its U+3000 never matches: like all white space it is seen as `\s` only.
fn deepseek_sign(c: char, class: Class) -> bool {
    class != Class::Space
        && matches!(c, '!'..='/' | ':'..='~' | '！'..='／' | '：'..='～' | '‘'..='‟' | '\u{3000}'..='。')
}

/// DeepSeek LLM's list of cased letters (its tokenizer.json spells the ranges out).
fn deepseek_letter(c: char, _: Class) -> bool {
    let next = DEEPSEEK_LETTERS.partition_point(|range| *range.start() <= c);
    next > 0 && DEEPSEEK_LETTERS[next - 1].contains(&c)
}

#[rustfmt::skip]
static DEEPSEEK_LETTERS: [std::ops::RangeInclusive<char>; 84] = [
    '\u{41}'..='\u{5a}', '\u{61}'..='\u{7a}', '\u{b5}'..='\u{b5}', '\u{c0}'..='\u{d6}', '\u{d8}'..='\u{f6}',
    '\u{f8}'..='\u{1ba}', '\u{1bc}'..='\u{1bf}', '\u{1c4}'..='\u{293}', '\u{295}'..='\u{2af}', '\u{370}'..='\u{373}',
    '\u{376}'..='\u{377}', '\u{37b}'..='\u{37d}', '\u{37f}'..='\u{37f}', '\u{386}'..='\u{386}', '\u{388}'..='\u{38a}',
    '\u{38c}'..='\u{38c}', '\u{38e}'..='\u{3a1}', '\u{3a3}'..='\u{3f5}', '\u{3f7}'..='\u{481}', '\u{48a}'..='\u{52f}',
    '\u{531}'..='\u{556}', '\u{10a0}'..='\u{10c5}', '\u{13a0}'..='\u{13f5}', '\u{13f8}'..='\u{13fd}', '\u{1c90}'..='\u{1cba}',
    '\u{1cbd}'..='\u{1cbf}', '\u{1d00}'..='\u{1d2b}', '\u{1d6b}'..='\u{1d77}', '\u{1d79}'..='\u{1d9a}', '\u{1e00}'..='\u{1f15}',
    '\u{1f18}'..='\u{1f1d}', '\u{1f20}'..='\u{1f45}', '\u{1f48}'..='\u{1f4d}', '\u{1f50}'..='\u{1f57}', '\u{1f59}'..='\u{1f59}',
    '\u{1f5b}'..='\u{1f5b}', '\u{1f5d}'..='\u{1f5d}', '\u{1f5f}'..='\u{1f7d}', '\u{1f80}'..='\u{1fb4}', '\u{1fb6}'..='\u{1fbc}',
    '\u{1fbe}'..='\u{1fbe}', '\u{1fc2}'..='\u{1fc4}', '\u{1fc6}'..='\u{1fcc}', '\u{1fd0}'..='\u{1fd3}', '\u{1fd6}'..='\u{1fdb}',
    '\u{1fe0}'..='\u{1fec}', '\u{1ff2}'..='\u{1ff4}', '\u{1ff6}'..='\u{1ffc}', '\u{2102}'..='\u{2102}', '\u{2107}'..='\u{2107}',
    '\u{210a}'..='\u{2113}', '\u{2115}'..='\u{2115}', '\u{2119}'..='\u{211d}', '\u{2124}'..='\u{2124}', '\u{2126}'..='\u{2126}',
    '\u{2128}'..='\u{2128}', '\u{212a}'..='\u{212d}', '\u{212f}'..='\u{2134}', '\u{2139}'..='\u{2139}', '\u{213c}'..='\u{213f}',
    '\u{2145}'..='\u{2149}', '\u{214e}'..='\u{214e}', '\u{2183}'..='\u{2184}', '\u{2c00}'..='\u{2c7b}', '\u{2c7e}'..='\u{2ce4}',
    '\u{2ceb}'..='\u{2cee}', '\u{2cf2}'..='\u{2cf3}', '\u{a640}'..='\u{a66d}', '\u{a680}'..='\u{a69b}', '\u{a722}'..='\u{a76f}',
    '\u{a771}'..='\u{a787}', '\u{a78b}'..='\u{a78e}', '\u{ab70}'..='\u{abbf}', '\u{fb00}'..='\u{fb06}', '\u{fb13}'..='\u{fb17}',
    '\u{ff21}'..='\u{ff3a}', '\u{ff41}'..='\u{ff5a}', '\u{10400}'..='\u{1044f}', '\u{104b0}'..='\u{104d3}', '\u{104d8}'..='\u{104fb}',
    '\u{10c80}'..='\u{10cb2}', '\u{10cc0}'..='\u{10cf2}', '\u{118a0}'..='\u{118df}', '\u{1e900}'..='\u{1e943}',
];
