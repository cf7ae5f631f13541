//! The cache of model files: a file has its final name only when it is whole, checked and on disk.
//!
//! What is being fetched has another name (`part.rs`) and is locked by its process. What a killed process leaves is
//! unlocked: the next download goes on with it or removes it. Ctrl-C removes at once what cannot be gone on with.
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::Fault;
use crate::error::{Error, ErrorKind};
use crate::text::path as show_path;
use model::output::Unfinished;

/// How the names of unfinished files end.
pub(super) const PARTIAL: &str = ".partial";
const PIP_FOLDER: &str = ".pip-";
const BUFFER: usize = 1 << 17;
/// How long the beginning of a file waits for the rest of it.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The program that this process waits for, which is to end with it.
static HELPER: Mutex<Option<Child>> = Mutex::new(None);

/// A program that works for this process; ended when this is dropped, and by [`end_helper`].
pub(super) struct Helper(());

impl Helper {
    /// Watches over a program. There is one at a time.
    pub(super) fn new(child: Child) -> Helper {
        *helper() = Some(child);
        Helper(())
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The system's, as for a program that something else has waited for.
    pub(super) fn ended(&mut self) -> io::Result<Option<std::process::ExitStatus>> {
        match helper().as_mut() {
            Some(child) => child.try_wait(),
            None => Err(io::Error::other("ended by a signal to karat")),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        end_helper();
    }
}

fn helper() -> std::sync::MutexGuard<'static, Option<Child>> {
    HELPER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the program that works for this process, which is about to exit.
pub(crate) fn end_helper() {
    if let Some(mut child) = helper().take() {
        // It has ended already in the usual case, and then both fail.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// What a file must be, as far as it is known.
#[derive(Clone, Debug, Default)]
pub(crate) struct Want {
    /// Bytes.
    pub(crate) size: Option<u64>,
    /// Lower-case hex.
    pub(crate) sha256: Option<String>,
    /// Whether size and hash are those of the first use of a model that has none in the catalogue.
    pub(crate) remembered: bool,
}

impl Want {
    /// The error of a file that is another one. A catalogue's next source may still have the right one; of a file that
    /// was known by its first use alone, nothing else is taken.
    pub(crate) fn differs(&self, line: String) -> Fault {
        if !self.remembered {
            return Fault::Source(line);
        }
        let what = format!("{line}, as at its first use");
        let hint = "karat pull --trust MODEL takes the file as it is now";
        Fault::Here(Error::new(ErrorKind::Damaged, what).with_hint(hint))
    }
}

/// What is known of a cached file, kept beside it as `FILE.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Receipt {
    /// What the user asked for: a catalogue name or a source string.
    pub(crate) name: String,
    /// The source that the bytes came from.
    pub(crate) source: String,
    /// Bytes.
    pub(crate) size: u64,
    /// Lower-case hex, of the bytes as they were written.
    pub(crate) sha256: String,
}

/// The folder of model files below the cache folder.
pub(crate) fn models_dir(cache_dir: &Path) -> PathBuf {
    cache_dir.join("models")
}

/// Where what is known of a file is written: its receipt, or the note of the beginning of one.
pub(super) fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".toml");
    PathBuf::from(name)
}

/// The receipt of a cached file; `None` where there is none that can be read.
pub(crate) fn receipt(file: &Path) -> Option<Receipt> {
    toml::from_str(&fs::read_to_string(beside(file)).ok()?).ok()
}

/// All `.gguf` files below the models folder, sorted, paths in full. A missing folder is an empty cache.
///
/// # Errors
/// [`ErrorKind::Io`] if a folder cannot be read.
pub(crate) fn files(models: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut folders = vec![models.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(here(&folder, "cannot be read", &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| here(&folder, "cannot be read", &e))?;
            let kind = entry.file_type().map_err(|e| here(&entry.path(), "cannot be read", &e))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "gguf") {
                found.push(entry.path());
            }
        }
    }
    found.retain(|path| !path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')));
    found.sort();
    Ok(found)
}

/// Removes a cached file, its receipt, and the folders that this leaves empty.
///
/// # Errors
/// [`ErrorKind::Io`] if the file cannot be removed.
pub(crate) fn remove(models: &Path, file: &Path) -> Result<(), Error> {
    // The receipt goes last: a crash between the two leaves a receipt without a model, which nothing looks at.
    fs::remove_file(file).map_err(|e| here(file, "cannot be removed", &e))?;
    match fs::remove_file(beside(file)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(here(&beside(file), "cannot be removed", &error));
        }
        Ok(()) | Err(_) => {}
    }
    let mut folder = file.parent();
    while let Some(dir) = folder.filter(|d| *d != models && d.starts_with(models)) {
        if fs::remove_dir(dir).is_err() {
            break; // Not empty: other models live there.
        }
        folder = dir.parent();
    }
    Ok(())
}

/// Size and SHA-256 of a file; `step` is told the bytes so far.
///
/// # Errors
/// [`ErrorKind::Io`] if it cannot be read.
pub(crate) fn hash_file(path: &Path, mut step: impl FnMut(u64)) -> Result<(u64, String), Error> {
    let mut file = File::open(path).map_err(|e| here(path, "cannot be read", &e))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut len = 0u64;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((len, hex(hasher))),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                len += n as u64;
                step(len);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(here(path, "cannot be read", &error)),
        }
    }
}

/// SHA-256 in lower-case hex.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(Sha256::new().chain_update(bytes))
}

/// A finished hash in lower-case hex.
pub(super) fn hex(hasher: Sha256) -> String {
    use std::fmt::Write;
    hasher.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A failure of this machine's file system.
pub(crate) fn here(path: &Path, what: &str, error: &io::Error) -> Error {
    let failure = Error::new(ErrorKind::Io, format!("{}: {what}: {error}", show_path(path)));
    use io::ErrorKind as K;
    if matches!(error.kind(), K::StorageFull | K::QuotaExceeded | K::FileTooLarge) {
        failure.with_hint("free some space, or set KARAT_CACHE to a folder elsewhere")
    } else if matches!(error.kind(), K::PermissionDenied | K::ReadOnlyFilesystem | K::NotADirectory)
    {
        failure.with_hint("set KARAT_CACHE to a folder that you can write to")
    } else {
        failure
    }
}

/// A folder inside `folder` for pip's files, with the locked file that marks it as in use.
///
/// # Errors
/// [`ErrorKind::Io`] if it cannot be made.
pub(crate) fn scratch(folder: &Path) -> Result<Scratch, Error> {
    let failed = |error: &io::Error| here(folder, "cannot be written to", error);
    let dir =
        tempfile::Builder::new().prefix(PIP_FOLDER).tempdir_in(folder).map_err(|e| failed(&e))?;
    let lock = File::create(dir.path().join("lock")).map_err(|e| failed(&e))?;
    // A file system without locks loses only the sweeping of what a killed process leaves.
    let _ = lock.try_lock();
    let unfinished = Unfinished::new(dir.path());
    Ok(Scratch { dir, _lock: lock, _unfinished: unfinished })
}

/// A temporary folder that other processes see to be in use.
pub(crate) struct Scratch {
    /// Let go of first: Windows removes no folder in which a file is open.
    _lock: File,
    dir: TempDir,
    _unfinished: Unfinished,
}

impl Scratch {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes temporary files whose process is gone, from the whole cache. Best effort: what cannot be removed now is
/// tried again next time.
pub(crate) fn sweep_all(models: &Path) {
    let mut folders = vec![models.to_owned()];
    while let Some(folder) = folders.pop() {
        sweep(&folder);
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(below.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
}

/// As [`sweep_all`], of one folder.
pub(super) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') {
            continue;
        }
        let path = entry.path();
        if name.ends_with(PARTIAL) {
            if unlocked(&path) && !(beside(&path).exists() && is_young(&path)) {
                let _ = fs::remove_file(&path).and_then(|()| fs::remove_file(beside(&path)));
            }
        } else if let Some(file) = name.strip_suffix(".toml").filter(|n| n.ends_with(PARTIAL)) {
            // A note is written after its file is made.
            if !folder.join(file).exists() {
                let _ = fs::remove_file(path);
            }
        } else if name.starts_with(PIP_FOLDER) && unlocked(&entry.path().join("lock")) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_young(path: &Path) -> bool {
    // A clock that was set back makes everything young.
    let age = path.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed());
    age.is_ok_and(|age| age.map_or(true, |age| age < PATIENCE))
}

fn unlocked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::part::Part;

    #[test]
    fn the_sweep_takes_what_is_unlocked_and_leaves_what_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let in_use = Part::create(&dir.path().join("x.gguf")).unwrap();
        let pip = scratch(dir.path()).unwrap();
        fs::write(dir.path().join(".x.gguf.dead.partial"), "left by a killed process").unwrap();
        fs::create_dir(dir.path().join(".pip-dead")).unwrap();
        fs::write(dir.path().join(".pip-dead/lock"), "").unwrap();
        fs::write(dir.path().join("other.partial"), "not ours").unwrap();
        sweep(dir.path());
        assert!(
            in_use.path().exists()
                && pip.path().exists()
                && dir.path().join("other.partial").exists()
        );
        assert!(
            !dir.path().join(".x.gguf.dead.partial").exists()
                && !dir.path().join(".pip-dead").exists()
        );
    }

    #[test]
    fn the_sweep_keeps_what_can_be_gone_on_with_for_a_week() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, days: u64| {
            fs::write(dir.path().join(format!("{name}.toml")), "").unwrap();
            let file = File::create(dir.path().join(name)).unwrap();
            let then = std::time::SystemTime::now() - Duration::from_secs(days * 24 * 3600);
            file.set_modified(then).unwrap();
        };
        make(".a.gguf.partial", 6);
        make(".b.gguf.partial", 8);
        fs::write(dir.path().join(".c.gguf.partial.toml"), "").unwrap();
        sweep(dir.path());
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".a.gguf.partial", ".a.gguf.partial.toml"]);
    }

    #[test]
    fn only_whole_model_files_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(files(&dir.path().join("absent")).unwrap().is_empty());
        fs::create_dir_all(dir.path().join("hf/o/r")).unwrap();
        for name in ["a.gguf", "a.gguf.toml", ".a.gguf.x.partial", ".b.gguf", "hf/o/r/c.gguf"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(
            files(dir.path()).unwrap(),
            [dir.path().join("a.gguf"), dir.path().join("hf/o/r/c.gguf")]
        );
    }
}
