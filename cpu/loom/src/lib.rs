//! `cpu/src/pool.rs` as it stands, over loom's atomics, locks and threads in place of the standard library's. loom runs a
//! test once for every order in which the threads' operations may happen and every value that a load may see under the
//! memory model (C11's), up to a bound of preemptions: a wake-up that gets lost is a deadlock in one of them, and a part
//! whose result is read too early a race.
#![allow(dead_code, reason = "the model uses a part of the pool")]

#[path = "../../src/pool.rs"]
mod pool;

mod simd {
    /// Nothing is computed here.
    #[derive(Clone, Copy)]
    pub(crate) struct Level;
}

mod sync {
    pub(crate) use loom::hint::spin_loop;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, fence};
    pub(crate) use loom::sync::{Arc, Condvar, Mutex};
    pub(crate) use loom::thread::{Builder, JoinHandle, yield_now};

    /// A worker looks once, then parks: every order of looking and parking is tried anyway.
    pub(crate) const SPINS: u32 = 1;
}

#[cfg(test)]
mod model {
    use super::pool::Pool;
    use loom::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    /// `jobs` jobs of `N` parts by `threads` threads, with at most `preemptions` switches away from a thread that could
    /// have gone on. Each part runs once, and its caller sees what it did: a load in `Relaxed` order orders nothing by
    /// itself, and loom lets it see every old value that the pool's own order does not rule out.
    fn every_part_runs_once<const N: usize>(threads: usize, jobs: usize, preemptions: usize) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(move || {
            let mut pool = Pool::new(threads);
            for _ in 0..jobs {
                let runs = [(); N].map(|()| AtomicUsize::new(0));
                pool.ranges(N, 1, |range| {
                    range.for_each(|i| {
                        runs[i].fetch_add(1, Relaxed);
                    });
                });
                assert!(runs.iter().all(|runs| runs.load(Relaxed) == 1));
            }
        });
    }

    #[test]
    fn a_worker_and_the_caller_share_two_jobs() {
        every_part_runs_once::<2>(2, 2, 3);
    }

    #[test]
    fn two_workers_and_the_caller_share_a_job() {
        every_part_runs_once::<3>(3, 1, 2);
    }
}
