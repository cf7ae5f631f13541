//! Recorded dispatches of a step.

use gpu::record::{Call, Sink};
use gpu::shaders::Shader;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Keeps one call of each kernel with the same parameters and grid: a decoder makes hundreds alike.
#[derive(Clone, Default)]
pub(crate) struct Few(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    seen: HashMap<(Shader, Vec<u32>, [u32; 3]), u32>,
    calls: Vec<Call>,
}

impl Few {
    /// The calls so far.
    pub(crate) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }
}

impl Sink for Few {
    fn wants(&mut self, shader: &Shader, params: &[u32], grid: [u32; 3]) -> bool {
        let mut kept = self.0.lock().unwrap();
        let n = kept.seen.entry((shader.clone(), params.to_vec(), grid)).or_default();
        *n += 1;
        *n == 1
    }

    fn call(&mut self, call: Call) {
        self.0.lock().unwrap().calls.push(call);
    }
}
