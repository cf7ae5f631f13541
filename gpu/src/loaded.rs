//! A graph with its weights on the device, and a step through it.

use crate::buffers::Capacity;
use crate::clock::Clock;
use crate::device::Device;
use crate::dispatch::StepSize;
use crate::fuse::Chain;
use crate::kv::{self, GpuKv};
use crate::model::Model;
use crate::plan::Plan;
use crate::traffic::Count;
use crate::watch::{Wanted, Watch};
use graph::{
    Best, Error, ErrorKind, Graph, Kv, Limits, Loaded, NoTap, Node, Op, Result, Step, Tap, Timing,
    Traffic, ValueId,
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
}

/// A cache that this backend made.
pub(crate) fn cache_of(kv: &Kv) -> Result<&GpuKv> {
    kv.0.downcast_ref().ok_or_else(|| {
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
        }
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Makes the step's plan and uploads the step: everything is ready for the first dispatch. Gives nothing for a step
    /// without tokens.
    pub(crate) fn prepare(&mut self, step: &Step, kv: &GpuKv) -> Result<Option<Plan>> {
        step.check(&self.model.graph, kv.n_blocks)?;
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
        let tables: usize = step.tables.iter().map(Vec::len).sum();
        let need = Capacity { tokens: step.tokens.len(), outputs: step.outputs.len(), tables };
        if let Some(plan) = self.plan.take() {
            let Capacity { tokens, outputs, tables } = plan.buffers.capacity;
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
        };
        Plan::new(&self.device, &self.model, capacity)
    }

    /// Uploads what the kernels need to know of the step.
    fn upload(&mut self, plan: &Plan, step: &Step) {
        let (buffers, layout) = (&plan.buffers, plan.buffers.capacity.step_layout());
        let (mut starts, mut tables) = (Vec::with_capacity(step.tables.len()), Vec::new());
        for table in &step.tables {
            starts.push(tables.len() as u32);
            tables.extend_from_slice(table);
        }
        let of_token: Vec<u32> = step.seqs.iter().map(|&s| starts[s as usize]).collect();
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
            let angle = |&position: &u32| {
                table.freqs.iter().flat_map(move |&freq| {
                    let (cos, sin) = graph::math::rope_angle(position, freq, table.mscale);
                    [cos.to_bits(), sin.to_bits()]
                })
            };
            let words: Vec<u32> = step.positions.iter().flat_map(angle).collect();
            self.device.write(buffer, 0, &words);
        }
    }

    fn rows(&self, id: ValueId, step: &Step) -> usize {
        StepSize::of(step).rows(self.model.graph.value(id).rows)
    }

    /// Shows a value to the tap, and puts back what it changed; whether it did.
    fn show(
        &mut self,
        (plan, encoder): (&Plan, wgpu::CommandEncoder),
        (node, id): (&Node, ValueId),
        step: &Step,
        tap: &mut dyn Tap,
    ) -> Result<bool> {
        let graph = Arc::clone(&self.model.graph);
        let value = graph.value(id);
        let n = self.rows(id, step) * value.cols;
        let mut data =
            self.device.read(encoder, (plan.buffers.value(id), 0), n, &mut self.staging)?;
        let before: Vec<u32> = data.iter().map(|v| v.to_bits()).collect();
        tap.value(node, value, &mut data);
        let after: Vec<u32> = data.iter().map(|v| v.to_bits()).collect();
        if after != before {
            self.device.write(plan.buffers.value(id), 0, &after);
        }
        Ok(after != before)
    }

    /// Runs a step that is uploaded, and reads what is wanted of it.
    fn steps(
        &mut self,
        plan: &Plan,
        (step, wants): (&Step, Wants),
        kv: &GpuKv,
        tap: &mut dyn Tap,
    ) -> Result<Vec<f32>> {
        let graph = Arc::clone(&self.model.graph);
        let size = StepSize::of(step);
        // The values that the tap wants; where there are none, the commands may be ready.
        let nodes = graph.nodes.iter();
        let wanted: Vec<Option<ValueId>> =
            nodes.map(|n| n.output.filter(|id| tap.wants(n, graph.value(*id)))).collect();
        let isolates = tap.isolates();
        let plain = !self.profiling && !isolates && wanted.iter().all(Option::is_none);
        let same = |ahead: &Ahead| plain && ahead.size == size && Arc::ptr_eq(&ahead.kv, &kv.id);
        let ready = self.ahead.take().filter(same).map(|ahead| ahead.commands);
        let mut encoder = if ready.is_some() {
            self.device.encoder()
        } else if self.profiling {
            self.traffic.add(Count::new(&self.model, plan, step).all());
            self.timed(plan, size, kv)?
        } else if tap.watches() && !isolates && !plain {
            self.watched(plan, step, kv, (tap, &wanted))?
        } else {
            self.untimed(plan, step, kv, (tap, &wanted))?
        };
        let Some(last) = graph.values.len().checked_sub(1).map(ValueId) else {
            return Ok(Vec::new());
        };
        let rows = self.rows(last, step);
        let (place, words) = match wants {
            Wants::Best => {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                plan.argmax.iter().for_each(|d| d.encode(&mut pass, size, &kv.layers));
                (&plan.buffers.best, rows * 4)
            }
            Wants::Logits => (plan.buffers.value(last), rows * graph.value(last).cols),
        };
        let commands = (ready, encoder);
        let asked = self.device.ask(commands, (place, 0), words, &mut self.staging)?;
        if let Some(next) = size.next_token().filter(|_| plain) {
            self.ahead = Some(self.encode_ahead(plan, next, kv));
        }
        self.device.answer(asked)
    }

    /// The step of one token that probably follows.
    fn encode_ahead(&self, plan: &Plan, size: StepSize, kv: &GpuKv) -> Ahead {
        let mut encoder = self.device.encoder();
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            plan.dispatches().for_each(|d| d.encode(&mut pass, size, &kv.layers));
        }
        Ahead { commands: encoder.finish(), size, kv: Arc::clone(&kv.id) }
    }

    fn run_for(
        &mut self,
        (step, wants): (&Step, Wants),
        kv: &Kv,
        tap: &mut dyn Tap,
    ) -> Result<Vec<f32>> {
        let kv = cache_of(kv)?;
        let Some(plan) = self.prepare(step, kv)? else { return Ok(Vec::new()) };
        let read = self.steps(&plan, (step, wants), kv, tap);
        self.keep(plan);
        read
    }

    /// One submission, with copies of the values that the tap wants.
    fn watched(
        &mut self,
        plan: &Plan,
        step: &Step,
        kv: &GpuKv,
        (tap, wanted): (&mut dyn Tap, &[Option<ValueId>]),
    ) -> Result<wgpu::CommandEncoder> {
        let (graph, size) = (Arc::clone(&self.model.graph), StepSize::of(step));
        let sized = |id: ValueId| (id, self.rows(id, step) * graph.value(id).cols);
        let wanted: Vec<Wanted> = wanted.iter().map(|id| id.map(sized)).collect();
        let buffers = (&mut self.watched, &mut self.staging);
        let mut watch = Watch::new((&self.device, &graph), &wanted, buffers)?;
        let mut encoder = self.device.encoder();
        for unit in plan.units() {
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                unit.dispatches.iter().for_each(|d| d.encode(&mut pass, size, &kv.layers));
            }
            for (i, wanted) in wanted.iter().enumerate().take(unit.end).skip(unit.first) {
                if let Some((id, words)) = *wanted {
                    encoder = watch.keep(encoder, (i, plan.buffers.value(id), words), tap)?;
                }
            }
        }
        watch.bring(encoder, tap)
    }

    /// One submission, but for values that the tap wants.
    fn untimed(
        &mut self,
        plan: &Plan,
        step: &Step,
        kv: &GpuKv,
        (tap, wanted): (&mut dyn Tap, &[Option<ValueId>]),
    ) -> Result<wgpu::CommandEncoder> {
        let (graph, size) = (Arc::clone(&self.model.graph), StepSize::of(step));
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
                    let unit = plan.unit(at, at >= alone);
                    unit.dispatches.iter().for_each(|d| d.encode(&mut pass, size, &kv.layers));
                    at = unit.end;
                    if wanted[unit.first..unit.end].iter().any(Option::is_some) {
                        shown = unit.first..unit.end;
                    }
                }
            }
            for i in shown {
                let Some(id) = wanted[i] else { continue };
                let changed = self.show((plan, encoder), (&nodes[i], id), step, tap)?;
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
    fn timed(&mut self, plan: &Plan, size: StepSize, kv: &GpuKv) -> Result<wgpu::CommandEncoder> {
        let n = self.model.graph.nodes.len();
        let mut clock = match self.clock.take() {
            Some(clock) => clock,
            None => Clock::new(&self.device, n)?,
        };
        let mut encoder = self.device.encoder();
        let mut ran = vec![false; n];
        for unit in plan.units() {
            ran[unit.first] = unit.dispatches.iter().any(|d| d.launch(size).is_some());
            if ran[unit.first] {
                let timestamp_writes = Some(clock.writes(unit.first));
                let label = None;
                let pass = wgpu::ComputePassDescriptor { label, timestamp_writes };
                let mut pass = encoder.begin_compute_pass(&pass);
                unit.dispatches.iter().for_each(|d| d.encode(&mut pass, size, &kv.layers));
            }
        }
        clock.submit(&self.device, encoder, &ran)?;
        self.clock = Some(clock);
        Ok(self.device.encoder())
    }

    /// The nodes whose work is done where `first` stands.
    fn done_at(&self, first: usize) -> Vec<usize> {
        let own = first..first + self.model.fusions.chain_from(first).map_or(1, Chain::nodes);
        let with = |i: usize| self.model.fusions.group_of(i).filter(|group| group[0] == i);
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

    fn kv_bytes(&self, n_blocks: usize) -> usize {
        kv::bytes(&self.model.graph, self.model.options.kv, n_blocks) as usize
    }

    fn new_kv(&self, n_blocks: usize) -> Result<Kv> {
        let Model { graph, options, .. } = &self.model;
        Ok(Kv(Box::new(GpuKv::new(&self.device, graph, options.kv, n_blocks)?)))
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        self.run_for((step, Wants::Logits), kv, tap)
    }

    fn run_greedy(&mut self, step: &Step, kv: &mut Kv) -> Result<Vec<Best>> {
        let words = self.run_for((step, Wants::Best), kv, &mut NoTap)?;
        let n_vocab = self.model.graph.n_vocab as u32;
        let best = |[id, bad, value, _]: &[f32; 4]| {
            let bad = bad.to_bits();
            Best { id: id.to_bits(), not_finite: (bad < n_vocab).then_some((bad, *value)) }
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
