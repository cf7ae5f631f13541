//! The block formats against recordings of the PyPI package `gguf`, and the encoders against the decoders.

use gguf::DType;
use std::path::Path;

#[path = "golden/check.rs"]
mod golden;

#[test]
fn decoders_give_the_recorded_bits() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for dtype in DType::ALL {
        let compared = golden::check(dtype, &folder);
        assert_eq!(compared.wrong, 0, "{dtype}: {:?}", compared.first);
    }
}

/// Numbers in −1..1 that differ in every position, the same on every run.
fn weights(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    // A product of two has many small and few large values, as weights have.
    (0..n).map(|_| next() * next()).collect()
}

#[test]
fn encoded_weights_decode_to_near_ones() {
    let weights = weights(8 * 256);
    // Root mean square of the error over that of the weights; each format's own, measured, plus a tenth.
    for (dtype, allowed) in [
        (DType::F32, 0.0),
        (DType::F16, 2.2e-4),
        (DType::BF16, 1.8e-3),
        (DType::Q8_0, 6e-3),
        (DType::Q6_K, 2.2e-2),
        (DType::Q5_K, 4.5e-2),
        (DType::Q5_0, 6e-2),
        (DType::Q5_1, 5.5e-2),
        (DType::Q4_K, 9e-2),
        (DType::Q4_0, 1.2e-1),
        (DType::Q4_1, 1.1e-1),
        (DType::IQ4_NL, 8.3e-2),
        (DType::IQ4_XS, 8.4e-2),
        (DType::MXFP4, 1.27e-1),
        (DType::Q3_K, 1.7e-1),
        (DType::Q2_K, 3.5e-1),
    ] {
        let (mut bytes, mut back) =
            (vec![0; dtype.row_bytes(weights.len())], vec![0.0; weights.len()]);
        dtype.encode(&weights, &mut bytes);
        dtype.dequantize(&bytes, &mut back);
        let sum = |of: &dyn Fn(usize) -> f32| {
            (0..weights.len()).map(|i| f64::from(of(i)).powi(2)).sum::<f64>()
        };
        let error = (sum(&|i| weights[i] - back[i]) / sum(&|i| weights[i])).sqrt();
        println!("{dtype}: {error:.2e}");
        assert!(error <= allowed, "{dtype}: {error:e} is over {allowed:e}");
        // A coarser grid than the format's would pass a bound alone.
        assert!(
            error >= allowed / 2.0,
            "{dtype}: {error:e} is far under {allowed:e}: is the bound right?"
        );
    }
}

#[test]
fn blocks_without_spread() {
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.has_encoder()) {
        for value in [0.0, -0.0, 0.75, -0.75, 1e-30, 3e38] {
            let (mut bytes, mut back) = (vec![0; dtype.row_bytes(256)], vec![0.0; 256]);
            dtype.encode(&[value; 256], &mut bytes);
            dtype.dequantize(&bytes, &mut back);
            if value.abs() < 1.0 {
                let off = back.iter().map(|w| (w - value).abs()).fold(0.0, f32::max);
                assert!(
                    off <= value.abs() * 0.01 + 1e-7,
                    "{dtype}: {value:e} became {:e}",
                    back[0]
                );
            }
        }
    }
}

#[test]
fn nothing_that_is_encoded_panics() {
    let odd =
        [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, 0.0, -1.0];
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.has_encoder()) {
        let mut bytes = vec![0; dtype.row_bytes(256)];
        for a in odd {
            for b in odd {
                let mut weights = [a; 256];
                weights[17] = b;
                weights[200] = -b;
                dtype.encode(&weights, &mut bytes);
            }
        }
    }
}

#[test]
#[should_panic(expected = "Q4_0: lengths disagree")]
fn wrong_lengths_are_the_callers_fault() {
    DType::Q4_0.dequantize(&[0; 17], &mut [0.0; 32]);
}
