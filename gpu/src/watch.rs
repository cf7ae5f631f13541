//! Values that a tap only looks at: copied inside the production command stream, and shown when the step is done, so
//! that kernels, fusions and races stay as they are.

use crate::device::{Device, Range};
use graph::{Graph, Result, Tap};

/// Words that are copied before they are shown: 256 MiB.
const MAX_WORDS: usize = 64 << 20;

/// Copies on the device that wait to be shown.
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
        device: &'a Device,
        graph: &'a Graph,
        wanted: &[Option<Range>],
        kept: &mut Option<wgpu::Buffer>,
        staging: &'a mut Option<wgpu::Buffer>,
    ) -> Result<Self> {
        let words = || wanted.iter().flatten().map(|range| (range.bytes / 4) as usize);
        let room = words().max().unwrap_or(0).max(words().sum::<usize>().min(MAX_WORDS));
        let bytes = room as u64 * 4;
        let buffer = match kept.take().filter(|kept| kept.size() >= bytes) {
            Some(buffer) => buffer,
            None => device.buffer("watched values", bytes)?,
        };
        *kept = Some(buffer.clone());
        Ok(Self { device, graph, kept: buffer, room, staging, waiting: Vec::new(), words: 0 })
    }

    /// Copies the value of a node after what was encoded so far.
    pub(crate) fn copy(
        &mut self,
        mut encoder: wgpu::CommandEncoder,
        node: usize,
        from: &Range,
        tap: &mut dyn Tap,
    ) -> Result<wgpu::CommandEncoder> {
        let words = (from.bytes / 4) as usize;
        if self.words + words > self.room {
            encoder = self.show(encoder, tap)?;
        }
        let to = self.words as u64 * 4;
        encoder.copy_buffer_to_buffer(&from.buffer, from.offset, &self.kept, to, from.bytes);
        self.waiting.push((node, words));
        self.words += words;
        Ok(encoder)
    }

    /// Submits what was encoded so far, and shows the tap what waits.
    pub(crate) fn show(
        &mut self,
        encoder: wgpu::CommandEncoder,
        tap: &mut dyn Tap,
    ) -> Result<wgpu::CommandEncoder> {
        let waiting = Range::whole(&self.kept, self.words as u64 * 4);
        let mut all = self.device.read(encoder, &waiting, self.staging)?;
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
