//! The two promises that wgpu wants before it gives a device matrix units, and shaders without its checks.
#![allow(unsafe_code, reason = "the crate's part of the fence: both functions only give a promise")]

/// The right to ask for cooperative matrices, wgpu's name for matrix units.
pub(crate) fn experimental() -> wgpu::ExperimentalFeatures {
    // SAFETY: the promise is that we know such features may have bugs. The one that is asked for is used by two kernels;
    // the first multiplies numbers of which the sums are known before the second is ever made (`probe.rs`).
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// A shader without naga's bounds checks, loop bounds and division checks, a seventh of the time of a token.
pub(crate) fn shader_module(
    device: &wgpu::Device,
    descriptor: wgpu::ShaderModuleDescriptor<'_>,
) -> wgpu::ShaderModule {
    let checks = wgpu::ShaderRuntimeChecks::unchecked();
    // SAFETY: every index of a kernel comes from its grid and parameters, which the planner makes from checked sizes, or
    // from a step that `Step::check` has checked; loops end by counting to such sizes. The contract tests replay every
    // dispatch between guards and run the checked form of every kernel too.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
}
