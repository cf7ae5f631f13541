//! Crate levels: gguf < graph, tokenizer < cpu, gpu, model, why < engine < app, python, fuzz, xtask. Read from the Cargo.tomls, so that
//! an edge that no code uses yet is found too.

use super::tree::{Tree, TreeFile};
use super::{Finding, Rule};
use toml::{Table, Value};

/// Crate folders and their levels: a crate uses only crates of a lower one.
const LEVELS: [(&str, u8); 12] = [
    ("gguf", 0),
    ("graph", 1),
    ("tokenizer", 1),
    ("cpu", 2),
    ("gpu", 2),
    ("model", 2),
    ("why", 2),
    ("engine", 3),
    ("app", 4),
    ("fuzz", 4),
    ("python", 4),
    ("xtask", 4),
];

/// The names of the crates' folders.
pub(super) fn crate_dirs() -> impl Iterator<Item = &'static str> {
    LEVELS.iter().map(|(name, _)| *name)
}

fn level(name: &str) -> Option<u8> {
    LEVELS.iter().find(|(dir, _)| *dir == name).map(|(_, level)| *level)
}

/// Checks every Cargo.toml but the workspace's own.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let Some(dir) = file.path.strip_suffix("/Cargo.toml") else { continue };
        let (Some(text), path) = (&file.text, &file.path) else { continue };
        match text.parse::<Table>() {
            Ok(manifest) => findings.extend(check_manifest(path, dir, &manifest)),
            Err(error) => findings.push(finding(file, "", error.message())),
        }
    }
    findings
}

fn check_manifest(path: &str, dir: &str, manifest: &Table) -> Vec<Finding> {
    let owner = dir.split('/').next().unwrap_or(dir);
    let found = |item: &str, what: String| Finding {
        path: path.to_owned(),
        line: 0,
        rule: Rule::Levels,
        item: item.to_owned(),
        what,
    };
    let Some(own_level) = level(owner) else {
        return vec![found(
            owner,
            format!("crate `{owner}` has no level; give it one in xtask/src/tidy/levels.rs"),
        )];
    };
    let mut findings = Vec::new();
    let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"))
        == Some(&Value::Boolean(true));
    // A crate that is its own workspace, as cargo-fuzz wants it, cannot inherit.
    if !manifest.contains_key("workspace") && !inherits {
        findings.push(found("lints", "`[lints] workspace = true` is missing".to_owned()));
    }
    for (key, spec) in dependencies(manifest) {
        let package = spec.get("package").and_then(Value::as_str).unwrap_or(key);
        let Some(used) = crate_folder(package, spec) else { continue };
        let Some(used_level) = level(&used) else {
            findings.push(found(&used, format!("dependency `{used}` has no level")));
            continue;
        };
        if used_level >= own_level {
            let what =
                format!("`{owner}` (level {own_level}) must not use `{used}` (level {used_level})");
            findings.push(found(&used, what));
        }
    }
    findings
}

/// Every dependency of every kind: normal, dev, build, and those of one target.
fn dependencies(manifest: &Table) -> Vec<(&str, &Value)> {
    const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];
    let targets = manifest.get("target").and_then(Value::as_table);
    let tables = std::iter::once(manifest)
        .chain(targets.into_iter().flat_map(|t| t.values()).filter_map(Value::as_table));
    let mut found = Vec::new();
    for table in tables {
        for kind in KINDS {
            let Some(entries) = table.get(kind).and_then(Value::as_table) else { continue };
            found.extend(entries.iter().map(|(key, spec)| (key.as_str(), spec)));
        }
    }
    found
}

/// The folder of a crate of ours, or `None` for one from a registry.
fn crate_folder(package: &str, spec: &Value) -> Option<String> {
    if let Some(path) = spec.get("path").and_then(Value::as_str) {
        return path.trim_end_matches('/').rsplit('/').next().map(str::to_owned);
    }
    // `karat.workspace = true`: the path stands in the root's Cargo.toml.
    let ours = package == "karat" || package == "xtask" || package.starts_with("karat-");
    let folder = match package {
        "karat" => "engine",
        "karat-cli" => "app",
        other => other.trim_start_matches("karat-"),
    };
    ours.then(|| folder.to_owned())
}

fn finding(file: &TreeFile, item: &str, what: &str) -> Finding {
    Finding {
        path: file.path.clone(),
        line: 0,
        rule: Rule::Levels,
        item: item.to_owned(),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, manifest: &str) -> Vec<String> {
        let file = TreeFile::new(path.into(), manifest.len() as u64, manifest.as_bytes());
        check(&Tree::of(vec![file])).into_iter().map(|finding| finding.what).collect()
    }

    const LINTS: &str = "[lints]\nworkspace = true\n";

    #[test]
    fn edges_downwards_are_right() {
        let text = format!(
            "{LINTS}[dependencies]\ngguf = {{ package = \"karat-gguf\", path = \"../gguf\" }}\nhalf = \"2\"\n"
        );
        assert_eq!(found("cpu/Cargo.toml", &text), Vec::<String>::new());
        let fuzz = "[workspace]\n[dependencies]\ngguf = { package = \"karat-gguf\", path = \"../gguf\" }\n";
        assert_eq!(found("fuzz/Cargo.toml", fuzz), Vec::<String>::new());
    }

    #[test]
    fn edges_upwards_and_sideways_are_findings() {
        let edge = |kind: &str, name: &str| {
            format!(
                "{LINTS}[{kind}]\n{name} = {{ package = \"karat-{name}\", path = \"../{name}\" }}\n"
            )
        };
        let expect = ["`cpu` (level 2) must not use `model` (level 2)"];
        assert_eq!(found("cpu/Cargo.toml", &edge("dependencies", "model")), expect);
        assert_eq!(found("cpu/Cargo.toml", &edge("dev-dependencies", "model")), expect);
        assert_eq!(
            found("cpu/Cargo.toml", &edge("target.'cfg(unix)'.dependencies", "model")),
            expect
        );
        let inherited = format!("{LINTS}[dependencies]\nkarat-model.workspace = true\n");
        assert_eq!(found("cpu/Cargo.toml", &inherited), expect);
        let library = format!("{LINTS}[dependencies]\nkarat = {{ path = \"../engine\" }}\n");
        assert_eq!(found("app/Cargo.toml", &library), Vec::<String>::new());
        let expect = ["`model` (level 2) must not use `engine` (level 3)"];
        assert_eq!(found("model/Cargo.toml", &library), expect);
        let program = format!("{LINTS}[dependencies]\nkarat-cli.workspace = true\n");
        let expect = ["`engine` (level 3) must not use `app` (level 4)"];
        assert_eq!(found("engine/Cargo.toml", &program), expect);
        assert_eq!(found("gguf/Cargo.toml", &edge("dependencies", "graph")).len(), 1);
        assert_eq!(found("tokenizer/Cargo.toml", &edge("dependencies", "graph")).len(), 1);
    }

    #[test]
    fn unknown_crates_and_missing_lints_are_findings() {
        assert!(found("server/Cargo.toml", LINTS)[0].contains("no level"));
        assert!(
            found("cpu/Cargo.toml", "[package]\nname = \"karat-cpu\"\n")[0].contains("[lints]")
        );
        assert_eq!(found("cpu/Cargo.toml", "[package\n").len(), 1);
    }
}
