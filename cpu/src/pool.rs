//! Threads that compute one op together. Each takes the next part of the op whenever it is free; without work it spins for
//! a while, then parks. The calling thread works too.

#![allow(
    unsafe_code,
    reason = "a job's borrowed closure crosses threads: behind the fence of ARCHITECTURE.md"
)]

use crate::simd::Level;
use crate::sync::{
    Arc, AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Builder, Condvar, JoinHandle, Mutex, SPINS,
    fence, spin_loop, yield_now,
};
use graph::Stop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::null_mut;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// Parts of a job for each thread: more than one, so that threads with short parts take more of them, and a thread that
/// the system has suspended delays only the part that it is working on.
const PARTS_PER_THREAD: usize = 4;

/// A job on the caller's stack: a closure whose lifetime was erased, called once for each part.
struct Job {
    f: *const (dyn Fn(usize) + Sync),
}

/// The epoch (number of the job), its number of parts and the next part, in one word: whoever claims a part by swapping
/// this word knows that the job has not changed since it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
struct State(u64);

impl State {
    fn new(epoch: u32, parts: u16) -> Self {
        Self(u64::from(epoch) << 32 | u64::from(parts) << 16)
    }

    fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn parts(self) -> u16 {
        (self.0 >> 16) as u16
    }

    fn next(self) -> u16 {
        self.0 as u16
    }
}

struct Shared {
    state: AtomicU64,
    job: AtomicPtr<Job>,
    /// Parts of the current job that are finished.
    done: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Workers that are parked or about to be.
    parked: AtomicUsize,
    park: Mutex<()>,
    wake: Condvar,
}

impl Shared {
    /// Takes parts of the current job until none is left.
    fn take_parts(&self) {
        loop {
            let state = State(self.state.load(Ordering::Acquire));
            if state.next() >= state.parts() {
                return;
            }
            let job = self.job.load(Ordering::Acquire);
            let claimed = State(state.0 + 1).0;
            if self
                .state
                .compare_exchange(state.0, claimed, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            // SAFETY: the claim succeeded, so the epoch is the one that `job` was read in: `Pool::run` stores the job
            // before it publishes the epoch, and does not return (or store another) before every claimed part is done.
            let f = unsafe { &*(*job).f };
            if catch_unwind(AssertUnwindSafe(|| f(usize::from(state.next())))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
    }

    /// Waits until the epoch is no longer `seen`: first spinning, then parked.
    fn wait(&self, seen: u32) -> u32 {
        let epoch = || State(self.state.load(Ordering::Acquire)).epoch();
        for _ in 0..SPINS {
            if epoch() != seen {
                return epoch();
            }
            spin_loop();
        }
        let mut guard = self.park.lock().unwrap_or_else(PoisonError::into_inner);
        self.parked.fetch_add(1, Ordering::Relaxed);
        // With the one in `publish`: this thread sees the new epoch, or `publish` sees that it is parked.
        fence(Ordering::SeqCst);
        while epoch() == seen {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.parked.fetch_sub(1, Ordering::Relaxed);
        epoch()
    }

    /// Begins an epoch and wakes whoever is parked.
    fn publish(&self, parts: u16) {
        let epoch = State(self.state.load(Ordering::Relaxed)).epoch().wrapping_add(1);
        self.state.store(State::new(epoch, parts).0, Ordering::Release);
        // A worker counts itself as parked before it looks at the epoch for the last time: one of us sees the other.
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) > 0 {
            drop(self.park.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }
}

/// The threads that compute an op, and the instruction set that they compute it with.
pub(crate) struct Workers<'a> {
    pub(crate) level: Level,
    pub(crate) pool: &'a mut Pool,
}

/// A matrix to be written, row after row.
pub(crate) struct Matrix<'a> {
    pub(crate) out: &'a mut [f32],
    pub(crate) cols: usize,
    /// Parts begin at columns that are multiples of it.
    pub(crate) step: usize,
}

/// A number of rows. Parts begin at rows that are multiples of `step`.
#[derive(Clone, Copy)]
pub(crate) struct Steps {
    pub(crate) n: usize,
    pub(crate) step: usize,
}

/// A fixed number of threads.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    stop: Stop,
    /// Whether a part was left out since somebody asked: its results are not there.
    left_out: std::sync::atomic::AtomicBool,
}

impl Pool {
    /// `threads` in all, at least one; fewer if the system refuses.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(null_mut()),
            done: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            parked: AtomicUsize::new(0),
            park: Mutex::new(()),
            wake: Condvar::new(),
        });
        let spawn = |index: usize| {
            let shared = Arc::clone(&shared);
            let work = move || {
                let mut seen = 0;
                while !shared.stop.load(Ordering::Relaxed) {
                    shared.take_parts();
                    seen = shared.wait(seen);
                }
            };
            Builder::new().name(format!("karat-{index}")).spawn(work).ok()
        };
        let workers = (1..threads.max(1)).map_while(spawn).collect();
        Self { shared, workers, stop: Stop::new(), left_out: Default::default() }
    }

    /// Threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Parts that begin after `stop` is requested are left out.
    pub(crate) fn stop_with(&mut self, stop: Stop) {
        self.stop = stop;
    }

    /// Whether parts were left out since the last call, so that what was computed cannot be relied on.
    pub(crate) fn was_stopped(&mut self) -> bool {
        std::mem::take(self.left_out.get_mut())
    }

    /// Calls `f` once for every part and returns when all are done.
    fn run(&mut self, parts: u16, f: &(dyn Fn(usize) + Sync)) {
        let erase = |f: *const (dyn Fn(usize) + Sync + '_)| {
            // SAFETY: only the lifetime changes; nobody calls `f` after the wait below, which `f` outlives.
            unsafe {
                std::mem::transmute::<
                    *const (dyn Fn(usize) + Sync + '_),
                    *const (dyn Fn(usize) + Sync + 'static),
                >(f)
            }
        };
        let mut job = Job { f: erase(f) };
        let shared = &*self.shared;
        shared.done.store(0, Ordering::Relaxed);
        shared.job.store(&raw mut job, Ordering::Release);
        shared.publish(parts);
        shared.take_parts();
        let mut spins = 0u32;
        while shared.done.load(Ordering::Acquire) != usize::from(parts) {
            spins = spins.saturating_add(1);
            if spins < SPINS { spin_loop() } else { yield_now() }
        }
        if shared.panicked.swap(false, Ordering::Relaxed) {
            resume_unwind(Box::new("a part of an op panicked"));
        }
    }

    /// Divides `0..n` into ranges that start at multiples of `step` and calls `f` once with each, on whichever thread is
    /// free.
    pub(crate) fn ranges(&mut self, n: usize, step: usize, f: impl Fn(Range<usize>) + Sync) {
        let parts =
            n.div_ceil(step).min(self.threads() * PARTS_PER_THREAD).min(usize::from(u16::MAX));
        let (stop, left_out) = (self.stop.clone(), std::mem::take(&mut self.left_out));
        let f = |i| {
            if stop.is_requested() {
                left_out.store(true, Ordering::Relaxed);
            } else {
                f(part(n, step, i, parts));
            }
        };
        if parts <= 1 || self.workers.is_empty() {
            // Waking the others costs more than it saves.
            (0..parts).for_each(&f);
        } else {
            self.run(parts as u16, &f);
        }
        self.left_out = left_out;
    }

    /// Divides the rows of `out`, `cols` elements each, into runs; `f` gets the index of a run's first row and its rows.
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

    /// Divides a matrix into bands of rows, and each band into parts of `matrix.step` columns. `bounds` are the first rows
    /// of the bands in ascending order, and the end of the last. The last band is computed first: in attention it is the
    /// longest. `f` gets a band's index and the part.
    pub(crate) fn bands(
        &mut self,
        matrix: Matrix<'_>,
        bounds: &[usize],
        f: impl Fn(usize, Columns<'_>) + Sync,
    ) {
        assert!(bounds.is_sorted(), "bands ascend");
        let Matrix { out, cols, step } = matrix;
        let all = SharedMut::new(out);
        let (bands, across) = (bounds.len().saturating_sub(1), cols / step);
        self.ranges(bands * across, 1, |items| {
            for item in items {
                let (band, column) = (bands - 1 - item / across, item % across * step);
                let rows = bounds[band]..bounds[band + 1];
                let range = column..column + step;
                f(band, Columns { all: &all, rows, order: None, cols, range });
            }
        });
    }

    /// Divides runs of rows into parts of `matrix.step` columns. The rows of the runs stand at other places of the matrix:
    /// row i at `order[i]`. `f` gets a run's index and the part, whose rows are those of the run.
    pub(crate) fn runs(
        &mut self,
        matrix: Matrix<'_>,
        runs: &[Range<usize>],
        order: &[usize],
        f: impl Fn(usize, Columns<'_>) + Sync,
    ) {
        let Matrix { out, cols, step } = matrix;
        let mut is_taken = vec![false; out.len().checked_div(cols).unwrap_or(0)];
        for &row in runs.iter().flat_map(|run| &order[run.clone()]) {
            assert!(!std::mem::replace(&mut is_taken[row], true), "a row of two runs: {row}");
        }
        let all = SharedMut::new(out);
        let across = cols.div_ceil(step.max(1));
        self.ranges(runs.len() * across, 1, |items| {
            for item in items {
                let (run, column) = (item / across, item % across * step);
                let range = column..cols.min(column + step);
                let rows = runs[run].clone();
                f(run, Columns { all: &all, rows, order: Some(order), cols, range });
            }
        });
    }

    /// Divides several matrices with the same rows into parts, each of whole steps of columns; where that gives too few
    /// parts for the threads, into bands of rows as well. `f` gets the matrix's index and the part.
    pub(crate) fn grids<const N: usize>(
        &mut self,
        matrices: [Matrix<'_>; N],
        rows: Steps,
        f: impl Fn(usize, Columns<'_>) + Sync,
    ) {
        let Steps { n: n_rows, step: row_step } = rows;
        let matrices = matrices.map(|m| (SharedMut::new(m.out), m.cols, m.step));
        let units: usize = matrices.iter().map(|(_, cols, step)| cols.div_ceil(*step)).sum();
        let wanted = self.threads() * PARTS_PER_THREAD;
        let bands = if self.workers.is_empty() { 1 } else { wanted.div_ceil(units.max(1)) };
        let bands = bands.min(n_rows.div_ceil(row_step)).max(1);
        self.ranges(units * bands, 1, |range| {
            for band in range.start / units..range.end.div_ceil(units) {
                let rows = part(n_rows, row_step, band, bands);
                let mut first = band * units;
                for (i, (all, cols, step)) in matrices.iter().enumerate() {
                    let n = cols.div_ceil(*step);
                    let from = range.start.clamp(first, first + n) - first;
                    let to = range.end.clamp(first, first + n) - first;
                    if from < to && !rows.is_empty() {
                        let range = from * step..(to * step).min(*cols);
                        let rows = rows.clone();
                        f(i, Columns { all, rows, order: None, cols: *cols, range });
                    }
                    first += n;
                }
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.publish(0);
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so already.
            let _ = worker.join();
        }
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

/// One part's columns of a `[rows, cols]` matrix.
pub(crate) struct Columns<'a> {
    all: &'a SharedMut<'a, f32>,
    rows: Range<usize>,
    /// Where each row stands in the matrix; in their own order where there is none.
    order: Option<&'a [usize]>,
    cols: usize,
    range: Range<usize>,
}

impl Columns<'_> {
    /// The rows that are this part's.
    pub(crate) fn row_range(&self) -> Range<usize> {
        self.rows.clone()
    }

    /// The columns that are this part's.
    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Row `row` of this part's columns `at` (absolute; cut off at the end of the range).
    pub(crate) fn row(&mut self, row: usize, at: Range<usize>) -> &mut [f32] {
        let end = at.end.min(self.range.end);
        assert!(
            self.rows.contains(&row) && at.start >= self.range.start && at.start <= end,
            "columns of another part"
        );
        let row = self.order.map_or(row, |order| order[row]);
        // SAFETY: parts are disjoint in their columns or their rows, of which `Pool::runs` has checked that an order keeps
        // them apart, and `&mut self` lets one slice of this range live at a time.
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
                let matrix = Matrix { out: &mut out, cols: n, step: 16 };
                pool.grids([matrix], Steps { n: 4, step: 1 }, |_, mut part| {
                    let range = part.range();
                    for row in part.row_range() {
                        part.row(row, range.clone()).iter_mut().for_each(|v| *v += 1.0);
                    }
                });
                assert!(out.iter().all(|&v| v == 1.0));
            }
        }
    }

    /// After a pause the workers have parked: they come back for the next job, and at the end, where a wake-up that was
    /// lost would leave us waiting for ever.
    #[test]
    fn parked_workers_come_back_and_end() {
        for threads in [2, 3] {
            let mut pool = Pool::new(threads);
            for round in 0..3u32 {
                std::thread::sleep(std::time::Duration::from_millis(5));
                let mut out = [0u32; 40];
                pool.rows(&mut out, 1, |first, rows| {
                    rows.iter_mut().zip(first as u32..).for_each(|(v, i)| *v = i + round);
                });
                assert!(out.iter().zip(round..).all(|(&v, want)| v == want), "{out:?}");
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// What was stopped leaves out parts and says so, once; the pool goes on with the next job.
    #[test]
    fn a_stop_leaves_out_parts_and_is_told_of() {
        for threads in [1, 2, 3] {
            let mut pool = Pool::new(threads);
            let stop = Stop::new();
            pool.stop_with(stop.clone());
            let begun = AtomicUsize::new(0);
            let count = |_| {
                begun.fetch_add(1, Ordering::SeqCst);
                stop.request();
            };
            pool.ranges(100, 1, count);
            let begun = begun.load(Ordering::SeqCst);
            assert!((1..=threads).contains(&begun), "{begun} parts on {threads} threads");
            assert!(pool.was_stopped() && !pool.was_stopped());
            stop.clear();
            let mut out = [0u8; 9];
            pool.rows(&mut out, 1, |_, rows| rows.fill(1));
            assert!(out == [1; 9] && !pool.was_stopped());
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
