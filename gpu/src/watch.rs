//! Values that a tap only looks at: copied inside the production command stream, and brought when the step is done, so
//! that kernels, fusions and races stay as they are.

use crate::device::Device;
use graph::{Graph, Result, Tap, ValueId};

/// Words that are kept before they are brought: 256 MiB.
const MOST_WORDS: usize = 64 << 20;

/// A value that a tap wants: its id and its words.
pub(crate) type Wanted = Option<(ValueId, usize)>;

/// What waits on the device to be brought.
pub(crate) struct Watch<'a> {
    device: &'a Device,
    graph: &'a Graph,
    kept: wgpu::Buffer,
    room: usize,
    staging: &'a mut Option<wgpu::Buffer>,
    /// Nodes whose values wait, with their words, one behind the other.
    waiting: Vec<(usize, usize)>,
    words: usize,
}

impl<'a> Watch<'a> {
    /// With room for all that is wanted of a step, or as much as is sensible. The buffer is taken over from the last step.
    pub(crate) fn new(
        (device, graph): (&'a Device, &'a Graph),
        wanted: &[Wanted],
        (kept, staging): (&mut Option<wgpu::Buffer>, &'a mut Option<wgpu::Buffer>),
    ) -> Result<Self> {
        let words = || wanted.iter().flatten().map(|&(_, words)| words);
        let room = words().max().unwrap_or(0).max(words().sum::<usize>().min(MOST_WORDS));
        let bytes = room as u64 * 4;
        let buffer = match kept.take().filter(|kept| kept.size() >= bytes) {
            Some(buffer) => buffer,
            None => device.buffer("watched values", bytes)?,
        };
        *kept = Some(buffer.clone());
        Ok(Self { device, graph, kept: buffer, room, staging, waiting: Vec::new(), words: 0 })
    }

    /// Copies the value of a node behind what was encoded so far.
    pub(crate) fn keep(
        &mut self,
        mut encoder: wgpu::CommandEncoder,
        (node, from, words): (usize, &wgpu::Buffer, usize),
        tap: &mut dyn Tap,
    ) -> Result<wgpu::CommandEncoder> {
        if self.words + words > self.room {
            encoder = self.bring(encoder, tap)?;
        }
        encoder.copy_buffer_to_buffer(from, 0, &self.kept, self.words as u64 * 4, words as u64 * 4);
        self.waiting.push((node, words));
        self.words += words;
        Ok(encoder)
    }

    /// Submits what was encoded so far, and shows what waits.
    pub(crate) fn bring(
        &mut self,
        encoder: wgpu::CommandEncoder,
        tap: &mut dyn Tap,
    ) -> Result<wgpu::CommandEncoder> {
        let mut all = self.device.read(encoder, (&self.kept, 0), self.words, self.staging)?;
        let mut rest = all.as_mut_slice();
        for (node, words) in self.waiting.drain(..) {
            let (data, behind) = rest.split_at_mut(words);
            let node = &self.graph.nodes[node];
            if let Some(id) = node.output {
                tap.value(node, self.graph.value(id), data);
            }
            rest = behind;
        }
        self.words = 0;
        Ok(self.device.encoder())
    }
}
