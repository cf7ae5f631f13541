//! A graph whose weights are on the device: what plans are made from.

use crate::fuse::Fusions;
use crate::weights::Resident;
use graph::{Graph, LoadOptions};
use std::sync::Arc;

pub(crate) struct Model {
    pub(crate) graph: Arc<Graph>,
    pub(crate) fusions: Fusions,
    /// By weight id.
    pub(crate) weights: Vec<Resident>,
    pub(crate) options: LoadOptions,
}
