//! The machine's limits as a benchmark wants them: measured anew beside each thing that is held against them, since
//! what other programs and virtual machines leave of the memory's bandwidth changes within seconds.

use super::table::number;
use anyhow::Result;
use cpu::limits;
use graph::Limits;
use karat::memory;

/// Measures limits.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    threads: usize,
    level: cpu::Level,
    /// The best products so far: these hang on the clock alone, so that a lower figure only says that other programs
    /// had the cores.
    best: Limits,
}

/// The limits as they are printed: rates of all threads together.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Shown {
    /// `2 threads, avx512-vnni`, or the name of a GPU.
    of: String,
    read_gb_s: f64,
    int8_gmac_s: f64,
    f32_gmac_s: f64,
}

impl Probe {
    /// Of `threads` threads, with the instructions that models run with.
    pub(super) fn new(threads: usize) -> Self {
        let best = Limits { read: 0.0, int8: 0.0, f32: 0.0 };
        Self { threads, level: cpu::Level::best(), best }
    }

    /// Takes half a second, in which nothing else should run.
    pub(super) fn measure(&mut self) -> Result<Limits> {
        // A part of what is there: the model wants memory too.
        let memory = memory::available().unwrap_or(u64::MAX) / 4;
        let now = limits::measure(self.threads, self.level, memory)?;
        self.best = Limits {
            read: now.read,
            int8: now.int8.max(self.best.int8),
            f32: now.f32.max(self.best.f32),
        };
        Ok(self.best)
    }

    /// For people and programs.
    pub(super) fn shown(&self, limits: &Limits) -> Shown {
        let s = if self.threads == 1 { "" } else { "s" };
        Shown::new(format!("{} thread{s}, {}", self.threads, self.level.name()), limits)
    }
}

impl Shown {
    /// Of what is named so.
    pub(super) fn new(of: String, limits: &Limits) -> Self {
        Self {
            of,
            read_gb_s: limits.read / 1e9,
            int8_gmac_s: limits.int8 / 1e9,
            f32_gmac_s: limits.f32 / 1e9,
        }
    }

    /// A line.
    pub(super) fn line(&self) -> String {
        let Self { of, read_gb_s, int8_gmac_s, f32_gmac_s } = self;
        format!(
            "limits of {of}: read {} GB/s, int8 {} GMAC/s, f32 {} GMAC/s",
            number(*read_gb_s),
            number(*int8_gmac_s),
            number(*f32_gmac_s),
        )
    }
}

/// The lowest and the highest of several measurements, in a line.
pub(super) fn ranges(all: &[Shown]) -> String {
    let range = |of: fn(&Shown) -> f64| {
        let lowest = all.iter().map(of).fold(f64::INFINITY, f64::min);
        let highest = all.iter().map(of).fold(0.0, f64::max);
        format!("{}-{}", number(lowest), number(highest))
    };
    let Some(Shown { of, .. }) = all.first() else { return String::new() };
    let (read, int8, f32) =
        (range(|l| l.read_gb_s), range(|l| l.int8_gmac_s), range(|l| l.f32_gmac_s));
    format!(
        "limits of {of}, measured for each: read {read} GB/s, int8 {int8} GMAC/s, f32 {f32} GMAC/s"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let probe = Probe { level: cpu::Level::all()[0], ..Probe::new(2) };
        let a = probe.shown(&Limits { read: 25.5e9, int8: 468e9, f32: 117e9 });
        let b = probe.shown(&Limits { read: 36e9, int8: 460e9, f32: 117e9 });
        assert_eq!(
            a.line(),
            "limits of 2 threads, scalar: read 25.5 GB/s, int8 468.0 GMAC/s, f32 117.0 GMAC/s"
        );
        let both = ranges(&[a, b]);
        assert!(both.contains("read 25.5-36.0 GB/s, int8 460.0-468.0 GMAC/s"), "{both}");
        assert_eq!(ranges(&[]), "");
    }
}
