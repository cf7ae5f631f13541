//! A backend seen through a change of its values, to test what finds such changes.

use crate::{Blocks, Graph, Kv, Loaded, Node, Result, Step, Tap, Value};
use std::sync::Arc;

/// Computes as another does, but `alter` gets every value that is tapped, with its node and whether the tap isolates, and
/// may change it before the tap sees it.
pub struct Tapped<F> {
    inner: Box<dyn Loaded>,
    alter: F,
    alone: bool,
}

impl<F: FnMut(&Node, bool, &mut [f32]) + Send> Tapped<F> {
    /// Of this one.
    pub fn new(inner: Box<dyn Loaded>, alter: F) -> Self {
        Self { inner, alter, alone: false }
    }

    /// With every op alone, whatever the tap says.
    pub fn alone(self) -> Self {
        Self { alone: true, ..self }
    }
}

struct Altering<'a, F> {
    inner: &'a mut dyn Tap,
    alter: &'a mut F,
    alone: bool,
}

impl<F: FnMut(&Node, bool, &mut [f32])> Tap for Altering<'_, F> {
    fn wants(&mut self, node: &Node, value: &Value) -> bool {
        self.inner.wants(node, value)
    }

    fn value(&mut self, node: &Node, value: &Value, data: &mut [f32]) {
        let isolates = self.isolates();
        (self.alter)(node, isolates, data);
        self.inner.value(node, value, data);
    }

    fn isolates(&self) -> bool {
        self.alone || self.inner.isolates()
    }
}

impl<F: FnMut(&Node, bool, &mut [f32]) + Send> Loaded for Tapped<F> {
    fn graph(&self) -> &Arc<Graph> {
        self.inner.graph()
    }

    fn kv_bytes(&self, blocks: &Blocks) -> usize {
        self.inner.kv_bytes(blocks)
    }

    fn new_kv(&self, blocks: &Blocks) -> Result<Kv> {
        self.inner.new_kv(blocks)
    }

    fn stop_with(&mut self, stop: crate::Stop) {
        self.inner.stop_with(stop);
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        let mut tap = Altering { inner: tap, alter: &mut self.alter, alone: self.alone };
        self.inner.run(step, kv, &mut tap)
    }
}
