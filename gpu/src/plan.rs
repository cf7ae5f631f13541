//! What a step submits, made once: its buffers, and for each node its dispatches. A step of more rows than the plan has
//! room for gets a new plan.

use crate::buffers::{Buffers, Capacity};
use crate::device::Device;
use crate::dispatch::Dispatch;
use crate::model::Model;
use crate::planner::Planner;
use graph::Result;
use std::collections::HashMap;

/// Nodes that are computed together, `first .. end`, and how.
#[derive(Clone, Copy)]
pub(crate) struct Unit<'a> {
    pub(crate) first: usize,
    pub(crate) end: usize,
    pub(crate) dispatches: &'a [Dispatch],
}

/// A chain of nodes up to `end`.
struct Fused {
    end: usize,
    dispatches: Vec<Dispatch>,
}

/// A step's buffers and dispatches.
pub(crate) struct Plan {
    pub(crate) buffers: Buffers,
    /// Finds the likeliest id of each row of logits.
    pub(crate) argmax: Vec<Dispatch>,
    /// Dispatches of each node by itself; products of the same activations are at the first of them.
    nodes: Vec<Vec<Dispatch>>,
    /// Dispatches of nodes that are fused, by the first of them.
    chains: HashMap<usize, Fused>,
}

impl Plan {
    pub(crate) fn new(device: &Device, model: &Model, capacity: Capacity) -> Result<Self> {
        let buffers = Buffers::new(device, model, capacity)?;
        let mut planner = Planner::new(device, model, &buffers)?;
        let (mut nodes, mut chains) = (Vec::new(), HashMap::new());
        for i in 0..model.graph.nodes.len() {
            nodes.push(planner.node(i)?);
            if let Some((first, chain)) = model.fusions.chain_to(i) {
                let dispatches = planner.chain(chain, first)?;
                chains.insert(first, Fused { end: i + 1, dispatches });
            }
        }
        let argmax = planner.argmax()?;
        Ok(Self { buffers, argmax, nodes, chains })
    }

    /// What begins at a node: its chain where `fused` and there is one, else the node by itself.
    pub(crate) fn unit(&self, first: usize, fused: bool) -> Unit<'_> {
        match self.chains.get(&first).filter(|_| fused) {
            Some(Fused { end, dispatches }) => Unit { first, end: *end, dispatches },
            None => Unit { first, end: first + 1, dispatches: &self.nodes[first] },
        }
    }

    /// The step, as it is run where nobody asks for nodes by themselves.
    pub(crate) fn units(&self) -> impl Iterator<Item = Unit<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let unit = (at < self.nodes.len()).then(|| self.unit(at, true))?;
            at = unit.end;
            Some(unit)
        })
    }

    /// The dispatches of that step.
    pub(crate) fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.units().flat_map(|unit| unit.dispatches)
    }
}
