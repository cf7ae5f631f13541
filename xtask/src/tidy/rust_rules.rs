//! Rules about single Rust files: header line, unsafe fence, architecture names, unfinished code.

use super::levels::crate_dirs;
use super::source::{Source, Word, WordKind};
use super::tree::{Tree, TreeFile};
use super::{Finding, Rule};

/// The only places that may say `unsafe`.
const UNSAFE_FENCE: [&str; 4] =
    ["gguf/src/mmap.rs", "cpu/src/simd/", "cpu/src/pool.rs", "gpu/src/trust.rs"];
/// Crates that own a part of the fence, or will: their roots deny what the others forbid.
const UNSAFE_CRATES: [&str; 4] = ["gguf", "cpu", "gpu", "python"];

const ARCH_DIR: &str = "model/src/arch/";
/// The architectures, as their files in `model/src/arch/` are named.
const ARCHS: [&str; 60] = [
    "arcee",
    "baichuan",
    "bailingmoe",
    "bailingmoe2",
    "chatglm",
    "codeshell",
    "cohere2",
    "command_r",
    "deepseek",
    "deepseek2",
    "dots1",
    "ernie4_5",
    "ernie4_5_moe",
    "exaone",
    "exaone4",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3",
    "glm4",
    "glm4moe",
    "gpt2",
    "gpt_oss",
    "gptneox",
    "granite",
    "granitemoe",
    "hunyuan_dense",
    "hunyuan_moe",
    "internlm2",
    "jais2",
    "lfm2",
    "llama",
    "maincoder",
    "minicpm",
    "minimax_m2",
    "mistral3",
    "nemotron",
    "olmo",
    "olmo2",
    "olmoe",
    "openelm",
    "orion",
    "pangu_embedded",
    "phi2",
    "phi3",
    "plamo",
    "qwen",
    "qwen2",
    "qwen2moe",
    "qwen2vl",
    "qwen3",
    "qwen3moe",
    "qwen3vl",
    "qwen3vlmoe",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder",
    "starcoder2",
    "xverse",
];
/// Names of programs and formats that contain an architecture's name and are none.
const NOT_ARCHS: [&str; 4] = ["llama.cpp", "llama-quantize", "llama-server", "llama-cli"];

/// Checks every Rust file.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        if let (Some(Err(error)), Some(text)) = (&file.rust, &file.text) {
            findings.push(finding(
                file,
                0,
                Rule::FirstLine,
                "",
                format!("cannot be parsed: {error}"),
            ));
            first_line(file, text, &mut findings);
        }
    }
    for (file, source) in tree.rust() {
        if let Some(text) = &file.text {
            first_line(file, text, &mut findings);
        }
        unsafe_fence(file, source, &mut findings);
        crate_root(file, source, &mut findings);
        arch_names(file, source, &mut findings);
        unfinished(file, source, &mut findings);
    }
    findings
}

fn finding(file: &TreeFile, line: usize, rule: Rule, item: &str, what: String) -> Finding {
    Finding { path: file.path.clone(), line, rule, item: item.to_owned(), what }
}

fn first_line(file: &TreeFile, text: &str, findings: &mut Vec<Finding>) {
    let line = text.lines().next().unwrap_or_default();
    let words = line.strip_prefix("//!").unwrap_or_default().split_whitespace().count();
    if words < 2 {
        findings.push(finding(
            file,
            1,
            Rule::FirstLine,
            "",
            "the first line must be `//!` and say what the file is for".into(),
        ));
    }
}

fn unsafe_fence(file: &TreeFile, source: &Source, findings: &mut Vec<Finding>) {
    if UNSAFE_FENCE.iter().any(|place| file.path.starts_with(place)) {
        return;
    }
    // Tests count too: what they would do unsafely belongs behind the same fence.
    for word in
        source.words.iter().filter(|word| word.kind == WordKind::Ident && word.text == "unsafe")
    {
        let what = format!("`unsafe` outside {}", UNSAFE_FENCE.join(", "));
        findings.push(finding(file, word.line, Rule::UnsafeFence, "unsafe", what));
    }
}

fn crate_root(file: &TreeFile, source: &Source, findings: &mut Vec<Finding>) {
    let Some((owner, rest)) = file.path.split_once('/') else { return };
    let is_root = matches!(rest, "src/lib.rs" | "src/main.rs") || rest.starts_with("src/bin/");
    if !is_root || !crate_dirs().any(|dir| dir == owner) {
        return;
    }
    let has = |attr: &str| source.inner_attrs.iter().any(|found| found == attr);
    let may_deny = UNSAFE_CRATES.contains(&owner);
    let fenced = has("forbid(unsafe_code)") || (may_deny && has("deny(unsafe_code)"));
    if !fenced {
        let level = if may_deny { "deny" } else { "forbid" };
        let what = format!("the crate's root needs `#![{level}(unsafe_code)]`");
        findings.push(finding(file, 1, Rule::UnsafeFence, "root", what));
    }
}

fn arch_names(file: &TreeFile, source: &Source, findings: &mut Vec<Finding>) {
    if let Some(name) = file.path.strip_prefix(ARCH_DIR).and_then(|name| name.strip_suffix(".rs")) {
        // The list above must know every architecture, or the rule would not watch it.
        if !name.contains('/') && name != "mod" && !ARCHS.contains(&name) {
            let what =
                format!("architecture `{name}` is not in ARCHS of xtask/src/tidy/rust_rules.rs");
            findings.push(finding(file, 1, Rule::ArchNames, name, what));
        }
        return;
    }
    // Tidy itself must name what it looks for.
    if file.path.starts_with("xtask/src/tidy/") {
        return;
    }
    for word in source.real_words() {
        if let Some(arch) = arch_in(word) {
            let what = format!(
                "architecture name `{arch}` in `{}`: it belongs in {ARCH_DIR}",
                short(&word.text)
            );
            findings.push(finding(file, word.line, Rule::ArchNames, arch, what));
        }
    }
}

/// The architecture that a word names, in any spelling: `qwen3`, `Qwen3`, `QWEN3_ROPE`, `"llama.block_count"`.
fn arch_in(word: &Word) -> Option<&'static str> {
    let mut text = word.text.to_lowercase();
    for other in NOT_ARCHS {
        text = text.replace(other, "");
    }
    ARCHS.into_iter().find(|arch| text.contains(arch))
}

fn short(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    line.chars().take(60).collect()
}

fn unfinished(file: &TreeFile, source: &Source, findings: &mut Vec<Finding>) {
    for word in source.words.iter().filter(|word| word.kind == WordKind::Ident) {
        if matches!(word.text.as_str(), "todo" | "unimplemented") {
            let what = format!("`{}`: finish it or refuse it with an error", word.text);
            findings.push(finding(file, word.line, Rule::Unfinished, &word.text, what));
        }
    }
    for ignore in &source.bare_ignores {
        let what = "`#[ignore]` without a reason: write `#[ignore = \"why\"]`".to_owned();
        findings.push(finding(file, ignore.line, Rule::Unfinished, "ignore", what));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules broken by one file, with their lines.
    fn broken(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        let file = TreeFile::new(path.into(), text.len() as u64, text.as_bytes());
        check(&Tree::of(vec![file]))
            .iter()
            .map(|finding| (finding.rule.name(), finding.line))
            .collect()
    }

    const NONE: [(&str, usize); 0] = [];

    #[test]
    fn the_first_line_says_what_a_file_is_for() {
        assert_eq!(broken("gguf/src/a.rs", "//! Reads files.\n"), NONE);
        for bad in [
            "",
            "// Reads files.\n",
            "\n//! Reads files.\n",
            "//!\n",
            "use std::fs;\n",
            "fn broken( {\n",
        ] {
            assert!(broken("gguf/src/a.rs", bad).contains(&("first-line", 1)), "{bad:?}");
        }
    }

    #[test]
    fn unsafe_stays_behind_the_fence() {
        let text = "//! A file.\nfn f(p: *const u8) -> u8 {\n    unsafe { *p }\n}\n";
        assert_eq!(broken("cpu/src/simd/avx2.rs", text), NONE);
        assert_eq!(broken("cpu/src/kernels/a.rs", text), [("unsafe-fence", 3)]);
        let hidden = "//! A file.\n#[cfg(test)]\nmod tests {\n    macro_rules! m { () => { unsafe { f() } } }\n}\n";
        assert_eq!(broken("model/src/a.rs", hidden), [("unsafe-fence", 4)]);
        let words = "//! A file.\n// unsafe\nconst A: &str = \"unsafe\";\n#[allow(unsafe_code)]\nfn f() {}\n";
        assert_eq!(broken("model/src/a.rs", words), NONE);
    }

    #[test]
    fn crate_roots_forbid_unsafe() {
        assert_eq!(broken("graph/src/lib.rs", "//! A crate.\n#![forbid(unsafe_code)]\n"), NONE);
        assert_eq!(
            broken("graph/src/lib.rs", "//! A crate.\n#![deny(unsafe_code)]\n"),
            [("unsafe-fence", 1)]
        );
        assert_eq!(
            broken("app/src/main.rs", "//! A crate.\nfn main() {}\n"),
            [("unsafe-fence", 1)]
        );
        assert_eq!(broken("cpu/src/lib.rs", "//! A crate.\n#![deny(unsafe_code)]\n"), NONE);
        assert_eq!(broken("cpu/src/lib.rs", "//! A crate.\n"), [("unsafe-fence", 1)]);
    }

    #[test]
    fn architecture_names_stay_in_arch() {
        let text = "//! A file.\nfn f() { g(\"llama.block_count\") }\nenum A {\n    Qwen3,\n}\n";
        assert_eq!(broken("model/src/spec.rs", text), [("arch-names", 2), ("arch-names", 4)]);
        assert_eq!(broken("model/src/arch/llama.rs", text), NONE);
        assert_eq!(broken("model/src/arch/mamba.rs", "//! A file.\n"), [("arch-names", 1)]);
        let tool = "//! Like llama.cpp.\n// llama\nconst A: &str = \"as llama.cpp's llama-quantize does\";\n";
        assert_eq!(broken("app/src/a.rs", tool), NONE);
        let test = "//! A file.\n#[cfg(test)]\nmod tests {\n    const A: &str = \"llama\";\n}\n";
        assert_eq!(broken("app/src/a.rs", test), NONE);
        assert_eq!(broken("app/tests/a.rs", "//! A file.\nconst A: &str = \"llama\";\n"), NONE);
    }

    #[test]
    fn unfinished_code_is_found() {
        let text =
            "//! A file.\nfn f() {\n    todo!()\n}\nfn g() {\n    unimplemented!(\"x\")\n}\n";
        assert_eq!(broken("gguf/src/a.rs", text), [("unfinished", 3), ("unfinished", 6)]);
        let ignored = "//! A file.\n#[test]\n#[ignore]\nfn f() {}\n#[test]\n#[ignore = \"slow: 10 s\"]\nfn g() {}\n";
        assert_eq!(broken("gguf/src/a.rs", ignored), [("unfinished", 3)]);
    }
}
