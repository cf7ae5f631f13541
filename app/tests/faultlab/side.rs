//! A side with faults: what a fault sees, and a run with some of them switched on.

use crate::faults::{Fault, Make};
use graph::cases::Case;
use graph::ops::{attention, rope};
use graph::reference::Reference;
use graph::{
    Backend, Blocks, CacheId, CacheUse, Graph, Kv, LoadOptions, Loaded, Node, Op, Result,
    RopePairs, Step, Tap, Value, ValueId, math,
};
use std::collections::HashMap;
use std::sync::Arc;
use why::Values;

/// What a fault sees: the step so far, as the faulty side computed it.
pub(crate) struct Seen<'a> {
    pub(crate) case: &'a Case,
    pub(crate) node: &'a Node,
    pub(crate) step: &'a Step,
    /// This step's values, and the last step's, by `name:OP`.
    pub(crate) values: &'a HashMap<String, Vec<f32>>,
    pub(crate) before: &'a HashMap<String, Vec<f32>>,
    /// Keys and values of every position of the layer.
    pub(crate) past: &'a [Vec<f32>; 2],
    pub(crate) calls: usize,
}

impl Seen<'_> {
    pub(crate) fn input(&self, i: usize) -> &[f32] {
        let v = self.node.inputs[i];
        let maker = self.case.graph.nodes.iter().find(|node| node.output == Some(v)).unwrap();
        &self.values[&self.case.graph.key(maker)]
    }

    fn weight(&self, name: &str) -> (usize, usize, Vec<f32>) {
        let weight = self.case.graph.weights.iter().find(|w| w.name == name).unwrap();
        let bytes = graph::backend::read_weight(&[&self.case.file], weight).unwrap();
        let mut all = vec![0.0; weight.n_in * weight.n_out];
        weight.dtype.dequantize(&bytes, &mut all);
        (weight.n_in, weight.n_out, all)
    }

    pub(crate) fn own_weight(&self) -> (usize, usize, Vec<f32>) {
        let (Op::MatMul { w } | Op::GetRows { table: w } | Op::RmsNorm { w, .. }) = self.node.op
        else {
            panic!("no weight")
        };
        self.weight(&self.case.graph.weight(w).name.clone())
    }

    pub(crate) fn cols(&self) -> usize {
        self.case.graph.value(self.node.output.unwrap()).cols
    }

    /// RoPE of the input with another pairing or place.
    pub(crate) fn turned(
        &self,
        data: &mut [f32],
        swap: bool,
        freq: f64,
        place: impl Fn(u32) -> u32,
    ) {
        let Op::Rope { table, pairs, .. } = self.node.op else { panic!("no rope") };
        let pairs = match (pairs, swap) {
            (RopePairs::Adjacent, false) | (RopePairs::Halves, true) => RopePairs::Adjacent,
            (RopePairs::Halves, false) | (RopePairs::Adjacent, true) => RopePairs::Halves,
        };
        let freqs = self.case.graph.rope_tables[table].freqs.iter().map(|f| f * freq).collect();
        self.turn(data, (pairs, freqs), place);
    }

    /// With other frequencies.
    pub(crate) fn turned_by(&self, data: &mut [f32], freqs: Vec<f64>) {
        let Op::Rope { pairs, .. } = self.node.op else { panic!("no rope") };
        self.turn(data, (pairs, freqs), |p| p);
    }

    fn turn(
        &self,
        data: &mut [f32],
        (pairs, freqs): (RopePairs, Vec<f64>),
        place: impl Fn(u32) -> u32,
    ) {
        let Op::Rope { table, head_dim, .. } = self.node.op else { panic!("no rope") };
        let mscale = self.case.graph.rope_tables[table].mscale;
        data.copy_from_slice(self.input(0));
        for (row, &p) in data.chunks_mut(self.cols()).zip(&self.step.positions) {
            let angle = |&f: &f64| math::rope_angle(place(p), f, mscale);
            let angles: Vec<(f32, f32)> = freqs.iter().map(angle).collect();
            rope::rope(row, head_dim, pairs, &angles);
        }
    }

    /// Attention with another map of heads, range or order of positions.
    pub(crate) fn attended(
        &self,
        data: &mut [f32],
        map: impl Fn(usize, usize, usize) -> usize,
        upto: impl Fn(u32, u32) -> u32,
        place: impl Fn(u32, u32) -> u32,
    ) {
        let Op::Attention(a) = self.node.op else { panic!("no attention") };
        let spec = self.case.graph.kv(a.cache);
        let (dk, dv, n_kv) = (spec.head_dim_k, spec.head_dim_v, spec.n_head_kv);
        let [k, v] = self.past;
        let last = *self.step.positions.last().unwrap();
        let rows = self.input(0).chunks(a.n_head * dk).zip(data.chunks_mut(a.n_head * dv));
        for ((q, out), &own) in rows.zip(&self.step.positions) {
            for (h, (q, out)) in q.chunks(dk).zip(out.chunks_mut(dv)).enumerate() {
                let h_kv = map(h, a.n_head / n_kv, n_kv);
                let at = |p: u32, dim: usize| (place(own, p) as usize * n_kv + h_kv) * dim;
                let (key, value) = (|p: u32| &k[at(p, dk)..][..dk], |p: u32| &v[at(p, dv)..][..dv]);
                out.copy_from_slice(&attention::head(&a, q, upto(own, last), key, value));
            }
        }
    }
}

/// A backend with faults.
pub(crate) struct Wrong {
    inner: Box<dyn Loaded>,
    case: Arc<Case>,
    faults: Vec<Fault>,
    memory: Memory,
}

/// What a side has computed.
#[derive(Default)]
struct Memory {
    values: HashMap<String, Vec<f32>>,
    before: HashMap<String, Vec<f32>>,
    /// Keys and values of each layer.
    past: Vec<[Vec<f32>; 2]>,
    calls: usize,
}

/// The case as a backend with these faults sees it: its graph and its weights.
pub(crate) fn doctored(case: &Case, faults: &[Fault]) -> (Graph, Option<gguf::File>) {
    let mut wrong = (*case.graph).clone();
    let mut doctored: Option<gguf::File> = None;
    for fault in faults {
        match fault.make {
            Make::Graph(edit) => edit(&mut wrong),
            Make::Weight(edit) => {
                let node = case.graph.nodes.iter().find(|node| case.graph.key(node) == fault.op);
                let Op::MatMul { w } = node.unwrap().op else { panic!("{}: no weight", fault.op) };
                let name = &case.graph.weight(w).name;
                doctored = Some(doctor(doctored.as_ref().unwrap_or(&case.file), name, edit));
            }
            Make::Steps(_) | Make::Value(_) => {}
        }
    }
    (wrong, doctored)
}

fn doctor(file: &gguf::File, name: &str, edit: fn(usize, &mut [u8])) -> gguf::File {
    let mut copy = gguf::Builder::new();
    for tensor in file.tensors() {
        let mut data = file.data(tensor).unwrap().into_owned();
        if tensor.name == name {
            let n_in = tensor.dims[0] as usize;
            data.chunks_mut(tensor.dtype.row_bytes(n_in)).for_each(|row| edit(n_in, row));
        }
        copy = copy.tensor(&tensor.name, tensor.dtype, &tensor.dims, &data);
    }
    gguf::File::from_bytes(copy.build().unwrap()).unwrap()
}

/// A backend with these faults switched on.
pub(crate) fn switched(
    backend: &dyn Backend,
    (case, options): (&Arc<Case>, LoadOptions),
    faults: &[Fault],
) -> Wrong {
    let (graph, file) = doctored(case, faults);
    let file = file.as_ref().unwrap_or(&case.file);
    let inner = backend.load(Arc::new(graph), &[file], options, &mut |_| {}).unwrap();
    Wrong { inner, case: Arc::clone(case), faults: faults.to_vec(), memory: Memory::default() }
}

/// What a side with these faults computes.
pub(crate) fn faulty(
    backend: &dyn Backend,
    case: &Arc<Case>,
    steps: &[Step],
    faults: &[Fault],
) -> Values {
    let mut wrong = switched(backend, (case, LoadOptions::default()), faults);
    why::capture(&mut wrong, steps, None).unwrap()
}

impl Loaded for Wrong {
    fn graph(&self) -> &Arc<Graph> {
        &self.case.graph
    }

    fn kv_bytes(&self, blocks: &Blocks) -> usize {
        self.inner.kv_bytes(blocks)
    }

    fn new_kv(&self, blocks: &Blocks) -> Result<Kv> {
        self.inner.new_kv(blocks)
    }

    fn stop_with(&mut self, stop: graph::Stop) {
        self.inner.stop_with(stop);
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        let mut step = step.clone();
        for fault in &self.faults {
            if let Make::Steps(edit) = fault.make {
                edit(std::slice::from_mut(&mut step));
            }
        }
        let memory = &mut self.memory;
        memory.before = std::mem::take(&mut memory.values);
        memory.past.resize(self.case.graph.caches.len(), Default::default());
        let (case, faults) = (&*self.case, self.faults.as_slice());
        let mut tap = Faulty { case, faults, step: &step, memory, tap };
        self.inner.run(&step, kv, &mut tap)
    }
}

/// The tap that makes values wrong, and shows them to another.
struct Faulty<'a> {
    case: &'a Case,
    faults: &'a [Fault],
    step: &'a Step,
    memory: &'a mut Memory,
    tap: &'a mut dyn Tap,
}

impl Faulty<'_> {
    fn key(&self, value: ValueId) -> String {
        let maker = self.case.graph.nodes.iter().find(|node| node.output == Some(value));
        self.case.graph.key(maker.unwrap())
    }

    /// Before attention: keys and values of this step.
    fn remember(&mut self, cache: CacheId) {
        let stores = |node: &&Node| node.op.cache() == Some((cache, CacheUse::Writes));
        let store = self.case.graph.nodes.iter().find(stores).unwrap();
        for (which, &v) in store.inputs.iter().enumerate() {
            let rows = self.memory.values[&self.key(v)].clone();
            self.memory.past[cache.0][which].extend(rows);
        }
    }
}

impl Tap for Faulty<'_> {
    fn wants(&mut self, _: &Node, _: &Value) -> bool {
        true
    }

    fn value(&mut self, node: &Node, value: &Value, data: &mut [f32]) {
        let key = self.key(node.output.unwrap());
        let cache = if let Op::Attention(a) = node.op { Some(a.cache) } else { None };
        cache.into_iter().for_each(|cache| self.remember(cache));
        self.memory.calls += 1;
        for fault in self.faults {
            if let (Make::Value(change), true) = (fault.make, fault.op == key) {
                let seen = Seen {
                    case: self.case,
                    node,
                    step: self.step,
                    values: &self.memory.values,
                    before: &self.memory.before,
                    past: &self.memory.past[cache.map_or(0, |cache| cache.0)],
                    calls: self.memory.calls,
                };
                change(&seen, data);
            }
        }
        self.tap.value(node, value, data);
        self.memory.values.insert(key, data.to_vec());
    }
}

/// The reference with faults, as a judge.
pub(crate) struct WrongReference {
    pub(crate) case: Arc<Case>,
    pub(crate) faults: Vec<Fault>,
}

impl Backend for WrongReference {
    fn name(&self) -> String {
        "wrong reference".to_owned()
    }

    fn supports(&self, _: &Graph, _: &Node, _: LoadOptions) -> std::result::Result<(), String> {
        Ok(())
    }

    fn load(
        &self,
        _: Arc<Graph>,
        _: &[&gguf::File],
        options: LoadOptions,
        _: &mut dyn FnMut(u64),
    ) -> Result<Box<dyn Loaded>> {
        Ok(Box::new(switched(&Reference, (&self.case, options), &self.faults)))
    }
}
