//! Any bytes as a GGUF file: an error, or a model whose every tensor and key can be used. Never a panic.

#![no_main]

use gguf::File;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match File::from_bytes(bytes.to_vec()) {
        Ok(file) => use_all(&file),
        Err(error) => assert!(!error.to_string().chars().any(char::is_control)),
    }
});

fn use_all(file: &File) {
    for (key, value) in file.keys() {
        assert_eq!(file.get(key).map(|found| found.type_name()), Some(value.type_name()));
        let _ = (file.u32(key), file.f32(key), file.str(key), file.strings(key), file.i32s(key));
    }
    for tensor in file.tensors() {
        let data = file.data(tensor).expect("checked at opening");
        assert_eq!(data.len() as u64, tensor.n_bytes);
        assert_eq!(file.tensor(&tensor.name), Some(tensor));
        gguf::check_tensor(tensor.dtype, &data);
    }
}
