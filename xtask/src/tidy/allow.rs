//! The list of exceptions, `xtask/tidy.toml`: each with its reason, none that is not needed.

use super::{Finding, Rule};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::fs;
use std::path::Path;

/// Where the list lies, relative to the project's root.
pub(super) const PATH: &str = "xtask/tidy.toml";

/// One exception.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The rule's name.
    rule: String,
    /// A file, or a folder with `/` at its end.
    path: String,
    /// The function, word or dependency that is excused; without it, everything of the rule in `path`.
    item: Option<String>,
    reason: String,
}

impl Entry {
    fn excuses(&self, finding: &Finding) -> bool {
        let in_path = if self.path.ends_with('/') {
            finding.path.starts_with(&self.path)
        } else {
            finding.path == self.path
        };
        let item = self.item.as_ref().is_none_or(|item| *item == finding.item);
        self.rule == finding.rule.name() && in_path && item
    }
}

/// All exceptions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AllowList {
    #[serde(default)]
    allow: Vec<Entry>,
}

impl AllowList {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context(PATH)
    }

    /// Takes out what is excused; puts in what is wrong with the list itself, so that it does not rot.
    pub(super) fn apply(&self, mut findings: Vec<Finding>) -> Vec<Finding> {
        let mut own = Vec::new();
        for entry in &self.allow {
            let label = format!("entry `{}` for {}", entry.rule, entry.path);
            let mut complain = |what: String| {
                let item = String::new();
                own.push(Finding {
                    path: PATH.to_owned(),
                    line: 0,
                    rule: Rule::AllowList,
                    item,
                    what,
                });
            };
            if !Rule::ALL.iter().any(|rule| rule.name() == entry.rule) {
                complain(format!("{label}: no such rule"));
            } else if entry.reason.split_whitespace().count() < 3 {
                complain(format!("{label}: a reason in words is missing"));
            } else if !findings.iter().any(|finding| entry.excuses(finding)) {
                complain(format!("{label}: excuses nothing any more; delete it"));
            }
        }
        findings.retain(|finding| !self.allow.iter().any(|entry| entry.excuses(finding)));
        findings.extend(own);
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(path: &str, item: &str) -> Finding {
        Finding {
            path: path.into(),
            line: 3,
            rule: Rule::ArchNames,
            item: item.into(),
            what: "w".into(),
        }
    }

    fn left(list: &str, findings: Vec<Finding>) -> Vec<String> {
        AllowList::parse(list).unwrap().apply(findings).iter().map(ToString::to_string).collect()
    }

    const ENTRY: &str =
        "[[allow]]\nrule = \"arch-names\"\npath = \"tokenizer/src/\"\nitem = \"llama\"\n";

    #[test]
    fn an_entry_excuses_its_item_in_its_folder_only() {
        let list = format!("{ENTRY}reason = \"a tokenizer's name\"\n");
        let findings = vec![
            finding("tokenizer/src/pre.rs", "llama"),
            finding("tokenizer/src/pre.rs", "qwen2"),
            finding("cpu/src/pre.rs", "llama"),
        ];
        let left = left(&list, findings);
        assert_eq!(
            left,
            ["tokenizer/src/pre.rs:3: arch-names: w", "cpu/src/pre.rs:3: arch-names: w"]
        );
    }

    #[test]
    fn entries_without_use_or_reason_are_findings() {
        let used = || vec![finding("tokenizer/src/pre.rs", "llama")];
        assert!(
            left(&format!("{ENTRY}reason = \"a tokenizer's name\"\n"), vec![])[0]
                .contains("excuses nothing")
        );
        assert!(left(&format!("{ENTRY}reason = \"x\"\n"), used())[0].contains("a reason in words"));
        let unknown = ENTRY.replace("arch-names", "archnames");
        assert!(
            left(&format!("{unknown}reason = \"a tokenizer's name\"\n"), used())
                .join(" ")
                .contains("no such rule")
        );
    }

    #[test]
    fn misspelt_fields_are_refused() {
        assert!(AllowList::parse(&format!("{ENTRY}why = \"x\"\n")).is_err());
        assert!(AllowList::parse(ENTRY).is_err(), "reason is required");
    }
}
