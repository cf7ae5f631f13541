//! One Rust file, taken apart as far as the rules need: words with their lines, test regions, function sizes.

use proc_macro2::{Delimiter, LineColumn, Span, TokenStream, TokenTree};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::str::FromStr;
use syn::spanned::Spanned;
use syn::visit::Visit;

/// An identifier or a string literal, outside doc comments.
pub(super) struct Word {
    pub(super) line: usize,
    pub(super) kind: WordKind,
    pub(super) text: String,
}

/// What sort of token a [`Word`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WordKind {
    Ident,
    Text,
}

/// A function with a body, tests excluded.
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    /// Lines that hold code, from the signature to the closing brace.
    pub(super) code_lines: usize,
    /// Parameters without `self`; of a tuple each element counts, however deep it lies.
    pub(super) params: usize,
    /// Whether one of them is a tuple.
    pub(super) takes_tuple: bool,
}

/// An `#[ignore]` that says no reason.
pub(super) struct BareIgnore {
    pub(super) line: usize,
}

/// What the rules ask of one file.
pub(super) struct Source {
    pub(super) words: Vec<Word>,
    pub(super) functions: Vec<Function>,
    pub(super) bare_ignores: Vec<BareIgnore>,
    /// Names of `#[cfg(test)] mod name;`.
    pub(super) test_modules: Vec<String>,
    /// Inner attributes of the file, as `forbid(unsafe_code)`, without spaces or reasons.
    pub(super) inner_attrs: Vec<String>,
    /// The file as a whole is test code.
    pub(super) all_test: bool,
    code_lines: BTreeSet<usize>,
    test_regions: Vec<RangeInclusive<usize>>,
}

impl Source {
    /// Takes `text` apart; the error is the parser's message.
    pub(super) fn parse(path: &str, text: &str) -> Result<Self, String> {
        let tokens = TokenStream::from_str(text).map_err(|error| error.to_string())?;
        let mut walk = Walk { words: Vec::new(), code_lines: BTreeSet::new() };
        walk.stream(tokens.clone());
        let file: syn::File = syn::parse2(tokens).map_err(|error| error.to_string())?;
        let mut items = Items::default();
        items.visit_file(&file);
        let test_regions = items.test_regions;
        let in_tests = |line: usize| test_regions.iter().any(|region| region.contains(&line));
        let functions = items.functions.into_iter().filter(|function| !in_tests(function.line));
        let functions = functions.map(|function| Function {
            code_lines: walk.code_lines.range(function.line..=function.end).count(),
            name: function.name,
            line: function.line,
            params: function.params,
            takes_tuple: function.takes_tuple,
        });
        Ok(Self {
            functions: functions.collect(),
            words: walk.words,
            bare_ignores: items.bare_ignores,
            test_modules: items.test_modules,
            inner_attrs: file.attrs.iter().flat_map(inner_attr).collect(),
            all_test: is_test_path(path),
            code_lines: walk.code_lines,
            test_regions,
        })
    }

    /// Whether `line` is test code.
    pub(super) fn in_tests(&self, line: usize) -> bool {
        self.all_test || self.test_regions.iter().any(|region| region.contains(&line))
    }

    /// Words outside test code.
    pub(super) fn real_words(&self) -> impl Iterator<Item = &Word> {
        self.words.iter().filter(|word| !self.in_tests(word.line))
    }

    /// Lines that hold code (not blank, not only a comment): outside tests, and in tests.
    pub(super) fn code_and_test_lines(&self) -> (usize, usize) {
        let tests = self.code_lines.iter().filter(|&&line| self.in_tests(line)).count();
        (self.code_lines.len() - tests, tests)
    }
}

/// Folders whose files are only ever built for tests, benches and fuzzing.
fn is_test_path(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "benches" | "fuzz" | "examples"))
}

/// `#![forbid(a, b)]` as `forbid(a)` and `forbid(b)`; other attributes give nothing.
fn inner_attr(attr: &syn::Attribute) -> Vec<String> {
    let syn::Meta::List(list) = &attr.meta else { return Vec::new() };
    let Some(level) = list.path.get_ident() else { return Vec::new() };
    let words = list.tokens.clone().into_iter().filter_map(|token| match token {
        TokenTree::Ident(ident) => Some(format!("{level}({ident})")),
        TokenTree::Group(_) | TokenTree::Punct(_) | TokenTree::Literal(_) => None,
    });
    words.collect()
}

/// Collects words and the lines that hold code.
struct Walk {
    words: Vec<Word>,
    code_lines: BTreeSet<usize>,
}

impl Walk {
    fn stream(&mut self, stream: TokenStream) {
        let mut after_hash = false;
        for token in stream {
            let mark = match &token {
                TokenTree::Punct(punct) => {
                    Some(punct.as_char()).filter(|mark| matches!(mark, '#' | '!'))
                }
                TokenTree::Group(_) | TokenTree::Ident(_) | TokenTree::Literal(_) => None,
            };
            let doc = matches!(&token, TokenTree::Group(group) if after_hash && is_doc(group));
            // The hash and bang of a doc comment stand on the comment's line: they are no code.
            if mark.is_none() && !doc {
                self.token(token);
            }
            after_hash = mark == Some('#') || (after_hash && mark == Some('!'));
        }
    }

    fn token(&mut self, token: TokenTree) {
        let span = token.span();
        let line = span.start().line;
        match token {
            TokenTree::Group(group) => {
                if group.delimiter() != Delimiter::None {
                    self.mark(group.span_open());
                    self.mark(group.span_close());
                }
                self.stream(group.stream());
            }
            TokenTree::Ident(ident) => {
                self.mark(span);
                self.words.push(Word { line, kind: WordKind::Ident, text: ident.to_string() });
            }
            TokenTree::Punct(_) => self.mark(span),
            TokenTree::Literal(literal) => {
                self.mark(span);
                #[allow(
                    clippy::wildcard_enum_match_arm,
                    reason = "numbers and characters hold no names; the enum is open"
                )]
                let text = match syn::Lit::new(literal) {
                    syn::Lit::Str(text) => text.value(),
                    syn::Lit::ByteStr(text) => String::from_utf8_lossy(&text.value()).into_owned(),
                    syn::Lit::CStr(text) => text.value().to_string_lossy().into_owned(),
                    _ => return,
                };
                self.words.push(Word { line, kind: WordKind::Text, text });
            }
        }
    }

    fn mark(&mut self, span: Span) {
        let (LineColumn { line: start, .. }, LineColumn { line: end, .. }) =
            (span.start(), span.end());
        self.code_lines.extend(start..=end);
    }
}

/// Whether a bracket group is the `[doc = "…"]` that a doc comment becomes.
fn is_doc(group: &proc_macro2::Group) -> bool {
    let mut tokens = group.stream().into_iter();
    let named_doc = matches!(tokens.next(), Some(TokenTree::Ident(ident)) if ident == "doc");
    named_doc && matches!(tokens.next(), Some(TokenTree::Punct(punct)) if punct.as_char() == '=')
}

/// A function as the visitor meets it, before its lines are counted.
struct RawFunction {
    name: String,
    line: usize,
    end: usize,
    params: usize,
    takes_tuple: bool,
}

/// Collects functions and test regions.
#[derive(Default)]
struct Items {
    functions: Vec<RawFunction>,
    bare_ignores: Vec<BareIgnore>,
    test_modules: Vec<String>,
    test_regions: Vec<RangeInclusive<usize>>,
}

impl Items {
    fn attributes(&mut self, attrs: &[syn::Attribute], whole: Span) {
        if attrs.iter().any(is_test_attr) {
            self.test_regions.push(whole.start().line..=whole.end().line);
        }
        for attr in attrs {
            if attr.path().is_ident("ignore") && matches!(attr.meta, syn::Meta::Path(_)) {
                self.bare_ignores.push(BareIgnore { line: attr.span().start().line });
            }
        }
    }

    fn function(&mut self, sig: &syn::Signature, body: &syn::Block) {
        let typed = sig.inputs.iter().filter_map(|input| match input {
            syn::FnArg::Typed(param) => Some(elements(&param.pat, &param.ty)),
            syn::FnArg::Receiver(_) => None,
        });
        let elements: Vec<usize> = typed.collect();
        self.functions.push(RawFunction {
            name: sig.ident.to_string(),
            line: sig.span().start().line,
            end: body.span().end().line,
            params: elements.iter().sum(),
            takes_tuple: elements.iter().any(|&count| count > 1),
        });
    }
}

/// How many values a parameter holds: 1, or those of a tuple. The pattern knows them where an alias hides the type, the
/// type where the tuple is taken whole.
fn elements(pattern: &syn::Pat, ty: &syn::Type) -> usize {
    in_pattern(pattern).max(in_type(ty))
}

#[allow(clippy::wildcard_enum_match_arm, reason = "syn's enum is open; the others hold no tuple")]
fn in_pattern(pattern: &syn::Pat) -> usize {
    match pattern {
        syn::Pat::Tuple(tuple) => tuple.elems.iter().map(in_pattern).sum(),
        syn::Pat::Paren(inner) => in_pattern(&inner.pat),
        syn::Pat::Reference(inner) => in_pattern(&inner.pat),
        _ => 1,
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "syn's enum is open; the others hold no tuple")]
fn in_type(ty: &syn::Type) -> usize {
    match ty {
        // `()` is a value too: a type parameter that is not used.
        syn::Type::Tuple(tuple) => tuple.elems.iter().map(in_type).sum::<usize>().max(1),
        syn::Type::Paren(inner) => in_type(&inner.elem),
        syn::Type::Reference(inner) => in_type(&inner.elem),
        _ => 1,
    }
}

impl<'ast> Visit<'ast> for Items {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.attributes(&item.attrs, item.span());
        if item.content.is_none() && item.attrs.iter().any(is_test_attr) {
            self.test_modules.push(item.ident.to_string());
        }
        syn::visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.attributes(&item.attrs, item.span());
        self.function(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.attributes(&item.attrs, item.span());
        self.function(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.function(&item.sig, body);
        }
        syn::visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.attributes(&item.attrs, item.span());
        syn::visit::visit_item_impl(self, item);
    }

    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.attributes(&item.attrs, item.span());
        syn::visit::visit_item_const(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.attributes(&item.attrs, item.span());
    }
}

/// `#[test]`, `#[cfg(test)]`, `#[cfg(all(test, …))]`; not `#[cfg(not(test))]` and not `#[cfg(any(test, …))]`,
/// which real builds may contain.
fn is_test_attr(attr: &syn::Attribute) -> bool {
    if attr.path().is_ident("test") {
        return true;
    }
    let syn::Meta::List(list) = &attr.meta else { return false };
    let text: String = list.tokens.to_string().split_whitespace().collect();
    list.path.is_ident("cfg") && (text == "test" || text.starts_with("all(test,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Source {
        Source::parse("gguf/src/a.rs", text).unwrap()
    }

    #[test]
    fn doc_comments_are_neither_words_nor_code() {
        let source =
            parse("//! llama\n/// llama \"unsafe\"\n#[derive(Debug)]\nstruct A; // unsafe\n");
        let words: Vec<_> = source.words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(words, ["derive", "Debug", "struct", "A"]);
        assert_eq!(source.code_and_test_lines(), (2, 0));
    }

    #[test]
    fn test_regions_are_told_apart() {
        let source = parse(
            "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n#[cfg(not(test))]\nfn c() {}\n",
        );
        let names: Vec<_> =
            source.functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(source.code_and_test_lines(), (3, 4));
        assert!(source.in_tests(4) && !source.in_tests(7));
    }

    #[test]
    fn functions_count_code_lines_and_parameters() {
        let source = parse(
            "impl A {\n    /// Doc.\n    fn f(&self, a: u8, b: u8) {\n\n        // why\n        g();\n    }\n}\n",
        );
        assert_eq!((source.functions[0].code_lines, source.functions[0].params), (3, 2));
    }

    #[test]
    fn of_a_tuple_each_element_is_a_parameter() {
        let counts = |text: &str| {
            let function = &parse(text).functions[0];
            (function.params, function.takes_tuple)
        };
        assert_eq!(counts("fn f(a: u8, (b, (c, _)): (u8, (u8, u8))) {}"), (4, true));
        assert_eq!(counts("fn f(&(a, b): &Pair) {}"), (2, true), "an alias hides the type");
        assert_eq!(counts("fn f(&self, at: &mut (u8, u8, u8)) {}"), (3, true), "taken whole");
        assert_eq!(counts("fn f(a: (), [b, c]: [u8; 2], d: &[(u8, u8)]) {}"), (3, false));
        assert_eq!(counts("fn f(Named { a, b }: &Named, g: impl Fn((u8, u8))) {}"), (2, false));
    }

    #[test]
    fn strings_in_macros_are_words() {
        let source = parse("macro_rules! m { () => { unsafe { f(b\"qwen2\") } } }\n");
        let has = |text: &str, kind| {
            source.words.iter().any(|word| word.text == text && word.kind == kind)
        };
        assert!(has("unsafe", WordKind::Ident));
        assert!(has("qwen2", WordKind::Text));
    }
}
