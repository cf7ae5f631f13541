//! Standard error, where drivers write too, whatever they like: their lines are told from karat's own.
//!
//! Mesa has no switch for it that a process could set for itself: the environment cannot be changed without `unsafe`, and
//! wgpu makes its instance ready for Wayland whether there is one or not. So the drivers' standard error is a pipe for the
//! moment in which they are asked, and each line that comes out of it is printed as what it is.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// The terminal or file while [`Drivers`] lives.
static OURS: Mutex<Option<File>> = Mutex::new(None);

/// Writes a line of karat's own; nobody may be there to read it.
pub(crate) fn write(line: &str) {
    let ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = match ours.as_ref() {
        Some(mut file) => file.write_all(line.as_bytes()),
        None => std::io::stderr().lock().write_all(line.as_bytes()),
    };
}

#[cfg(unix)]
pub(crate) use unix::Drivers;

/// Nothing is known here of drivers that write.
#[cfg(not(unix))]
pub(crate) struct Drivers(());

#[cfg(not(unix))]
impl Drivers {
    /// Changes nothing.
    pub(crate) fn listen() -> Self {
        Self(())
    }
}

#[cfg(unix)]
mod unix {
    use super::{OURS, PoisonError};
    use crate::exit::say;
    use nix::unistd::dup2_stderr;
    use std::fs::File;
    use std::io::{BufRead, BufReader, PipeReader};
    use std::os::fd::{AsFd, OwnedFd};
    use std::thread::JoinHandle;

    /// While it lives, whatever is written to standard error past [`super::write`] is a driver's.
    pub(crate) struct Drivers(Option<Pipe>);

    struct Pipe {
        /// Standard error as it was.
        ours: OwnedFd,
        reader: JoinHandle<()>,
    }

    impl Drivers {
        /// Listens from now on. Where that is not possible, drivers write as they always did.
        pub(crate) fn listen() -> Self {
            Self(Pipe::new().ok())
        }
    }

    impl Pipe {
        fn new() -> std::io::Result<Self> {
            let (from, to) = std::io::pipe()?;
            let ours = std::io::stderr().as_fd().try_clone_to_owned()?;
            let for_karat = File::from(ours.try_clone()?);
            let thread = std::thread::Builder::new().name("karat-drivers".to_owned());
            let reader = thread.spawn(move || tell(from))?;
            *OURS.lock().unwrap_or_else(PoisonError::into_inner) = Some(for_karat);
            dup2_stderr(&to)?;
            Ok(Self { ours, reader })
        }
    }

    /// Prints a driver's lines until the pipe ends.
    fn tell(from: PipeReader) {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if let Some(line) = worth_telling(&String::from_utf8_lossy(&line)) {
                say("driver", line);
            }
        }
    }

    /// Mesa asks a Wayland desktop which GPU shows it, and complains where there is none: karat shows nothing on it.
    pub(super) fn worth_telling(line: &str) -> Option<&str> {
        let line = line.trim();
        Some(line).filter(|line| !line.is_empty() && !line.contains("XDG_RUNTIME_DIR"))
    }

    impl Drop for Drivers {
        fn drop(&mut self) {
            let Some(Pipe { ours, reader }) = self.0.take() else { return };
            // The pipe had no other end but this, so the reader comes to an end.
            if dup2_stderr(&ours).is_ok() {
                let _ = reader.join();
                *OURS.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::unix::worth_telling;

    #[test]
    fn a_line_about_a_desktop_is_left_out() {
        let about_wayland = "error: XDG_RUNTIME_DIR is invalid or not set in the environment.\r";
        assert_eq!(worth_telling(about_wayland), None);
        assert_eq!(worth_telling(" "), None);
        let lavapipe =
            "WARNING: lavapipe is not a conformant vulkan implementation, testing use only.";
        assert_eq!(worth_telling(lavapipe), Some(lavapipe));
    }
}
