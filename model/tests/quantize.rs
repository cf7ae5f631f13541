//! Quantised files: tensor for tensor what llama-quantize writes, and what happens where it cannot be written.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says what it skips"
)]

use gguf::{Access, Builder, DType, File, Value};
use model::ErrorKind;
use model::output::Existing;
use model::quantize::{
    FileType, ImportanceMatrix, Mixing, OutputMatrix, Progress, Recipe, Request, Target, quantize,
};
use model::synth::Shape;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// In place of what is there, on two threads.
fn to(file_type: FileType) -> Request<'static> {
    Request {
        recipe: file_type.into(),
        matrix: None,
        existing: Existing::Replace,
        threads: NonZero::new(2).unwrap(),
    }
}

fn model_path() -> Option<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || {
        let xdg = || Some(var("XDG_CACHE_HOME")?.join("karat"));
        let home = || Some(var("HOME")?.join(".cache/karat"));
        let folder = var("KARAT_CACHE").or_else(xdg).or_else(home)?;
        Some(folder.join("models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    };
    var("KARAT_TEST_MODEL").or_else(cache).filter(|path| path.is_file())
}

/// First 16 hex digits of the SHA-256.
fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn default_model_as_llama_quantize_writes_it() {
    let Some(path) = model_path() else {
        // Past the test harness, which shows what a test prints only if it fails.
        let what = "skipped: what llama-quantize writes of the default model: it is absent (`karat pull smollm2:135m`, or \
             KARAT_TEST_MODEL)\n";
        let _ = std::io::stderr().write_all(what.as_bytes());
        return;
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let f32_path = folder.path().join("F32.gguf");
    let original = File::open(&path, Access::Pread).unwrap();
    quantize(&original, &f32_path, to(FileType::F32), |_| ()).unwrap();
    let source = File::open(&f32_path, Access::Pread).unwrap();
    // Not every type is recorded of a model of this size: the small ones below are.
    let recorded = recorded();
    let types = recorded.keys().filter_map(|key| key.strip_prefix("smollm2/"));
    let types: Vec<FileType> = types.map(|name| name.parse().unwrap()).collect();
    assert!(types.len() >= 6);
    for file_type in types {
        let key = format!("smollm2/{file_type}");
        check(&key, &source, to(file_type), &folder.path().join("out.gguf"));
    }

    // The default model is one in Q4_1: back from F32 it must be what it was.
    let output = folder.path().join("out.gguf");
    quantize(&source, &output, to(FileType::Q4_1), |_| ()).unwrap();
    let again = File::open(&output, Access::Pread).unwrap();
    for info in original.tensors() {
        let ours = again.tensor(&info.name).unwrap();
        assert_eq!(ours.dtype, info.dtype, "{}", info.name);
        assert!(original.data(info).unwrap() == again.data(ours).unwrap(), "{}", info.name);
    }
}

/// What llama-quantize b11434 wrote, recorded by `tools/quantize_oracle.py`: for each run the matrices' formats and hashes,
/// `None` where it refused.
fn recorded() -> BTreeMap<String, Option<String>> {
    serde_json::from_str(include_str!("quantize.json")).unwrap()
}

/// The same of a file of ours.
fn written(file: &File) -> String {
    let mut words = Vec::new();
    let mut current = None;
    for info in file.tensors().iter().filter(|info| info.dims.len() > 1) {
        if current != Some(info.dtype) {
            words.push(info.dtype.name().to_owned());
            current = Some(info.dtype);
        }
        words.push(hash(&file.data(info).unwrap())[..6].to_owned());
    }
    words.join(" ")
}

/// A synthetic model in F32, by the shapes of `tools/quantize_oracle.py`.
fn made(folder: &Path, name: &str) -> File {
    let small = model::synth::small("qwen2").unwrap();
    let (n_layer, n_embd) = match name {
        "grouped" => (17, 256),
        "short" => (3, 160),
        _ => (2, 176),
    };
    let shape = Shape {
        n_layer,
        n_embd,
        n_head: 8,
        n_head_kv: 2,
        head_dim_k: 32,
        head_dim_v: 32,
        n_vocab: 300,
        tied: false,
        ..small
    };
    let request = model::synth::Request {
        arch: "qwen2",
        shape,
        experts: model::synth::ExpertNumbers::default(),
        format: "F32".parse().unwrap(),
        seed: 1,
        existing: Existing::Replace,
        threads: NonZero::new(2).unwrap(),
    };
    let path = folder.join(format!("{name}.gguf"));
    model::synth::synth(&request, &path, |_| ControlFlow::Continue(())).unwrap();
    File::open(&path, Access::Pread).unwrap()
}

/// Every matrix of a run as llama-quantize wrote it, or refused as llama-quantize refused it.
fn check(key: &str, source: &File, request: Request<'_>, output: &Path) {
    let recorded = recorded();
    let wanted = recorded.get(key).unwrap_or_else(|| panic!("{key} is not recorded"));
    match (quantize(source, output, request, |_| ()), wanted) {
        (Ok(_), Some(wanted)) => {
            let ours = written(&File::open(output, Access::Pread).unwrap());
            let pairs = ours.split(' ').zip(wanted.split(' ')).enumerate();
            let wrong: Vec<_> = pairs.filter(|(_, (ours, theirs))| ours != theirs).collect();
            assert!(
                ours == *wanted,
                "{key}: {} words differ, the first: {:?}",
                wrong.len(),
                wrong.first()
            );
        }
        (Err(error), None) => {
            assert_eq!(error.kind(), ErrorKind::BadRequest, "{key}: {error}");
            assert!(error.to_string().contains("importance matrix"), "{key}: {error}");
        }
        (ours, wanted) => panic!("{key}: {ours:?}, llama-quantize wrote {wanted:?}"),
    }
}

#[test]
fn every_type_as_llama_quantize_writes_it() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = folder.path().join("out.gguf");
    for name in ["grouped", "short", "odd"] {
        let source = made(folder.path(), name);
        for file_type in FileType::ALL {
            check(&format!("{name}/{file_type}"), &source, to(file_type), &output);
        }
    }
}

/// The matrix that `tools/quantize_oracle.py` makes, in llama.cpp's newer form or the older one.
fn matrix(source: &File, path: &Path, is_gguf: bool) -> ImportanceMatrix {
    let value = |i: usize| if i.is_multiple_of(37) { 0.0 } else { (i * 7919 % 1009) as f32 / 64.0 };
    let is_measured =
        |info: &&gguf::TensorInfo| info.dims.len() == 2 && info.name != "token_embd.weight";
    let measured: Vec<_> = source.tensors().iter().filter(is_measured).collect();
    let bytes = if is_gguf {
        let datasets = gguf::Array::String(["none.txt"].into_iter().collect());
        let builder = Builder::new()
            .kv("imatrix.datasets", Value::Array(datasets))
            .kv("imatrix.chunk_count", 3u32)
            .kv("imatrix.chunk_size", 512u32);
        let add = |builder: Builder, info: &&gguf::TensorInfo| {
            let sums: Vec<f32> = (0..info.dims[0] as usize).map(value).collect();
            let (sums_name, counts_name) =
                (format!("{}.in_sum2", info.name), format!("{}.counts", info.name));
            builder.f32(&sums_name, &[info.dims[0], 1], &sums).f32(&counts_name, &[1, 1], &[3.0])
        };
        measured.iter().fold(builder, add).build().unwrap()
    } else {
        let number = |n: usize| (n as i32).to_le_bytes();
        let text = |text: &str| [&number(text.len()), text.as_bytes()].concat();
        let entry = |info: &&gguf::TensorInfo| {
            let n = info.dims[0] as usize;
            let values = (0..n).flat_map(|i| value(i).to_le_bytes());
            [text(&info.name), number(3).into(), number(n).into(), values.collect()].concat()
        };
        let entries = measured.iter().flat_map(entry);
        number(measured.len())
            .into_iter()
            .chain(entries)
            .chain(number(3))
            .chain(text("none.txt"))
            .collect()
    };
    fs::write(path, bytes).unwrap();
    ImportanceMatrix::open(path).unwrap()
}

#[test]
fn an_importance_matrix_counts_as_in_llama_quantize() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = folder.path().join("out.gguf");
    for (name, is_gguf) in [("grouped", true), ("short", false), ("odd", true)] {
        let source = made(folder.path(), name);
        let matrix = matrix(&source, &folder.path().join("imatrix"), is_gguf);
        let ignored = [FileType::F32, FileType::F16, FileType::BF16, FileType::Q8_0];
        for file_type in FileType::ALL.into_iter().filter(|file_type| !ignored.contains(file_type))
        {
            let request = Request { matrix: Some(&matrix), ..to(file_type) };
            check(&format!("{name}/{file_type}/imatrix"), &source, request, &output);
        }
        let file = File::open(&output, Access::Pread).unwrap();
        assert_eq!(file.str("quantize.imatrix.dataset").unwrap().as_deref(), Some("none.txt"));
        assert_eq!(file.u32("quantize.imatrix.chunks_count").unwrap(), Some(3));
        let measured = source.tensors().iter().filter(|info| info.dims.len() == 2).count() - 1;
        assert_eq!(file.u32("quantize.imatrix.entries_count").unwrap(), Some(measured as u32));
    }
}

#[test]
fn matrices_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imatrix");
    let gguf = |builder: Builder| builder.build().unwrap();
    let keys = || {
        let datasets = gguf::Array::String(["none.txt"].into_iter().collect());
        let builder = Builder::new().kv("imatrix.datasets", Value::Array(datasets));
        builder.kv("imatrix.chunk_count", 3u32).kv("imatrix.chunk_size", 512u32)
    };
    let older = |n: i32| {
        [&1i32.to_le_bytes()[..], &1i32.to_le_bytes(), b"a", &1i32.to_le_bytes(), &n.to_le_bytes()]
            .concat()
    };
    for (bytes, part) in [
        (Vec::new(), "no importance matrix"),
        (b"This is text and no matrix".to_vec(), "no importance matrix"),
        (older(i32::MAX), "no importance matrix"),
        (older(-1), "no importance matrix"),
        ([older(1), f32::NAN.to_le_bytes().into()].concat(), "a: NaN or infinity"),
        (
            gguf(Builder::new().f32("a.in_sum2", &[1], &[1.0])),
            "the key imatrix.datasets is missing",
        ),
        (gguf(keys()), "no importance matrix"),
        (gguf(keys().f32("a.in_sum2", &[1], &[1.0])), "a: sums without counts"),
        (
            gguf(keys().f32("a.in_sum2", &[3], &[1.0; 3]).f32("a.counts", &[2], &[1.0; 2])),
            "a: 3 sums with 2 counts",
        ),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = ImportanceMatrix::open(&path).unwrap_err().to_string();
        assert!(error.starts_with(path.to_str().unwrap()) && error.contains(part), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    // One of another model.
    let name = "blk.0.ffn_down.weight";
    fs::write(
        &path,
        gguf(keys().f32(&format!("{name}.in_sum2"), &[3], &[1.0; 3]).f32(
            &format!("{name}.counts"),
            &[1],
            &[1.0],
        )),
    )
    .unwrap();
    let matrix = ImportanceMatrix::open(&path).unwrap();
    let request = Request { matrix: Some(&matrix), ..to(FileType::Q4_0) };
    let error = quantize(&source(wavy), &folder.path().join("out.gguf"), request, |_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("blk.0.ffn_down.weight has 3 columns, the model's has 512"), "{error}");
}

#[test]
fn flags_choose_formats_as_llama_quantize_has_them() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = folder.path().join("out.gguf");
    let source = made(folder.path(), "grouped");
    let named =
        [r"blk\.[0-3]\.attn_v=Q8_0", "ffn_(up|gate)=IQ4_XS"].map(|text| text.parse().unwrap());
    let of = |file_type: FileType| Recipe::from(file_type);
    for (key, recipe) in [
        ("Q3_K_M/pure", Recipe { mixing: Mixing::Pure, ..of(FileType::Q3_K_M) }),
        ("Q4_K_M/output", Recipe { output: OutputMatrix::As(DType::Q5_0), ..of(FileType::Q4_K_M) }),
        ("Q4_K_M/leave", Recipe { output: OutputMatrix::Kept, ..of(FileType::Q4_K_M) }),
        ("Q4_0/embedding", Recipe { token_embedding: Some(DType::Q8_0), ..of(FileType::Q4_0) }),
        (
            "F16/float",
            Recipe {
                token_embedding: Some(DType::Q8_0),
                output: OutputMatrix::As(DType::Q6_K),
                ..of(FileType::F16)
            },
        ),
        ("Q2_K/named", Recipe { named: &named, ..of(FileType::Q2_K) }),
    ] {
        let request = Request { recipe, ..to(FileType::F32) };
        check(&format!("grouped/{key}"), &source, request, &output);
    }
    // Where llama.cpp would abort.
    let short = made(folder.path(), "short");
    let recipe = Recipe { token_embedding: Some(DType::Q4_K), ..of(FileType::Q8_0) };
    let error =
        quantize(&short, &output, Request { recipe, ..to(FileType::F32) }, |_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tensor token_embd.weight: rows of 160 are no whole blocks of Q4_K, allowed multiples of 256"
    );
}

#[test]
fn a_copy_has_the_tensors_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("1.gguf"), folder.path().join("2.gguf"));
    let source = source(wavy);
    quantize(&source, &first, to(FileType::Q4_K_S), |_| ()).unwrap();
    let first = File::open(&first, Access::Pread).unwrap();
    let recipe = Recipe { target: Target::Copy, ..FileType::F32.into() };
    let report =
        quantize(&first, &second, Request { recipe, ..to(FileType::F32) }, |_| ()).unwrap();
    assert_eq!(report.requantised, 0);
    let second = File::open(&second, Access::Pread).unwrap();
    assert_eq!(second.u32("general.file_type").unwrap(), Some(14));
    assert_eq!(written(&second), written(&first));
}

/// A matrix over several pieces, a norm, and keys of a split file.
fn source(weight: impl Fn(usize) -> f32) -> File {
    const ROW: usize = 512;
    const ROWS: usize = (4 << 20) / ROW + 1000;
    let weights: Vec<f32> = (0..ROW * ROWS).map(weight).collect();
    let builder = Builder::new()
        .kv("general.architecture", "llama")
        .kv("general.file_type", 0u32)
        .kv("general.name", "tiny")
        .kv("split.no", 0u16)
        .kv("split.count", 1u16)
        .kv("llama.block_count", 1u32)
        .f32("blk.0.ffn_down.weight", &[ROW as u64, ROWS as u64], &weights)
        .f32("blk.0.ffn_norm.weight", &[4], &[1.0, 2.0, 3.0, 4.0])
        .f32("token_embd.weight", &[48, 1], &[0.0; 48]);
    File::from_bytes(builder.build().unwrap()).unwrap()
}

fn wavy(i: usize) -> f32 {
    ((i * 7919) % 10_007) as f32 / 10_007.0 - 0.4
}

#[test]
fn any_number_of_threads_writes_the_same_file() {
    let source = source(wavy);
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for threads in [1, 2, 3, 64] {
        let output = folder.path().join(format!("{threads}.gguf"));
        let (mut last, mut calls) = (0, 0);
        let count = |progress: Progress<'_>| {
            assert!(progress.done > last && progress.done <= progress.total);
            (last, calls) = (progress.done, calls + 1);
        };
        let request = Request { threads: threads.try_into().unwrap(), ..to(FileType::Q8_0) };
        let report = quantize(&source, &output, request, count).unwrap();
        assert_eq!(report.weights, last);
        assert_eq!(calls, 4, "two pieces and two small tensors");
        files.push(fs::read(&output).unwrap());
        fs::remove_file(output).unwrap();
    }
    assert!(files.iter().all(|file| *file == files[0]));

    let file = File::from_bytes(files.swap_remove(0)).unwrap();
    let get = |name: &str| file.tensor(name).unwrap();
    let big = get("blk.0.ffn_down.weight");
    assert_eq!(big.dtype, DType::Q8_0);
    let weights: Vec<f32> = (0..big.n_elements() as usize).map(wavy).collect();
    let mut whole = vec![0; DType::Q8_0.row_bytes(weights.len())];
    DType::Q8_0.encode(&weights, &mut whole);
    assert!(file.data(big).unwrap() == whole, "cutting into pieces changes nothing");
    assert_eq!(get("blk.0.ffn_norm.weight").dtype, DType::F32);
    assert_eq!(file.u32("general.file_type").unwrap(), Some(7));
    assert_eq!(file.u32("general.quantization_version").unwrap(), Some(2));
    assert_eq!(file.str("general.name").unwrap().as_deref(), Some("tiny"));
    assert!(file.keys().all(|(key, _)| !key.starts_with("split.")));
}

#[test]
fn a_failed_run_leaves_nothing_and_keeps_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    fs::write(&output, "precious").unwrap();
    let row_9000 = 9000 * 512 + 3;
    for (bad, expected) in [
        (
            f32::NAN,
            "tensor blk.0.ffn_down.weight: NaN or infinity in row 9000, which cannot be quantised",
        ),
        (
            1e30,
            "tensor blk.0.ffn_down.weight: weights too large for Q4_0 in row 9000, which cannot be quantised",
        ),
    ] {
        let source = source(|i| if i == row_9000 { bad } else { wavy(i) });
        let error = quantize(&source, &output, to(FileType::Q4_0), |_| ()).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::BadTensor, expected));
    }
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
}

/// In every format: weights that it cannot hold are refused, and what is written holds what it was given.
#[test]
fn weights_beyond_a_format_are_refused_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.gguf");
    let mut refused = 0;
    // All that need no importance matrix.
    let types = FileType::ALL.into_iter().filter(|&file_type| file_type != FileType::Q2_K_S);
    for file_type in types.clone() {
        for big in [3e38f32, -3e38, 1e30, 1e10, 7e5, -6e4] {
            let weights: Vec<f32> =
                (0..1024).map(|i| if i == 700 { big } else { wavy(i) }).collect();
            let source = Builder::new().f32("blk.0.ffn_down.weight", &[512, 2], &weights);
            let source = File::from_bytes(source.build().unwrap()).unwrap();
            match quantize(&source, &output, to(file_type), |_| ()) {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::BadTensor);
                    assert!(error.to_string().contains("weights too large for "), "{error}");
                    refused += 1;
                }
                Ok(_) => {
                    let file = File::open(&output, Access::Pread).unwrap();
                    let info = &file.tensors()[0];
                    let mut found = vec![0.0; 1024];
                    info.dtype.dequantize(&file.data(info).unwrap(), &mut found);
                    let off = (found[700] / big - 1.0).abs();
                    assert!(off < 0.25, "{} {big:e}: {:e}", file_type.name(), found[700]);
                }
            }
        }
    }
    // Every format with f16 scales refuses the first three at least.
    assert!(refused >= 3 * (types.count() - 2), "{refused}");
}

#[test]
fn outputs_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.gguf");
    fs::write(&path, Builder::new().f32("a.weight", &[32, 2], &[1.0; 64]).build().unwrap())
        .unwrap();
    let source = File::open(&path, Access::Pread).unwrap();
    let try_at = |output: &Path| {
        let error = quantize(&source, output, to(FileType::Q8_0), |_| ()).unwrap_err();
        assert!(!error.to_string().contains('\n'));
        (error.kind(), error.to_string())
    };
    let (kind, text) = try_at(&folder.path().join("./in.gguf"));
    assert_eq!(kind, ErrorKind::BadRequest);
    assert!(text.ends_with("in.gguf: is the source, write to another file"), "{text}");
    fs::write(folder.path().join("precious.txt"), "x").unwrap();
    let keep = Request { existing: Existing::Keep, ..to(FileType::Q8_0) };
    let error = quantize(&source, &folder.path().join("precious.txt"), keep, |_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    let (kind, text) = try_at(folder.path());
    assert_eq!(kind, ErrorKind::BadRequest);
    assert!(text.ends_with(": is a folder, wanted the name of a file"), "{text}");
    assert_eq!(try_at(&folder.path().join("no/such/folder.gguf")).0, ErrorKind::Write);
    // A file without metadata or of an unknown architecture can be quantised all the same.
    let output = folder.path().join("out.gguf");
    quantize(&source, &output, to(FileType::Q8_0), |_| ()).unwrap();
    assert_eq!(File::open(&output, Access::Pread).unwrap().tensors()[0].dtype, DType::Q8_0);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&output), mode(&path), "readable as any new file");
    }
}
