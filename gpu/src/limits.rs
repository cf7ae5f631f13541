//! What a device does at most, measured on it: bytes read, 8-bit products, f32 products. Benchmarks say how near to
//! these a kernel comes.

use crate::device::{Device, Range};
use crate::params::{self, Params};
use crate::shaders::{self, Limit};
use graph::{Limits, Result};
use std::time::{Duration, Instant};

/// Bytes that are read in a round: more than the caches hold.
const BYTES: u64 = 512 << 20;
/// A measurement lasts at least this long, so that the submission does not count.
const SECONDS: f64 = 0.02;
/// Measurements, of which the best counts.
const REPEATS: usize = 3;
/// Workgroups: enough to fill any device several times.
const GROUPS: u32 = 4096;

/// The parameters of a measurement: one row, the first.
fn words(rounds: u32, n: u32) -> Vec<u32> {
    [&[1, 0], &params::Limits { rounds, n }.words()[..]].concat()
}

/// Measures for about a second, longer on software devices.
pub(crate) fn measure(device: &Device) -> Result<Limits> {
    let bytes = BYTES.min(device.max_binding());
    let input = device.buffer("limits", bytes)?;
    let output = device.buffer("limits", 16)?;
    let n = bytes as u32 / 16;
    let threads = f64::from(GROUPS) * 256.0;
    let rate = |limit: Limit, groups: u32, per_round: f64| -> Result<f64> {
        let pipeline = device.pipeline(&shaders::limit(limit))?;
        let bind =
            device.bind(&pipeline, &[Range::whole(&input, bytes), Range::whole(&output, 16)]);
        let seconds = |rounds: u32| -> Result<f64> {
            let mut encoder = device.encoder();
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                pass.set_pipeline(&pipeline.pipeline);
                pass.set_bind_group(0, &bind, &[]);
                pass.set_immediates(0, bytemuck::cast_slice(&words(rounds, n)));
                pass.dispatch_workgroups(groups, 1, 1);
            }
            let start = Instant::now();
            device.submit(encoder)?;
            Ok(start.elapsed().as_secs_f64().max(1e-9))
        };
        // Twice as many rounds until it lasts.
        let mut rounds = 1;
        while seconds(rounds)? < SECONDS && rounds < 1 << 20 {
            rounds *= 2;
        }
        let mut best = 0.0f64;
        for _ in 0..REPEATS {
            best = best.max(f64::from(rounds) * per_round / seconds(rounds)?);
        }
        Ok(best)
    };
    Ok(Limits {
        read: rate(Limit::Read, GROUPS / 2, bytes as f64)?,
        int8: rate(Limit::Int8, GROUPS, threads * 64.0)?,
        f32: rate(Limit::F32, GROUPS, threads * 16.0)?,
    })
}

/// Submits more and more until the device does not answer at once.
pub(crate) fn hang(device: &Device) -> Result<()> {
    let pipeline = device.pipeline(&shaders::limit(Limit::Int8))?;
    let (input, output) = (device.buffer("limits", 16)?, device.buffer("limits", 16)?);
    let bind = device.bind(&pipeline, &[Range::whole(&input, 16), Range::whole(&output, 16)]);
    for rounds in (0..16).map(|i| 1 << i) {
        let mut encoder = device.encoder();
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &bind, &[]);
            pass.set_immediates(0, bytemuck::cast_slice(&words(rounds, 1)));
            pass.dispatch_workgroups(GROUPS, 1, 1);
        }
        device.submit_for(encoder, Duration::ZERO)?;
    }
    Ok(())
}
