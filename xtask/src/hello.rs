//! `cargo xtask hello`: what the formats answer to "Hello" on every device, as a table in the README.

use crate::proc::{cargo, run};
use anyhow::{Context as _, Result, bail, ensure};
use std::path::Path;
use std::process::Command;

/// The formats that the seed's GPU backends turned to gibberish.
const FORMATS: [&str; 4] = ["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"];
const MARKS: [&str; 2] = ["<!-- hello -->\n", "<!-- /hello -->"];
const MODEL: &str = "smollm2:135m";

/// Makes the files, asks each device, and writes the table; `false` if a device's ids are not the CPU's.
pub(crate) fn run_hello(root: &Path, from: &str) -> Result<bool> {
    let built = run(root, &mut cargo(&["build", "--release", "--package", "karat-cli"]))?;
    ensure!(built.ok(), "karat does not compile");
    let karat = root.join("target/release/karat");
    let dir = root.join("target/hello");
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let devices = devices(&karat)?;
    let mut rows = Vec::new();
    let mut alike = true;
    for format in FORMATS {
        let file = dir.join(format!("{format}.gguf"));
        if file.exists() {
            std::fs::remove_file(&file)?;
        }
        ask(&karat, &["quantize", "--force", from, &file.to_string_lossy(), format])?;
        let ids = hello(&karat, &file, &["--tokens"])?;
        let mut row = vec![format!("`{format}`"), shown(&hello(&karat, &file, &[])?)];
        for device in &devices {
            let on = ["--backend", "gpu", "--device", device, "--tokens"];
            let same = hello(&karat, &file, &on)? == ids;
            alike &= same;
            println!("{format} on {device}: {}", if same { "the same ids" } else { "OTHER IDS" });
            let text = || hello(&karat, &file, &on[..4]).map(|text| shown(&text));
            row.push(if same { "the same".to_owned() } else { text()? });
        }
        rows.push(row);
    }
    let mut head = vec!["format".to_owned(), "CPU".to_owned()];
    head.extend(devices);
    let name = Path::new(from).file_name().unwrap_or_default().to_string_lossy();
    let note =
        format!("\nGreedy, 16 tokens; the files were made by `karat quantize` from {name}.\n");
    write(&root.join("README.md"), &(table(&head, &rows) + &note))?;
    Ok(alike)
}

/// Reads the options and runs.
pub(crate) fn run_args(root: &Path, args: &[String]) -> Result<bool> {
    match args {
        [] => run_hello(root, MODEL),
        [flag, file] if flag == "--from" => run_hello(root, file),
        _ => bail!("allowed: --from FILE"),
    }
}

fn ask(karat: &Path, args: &[&str]) -> Result<String> {
    // Mesa's device-select layer would print where there is no desktop.
    let output = Command::new(karat).env("NODEVICE_SELECT", "1").args(args).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "karat {}: {complaint}", args.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

fn devices(karat: &Path) -> Result<Vec<String>> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(&ask(karat, &["devices", "--json"])?)?;
    let usable = rows.iter().filter(|row| row["usable"] == true);
    Ok(usable.filter_map(|row| row["name"].as_str().map(str::to_owned)).collect())
}

/// The answer's text, or with `--tokens` its ids and pieces.
fn hello(karat: &Path, file: &Path, more: &[&str]) -> Result<String> {
    let file = file.to_string_lossy();
    let base = ["run", "-m", &file, "--temp", "0", "-n", "16", "-c", "256", "Hello"];
    let answer = ask(karat, &[&base, more].concat())?;
    ensure!(!answer.trim().is_empty(), "karat answered nothing");
    Ok(answer)
}

/// Text for a cell.
fn shown(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    line(head) + &rule + &rows.iter().map(|row| line(row)).collect::<String>()
}

/// Puts the text between the marks.
fn write(path: &Path, text: &str) -> Result<()> {
    let old = std::fs::read_to_string(path)?;
    let [from, to] = MARKS.map(|mark| old.find(mark).map(|at| (at, mark.len())));
    let (Some((from, len)), Some((to, _))) = (from, to) else {
        bail!("{}: the marks {MARKS:?} are not there", path.display())
    };
    std::fs::write(path, format!("{}{text}{}", &old[..from + len], &old[to..]))?;
    println!("{}: the table is written", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_goes_between_the_marks() {
        let dir = tempfile();
        let path = dir.join("README.md");
        std::fs::write(&path, "a\n<!-- hello -->\nold\n<!-- /hello -->\nb\n").unwrap();
        let text = table(&["x".into(), "y".into()], &[vec!["1".into(), shown("a\nb | c")]]);
        write(&path, &text).unwrap();
        write(&path, &text).unwrap();
        let expected =
            "a\n<!-- hello -->\n| x | y |\n|---|---|\n| 1 | a b \\| c |\n<!-- /hello -->\nb\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        std::fs::write(&path, "none").unwrap();
        assert!(write(&path, &text).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    fn tempfile() -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("karat-hello-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }
}
