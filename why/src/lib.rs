//! `karat why`: names the op that is wrong. Two sides, each a backend of ours or a recorded trace, are judged op by op on
//! their own inputs against `graph::reference` and the op in f64; what is wrong gets a kind, and what only follows from it
//! is told apart.
//!
//! [`compare`](compare()) does all of it for two sides: [`capture`](capture()) records a side, [`judge`](judge()) measures
//! it, [`combine`] makes the verdicts, [`Report`] is the plain result. [`laws`](laws()) holds one backend against itself.
#![forbid(unsafe_code)]

mod bound;
mod capture;
mod compare;
mod error;
mod exact;
mod html;
mod judge;
mod kind;
mod laws;
mod orders;
mod report;
mod trace;

pub use bound::Tolerance;
pub use capture::{Values, capture, capture_alone, forced, greedy, likeliest, logits, value_bytes};
pub use compare::{Judged, Source, Thoroughness, common_steps, compare};
pub use error::{Error, ErrorKind, Result};
pub use html::html;
pub use judge::{Here, Measured, Side, Subject, Wrong, judge};
pub use kind::{Kind, Sureness};
pub use laws::{Broken, Law, alike, laws};
pub use report::{Capture, Report, Row, Verdict, Worst, combine};
pub use trace::Trace;
