//! What a backend owes a graph besides the bits of the ops that every model has: weights that stand in several files,
//! indices that a tap has changed, attention without a mask and with sinks, states that are read where they stand.

use crate::cases::{self, Case, Decoder, Rng, random_tensor};
use crate::{
    Act, Backend, Blocks, Error, ErrorKind, FileId, Graph, LoadOptions, Loaded, Mask, NoTap, Node,
    Result, RopePairs, Step, Tap, Value, ValueKind, Weight,
};
use gguf::DType;
use std::sync::Arc;

const N_VOCAB: usize = 11;
const N_EMBD: usize = 64;
/// Indices of the case are below this.
const BELOW: u32 = 4;

/// A small graph over two files.
struct Two {
    graph: Graph,
    base: gguf::File,
    adapter: gguf::File,
    /// The same tensors in one file, and the graph over it.
    whole: Graph,
    one: gguf::File,
}

fn tensor(file: gguf::Builder, name: &str, n_out: usize, data: &[u8]) -> gguf::Builder {
    file.tensor(name, DType::Q8_0, &[N_EMBD as u64, n_out as u64], data)
}

/// `token_embd · delta · output`, of which `delta` stands in the second file. Both files have an `output`: the graph says
/// which it means.
fn two() -> Result<Two> {
    let mut rng = Rng::new(7);
    let mut random = |n_out| random_tensor(&mut rng, DType::Q8_0, N_EMBD * n_out, 1.0);
    let (embd, delta, output) = (random(N_VOCAB), random(N_EMBD), random(N_VOCAB));
    let other = random(N_VOCAB);
    let read = |file: gguf::Builder| {
        let bytes = file.build().map_err(|e| Error::new(ErrorKind::Shape, e.to_string()))?;
        gguf::File::from_bytes(bytes).map_err(|e| Error::new(ErrorKind::Read, e.to_string()))
    };
    let base = tensor(gguf::Builder::new(), "token_embd", N_VOCAB, &embd);
    let base = tensor(base, "output", N_VOCAB, &output);
    let one = tensor(base.clone(), "delta", N_EMBD, &delta);
    let adapter = tensor(gguf::Builder::new(), "output", N_VOCAB, &other);
    let adapter = tensor(adapter, "delta", N_EMBD, &delta);
    Ok(Two {
        graph: graph(FileId(1))?,
        base: read(base)?,
        adapter: read(adapter)?,
        whole: graph(FileId::BASE)?,
        one: read(one)?,
    })
}

fn graph(file_of_delta: FileId) -> Result<Graph> {
    let mut b = crate::Builder::new(N_VOCAB);
    let table = b.weight("token_embd", DType::Q8_0, N_EMBD, N_VOCAB);
    let output = b.weight("output", DType::Q8_0, N_EMBD, N_VOCAB);
    let delta = b.declare(Weight {
        name: "delta".into(),
        file: file_of_delta,
        dtype: DType::Q8_0,
        n_in: N_EMBD,
        n_out: N_EMBD,
        n_mats: 1,
    });
    let x = b.get_rows(table, "embd")?;
    let x = b.mat_mul(delta, x, "delta")?;
    let x = b.output_rows(x, "rows")?;
    b.mat_mul(output, x, "result_output")?;
    b.finish()
}

fn run(loaded: &mut dyn Loaded, tap: &mut dyn Tap) -> Result<Vec<f32>> {
    let mut kv = loaded.new_kv(&Blocks::Each(1))?;
    loaded.run(&Step::single(&[3, 9, 4], 0), &mut kv, tap)
}

/// A graph over two files gives the logits of the graph over one file with the same tensors; a file that is not given is
/// an error.
///
/// # Errors
/// What is wrong, as [`ErrorKind::Step`], or the backend's own error.
pub fn reads_several_files(backend: &dyn Backend) -> Result<()> {
    let Two { graph, base, adapter, whole, one } = two()?;
    let (graph, options) = (Arc::new(graph), LoadOptions::default());
    let load =
        |graph: Arc<Graph>, files: &[&gguf::File]| backend.load(graph, files, options, &mut |_| {});
    let wrong = |what: String| Err(Error::new(ErrorKind::Step, what));
    let got = run(&mut *load(Arc::clone(&graph), &[&base, &adapter])?, &mut NoTap)?;
    let expected = run(&mut *load(Arc::new(whole), &[&one])?, &mut NoTap)?;
    if got != expected {
        return wrong(format!("{}: two files {got:?}, one {expected:?}", backend.name()));
    }
    match load(graph, &[&base]) {
        Err(error) if error.kind() == ErrorKind::Read && error.to_string().contains("delta") => {
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => wrong(format!("{}: a file was not given, and nobody missed it", backend.name())),
    }
}

/// Puts one number into a value.
struct Put(f32);

impl Tap for Put {
    fn wants(&mut self, _: &Node, value: &Value) -> bool {
        value.name == "chosen"
    }

    fn value(&mut self, _: &Node, _: &Value, data: &mut [f32]) {
        data.fill(0.0);
        data[1] = self.0;
    }
}

/// A tap that leaves an index out of range, or no whole number, is refused by the value's name.
///
/// # Errors
/// What is wrong, as [`ErrorKind::Shape`], or the backend's own error.
pub fn checks_indices(backend: &dyn Backend) -> Result<()> {
    let Two { mut whole, one, .. } = two()?;
    let chosen = whole.values.iter().position(|value| value.name == "delta").unwrap_or_default();
    whole.values[chosen].name = "chosen".into();
    whole.values[chosen].kind = ValueKind::Index { below: BELOW };
    let graph = Arc::new(whole);
    let mut loaded = backend.load(graph, &[&one], LoadOptions::default(), &mut |_| {})?;
    run(&mut *loaded, &mut Put(BELOW as f32 - 1.0))?;
    for bad in [BELOW as f32, -1.0, 0.5, f32::NAN, f32::INFINITY] {
        let named = |e: &Error| e.kind() == ErrorKind::Step && e.to_string().contains("chosen");
        match run(&mut *loaded, &mut Put(bad)) {
            Err(error) if named(&error) => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let what = format!("{}: the index {bad} was not refused", backend.name());
                return Err(Error::new(ErrorKind::Shape, what));
            }
        }
    }
    Ok(())
}

/// A state goes on where it stands, begins anew at position 0, and is refused everywhere else; where a step failed under
/// way it is lost.
///
/// # Errors
/// What is wrong, as [`ErrorKind::Shape`], or the backend's own error.
pub fn keeps_states(backend: &dyn Backend) -> Result<()> {
    let Case { graph, file, prompts, .. } = cases::convs()?.swap_remove(1);
    let ids = &prompts[0];
    let mut graph = (*graph).clone();
    // What `Put` leaves here is no number below 1: the step fails under way.
    let conv = graph.values.iter().position(|value| value.name == "conv-2").unwrap_or_default();
    graph.values[conv].name = "chosen".into();
    graph.values[conv].kind = ValueKind::Index { below: 1 };
    let mut loaded =
        backend.load(Arc::new(graph), &[&file], LoadOptions::default(), &mut |_| {})?;
    let mut kv = loaded.new_kv(&Blocks::Each(4))?;
    let mut run = |step: &Step, tap: &mut dyn Tap| loaded.run(step, &mut kv, tap);
    let part =
        |range: std::ops::Range<usize>| Step::single(&ids[range.clone()], range.start as u32);
    let wrong =
        |what: &str| Err(Error::new(ErrorKind::Shape, format!("{}: {what}", backend.name())));
    let refused = |result: Result<Vec<f32>>, named: &str| match result {
        Err(error) if error.kind() == ErrorKind::Step && error.to_string().contains(named) => {
            Ok(())
        }
        Err(error) => Err(error),
        Ok(_) => wrong(&format!("a step was not refused: {named}")),
    };
    let whole = run(&part(0..9), &mut NoTap)?;
    run(&part(0..7), &mut NoTap)?;
    for at in [6, 8, 9] {
        refused(run(&part(at..at + 1), &mut NoTap), "has read 7 positions")?;
    }
    for seqs in [[0, 0, 1], [0, 1, 0]] {
        // Two sequences with one state, and tokens of a sequence that another's part.
        let blocks = [0, u32::from(seqs[2] == 0)];
        let positions = if seqs[2] == 0 { vec![7, 0, 8] } else { vec![7, 8, 0] };
        let tables = blocks.map(|block| vec![block].into()).to_vec();
        let step = Step { seqs: seqs.to_vec(), positions, tables, ..part(0..3) };
        refused(run(&step, &mut NoTap), "one state for each sequence")?;
    }
    if run(&part(7..9), &mut NoTap)? != whole {
        return wrong("two steps give other logits than one, or a refused step changed a state");
    }
    refused(run(&part(9..12), &mut Put(2.0)), "chosen")?;
    refused(run(&part(9..12), &mut NoTap), "is lost")?;
    if run(&part(0..9), &mut NoTap)? != whole {
        return wrong("a state that was lost did not begin anew");
    }
    Ok(())
}

/// Decoders whose second layer has attention of other kinds: without a mask, with sinks, with both, and with sinks behind a
/// window. Without a mask a sequence must be read in one step ([`cases::Cut::Batch`] of 512); a long one first, so that its chunks
/// are shared out.
pub fn unmasked() -> Result<Vec<Case>> {
    let plain = Decoder {
        dtype: DType::Q8_0,
        n_head: 6,
        n_head_kv: 3,
        head_dim: 68,
        pairs: RopePairs::Halves,
        mask: Mask::None,
        sinks: false,
        softcap: None,
        act: Act::Silu,
        size: 1.0,
        first_position: 0,
        long_rope: false,
    };
    let sinks = Decoder { sinks: true, ..plain };
    [
        (plain, [200, 1, 65]),
        (sinks, [200, 1, 65]),
        (Decoder { mask: Mask::Causal, n_head: 3, ..sinks }, [130, 1, 7]),
        (Decoder { mask: Mask::Window(70), n_head: 3, ..sinks }, [130, 1, 7]),
    ]
    .into_iter()
    .map(|(spec, lengths)| {
        let mut case = cases::decoder_of(spec, &lengths)?;
        case.name += &format!(", {:?}, sinks {}", spec.mask, spec.sinks);
        Ok(case)
    })
    .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
mod tests {
    use super::*;
    use crate::reference::Reference;

    #[test]
    fn the_reference_reads_several_files_and_checks_indices() {
        reads_several_files(&Reference).unwrap();
        checks_indices(&Reference).unwrap();
    }

    #[test]
    fn the_reference_keeps_states() {
        keeps_states(&Reference).unwrap();
    }

    #[test]
    fn a_weight_of_several_matrices_counts_all_of_them() {
        let experts = Weight {
            name: "blk.0.ffn_gate_exps.weight".into(),
            file: FileId::BASE,
            dtype: DType::Q4_K,
            n_in: 512,
            n_out: 10,
            n_mats: 6,
        };
        assert_eq!(experts.rows(), 60);
        // 60 rows of two blocks of 144 bytes.
        assert_eq!(experts.file_bytes(), 60 * 2 * 144);
        assert_eq!(experts.shape(), [512, 10, 6]);
    }
}
