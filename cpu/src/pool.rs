//! Threads that split one op between them: spin for a while, then park. The calling thread works too.

#![allow(
    unsafe_code,
    reason = "a job's borrowed closure crosses threads: behind the fence of ARCHITECTURE.md"
)]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// Turns of the wait loop before a worker parks: some tens of microseconds, longer than the gap between two ops.
const SPINS: u32 = 20_000;

/// A job: a borrowed closure whose lifetime was erased, called once by every thread with its index.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

// SAFETY: the closure is `Sync`, and `Pool::run` does not return before every thread has finished with it.
unsafe impl Send for Job {}

struct Shared {
    /// Rises by one with each job.
    epoch: AtomicUsize,
    job: Mutex<Option<Job>>,
    wake: Condvar,
    /// Workers that have not finished the current job.
    running: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

/// A fixed number of threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` in all, at least one; fewer if the system refuses.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: Mutex::new(None),
            wake: Condvar::new(),
            running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let spawn = |index: usize| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("karat-{index}"));
            builder.spawn(move || work(&shared, index)).ok()
        };
        let workers = (1..threads.max(1)).map_while(spawn).collect();
        Self { shared, workers }
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f` once for every thread index and returns when all are done.
    fn run(&mut self, f: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() {
            f(0);
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; the pointer is used between here and the wait below, which `f` outlives.
        let job = Job(unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync)>(
                f,
            )
        });
        shared.running.store(self.workers.len(), Ordering::Relaxed);
        {
            let mut slot = lock(&shared.job);
            *slot = Some(job);
            shared.epoch.fetch_add(1, Ordering::Release);
        }
        shared.wake.notify_all();
        let ours = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(0)));
        let mut spins = 0u32;
        while shared.running.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if let Err(panic) = ours {
            std::panic::resume_unwind(panic);
        }
        if shared.panicked.swap(false, Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new("a worker thread panicked"));
        }
    }

    /// Cuts `0..n` into one range for each thread, at multiples of `step`, and calls `f` with each range.
    pub(crate) fn ranges(&mut self, n: usize, step: usize, f: impl Fn(Range<usize>) + Sync) {
        if n <= step {
            // One part: waking the others costs more than it saves.
            if n > 0 {
                f(0..n);
            }
            return;
        }
        let threads = self.threads();
        self.run(&|i| {
            let range = part(n, step, i, threads);
            if !range.is_empty() {
                f(range);
            }
        });
    }

    /// Cuts the rows (of `cols` elements) of `out` into one run for each thread; `f` gets the first row's index and
    /// the rows.
    pub(crate) fn rows<T: Send>(
        &mut self,
        out: &mut [T],
        cols: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let n = out.len().checked_div(cols).unwrap_or(0);
        let all = SharedMut::new(out);
        self.ranges(n, 1, |r| {
            // SAFETY: `part` gives disjoint ranges of rows, all below n.
            let rows = unsafe { all.slice(r.start * cols..r.end * cols) };
            f(r.start, rows);
        });
    }

    /// Cuts the columns of a `[rows, cols]` matrix into one range for each thread, at multiples of `step`.
    pub(crate) fn columns(
        &mut self,
        out: &mut [f32],
        cols: usize,
        step: usize,
        f: impl Fn(Columns<'_>) + Sync,
    ) {
        let rows = out.len().checked_div(cols).unwrap_or(0);
        let all = SharedMut::new(out);
        self.ranges(cols, step, |range| f(Columns { all: &all, rows, cols, range }));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let _guard = lock(&self.shared.job);
            self.shared.stop.store(true, Ordering::Relaxed);
            self.shared.epoch.fetch_add(1, Ordering::Release);
        }
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so already.
            let _ = worker.join();
        }
    }
}

/// The mutex guards plain data, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.load(Ordering::Acquire) == seen && spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        }
        let job = {
            let mut slot = lock(&shared.job);
            while shared.epoch.load(Ordering::Acquire) == seen {
                slot = shared.wake.wait(slot).unwrap_or_else(std::sync::PoisonError::into_inner);
            }
            *slot
        };
        seen = shared.epoch.load(Ordering::Acquire);
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        if let Some(Job(f)) = job {
            // SAFETY: `Pool::run` keeps the closure alive until `running` is zero, which happens after this call.
            let f = unsafe { &*f };
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(index))).is_err() {
                shared.panicked.store(true, Ordering::Relaxed);
            }
        }
        shared.running.fetch_sub(1, Ordering::Release);
    }
}

/// The `i`-th of `parts` ranges of `0..n`, cut at multiples of `step`.
fn part(n: usize, step: usize, i: usize, parts: usize) -> Range<usize> {
    let units = n.div_ceil(step);
    let at = |i: usize| (units * i / parts * step).min(n);
    at(i)..at(i + 1)
}

/// A slice that several threads write disjoint parts of.
struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    _borrow: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: parts handed out are disjoint by the contract of `slice`, and T may be sent to the threads.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), _borrow: std::marker::PhantomData }
    }

    /// # Safety
    /// No two live slices overlap.
    #[allow(
        clippy::mut_from_ref,
        reason = "the callers hand out disjoint parts; that is what the type is for"
    )]
    unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.len,
            "part {range:?} of {}",
            self.len
        );
        // SAFETY: in bounds by the assertion, disjoint by contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

/// One thread's columns of a `[rows, cols]` matrix.
pub(crate) struct Columns<'a> {
    all: &'a SharedMut<'a, f32>,
    rows: usize,
    cols: usize,
    range: Range<usize>,
}

impl Columns<'_> {
    /// Rows of the matrix.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// The columns that are this thread's.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Row `row` of this thread's columns `at` (absolute; cut off at the end of the range).
    pub(crate) fn row(&mut self, row: usize, at: Range<usize>) -> &mut [f32] {
        let end = at.end.min(self.range.end);
        assert!(
            row < self.rows && at.start >= self.range.start && at.start <= end,
            "columns of another thread"
        );
        // SAFETY: threads have disjoint column ranges, and `&mut self` lets one slice of this range live at a time.
        unsafe { self.all.slice(row * self.cols + at.start..row * self.cols + end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_visited_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 7] {
            let mut pool = Pool::new(threads);
            for n in [0usize, 1, 2, 15, 16, 17, 100] {
                let mut out = vec![0u32; n * 3];
                pool.rows(&mut out, 3, |first, rows| {
                    for (i, v) in rows.iter_mut().enumerate() {
                        *v += (first * 3 + i) as u32 + 1;
                    }
                });
                assert!(out.iter().enumerate().all(|(i, &v)| v == i as u32 + 1));
                let mut out = vec![0.0; n * 4];
                pool.columns(&mut out, n, 16, |mut part| {
                    let range = part.range();
                    for row in 0..part.rows() {
                        part.row(row, range.clone()).iter_mut().for_each(|v| *v += 1.0);
                    }
                });
                assert!(out.iter().all(|&v| v == 1.0));
            }
        }
    }

    #[test]
    fn a_panic_in_a_job_reaches_the_caller_and_leaves_the_pool_usable() {
        let mut pool = Pool::new(3);
        for bad in 0..3 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.ranges(3, 1, |r| assert!(r.start != bad, "on purpose"));
            }));
            assert!(result.is_err());
            let mut out = vec![0u8; 9];
            pool.rows(&mut out, 1, |_, rows| rows.fill(1));
            assert_eq!(out, [1; 9]);
        }
    }
}
