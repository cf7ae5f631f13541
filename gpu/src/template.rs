//! Turns a `.wgsl` template into a shader.
//!
//! WGSL has neither loops that are sure to be unrolled nor code that is left out, and a kernel for sixteen formats wants
//! both. A line whose first word begins with `#` is a directive, and `{{NAME}}` stands for the text of a constant:
//!
//! - `#include lib/float` puts another file here.
//! - `#if FLAG`, `#if !FLAG`, `#elif FLAG`, `#else` and `#endif` choose.
//! - `#for I 0..8` and `#endfor` repeat, with `{{I}}` as the constant that changes; `#for I 0 4 8` gives the values one by
//!   one.
//! - `#if FLAG: line` and `#for I 0..8: line` are the same for one line.
//! - `#flag FLAG what it says`, `#const NAME what it is` and `#needs name, …` are a file's head: the flags and constants
//!   that it uses, and what a file that includes it must declare. They put nothing into the shader; the tests of
//!   `shaders.rs` hold them against the file and against what the host sets.
//!
//! A flag or a constant that nobody has set is an error with file and line. minijinja with line statements was tried in place
//! of this, on `mat_mul/int8.wgsl`: it gives the same text, names the line of a mistake as well and can calculate. But a line
//! that is repeated or left out takes three there, which more than a hundred lines of the kernels are, and nothing holds a
//! head against its file.

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Define {
    Flag(bool),
    Const(String),
}

/// What a shader is made with: flags, and the text of constants.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Defines(BTreeMap<String, Define>);

impl Defines {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag. One that is off must be set too: a template that asks for a flag nobody knows is refused.
    pub fn flag(mut self, name: &str, on: bool) -> Self {
        self.0.insert(name.to_owned(), Define::Flag(on));
        self
    }

    /// A constant.
    pub fn set(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.0.insert(name.to_owned(), Define::Const(value.to_string()));
        self
    }

    /// All of `other` too.
    pub fn with(mut self, other: &Self) -> Self {
        self.0.extend(other.0.clone());
        self
    }

    /// The names that are set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Whether `FLAG` or `!FLAG` holds; an error where there is no such flag.
    pub fn is_on(&self, condition: &str) -> Result<bool, String> {
        let name = condition.trim_start_matches('!');
        match self.0.get(name) {
            Some(Define::Flag(on)) => Ok(*on != condition.starts_with('!')),
            Some(Define::Const(_)) => Err(format!("{name} is a constant, not a flag")),
            None => Err(format!("{name} is not set")),
        }
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        match self.0.get(name) {
            Some(Define::Const(text)) => Ok(text),
            Some(Define::Flag(_)) => Err(format!("{name} is a flag, not a constant")),
            None => Err(format!("{name} is not set")),
        }
    }
}

/// Gives the text of a file by its name.
pub type Files<'a> = &'a dyn Fn(&str) -> Option<&'static str>;

/// Expands the file `name`. The error names file and line.
pub fn expand(name: &str, defines: &Defines, files: Files<'_>) -> Result<String, String> {
    let mut out = String::new();
    let text = files(name).ok_or_else(|| format!("{name}: no such shader"))?;
    let lines: Vec<Line<'_>> = text.lines().enumerate().collect();
    block(&lines, &Scope { name, defines, files }, &mut out)?;
    Ok(out)
}

/// A line with its place in the file, from 0 on.
type Line<'a> = (usize, &'a str);

#[derive(Clone, Copy)]
struct Scope<'a> {
    name: &'a str,
    defines: &'a Defines,
    files: Files<'a>,
}

impl Scope<'_> {
    /// An error with file and line.
    fn at(&self, line: usize) -> impl Fn(String) -> String {
        let place = format!("{}:{}", self.name, line + 1);
        move |what| format!("{place}: {what}")
    }
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or("")
}

/// The line that a directive is for, behind its colon, indented like the directive.
fn one_line(line: &str) -> Option<String> {
    let (head, body) = line.split_once(": ")?;
    let indent = &head[..head.len() - head.trim_start().len()];
    Some(format!("{indent}{body}"))
}

/// Where the parts of the block that opens at `lines[0]` begin, and where it ends: `#if`, each `#elif` and `#else` of its
/// own, `#endif`.
fn parts(lines: &[Line<'_>], [open, end]: [&str; 2]) -> Option<Vec<usize>> {
    let (mut depth, mut parts) = (0, Vec::new());
    for (i, (_, line)) in lines.iter().enumerate() {
        let word = first_word(line);
        if word == open && one_line(line).is_none() {
            depth += 1;
        } else if word == end {
            depth -= 1;
        }
        let divides = open == "#if" && depth == 1 && ["#elif", "#else"].contains(&word);
        if i == 0 || divides || depth == 0 {
            parts.push(i);
        }
        if depth == 0 {
            return Some(parts);
        }
    }
    None
}

fn block(lines: &[Line<'_>], scope: &Scope<'_>, out: &mut String) -> Result<(), String> {
    let mut i = 0;
    while i < lines.len() {
        let (at, line) = lines[i];
        let error = scope.at(at);
        match first_word(line) {
            "#flag" | "#const" | "#needs" => {}
            "#include" => {
                let name = line.split_whitespace().nth(1).unwrap_or("");
                out.push_str(&expand(name, scope.defines, scope.files)?);
            }
            "#if" => i += choose(&lines[i..], scope, out)?,
            "#for" => i += repeat(&lines[i..], scope, out)?,
            word if word.starts_with('#') => return Err(error(format!("{word}?"))),
            _ => {
                out.push_str(&substitute(line, scope.defines).map_err(error)?);
                out.push('\n');
            }
        }
        i += 1;
    }
    Ok(())
}

/// Expands the part of an `#if` whose flag is on; gives the lines up to its `#endif`.
fn choose(lines: &[Line<'_>], scope: &Scope<'_>, out: &mut String) -> Result<usize, String> {
    let (at, line) = lines[0];
    let error = scope.at(at);
    let condition = |line: &str| line.split_whitespace().nth(1).unwrap_or("").to_owned();
    if let Some(body) = one_line(line) {
        let condition = condition(line);
        if scope.defines.is_on(condition.trim_end_matches(':')).map_err(error)? {
            block(&[(at, &body)], scope, out)?;
        }
        return Ok(0);
    }
    let parts =
        parts(lines, ["#if", "#endif"]).ok_or_else(|| error("#if without #endif".to_owned()))?;
    for ends in parts.windows(2) {
        let (at, line) = lines[ends[0]];
        let is_else = first_word(line) == "#else";
        if is_else || scope.defines.is_on(&condition(line)).map_err(scope.at(at))? {
            block(&lines[ends[0] + 1..ends[1]], scope, out)?;
            break;
        }
    }
    Ok(parts[parts.len() - 1])
}

/// Expands a `#for`; gives the lines up to its `#endfor`.
fn repeat(lines: &[Line<'_>], scope: &Scope<'_>, out: &mut String) -> Result<usize, String> {
    let (at, line) = lines[0];
    let error = scope.at(at);
    let one = one_line(line);
    let head = line.split_once(": ").map_or(line, |(head, _)| head).trim_start();
    let (name, values) = head["#for".len()..].trim_start().split_once(' ').unwrap_or(("", ""));
    let values = values_of(values, scope.defines).map_err(&error)?;
    let body_of_one = one.as_deref().map(|body| [(at, body)]);
    let (body, last) = match &body_of_one {
        Some(body) => (&body[..], 0),
        None => {
            let parts = parts(lines, ["#for", "#endfor"])
                .ok_or_else(|| error("#for without #endfor".to_owned()))?;
            (&lines[1..parts[1]], parts[1])
        }
    };
    for value in values {
        let defines = scope.defines.clone().set(name, &value);
        block(body, &Scope { defines: &defines, ..*scope }, out)?;
    }
    Ok(last)
}

/// The values of a loop: `0..8`, or one after the other.
fn values_of(text: &str, defines: &Defines) -> Result<Vec<String>, String> {
    let text = substitute(text, defines)?;
    let Some((from, to)) = text.split_once("..") else {
        return Ok(text.split_whitespace().map(str::to_owned).collect());
    };
    let number = |text: &str| {
        text.trim().parse::<usize>().map_err(|_| format!("{text} is no number to count to"))
    };
    Ok((number(from)?..number(to)?).map(|i| i.to_string()).collect())
}

fn substitute(line: &str, defines: &Defines) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").ok_or_else(|| "{{ without }}".to_owned())?;
        out.push_str(before);
        out.push_str(&substitute(defines.text(name)?, defines)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Option<&'static str> {
        match name {
            "main" => Some(
                "#flag X what\n#flag Y what\na\n#if X\nx\n#if Y\nxy\n#else\nx!y\n#endif\n#else\n!x\n#endif\n#include other\n",
            ),
            "other" => Some("#for I 1 2\n#for J 3..5\n{{I}}{{J}} {{N}}\n#endfor\n#endfor"),
            "lines" => {
                Some("  #if X: x\n  #if !X: !x\n#for I 0..{{N}}: #for J 7 8: f({{I}}, {{J}});")
            }
            "chain" => Some("#if X\nx\n#elif Y\n#if X: never\ny\n#else\nnone\n#endif\nend"),
            "open" => Some("#if X\n"),
            "bad" => Some("\n#fi\n"),
            "unknown" => Some("#if Q\n#endif\n"),
            _ => None,
        }
    }

    fn flags(x: bool, y: bool) -> Defines {
        Defines::new().set("N", &5).flag("X", x).flag("Y", y)
    }

    #[test]
    fn directives() {
        let tail = "13 5\n14 5\n23 5\n24 5\n";
        let expanded = |x, y| expand("main", &flags(x, y), &file).unwrap();
        assert_eq!(expanded(false, true), format!("a\n!x\n{tail}"));
        assert_eq!(expanded(true, false), format!("a\nx\nx!y\n{tail}"));
        assert_eq!(expanded(true, true), format!("a\nx\nxy\n{tail}"));
    }

    #[test]
    fn chains_and_single_lines() {
        let chain = |x, y| expand("chain", &flags(x, y), &file).unwrap();
        assert_eq!(chain(true, true), "x\nend\n");
        assert_eq!(chain(false, true), "y\nend\n");
        assert_eq!(chain(false, false), "none\nend\n");
        let two = flags(true, false).set("N", &2);
        let calls = "f(0, 7);\nf(0, 8);\nf(1, 7);\nf(1, 8);\n";
        assert_eq!(expand("lines", &two, &file).unwrap(), format!("  x\n{calls}"));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let error = |name: &str| expand(name, &Defines::new(), &file).unwrap_err();
        assert_eq!(error("other"), "other:3: N is not set");
        assert_eq!(error("open"), "open:1: #if without #endif");
        assert_eq!(error("bad"), "bad:2: #fi?");
        assert_eq!(error("none"), "none: no such shader");
        assert_eq!(error("unknown"), "unknown:1: Q is not set");
        let constant = Defines::new().set("Q", &1);
        let error = expand("unknown", &constant, &file).unwrap_err();
        assert_eq!(error, "unknown:1: Q is a constant, not a flag");
    }
}
