//! A graph with its weights on the device, and a step through it.

use crate::buffers::Capacity;
use crate::clock::Clock;
use crate::device::{Device, Range};
use crate::dispatch::{Dispatch, StepSize};
use crate::fuse::Chain;
use crate::kv::{self, GpuKv};
use crate::model::Model;
use crate::plan::Plan;
use crate::traffic::Count;
use crate::watch::Watch;
use graph::{
    Best, Blocks, Error, ErrorKind, FREED, Graph, GroupId, Kv, Limits, Loaded, NoTap, Node, Op,
    Result, Step, Stop, Tap, Timing, Traffic, ValueId,
};
use std::sync::Arc;

/// Words that are written together, whether they have changed or not.
const AT_ONCE: usize = 2048;

/// A step that was encoded before it was asked for: while the device computes a token, the host has time for the next.
struct Ahead {
    commands: wgpu::CommandBuffer,
    size: StepSize,
    kv: Arc<()>,
}

/// What is read back of a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    Logits,
    /// For each row four words with the likeliest id, as `rows/argmax.wgsl` writes them.
    Best,
}

/// A step that is uploaded, with what it runs on.
#[derive(Clone, Copy)]
struct Run<'a> {
    plan: &'a Plan,
    step: &'a Step,
    size: StepSize,
    kv: &'a GpuKv,
}

impl Run<'_> {
    fn encode<'d>(
        &self,
        dispatches: impl IntoIterator<Item = &'d Dispatch>,
        pass: &mut wgpu::ComputePass<'_>,
    ) {
        dispatches.into_iter().for_each(|d| d.encode(pass, self.size, &self.kv.layers));
    }
}

pub(crate) struct LoadedGpu {
    device: Arc<Device>,
    model: Model,
    plan: Option<Plan>,
    staging: Option<wgpu::Buffer>,
    /// Where values lie that a tap watches.
    watched: Option<wgpu::Buffer>,
    clock: Option<Clock>,
    /// What the timed steps moved.
    traffic: Traffic,
    profiling: bool,
    ahead: Option<Ahead>,
    /// The block tables that the plan's buffer holds.
    tables: Vec<u32>,
    /// Looked at before a step: one that was submitted runs to its end.
    stop: Stop,
}

/// A cache that this backend made.
pub(crate) fn cache_of(kv: &mut Kv) -> Result<&mut GpuKv> {
    kv.0.downcast_mut().ok_or_else(|| {
        Error::new(ErrorKind::Step, "KV cache: made by another backend, not by `gpu`")
    })
}

impl LoadedGpu {
    pub(crate) fn new(device: Arc<Device>, model: Model) -> Self {
        Self {
            device,
            model,
            plan: None,
            staging: None,
            watched: None,
            clock: None,
            traffic: Traffic::default(),
            profiling: false,
            ahead: None,
            tables: Vec::new(),
            stop: Stop::new(),
        }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Makes the step's plan and uploads the step: everything is ready for the first dispatch. Gives nothing for a step
    /// without tokens.
    pub(crate) fn prepare(&mut self, step: &Step, kv: &GpuKv) -> Result<Option<Plan>> {
        step.check(&self.model.graph, kv.contents.blocks())?;
        if step.tokens.is_empty() {
            return Ok(None);
        }
        let plan = self.plan_for(step)?;
        self.upload(&plan, step);
        Ok(Some(plan))
    }

    /// Keeps a plan for the next step.
    pub(crate) fn keep(&mut self, plan: Plan) {
        self.plan = Some(plan);
    }

    /// A plan with room for the step: the one that is there, if it has.
    fn plan_for(&mut self, step: &Step) -> Result<Plan> {
        let tables: usize = self.tables_of(step).map(<[u32]>::len).sum();
        let (tokens, outputs) = (step.tokens.len(), step.outputs.len());
        let need =
            Capacity { tokens, outputs, tables, cache_groups: self.model.graph.groups.len() };
        if let Some(plan) = self.plan.take() {
            let Capacity { tokens, outputs, tables, .. } = plan.buffers.capacity;
            if need.tokens <= tokens && need.outputs <= outputs && need.tables <= tables {
                return Ok(plan);
            }
        }
        // The old plan's buffers are gone by now: two would not always fit.
        self.ahead = None;
        self.tables.clear();
        let capacity = Capacity {
            tokens: need.tokens.next_power_of_two(),
            outputs: need.outputs.next_power_of_two(),
            tables: need.tables.next_power_of_two().max(64),
            cache_groups: need.cache_groups,
        };
        Plan::new(&self.device, &self.model, capacity)
    }

    /// The tables of the step, one group's after the other's, in each one sequence's after the other's.
    fn tables_of<'s>(&self, step: &'s Step) -> impl Iterator<Item = &'s [u32]> + use<'s> {
        let groups = (0..self.model.graph.groups.len()).map(GroupId);
        groups.flat_map(|group| step.tables.iter().map(move |table| table.of(group)))
    }

    /// Uploads what the kernels need to know of the step.
    fn upload(&mut self, plan: &Plan, step: &Step) {
        let (buffers, layout) = (&plan.buffers, plan.buffers.capacity.step_layout());
        let (mut starts, mut tables) = (Vec::new(), Vec::new());
        for table in self.tables_of(step) {
            starts.push(tables.len() as u32);
            // No kernel reads a block that is freed; should one ever, it finds a block that exists.
            tables.extend(table.iter().map(|&block| if block == FREED { 0 } else { block }));
        }
        // For each group where the table of each token's sequence starts, with room for as many tokens as the plan has.
        let mut of_token = Vec::new();
        for starts in starts.chunks(step.tables.len().max(1)) {
            of_token.extend(step.seqs.iter().map(|&s| starts[s as usize]));
            // Where there is no token there is no table: the last token of a sequence is known by its neighbour's.
            of_token.resize(of_token.len().next_multiple_of(buffers.capacity.tokens), u32::MAX);
        }
        let parts = [
            (layout.tokens, &step.tokens),
            (layout.positions, &step.positions),
            (layout.tables, &of_token),
            (layout.outputs, &step.outputs),
        ];
        if layout.words <= AT_ONCE {
            // One write of everything costs less than four.
            let mut words = [0; AT_ONCE];
            for (at, part) in parts {
                words[at..at + part.len()].copy_from_slice(part);
            }
            self.device.write(&buffers.step, 0, &words[..layout.words]);
        } else {
            for (at, words) in parts {
                self.device.write(&buffers.step, at as u64 * 4, words);
            }
        }
        if tables != self.tables {
            self.device.write(&buffers.tables, 0, &tables);
            self.tables = tables;
        }
        if let Some(Node { op: Op::Input, output: Some(input), .. }) =
            self.model.graph.nodes.first()
        {
            let words: Vec<u32> = step.inputs.iter().map(|v| v.to_bits()).collect();
            self.device.write(buffers.value(*input), 0, &words);
        }
        for (table, buffer) in self.model.graph.rope_tables.iter().zip(&buffers.angles) {
            let angle = |(token, &position): (usize, &u32)| {
                let mscale = table.mscale_at(position);
                table.freqs_of(step, token).iter().flat_map(move |&freq| {
                    let (cos, sin) = graph::math::rope_angle(position, freq, mscale);
                    [cos.to_bits(), sin.to_bits()]
                })
            };
            let words: Vec<u32> = step.positions.iter().enumerate().flat_map(angle).collect();
            self.device.write(buffer, 0, &words);
        }
    }

    /// Where the rows of a value are.
    fn range_of(&self, id: ValueId, run: &Run<'_>) -> Range {
        let value = self.model.graph.value(id);
        let bytes = (run.size.rows(value.rows) * value.cols) as u64 * 4;
        Range::whole(run.plan.buffers.value(id), bytes)
    }

    /// Runs what was encoded, shows the value of a node to the tap, and puts back what it changed; whether it did.
    fn show(
        &mut self,
        run: &Run<'_>,
        encoder: wgpu::CommandEncoder,
        node: usize,
        tap: &mut dyn Tap,
    ) -> Result<bool> {
        let graph = Arc::clone(&self.model.graph);
        let node = &graph.nodes[node];
        let Some(id) = node.output else { return Ok(false) };
        let (value, range) = (graph.value(id), self.range_of(id, run));
        let mut data = self.device.read(encoder, &range, &mut self.staging)?;
        let before: Vec<u32> = data.iter().map(|v| v.to_bits()).collect();
        tap.value(node, value, &mut data);
        value.check(&data)?;
        let after: Vec<u32> = data.iter().map(|v| v.to_bits()).collect();
        if after != before {
            self.device.write(&range.buffer, 0, &after);
        }
        Ok(after != before)
    }

    /// Runs a step that is uploaded, and reads what is wanted of it.
    fn steps(&mut self, run: &Run<'_>, wants: Wants, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        let graph = Arc::clone(&self.model.graph);
        // The values that the tap wants; where there are none, the commands may be ready.
        let nodes = graph.nodes.iter();
        let wanted: Vec<Option<ValueId>> =
            nodes.map(|n| n.output.filter(|id| tap.wants(n, graph.value(*id)))).collect();
        let isolates = tap.isolates();
        let plain = !self.profiling && !isolates && wanted.iter().all(Option::is_none);
        let same =
            |ahead: &Ahead| plain && ahead.size == run.size && Arc::ptr_eq(&ahead.kv, &run.kv.id);
        let ready = self.ahead.take().filter(same).map(|ahead| ahead.commands);
        let mut encoder = if ready.is_some() {
            self.device.encoder()
        } else if self.profiling {
            self.traffic.add(Count::new(&self.model, run.plan, run.step).all());
            self.timed(run)?
        } else if tap.watches() && !isolates && !plain {
            self.watched(run, &wanted, tap)?
        } else {
            self.untimed(run, &wanted, tap)?
        };
        let Some(last) = graph.values.len().checked_sub(1).map(ValueId) else {
            return Ok(Vec::new());
        };
        let range = match wants {
            Wants::Best => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                run.encode(&run.plan.argmax, &mut pass);
                let rows = run.size.rows(graph.value(last).rows);
                Range::whole(&run.plan.buffers.best, rows as u64 * 16)
            }
            Wants::Logits => self.range_of(last, run),
        };
        let pending = self.device.start_read(ready, encoder, &range, &mut self.staging)?;
        if let Some(size) = run.size.next_token().filter(|_| plain) {
            self.ahead = Some(self.encode_ahead(&Run { size, ..*run }));
        }
        self.device.finish_read(pending)
    }

    /// The step of one token that probably follows.
    fn encode_ahead(&self, run: &Run<'_>) -> Ahead {
        let mut encoder = self.device.encoder();
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            run.encode(run.plan.dispatches(), &mut pass);
        }
        Ahead { commands: encoder.finish(), size: run.size, kv: Arc::clone(&run.kv.id) }
    }

    fn run_for(
        &mut self,
        step: &Step,
        kv: &mut Kv,
        wants: Wants,
        tap: &mut dyn Tap,
    ) -> Result<Vec<f32>> {
        self.stop.check()?;
        let (kv, graph) = (cache_of(kv)?, Arc::clone(&self.model.graph));
        kv.contents.begin(&graph, step)?;
        let Some(plan) = self.prepare(step, kv)? else { return Ok(Vec::new()) };
        let run = Run { plan: &plan, step, size: StepSize::of(step), kv };
        let read = self.steps(&run, wants, tap);
        self.keep(plan);
        if read.is_ok() {
            kv.contents.done(&graph, step);
        }
        read
    }

    /// One submission, with copies of the values that the tap wants.
    fn watched(
        &mut self,
        run: &Run<'_>,
        wanted: &[Option<ValueId>],
        tap: &mut dyn Tap,
    ) -> Result<wgpu::CommandEncoder> {
        let graph = Arc::clone(&self.model.graph);
        let ranges: Vec<Option<Range>> =
            wanted.iter().map(|id| id.map(|id| self.range_of(id, run))).collect();
        let (kept, staging) = (&mut self.watched, &mut self.staging);
        let mut watch = Watch::new(&self.device, &graph, &ranges, kept, staging)?;
        let mut encoder = self.device.encoder();
        for unit in run.plan.units() {
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                run.encode(unit.dispatches, &mut pass);
            }
            for (i, range) in ranges.iter().enumerate().take(unit.end).skip(unit.first) {
                if let Some(range) = range {
                    encoder = watch.copy(encoder, i, range, tap)?;
                }
            }
        }
        watch.show(encoder, tap)
    }

    /// One submission, but for values that the tap wants.
    fn untimed(
        &mut self,
        run: &Run<'_>,
        wanted: &[Option<ValueId>],
        tap: &mut dyn Tap,
    ) -> Result<wgpu::CommandEncoder> {
        let graph = Arc::clone(&self.model.graph);
        let nodes = &graph.nodes;
        // Nodes before this one are done one by one: a value between two that were done together was changed, or the
        // tap wants each op alone.
        let mut alone = if tap.isolates() { nodes.len() } else { 0 };
        let mut encoder = self.device.encoder();
        let mut at = 0;
        while at < nodes.len() {
            // Everything up to the next value that the tap wants goes into one pass.
            let mut shown = at..at;
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                while at < nodes.len() && shown.is_empty() {
                    let unit = run.plan.unit(at, at >= alone);
                    run.encode(unit.dispatches, &mut pass);
                    at = unit.end;
                    if wanted[unit.first..unit.end].iter().any(Option::is_some) {
                        shown = unit.first..unit.end;
                    }
                }
            }
            for i in shown {
                if wanted[i].is_none() {
                    continue;
                }
                let changed = self.show(run, encoder, i, tap)?;
                encoder = self.device.encoder();
                if changed && i + 1 < at {
                    (alone, at) = (at, i + 1);
                    break;
                }
            }
        }
        Ok(encoder)
    }

    /// A pass for each unit, and waits for them.
    fn timed(&mut self, run: &Run<'_>) -> Result<wgpu::CommandEncoder> {
        let n = self.model.graph.nodes.len();
        let mut clock = match self.clock.take() {
            Some(clock) => clock,
            None => Clock::new(&self.device, n)?,
        };
        let mut encoder = self.device.encoder();
        let mut ran = vec![false; n];
        for unit in run.plan.units() {
            ran[unit.first] = unit.dispatches.iter().any(|d| d.launch(run.size).is_some());
            if ran[unit.first] {
                let timestamp_writes = Some(clock.writes(unit.first));
                let label = None;
                let pass = wgpu::ComputePassDescriptor { label, timestamp_writes };
                let mut pass = encoder.begin_compute_pass(&pass);
                run.encode(unit.dispatches, &mut pass);
            }
        }
        clock.submit(&self.device, encoder, &ran)?;
        self.clock = Some(clock);
        Ok(self.device.encoder())
    }

    /// The nodes whose work is done where `first` stands.
    fn done_at(&self, first: usize) -> Vec<usize> {
        let own = first..first + self.model.fusions.chain_from(first).map_or(1, Chain::nodes);
        let with = |i: usize| self.model.fusions.products_with(i).filter(|all| all[0] == i);
        let mut nodes: Vec<usize> =
            own.flat_map(|i| with(i).map_or_else(|| vec![i], <[usize]>::to_vec)).collect();
        nodes.sort_unstable();
        nodes
    }
}

impl Loaded for LoadedGpu {
    fn graph(&self) -> &Arc<Graph> {
        &self.model.graph
    }

    fn kv_bytes(&self, blocks: &Blocks) -> usize {
        kv::bytes(&self.model.graph, self.model.options.kv, blocks) as usize
    }

    fn new_kv(&self, blocks: &Blocks) -> Result<Kv> {
        let Model { graph, options, .. } = &self.model;
        Ok(Kv(Box::new(GpuKv::new(&self.device, graph, options.kv, blocks)?)))
    }

    fn stop_with(&mut self, stop: Stop) {
        self.stop = stop;
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        self.run_for(step, kv, Wants::Logits, tap)
    }

    fn run_greedy(&mut self, step: &Step, kv: &mut Kv) -> Result<Vec<Best>> {
        let words = self.run_for(step, kv, Wants::Best, &mut NoTap)?;
        let n_vocab = self.model.graph.n_vocab as u32;
        let best = |[id, bad, value, _]: &[f32; 4]| {
            let bad = bad.to_bits();
            Best { id: id.to_bits(), invalid: (bad < n_vocab).then_some((bad, *value)) }
        };
        Ok(words.as_chunks::<4>().0.iter().map(best).collect())
    }

    fn limits(&mut self) -> Result<Option<Limits>> {
        crate::limits::measure(&self.device).map(Some)
    }

    fn profile(&mut self, on: bool) {
        self.profiling = on && self.device.has_clock();
        self.clock = None;
        self.traffic = Traffic::default();
    }

    fn traffic(&self) -> Option<Traffic> {
        self.profiling.then_some(self.traffic)
    }

    fn timings(&self) -> Vec<Timing> {
        let all = self.clock.iter().flat_map(|clock| clock.ns.iter().enumerate());
        all.filter(|(_, ns)| **ns > 0)
            .map(|(node, &ns)| Timing { nodes: self.done_at(node), ns })
            .collect()
    }
}
