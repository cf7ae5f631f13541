//! Every shader there is, on devices of every kind of arithmetic, becomes valid SPIR-V, MSL and HLSL: no driver is
//! needed to know.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "how much was checked is shown")]

use gpu::probe::Probes;
use gpu::shaders::{self, Shader};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

/// Everything trusted, nothing, and each alone.
fn devices() -> Vec<Probes> {
    let none = Probes::worst();
    vec![
        none,
        Probes::best(),
        Probes { fma: true, ..none },
        Probes { div: true, ..none },
        Probes { sqrt: true, ..none },
    ]
}

fn parse(source: &str) -> (naga::Module, ModuleInfo) {
    let mut options = naga::front::wgsl::Options::new();
    options.capabilities = Capabilities::IMMEDIATES;
    let mut front = naga::front::wgsl::Frontend::new_with_options(options);
    let module = front.parse(source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    let info = Validator::new(ValidationFlags::all(), Capabilities::IMMEDIATES)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    (module, info)
}

/// The buffers that the shader declares are those that its host side binds.
fn check_bindings(shader: &Shader, module: &naga::Module) {
    let mut found: Vec<(u32, u32, bool)> = module
        .global_variables
        .iter()
        .filter_map(|(_, variable)| {
            let naga::AddressSpace::Storage { access } = variable.space else { return None };
            let at = variable.binding?;
            Some((at.group, at.binding, access.contains(naga::StorageAccess::STORE)))
        })
        .collect();
    found.sort_unstable();
    let mut expected: Vec<_> =
        (0..shader.buffers).map(|i| (0, i, shader.writes && i + 1 == shader.buffers)).collect();
    if shader.kv {
        expected.extend([(1, 0, true), (1, 1, true)]);
    }
    assert_eq!(found, expected, "{shader:?}");
    let immediates = module
        .global_variables
        .iter()
        .find(|(_, variable)| variable.space == naga::AddressSpace::Immediate)
        .map(|(_, variable)| module.types[variable.ty].inner.size(module.to_ctx()));
    assert!(immediates.is_some_and(|bytes| bytes <= 64), "{shader:?}: {immediates:?} bytes");
}

fn to_spirv(module: &naga::Module, info: &ModuleInfo) {
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    let words = spv::write_vec(module, info, &options, None).unwrap();
    assert!(words.len() > 100);
}

/// Slots as wgpu's Metal backend gives them: immediates, then the buffers in order, then their sizes.
fn to_msl(module: &naga::Module, info: &ModuleInfo) {
    let mut resources =
        msl::EntryPointResources { immediates_buffer: Some(0), ..Default::default() };
    let mut globals: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| v.binding.map(|binding| (binding, v.space)))
        .collect();
    globals.sort_by_key(|(binding, _)| (binding.group, binding.binding));
    let mut slot = 1;
    for (binding, _) in globals {
        let target = msl::BindTarget { buffer: Some(slot), mutable: true, ..Default::default() };
        resources.resources.insert(binding, target);
        slot += 1;
    }
    resources.sizes_buffer = Some(slot);
    let options = msl::Options {
        lang_version: (3, 1),
        per_entry_point_map: [("main".to_owned(), resources)].into_iter().collect(),
        fake_missing_bindings: false,
        zero_initialize_workgroup_memory: false,
        ..msl::Options::default()
    };
    let (text, _) =
        msl::write_string(module, info, &options, &msl::PipelineOptions::default()).unwrap();
    assert!(text.contains("kernel void"), "{text}");
}

fn to_hlsl(module: &naga::Module, info: &ModuleInfo) {
    // dot4I8Packed is an instruction from shader model 6.4 on, which wgpu asks of DX12 anyway.
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_4,
        immediates_target: Some(hlsl::BindTarget::default()),
        ..hlsl::Options::default()
    };
    let mut text = String::new();
    let pipeline = hlsl::PipelineOptions::default();
    hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None).unwrap();
    assert!(text.contains("void main"), "{text}");
}

#[test]
fn every_shader_is_valid_in_every_language() {
    let mut n = 0;
    for probes in devices() {
        for shader in shaders::all() {
            let source = shaders::source(&shader, probes).unwrap();
            let (module, info) = parse(&source);
            check_bindings(&shader, &module);
            to_spirv(&module, &info);
            to_msl(&module, &info);
            to_hlsl(&module, &info);
            n += 1;
        }
    }
    println!("{n} shaders to SPIR-V, MSL and HLSL");
}

#[test]
fn a_half_given_constant_is_an_error_not_a_shader() {
    let mut shader = shaders::all().into_iter().find(|s| s.file == "attention").unwrap();
    shader.defines = gpu::template::Defines::new();
    let error = shaders::source(&shader, Probes::best()).unwrap_err();
    assert!(error.contains("attention:") && error.contains("DIM_V"), "{error}");
}
