//! Quantised files: tensor for tensor what llama-quantize writes, and what happens where it cannot be written.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says what it skips"
)]

use gguf::{Access, Builder, DType, File};
use model::ErrorKind;
use model::output::Existing;
use model::quantize::{FileType, Progress, Request, quantize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Write as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};

/// In place of what is there, on two threads.
fn to(file_type: FileType) -> Request {
    Request { file_type, existing: Existing::Replace, threads: NonZero::new(2).unwrap() }
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

fn oracle() -> Option<serde_json::Value> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle/smollm2_quantize.json");
    Some(serde_json::from_slice(&fs::read(path).ok()?).expect("the oracle is JSON"))
}

/// First 16 hex digits of the SHA-256.
fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many tensors of a file are those of the oracle, in format and bytes; of how many.
fn agreeing(file: &File, wanted: &serde_json::Map<String, serde_json::Value>) -> (usize, usize) {
    assert_eq!(file.tensors().len(), wanted.len());
    let agrees = |info: &&gguf::TensorInfo| {
        let wanted = &wanted[&info.name];
        let ours = [info.dtype.name().to_owned(), hash(&file.data(info).unwrap())];
        let same = wanted[0] == *ours[0] && wanted[1] == *ours[1];
        if !same {
            eprintln!("{}: ours {ours:?}, llama.cpp's {wanted}", info.name);
        }
        same
    };
    (file.tensors().iter().filter(agrees).count(), wanted.len())
}

#[test]
fn default_model_as_llama_quantize_writes_it() {
    let (Some(path), Some(oracle)) = (model_path(), oracle()) else {
        // Past the test harness, which shows what a test prints only if it fails.
        let what = "skipped: what llama-quantize writes: needs ../shared/oracle/smollm2_quantize.json and the default model, at \
             KARAT_TEST_MODEL or in the cache (`karat pull smollm2:135m`)\n";
        let _ = std::io::stderr().write_all(what.as_bytes());
        return;
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let f32_path = folder.path().join("F32.gguf");
    let original = File::open(&path, Access::Pread).unwrap();
    quantize(&original, &f32_path, to(FileType::F32), |_| ()).unwrap();
    let source = File::open(&f32_path, Access::Pread).unwrap();
    let hashes = oracle["sha256_first16"].as_object().unwrap();
    assert_eq!(hashes.len(), 6);
    for (name, wanted) in hashes {
        let file_type: FileType = name.parse().unwrap();
        let output = folder.path().join("out.gguf");
        let ours = if file_type == FileType::F32 {
            File::open(&f32_path, Access::Pread).unwrap()
        } else {
            quantize(&source, &output, to(file_type), |_| ()).unwrap();
            File::open(&output, Access::Pread).unwrap()
        };
        let (same, all) = agreeing(&ours, wanted.as_object().unwrap());
        eprintln!("{name}: {same} of {all} tensors have llama-quantize's bytes");
        assert_eq!(same, all, "{name}");
    }

    // The oracle has no Q4_1, but the default model is one: back from F32 it must be what it was.
    let output = folder.path().join("out.gguf");
    quantize(&source, &output, to(FileType::Q4_1), |_| ()).unwrap();
    let again = File::open(&output, Access::Pread).unwrap();
    for info in original.tensors() {
        let ours = again.tensor(&info.name).unwrap();
        assert_eq!(ours.dtype, info.dtype, "{}", info.name);
        assert!(original.data(info).unwrap() == again.data(ours).unwrap(), "{}", info.name);
    }
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
    for file_type in FileType::ALL {
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
    assert!(refused >= 3 * (FileType::ALL.len() - 2), "{refused}");
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
