//! llama.cpp's grammars, GBNF, as grammars in llguidance's dialect of Lark.
//!
//! GBNF has no tokens of its own: a rule is about characters. So every character, and every class of characters, becomes
//! a terminal by itself, and no longer terminal can swallow what another rule would need.

use crate::error::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use tokenizer::Tokenizer;

/// Deepest nesting of parentheses.
const MAX_DEPTH: usize = 200;
/// Most repetitions that a count may ask for; llama.cpp's bound.
const MAX_REPETITIONS: u32 = 2000;

/// How often a symbol may stand.
struct Counts {
    least: u32,
    /// `None` is any number.
    most: Option<u32>,
}

/// A part of a rule.
#[derive(Clone, Debug, PartialEq)]
enum Item {
    Char(char),
    /// A class in the syntax of regular expressions.
    Class(String),
    /// Characters, as one symbol for what is behind it.
    Literal(Vec<char>),
    Rule(String),
    Group(Vec<Vec<Item>>),
    Token {
        id: u32,
        negated: bool,
    },
    Repeated {
        item: Box<Item>,
        least: u32,
        most: Option<u32>,
    },
}

/// Turns a grammar into Lark's. Names of tokens are looked up in the vocabulary.
///
/// # Errors
/// [`ErrorKind::Usage`] with the line, for what is no GBNF, a rule that is not defined, and a missing `root`.
pub(super) fn to_lark(text: &str, tokenizer: &Tokenizer) -> Result<String> {
    let mut parser = Parser { text, at: 0, tokenizer, mentioned: BTreeMap::new() };
    let mut rules: BTreeMap<String, Vec<Vec<Item>>> = BTreeMap::new();
    parser.space(true);
    while parser.peek().is_some() {
        let name = parser.name()?;
        parser.space(false);
        parser.expect("::=")?;
        parser.space(true);
        let alternatives = parser.alternatives(0)?;
        rules.insert(name, alternatives);
        parser.space(true);
    }
    if !rules.contains_key("root") {
        return Err(Error::new(ErrorKind::Usage, "grammar: no rule root"));
    }
    if let Some((name, line)) = parser.mentioned.iter().find(|(name, _)| !rules.contains_key(*name))
    {
        let what = format!("grammar: line {line}: rule {name} is not defined");
        return Err(Error::new(ErrorKind::Usage, what));
    }
    let mut lark = Lark { numbers: rules.keys().cloned().zip(0..).collect(), rules: Vec::new() };
    let start = format!("start: r{}", lark.numbers["root"]);
    for (name, alternatives) in &rules {
        let body = lark.alternatives(alternatives);
        lark.rules.push(format!("r{}: {body}", lark.numbers[name]));
    }
    Ok([&[start], &lark.rules[..]].concat().join("\n") + "\n")
}

/// The rules in Lark. A group is a rule of its own, since Lark has a bound on parentheses in one another.
struct Lark {
    /// GBNF's rules by their names.
    numbers: BTreeMap<String, usize>,
    rules: Vec<String>,
}

impl Lark {
    fn alternatives(&mut self, all: &[Vec<Item>]) -> String {
        let texts: Vec<String> = all.iter().map(|items| self.sequence(items)).collect();
        texts.join(" | ")
    }

    fn sequence(&mut self, items: &[Item]) -> String {
        if items.is_empty() {
            return "\"\"".to_owned();
        }
        let texts: Vec<String> = items.iter().map(|item| self.item(item)).collect();
        texts.join(" ")
    }

    fn item(&mut self, item: &Item) -> String {
        match item {
            Item::Char(c) => format!("/[{}]/", in_class(*c)),
            Item::Class(class) => format!("/{class}/"),
            Item::Rule(name) => format!("r{}", self.numbers[name]),
            Item::Token { id, negated: false } => format!("<[{id}]>"),
            Item::Token { id, negated: true } => format!("<[^{id}]>"),
            Item::Literal(chars) => {
                let chars: Vec<Item> = chars.iter().map(|c| Item::Char(*c)).collect();
                self.group(&[chars])
            }
            Item::Group(alternatives) => self.group(alternatives),
            Item::Repeated { item, least, most } => {
                let item = self.item(item);
                match (least, most) {
                    (0, None) => format!("({item})*"),
                    (1, None) => format!("({item})+"),
                    (0, Some(1)) => format!("({item})?"),
                    (least, None) => format!("({item}){{{least},}}"),
                    (least, Some(most)) => format!("({item}){{{least},{most}}}"),
                }
            }
        }
    }

    /// Writes a rule for a group; returns its name.
    fn group(&mut self, alternatives: &[Vec<Item>]) -> String {
        let body = self.alternatives(alternatives);
        let name = format!("g{}", self.rules.len());
        self.rules.push(format!("{name}: {body}"));
        name
    }
}

/// A character as a regular expression's class has it.
fn in_class(c: char) -> String {
    format!("\\u{{{:X}}}", u32::from(c))
}

struct Parser<'t> {
    text: &'t str,
    /// The next byte.
    at: usize,
    tokenizer: &'t Tokenizer,
    /// Rules that are mentioned, and the line of the first mention.
    mentioned: BTreeMap<String, usize>,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn takes(&mut self, text: &str) -> bool {
        let takes = self.rest().starts_with(text);
        self.at += if takes { text.len() } else { 0 };
        takes
    }

    fn expect(&mut self, text: &str) -> Result<()> {
        if self.takes(text) { Ok(()) } else { Err(self.wrong(&format!("expected {text}"))) }
    }

    /// An error that names the line and what stands there.
    fn wrong(&self, what: &str) -> Error {
        let line = self.line();
        let found: String = self.rest().chars().take_while(|c| *c != '\n').take(20).collect();
        let what = format!("grammar: line {line}: {what}, found {found:?}");
        Error::new(ErrorKind::Usage, what)
    }

    fn line(&self) -> usize {
        1 + self.text[..self.at].matches('\n').count()
    }

    /// Passes over white space and comments, and ends of lines where the rule may go on there.
    fn space(&mut self, lines: bool) {
        loop {
            match self.peek() {
                Some(' ' | '\t') => {}
                Some('\r' | '\n') if lines => {}
                Some('#') => {
                    let end = self.rest().find('\n').unwrap_or(self.rest().len());
                    self.at += end;
                    continue;
                }
                Some(_) | None => return,
            }
            self.next();
        }
    }

    fn name(&mut self) -> Result<String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let length = self.rest().find(|c| !is_part(c)).unwrap_or(self.rest().len());
        if length == 0 {
            return Err(self.wrong("expected the name of a rule"));
        }
        let name = self.rest()[..length].to_owned();
        self.at += length;
        Ok(name)
    }

    fn alternatives(&mut self, depth: usize) -> Result<Vec<Vec<Item>>> {
        if depth > MAX_DEPTH {
            return Err(self.wrong(&format!("over {MAX_DEPTH} parentheses in one another")));
        }
        let mut all = vec![self.sequence(depth)?];
        while self.takes("|") {
            self.space(true);
            all.push(self.sequence(depth)?);
        }
        Ok(all)
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        while let Some(item) = self.item(depth)? {
            // Inside of parentheses a rule goes over several lines.
            self.space(depth > 0);
            let repeated = self.repeated(item)?;
            items.push(repeated);
            self.space(depth > 0);
        }
        Ok(items)
    }

    /// The next symbol; `None` at the end of a sequence.
    fn item(&mut self, depth: usize) -> Result<Option<Item>> {
        let Some(c) = self.peek() else { return Ok(None) };
        let item = match c {
            '"' => self.literal()?,
            '[' => self.class()?,
            '.' => {
                self.next();
                Item::Class("(?s:.)".to_owned())
            }
            '(' => {
                self.next();
                self.space(true);
                let alternatives = self.alternatives(depth + 1)?;
                self.expect(")")?;
                Item::Group(alternatives)
            }
            '<' | '!' => self.token()?,
            c if c.is_ascii_alphanumeric() || c == '_' => {
                let line = self.line();
                let start = self.at;
                let name = self.name()?;
                // The beginning of the next rule, where lines do not end one.
                self.space(false);
                if self.rest().starts_with("::=") {
                    self.at = start;
                    return Ok(None);
                }
                self.mentioned.entry(name.clone()).or_insert(line);
                Item::Rule(name)
            }
            _ => return Ok(None),
        };
        Ok(Some(item))
    }

    /// What `*`, `+`, `?` and counts make of a symbol.
    fn repeated(&mut self, mut item: Item) -> Result<Item> {
        loop {
            let Counts { least, most } = match self.peek() {
                Some('*') => Counts { least: 0, most: None },
                Some('+') => Counts { least: 1, most: None },
                Some('?') => Counts { least: 0, most: Some(1) },
                Some('{') => self.counts()?,
                Some(_) | None => return Ok(item),
            };
            self.next();
            item = Item::Repeated { item: Box::new(item), least, most };
        }
    }

    /// `{3}`, `{3,}`, `{,5}` or `{3,5}`, up to the last brace.
    fn counts(&mut self) -> Result<Counts> {
        self.next();
        let least = self.count()?;
        let most = if self.takes(",") { self.count()? } else { least };
        if self.peek() != Some('}') || (least.is_none() && most.is_none()) {
            return Err(self.wrong("expected a count like {3}, {3,} or {3,5}"));
        }
        let least = least.unwrap_or(0);
        if most.is_some_and(|most| most < least) {
            return Err(self.wrong("the second count is less than the first"));
        }
        Ok(Counts { least, most })
    }

    fn count(&mut self) -> Result<Option<u32>> {
        self.space(false);
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let count = match rest[..length].parse::<u32>() {
            Ok(count) if count <= MAX_REPETITIONS => Some(count),
            Ok(_) => return Err(self.wrong(&format!("over {MAX_REPETITIONS} repetitions"))),
            Err(_) if length == 0 => None,
            Err(_) => return Err(self.wrong("expected a count")),
        };
        self.at += length;
        self.space(false);
        Ok(count)
    }

    fn literal(&mut self) -> Result<Item> {
        self.next();
        let mut chars = Vec::new();
        while self.peek() != Some('"') {
            chars.push(self.character()?);
        }
        self.next();
        Ok(Item::Literal(chars))
    }

    fn class(&mut self) -> Result<Item> {
        self.next();
        let negated = self.takes("^");
        let mut class = String::from(if negated { "[^" } else { "[" });
        let start = class.len();
        while self.peek() != Some(']') {
            let first = self.character()?;
            class.push_str(&in_class(first));
            // A dash before the end is one.
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.next();
                let last = self.character()?;
                if last < first {
                    return Err(self.wrong("a range of characters ends before it begins"));
                }
                class.push('-');
                class.push_str(&in_class(last));
            }
        }
        if class.len() == start {
            return Err(self.wrong("a class without characters"));
        }
        self.next();
        class.push(']');
        Ok(Item::Class(class))
    }

    /// A character of a literal or a class, escaped or not.
    fn character(&mut self) -> Result<char> {
        let c = match self.peek() {
            None | Some('\n') => return Err(self.wrong("a text or a class has no end")),
            Some(c) => c,
        };
        self.next();
        if c != '\\' {
            return Ok(c);
        }
        match self.next() {
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('x') => self.hex(2),
            Some('u') => self.hex(4),
            Some('U') => self.hex(8),
            Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^')) => Ok(c),
            Some(_) | None => {
                self.at -= 1;
                Err(self.wrong("unknown escape"))
            }
        }
    }

    fn hex(&mut self, digits: usize) -> Result<char> {
        let number = self.rest().get(..digits).and_then(|text| u32::from_str_radix(text, 16).ok());
        let Some(c) = number.and_then(char::from_u32) else {
            return Err(self.wrong(&format!("expected {digits} hexadecimal digits")));
        };
        self.at += digits;
        Ok(c)
    }

    /// `<think>`, `<[1000]>`, and `!` before them.
    fn token(&mut self) -> Result<Item> {
        let negated = self.takes("!");
        let rest = self.rest();
        let Some(end) = rest.find('>').filter(|_| rest.starts_with('<')) else {
            return Err(self.wrong("expected a token like <think> or <[1000]>"));
        };
        let name = &rest[..=end];
        let number = name.strip_prefix("<[").and_then(|name| name.strip_suffix("]>"));
        let id = match number {
            Some(number) => number.parse().ok().filter(|id| self.is_id(*id)),
            None => self.tokenizer.id_of(name),
        };
        let Some(id) = id else { return Err(self.wrong("no such token in the vocabulary")) };
        self.at += end + 1;
        Ok(Item::Token { id, negated })
    }

    fn is_id(&self, id: u32) -> bool {
        (id as usize) < self.tokenizer.n_vocab()
    }
}
