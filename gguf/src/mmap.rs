//! Maps a file into memory, and turns a fault in the mapping into a message and exit code 4.
//!
//! A mapped file that another program shortens cannot be read past its new end: the system sends SIGBUS. Rust code
//! cannot return from that, so the handler here says why and leaves. It does so for addresses in our mappings only;
//! every other SIGBUS goes to whoever handled it before.

#![allow(unsafe_code, reason = "mapping a file and handling its faults cannot be had without")]

use std::fs;
use std::io;

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub(crate) struct Mapping {
    #[cfg(any(unix, windows))]
    map: memmap2::Mmap,
}

#[cfg(any(unix, windows))]
impl Mapping {
    /// Maps the first `len` bytes of `file`; `len` is its size and not 0.
    pub(crate) fn of(file: &fs::File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        // SAFETY: the mapping is read-only and private to us, and lives in `Mapping`. Another process may still
        // rewrite the file: `Source::check_unchanged` finds that before each load phase, the SIGBUS handler ends the
        // program if the file shrinks, and `Access::Mmap` documents it. Nothing but plain bytes is read from it.
        let map = unsafe { memmap2::MmapOptions::new().len(len).map(file)? };
        #[cfg(unix)]
        sigbus::watch(map.as_ptr() as usize, len)?;
        Ok(Self { map })
    }

    /// All bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(unix)]
impl Drop for Mapping {
    fn drop(&mut self) {
        sigbus::unwatch(self.map.as_ptr() as usize);
    }
}

#[cfg(not(any(unix, windows)))]
impl Mapping {
    pub(crate) fn of(_: &fs::File, _: u64) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &[]
    }
}

#[cfg(unix)]
mod sigbus {
    use std::io;
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, OnceLock};

    const MESSAGE: &[u8] = b"error: model file changed on disk while in use\n";
    const EXIT_CODE: i32 = 4;

    /// A mapped range of addresses; `start` 0 is a free place.
    struct Region {
        start: AtomicUsize,
        len: AtomicUsize,
    }

    /// The mappings of this process, in a form that a signal handler may read: no lock, no allocation.
    static REGIONS: [Region; 1024] =
        [const { Region { start: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; 1024];
    static WRITERS: Mutex<()> = Mutex::new(());
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

    /// Adds a mapping; installs the handler at the first.
    pub(super) fn watch(start: usize, len: usize) -> io::Result<()> {
        let _guard = WRITERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if PREVIOUS.get().is_none() {
            install()?;
        }
        match REGIONS.iter().find(|region| region.start.load(Ordering::Relaxed) == 0) {
            Some(free) => {
                // The length first: the handler looks at a region only once its start is set.
                free.len.store(len, Ordering::SeqCst);
                free.start.store(start, Ordering::SeqCst);
                Ok(())
            }
            None => Err(io::Error::other("more than 1024 files are mapped")),
        }
    }

    /// Removes the mapping that starts at `start`.
    pub(super) fn unwatch(start: usize) {
        let _guard = WRITERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(region) =
            REGIONS.iter().find(|region| region.start.load(Ordering::Relaxed) == start)
        {
            region.start.store(0, Ordering::SeqCst);
        }
    }

    fn install() -> io::Result<()> {
        let mut previous = MaybeUninit::<libc::sigaction>::uninit();
        // SAFETY: `sigaction` is plain data for which all zeroes is valid (no flags, empty mask, default handler);
        // `on_sigbus` has the signature that SA_SIGINFO asks for and calls only async-signal-safe functions.
        // SA_ONSTACK uses the alternate stack that Rust's runtime sets up on its threads, and none elsewhere.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                on_sigbus;
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            // Read the old action before setting ours, so that the handler never runs without knowing it.
            if libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            // It is not set yet: `watch` calls us once, under its lock.
            let _ = PREVIOUS.set(previous.assume_init());
            if libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    extern "C" fn on_sigbus(
        signal: libc::c_int,
        info: *mut libc::siginfo_t,
        context: *mut libc::c_void,
    ) {
        // SAFETY: the system passes a valid `siginfo_t` to a handler installed with SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        if is_ours(address) {
            // SAFETY: `write` and `_exit` are async-signal-safe; the message is a static of the given length.
            unsafe {
                libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
                libc::_exit(EXIT_CODE);
            }
        }
        pass_on(signal, info, context);
    }

    fn is_ours(address: usize) -> bool {
        REGIONS.iter().any(|region| {
            let start = region.start.load(Ordering::SeqCst);
            start != 0 && address.wrapping_sub(start) < region.len.load(Ordering::SeqCst)
        })
    }

    /// Does what would have happened without us.
    fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let Some(previous) = PREVIOUS.get() else { return };
        let handler = previous.sa_sigaction;
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            // SAFETY: `previous` was filled by `sigaction`. Returning repeats the fault, now under that action.
            unsafe { libc::sigaction(signal, previous, ptr::null_mut()) };
        } else if previous.sa_flags & libc::SA_SIGINFO != 0 {
            // SAFETY: with SA_SIGINFO the stored value is a function of this signature; we pass its own arguments.
            let call: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            call(signal, info, context);
        } else {
            // SAFETY: without SA_SIGINFO the stored value is a function that takes the signal number.
            let call: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            call(signal);
        }
    }
}
