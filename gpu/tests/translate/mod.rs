//! A shader's WGSL through naga, as wgpu would bring it to a driver.

use gpu::probes::Probes;
use gpu::shaders::{self, Shader};
use naga::back::msl;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};

/// Parsed and validated.
pub(crate) fn parse(source: &str) -> (naga::Module, ModuleInfo) {
    let mut options = naga::front::wgsl::Options::new();
    // What a device with a matrix unit has; every device has immediates.
    let matrix = Capabilities::SHADER_FLOAT16
        | Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | Capabilities::SHADER_INT16
        | Capabilities::SUBGROUP
        | Capabilities::SUBGROUP_BARRIER
        | Capabilities::COOPERATIVE_MATRIX;
    let doubles = Capabilities::FLOAT64 | Capabilities::SHADER_INT64;
    let capabilities = Capabilities::IMMEDIATES | matrix | doubles;
    options.capabilities = capabilities;
    let mut front = naga::front::wgsl::Frontend::new_with_options(options);
    let module = front.parse(source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    (module, info)
}

/// The text that Metal's compiler gets, with the options of wgpu-hal 30 (`metal/device.rs`): slots are the immediates, the
/// buffers in order, then their sizes. `checked` as for `create_shader_module`, otherwise as for a trusted one.
pub(crate) fn to_msl(shader: &Shader, probes: Probes, checked: bool) -> String {
    let (module, info) = parse(&shaders::source(shader, probes).unwrap());
    let mut resources =
        msl::EntryPointResources { immediates_buffer: Some(0), ..Default::default() };
    let mut globals: Vec<_> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| v.binding.map(|binding| (binding, v.space)))
        .collect();
    globals.sort_by_key(|(binding, _)| (binding.group, binding.binding));
    for (slot, (binding, space)) in (1..).zip(globals) {
        let naga::AddressSpace::Storage { access } = space else { panic!("{space:?}") };
        let mutable = access.contains(naga::StorageAccess::STORE);
        let target = msl::BindTarget { buffer: Some(slot), mutable, ..Default::default() };
        resources.resources.insert(binding, target);
        resources.sizes_buffer = Some(slot + 1);
    }
    let policy = if checked { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    let options = msl::Options {
        lang_version: (3, 1),
        per_entry_point_map: [("main".to_owned(), resources)].into_iter().collect(),
        fake_missing_bindings: false,
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: checked,
        emit_int_div_checks: checked,
        bounds_check_policies: BoundsCheckPolicies {
            index: policy,
            buffer: policy,
            image_load: policy,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        ..msl::Options::default()
    };
    let pipeline = msl::PipelineOptions {
        entry_point: Some((naga::ShaderStage::Compute, "main".to_owned())),
        ..msl::PipelineOptions::default()
    };
    let (text, _) = msl::write_string(&module, &info, &options, &pipeline).unwrap();
    text
}
