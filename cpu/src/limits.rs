//! What this machine can do at most, measured with the threads and instructions that the kernels use: bytes read from
//! memory, 8-bit integer products, f32 products. Benchmarks say how near to these a kernel comes.

use crate::simd::limits::{self as loops, Walk};
use crate::{Level, Pool};
use graph::{Error, ErrorKind, Limits, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long one measurement of an arithmetic limit takes.
const ARITHMETIC_TIME: Duration = Duration::from_millis(15);
/// Short measurements, of which the best counts: others on the machine can only take away.
const REPEATS: usize = 8;
/// The same of each way to walk through memory.
const READ_REPEATS: usize = 4;
/// At least so much is read, also where the size of the cache is not known.
const MIN_BUFFER: usize = 256 << 20;
/// The buffer is this many times the last cache: so little of it is found there from the round before. Of 1 GiB one
/// reads 36 GB/s here, of 256 MiB as much, of twice the cache 48.
const CACHES: usize = 8;
/// Memory is written in pieces of this size at first.
const ROUNDING: usize = 1 << 20;
/// Parts that each thread reads in a round, so that one which is put aside does not hold up the others.
const PARTS_PER_THREAD: usize = 8;

/// Measures the limits of `threads` threads at `level`, for about half a second.
///
/// # Errors
/// [`ErrorKind::OutOfMemory`] where there is no memory for a buffer that the caches cannot hold; at most `memory`
/// bytes (and at least one MiB) are taken for it.
pub fn measure(threads: usize, level: Level, memory: u64) -> Result<Limits> {
    let mut pool = Pool::new(threads);
    let int8 = arithmetic(&mut pool, &|rounds| loops::int8(level, rounds));
    let f32 = arithmetic(&mut pool, &|rounds| loops::f32_fma(level, rounds));
    let read = read(&mut pool, level, memory)?;
    Ok(Limits { read, int8, f32 })
}

/// Operations a second of a loop, on all threads. `run` takes a number of rounds and says how many operations it did.
fn arithmetic(pool: &mut Pool, run: &(dyn Fn(usize) -> u64 + Sync)) -> f64 {
    // As many rounds as fill the time on one thread; the first one wakes the processor up.
    run(1);
    let start = Instant::now();
    run(1);
    let one = start.elapsed().as_secs_f64().max(1e-9);
    // At most 10⁶, so that a clock that stands still does not keep us here for ever.
    let rounds = ((ARITHMETIC_TIME.as_secs_f64() / one) as usize).clamp(1, 1_000_000);
    let rounds = rounds.div_ceil(PARTS_PER_THREAD);
    let parts = pool.threads() * PARTS_PER_THREAD;
    let once = |pool: &mut Pool| {
        let start = Instant::now();
        pool.ranges(parts, 1, |range| {
            for _ in range {
                run(rounds);
            }
        });
        start.elapsed().as_secs_f64()
    };
    let per_round = run(1) as f64;
    let best = (0..REPEATS).map(|_| once(pool)).fold(f64::INFINITY, f64::min);
    per_round * rounds as f64 * parts as f64 / best
}

/// Bytes a second, of the best way to walk through memory that there is.
fn read(pool: &mut Pool, level: Level, memory: u64) -> Result<f64> {
    let len = beyond_caches().min(usize::try_from(memory).unwrap_or(usize::MAX)).max(ROUNDING);
    let no_memory =
        || Error::new(ErrorKind::OutOfMemory, format!("read limit: no memory for {len} bytes"));
    let mut map = memmap2::MmapMut::map_anon(len).map_err(|_| no_memory())?;
    // Small pages would measure the page tables as well. Where the system refuses, they have to do.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    // Every page is written, or all of them would be the same page of zeros; and by the thread that reads it.
    pool.rows(&mut map, ROUNDING, |first, bytes| bytes.fill(first as u8 | 1));
    let lines: &[[u8; 64]] = map.as_chunks().0;
    let parts = pool.threads() * PARTS_PER_THREAD;
    let part = lines.len() / parts;
    let mut best = f64::INFINITY;
    for walk in Walk::ALL {
        for _ in 0..READ_REPEATS {
            let start = Instant::now();
            pool.ranges(parts, 1, |range| {
                for p in range {
                    loops::read(level, &lines[p * part..(p + 1) * part], walk);
                }
            });
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    Ok((parts * part * 64) as f64 / best)
}

/// Bytes of a buffer of which the caches hold next to nothing when it is read again: what [`measure`] reads.
pub fn beyond_caches() -> usize {
    last_cache().map_or(0, |cache| cache.saturating_mul(CACHES)).max(MIN_BUFFER)
}

/// Bytes of all last-level caches together, where the system says.
fn last_cache() -> Option<usize> {
    let mut total = 0usize;
    let mut seen = Vec::new();
    for cpu in std::fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let dir = cpu.path().join("cache/index3");
        let Some((size, shared)) = cache(&dir) else { continue };
        if !seen.contains(&shared) {
            seen.push(shared);
            total = total.saturating_add(size);
        }
    }
    (total > 0).then_some(total)
}

/// Size of one cache, and which processors share it.
fn cache(dir: &Path) -> Option<(usize, String)> {
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let kib = text("size")?.trim().strip_suffix('K')?.parse::<usize>().ok()?;
    Some((kib.checked_mul(1024)?, text("shared_cpu_list")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not how fast: that is the machine's matter. But a loop that the compiler threw away would be faster than any
    /// machine, and one that does nothing would count nothing.
    #[test]
    fn limits_are_possible_on_every_level() {
        for level in Level::all() {
            let limits = measure(2, level, 64 << 20).unwrap();
            // 2 threads · 8 GHz · 4 instructions · 64 products.
            let most = 2.0 * 8e9 * 4.0 * 64.0;
            for rate in [limits.int8, limits.f32, limits.read] {
                assert!(rate > 1e5 && rate < most, "{level:?}: {limits:?}");
            }
        }
    }
}
