//! The time of each node of a step, from the device's own timestamps: every node, or those that are done together, gets a
//! pass of its own.

use crate::device::{Device, Range};
use graph::Result;

/// Queries that one set may have, by WebGPU's rules.
const SET: usize = 4096;

pub(crate) struct Clock {
    /// Two queries for each node, over several sets.
    sets: Vec<wgpu::QuerySet>,
    resolved: wgpu::Buffer,
    ticks: wgpu::Buffer,
    /// Nanoseconds of each node, summed over the steps.
    pub(crate) ns: Vec<u64>,
    staging: Option<wgpu::Buffer>,
}

impl Clock {
    pub(crate) fn new(device: &Device, nodes: usize) -> Result<Self> {
        let n_sets = (2 * nodes).div_ceil(SET);
        let (resolved, ticks) = device.query_buffers((n_sets * SET * 8) as u64)?;
        Ok(Self {
            sets: (0..n_sets).map(|_| device.query_set(SET as u32)).collect(),
            resolved,
            ticks,
            ns: vec![0; nodes],
            staging: None,
        })
    }

    /// What a node's pass begins with.
    pub(crate) fn writes(&self, node: usize) -> wgpu::ComputePassTimestampWrites<'_> {
        let at = (2 * node % SET) as u32;
        wgpu::ComputePassTimestampWrites {
            query_set: &self.sets[2 * node / SET],
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        }
    }

    /// Runs what was encoded and adds up the times of the nodes that ran.
    pub(crate) fn submit(
        &mut self,
        device: &Device,
        mut encoder: wgpu::CommandEncoder,
        ran: &[bool],
    ) -> Result<()> {
        for (i, set) in self.sets.iter().enumerate() {
            // Only queries that were written may be resolved.
            for k in (0..SET / 2).filter(|k| ran.get(i * SET / 2 + k) == Some(&true)) {
                let at = 2 * k as u32;
                // Offsets are multiples of 256: each pair has a place of its own there, moved together after that.
                encoder.resolve_query_set(set, at..at + 2, &self.resolved, 0);
                let to = ((i * SET + 2 * k) * 8) as u64;
                encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.ticks, to, 16);
            }
        }
        // Two ticks of two words for each node.
        let ticks = Range::whole(&self.ticks, self.ns.len() as u64 * 16);
        let read = device.read(encoder, &ticks, &mut self.staging)?;
        for (node, pair) in read.as_chunks::<4>().0.iter().enumerate() {
            if ran[node] {
                let tick = |low: f32, high: f32| {
                    u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32
                };
                let ticks = tick(pair[2], pair[3]).saturating_sub(tick(pair[0], pair[1]));
                self.ns[node] += (ticks as f64 * f64::from(device.tick_ns())) as u64;
            }
        }
        Ok(())
    }
}
