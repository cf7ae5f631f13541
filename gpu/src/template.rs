//! Turns a `.wgsl` template into a shader: `#include`, `#if`, `#for` and `{{NAME}}`.
//!
//! WGSL has neither loops that are sure to be unrolled nor code that is left out, and a kernel for sixteen formats
//! wants both. A line that begins with `#` is a directive; everything else is WGSL.

use std::collections::BTreeMap;

/// What a shader is made with: flags that are set, and the text of constants.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Defines(BTreeMap<String, String>);

impl Defines {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// A flag, where `on`.
    pub fn flag(mut self, name: &str, on: bool) -> Self {
        if on {
            self.0.insert(name.to_owned(), String::new());
        }
        self
    }

    /// A constant.
    pub fn set(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.0.insert(name.to_owned(), value.to_string());
        self
    }

    /// Without a flag or a constant.
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// All of `other` too.
    pub fn with(mut self, other: &Self) -> Self {
        self.0.extend(other.0.clone());
        self
    }
}

/// `0 1 2 …`, for a template's loop.
pub(crate) fn list(n: usize) -> String {
    (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(" ")
}

/// Expands the file `name`; `file` gives the text of a file by its name. The error names file and line.
pub fn expand(
    name: &str,
    defines: &Defines,
    file: &dyn Fn(&str) -> Option<&'static str>,
) -> Result<String, String> {
    let mut out = String::new();
    let text = file(name).ok_or_else(|| format!("{name}: no such shader"))?;
    let lines: Vec<(usize, &str)> = text.lines().enumerate().collect();
    block(&lines, &mut Scope { name, defines: defines.clone(), file }, &mut out)?;
    Ok(out)
}

struct Scope<'a> {
    name: &'a str,
    defines: Defines,
    file: &'a dyn Fn(&str) -> Option<&'static str>,
}

/// The line of the `#else` (where there is one) and of the end of the block that opens at `lines[0]`.
fn extent(lines: &[(usize, &str)], open: &str, end: &str) -> Option<(Option<usize>, usize)> {
    let (mut depth, mut middle) = (0, None);
    for (i, (_, line)) in lines.iter().enumerate() {
        let word = line.split_whitespace().next().unwrap_or("");
        if word == open {
            depth += 1;
        } else if word == end {
            depth -= 1;
            if depth == 0 {
                return Some((middle, i));
            }
        } else if word == "#else" && open == "#if" && depth == 1 {
            middle = Some(i);
        }
    }
    None
}

fn block(lines: &[(usize, &str)], scope: &mut Scope<'_>, out: &mut String) -> Result<(), String> {
    let mut i = 0;
    while i < lines.len() {
        let (at, line) = lines[i];
        let place = format!("{}:{}", scope.name, at + 1);
        let mut words = line.split_whitespace();
        match words.next() {
            Some("#include") => {
                let name = words.next().unwrap_or("");
                out.push_str(&expand(name, &scope.defines, scope.file)?);
            }
            Some("#if") => {
                let name = words.next().unwrap_or("");
                let (middle, end) = extent(&lines[i..], "#if", "#endif")
                    .ok_or_else(|| format!("{place}: #if without #endif"))?;
                let taken = if scope.defines.0.contains_key(name) {
                    &lines[i + 1..i + middle.unwrap_or(end)]
                } else {
                    middle.map_or(&lines[..0], |middle| &lines[i + middle + 1..i + end])
                };
                block(taken, scope, out)?;
                i += end;
            }
            Some("#for") => {
                let name = words.next().unwrap_or("").to_owned();
                let values =
                    substitute(&words.collect::<Vec<_>>().join(" "), &scope.defines, &place)?;
                let (_, end) = extent(&lines[i..], "#for", "#endfor")
                    .ok_or_else(|| format!("{place}: #for without #endfor"))?;
                for value in values.split_whitespace() {
                    let outer = scope.defines.clone();
                    scope.defines = outer.clone().set(&name, value);
                    block(&lines[i + 1..i + end], scope, out)?;
                    scope.defines = outer;
                }
                i += end;
            }
            Some(word) if word.starts_with('#') => return Err(format!("{place}: {word}?")),
            Some(_) | None => {
                out.push_str(&substitute(line, &scope.defines, &place)?);
                out.push('\n');
            }
        }
        i += 1;
    }
    Ok(())
}

fn substitute(line: &str, defines: &Defines, place: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) =
            after.split_once("}}").ok_or_else(|| format!("{place}: {{{{ without }}}}"))?;
        let value = defines.0.get(name).ok_or_else(|| format!("{place}: {name} is not set"))?;
        out.push_str(before);
        out.push_str(&substitute(value, defines, place)?);
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
                "a\n#if X\nx\n#if Y\nxy\n#else\nx!y\n#endif\n#else\n!x\n#endif\n#include other\n",
            ),
            "other" => Some("#for I 1 2\n#for J 3 4\n{{I}}{{J}} {{N}}\n#endfor\n#endfor"),
            "open" => Some("#if X\n"),
            "bad" => Some("\n#fi\n"),
            _ => None,
        }
    }

    #[test]
    fn directives() {
        let n = Defines::new().set("N", &5);
        let tail = "13 5\n14 5\n23 5\n24 5\n";
        let expanded = |d: &Defines| expand("main", d, &file).unwrap();
        assert_eq!(expanded(&n), format!("a\n!x\n{tail}"));
        assert_eq!(expanded(&n.clone().flag("X", true)), format!("a\nx\nx!y\n{tail}"));
        let both = n.flag("X", true).flag("Y", true).flag("Z", false);
        assert_eq!(expanded(&both), format!("a\nx\nxy\n{tail}"));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let none = Defines::new();
        let error = |name: &str| expand(name, &none, &file).unwrap_err();
        assert_eq!(error("other"), "other:3: N is not set");
        assert_eq!(error("open"), "open:1: #if without #endif");
        assert_eq!(error("bad"), "bad:2: #fi?");
        assert_eq!(error("none"), "none: no such shader");
    }
}
