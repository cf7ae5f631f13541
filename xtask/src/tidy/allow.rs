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

/// A rule that the project does not meet everywhere yet: the number of its breaches may only fall.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratchet {
    rule: String,
    at_most: usize,
    reason: String,
}

/// All exceptions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AllowList {
    #[serde(default)]
    allow: Vec<Entry>,
    #[serde(default)]
    ratchet: Vec<Ratchet>,
}

/// What is left after the exceptions.
pub(super) struct Applied {
    pub(super) findings: Vec<Finding>,
    /// A line for each ratchet: how many breaches there are, and how many may be.
    pub(super) ratchets: Vec<String>,
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
    pub(super) fn apply(&self, mut findings: Vec<Finding>) -> Applied {
        let mut own = Vec::new();
        for entry in &self.allow {
            let label = format!("entry `{}` for {}", entry.rule, entry.path);
            own.extend(ill_formed(&label, &entry.rule, &entry.reason).or_else(|| {
                let used = findings.iter().any(|finding| entry.excuses(finding));
                (!used).then(|| complaint(format!("{label}: excuses nothing any more; delete it")))
            }));
        }
        findings.retain(|finding| !self.allow.iter().any(|entry| entry.excuses(finding)));
        let mut ratchets = Vec::new();
        for Ratchet { rule, at_most, reason } in &self.ratchet {
            let label = format!("ratchet `{rule}`");
            own.extend(ill_formed(&label, rule, reason));
            let count = findings.iter().filter(|finding| finding.rule.name() == rule).count();
            ratchets.push(format!("{rule}: {count}, at most {at_most}"));
            if count == 0 {
                own.push(complaint(format!("{label}: excuses nothing any more; delete it")));
            } else if count <= *at_most {
                findings.retain(|finding| finding.rule.name() != rule);
            } else {
                own.push(complaint(format!("{label}: {count} findings, at most {at_most}")));
            }
        }
        findings.extend(own);
        Applied { findings, ratchets }
    }
}

/// What is wrong with an exception by itself.
fn ill_formed(label: &str, rule: &str, reason: &str) -> Option<Finding> {
    if !Rule::ALL.iter().any(|known| known.name() == rule) {
        Some(complaint(format!("{label}: no such rule")))
    } else if reason.split_whitespace().count() < 3 {
        Some(complaint(format!("{label}: a reason in words is missing")))
    } else {
        None
    }
}

fn complaint(what: String) -> Finding {
    let (path, item) = (PATH.to_owned(), String::new());
    Finding { path, line: 0, rule: Rule::AllowList, item, what }
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
        let applied = AllowList::parse(list).unwrap().apply(findings);
        applied.findings.iter().map(ToString::to_string).collect()
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
    fn a_ratchet_lets_a_number_through_and_not_one_more() {
        let list =
            "[[ratchet]]\nrule = \"arch-names\"\nat_most = 2\nreason = \"being cleaned up\"\n";
        let found = |count| vec![finding("cpu/src/pre.rs", "llama"); count];
        assert_eq!(left(list, found(2)), Vec::<String>::new());
        assert_eq!(left(list, found(1)), Vec::<String>::new());
        let over = left(list, found(3));
        assert_eq!((over.len(), &over[0][..]), (4, "cpu/src/pre.rs:3: arch-names: w"));
        assert!(over[3].contains("ratchet `arch-names`: 3 findings, at most 2"), "{}", over[3]);
        assert!(left(list, found(0))[0].contains("excuses nothing"));
        let line = AllowList::parse(list).unwrap().apply(found(1)).ratchets;
        assert_eq!(line, ["arch-names: 1, at most 2"]);
    }

    #[test]
    fn misspelt_fields_are_refused() {
        assert!(AllowList::parse(&format!("{ENTRY}why = \"x\"\n")).is_err());
        assert!(AllowList::parse(ENTRY).is_err(), "reason is required");
    }
}
