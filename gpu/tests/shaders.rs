//! Every shader there is, on devices of every kind of arithmetic, becomes valid SPIR-V, MSL and HLSL: no driver is
//! needed to know.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "how much was checked is shown")]

mod translate;

use gpu::params::{Field, Kind, ROWS};
use gpu::probes::Probes;
use gpu::shaders::{self, Cache, Shader};
use naga::back::{hlsl, spv};
use naga::valid::ModuleInfo;
use std::collections::BTreeSet;
use translate::{parse, to_msl};

/// Nothing trusted, and everything.
fn ends() -> [Probes; 2] {
    [Probes::worst(), Probes::best()]
}

/// Each alone. What it changes stands in `lib/float.wgsl`, which every file includes: one shader of each file will do.
fn alone() -> [Probes; 5] {
    let none = Probes::worst();
    [
        Probes { fma: true, ..none },
        Probes { div: true, ..none },
        Probes { sqrt: true, ..none },
        Probes { half: true, ..none },
        Probes { wide: true, ..none },
    ]
}

/// The first shader of each file.
fn of_files() -> Vec<Shader> {
    let mut files = Vec::new();
    let mut all = shaders::all();
    all.retain(|shader| {
        let is_new = !files.contains(&shader.file);
        files.push(shader.file);
        is_new
    });
    all
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
        (0..shader.buffers).map(|i| (0, i, i + shader.writes >= shader.buffers)).collect();
    match shader.cache {
        Cache::None => {}
        Cache::Reads | Cache::Writes => expected.extend([(1, 0, true), (1, 1, true)]),
        Cache::State => expected.push((1, 0, true)),
    }
    assert_eq!(found, expected, "{shader:?}");
}

/// The parameters that the host sets are those of the shader, each with its name, its type and its place.
fn check_params(shader: &Shader, module: &naga::Module) {
    let mut globals = module.global_variables.iter().map(|(_, variable)| variable);
    let immediates = globals.find(|v| v.space == naga::AddressSpace::Immediate).unwrap();
    let naga::TypeInner::Struct { members, span } = &module.types[immediates.ty].inner else {
        panic!("{shader:?}: parameters are no struct")
    };
    let declared = members.iter().map(|member| {
        let naga::TypeInner::Scalar(scalar) = module.types[member.ty].inner else {
            panic!("{shader:?}: {:?} is no number", member.name)
        };
        let kinds = [(naga::Scalar::U32, Kind::U32), (naga::Scalar::F32, Kind::F32)];
        let kind = kinds.iter().find(|(of_naga, _)| *of_naga == scalar).unwrap().1;
        (member.name.clone().unwrap(), kind, member.offset as usize)
    });
    let behind = ROWS.len() * 4;
    let own = shader.params.iter().map(|field| Field { offset: behind + field.offset, ..*field });
    let set = ROWS.into_iter().chain(own);
    let set: Vec<_> = set.map(|field| (field.name.to_owned(), field.kind, field.offset)).collect();
    assert_eq!(declared.collect::<Vec<_>>(), set, "{}", shader.file);
    // Every parameter is a word; a device takes 64 bytes at least.
    assert!(*span as usize == 4 * set.len() && *span <= 64, "{shader:?}: {span} bytes");
}

fn to_spirv(module: &naga::Module, info: &ModuleInfo) {
    let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
    let words = spv::write_vec(module, info, &options, None).unwrap();
    assert!(words.len() > 100);
}

/// A name that a block of the text declares twice: naga declares the bytes of what goes into a packed product anew each time.
fn declared_twice(text: &str) -> Option<&str> {
    let mut blocks = vec![BTreeSet::new()];
    for line in text.lines() {
        let declared = line.trim_start().strip_prefix("packed_char4 ");
        if let Some(name) = declared.and_then(|rest| rest.split_once(" = ")).map(|(name, _)| name)
            && !blocks.last_mut()?.insert(name)
        {
            return Some(name);
        }
        blocks.extend(line.matches('{').map(|_| BTreeSet::new()));
        line.matches('}').for_each(|_| drop(blocks.pop()));
    }
    None
}

/// What is known to go wrong in Metal's language or wgpu's way to it.
fn check_msl(text: &str) {
    let (before, kernel) = text.split_once("kernel void main_(").unwrap();
    // Workgroup memory is an argument of the kernel alone: helpers that take a reference to it were miscompiled
    // (wgpu issue 4500).
    assert!(!before.contains("threadgroup "), "{before}");
    assert_eq!(declared_twice(text), None, "{text}");
    // Infinity and NaN stand in no arithmetic that a compiler sees.
    for word in ["INFINITY", "NAN", "isnan", "isinf"] {
        assert!(!text.contains(word), "{word} in\n{text}");
    }
    // A function of ours that is called as one of the library would be at the mercy of overload rules.
    for name in ["fma", "sqrt", "exp", "min", "max", "abs", "round", "rint", "select", "clamp"] {
        assert!(!before.contains(&format!(" {name}(\n")), "our own {name} in\n{before}");
    }
    assert!(kernel.contains("[[buffer(0)]]"), "{text}");
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
    let all = ends().map(|probes| (probes, shaders::all()));
    let few = alone().map(|probes| (probes, of_files()));
    let mut n = 0;
    for (probes, shaders) in all.into_iter().chain(few) {
        for shader in &shaders {
            let source = shaders::source(shader, probes).unwrap();
            let (module, info) = parse(&source);
            check_bindings(shader, &module);
            check_params(shader, &module);
            to_spirv(&module, &info);
            // Matrix units and doubles are used through Vulkan alone (`device.rs` says why).
            if shader.matrix.is_none() && !probes.wide {
                for checked in [false, true] {
                    check_msl(&to_msl(shader, probes, checked));
                }
                to_hlsl(&module, &info);
            }
            n += 1;
        }
    }
    println!("{n} shaders to SPIR-V, MSL and HLSL");
}

#[test]
fn every_pipeline_is_valid_on_a_device_that_computes_nothing() {
    let adapter = gpu::noop_adapter().unwrap();
    let doubles = Probes { wide: true, ..Probes::worst() };
    for probes in ends().into_iter().chain([doubles]) {
        let n = adapter.compile_all(probes).unwrap();
        println!("{n} pipelines, {probes:?}");
    }
}

#[test]
fn a_half_given_constant_is_an_error_not_a_shader() {
    let mut shader = shaders::all().into_iter().find(|s| s.file == "attention/attention").unwrap();
    shader.defines = gpu::template::Defines::new().flag("SINKS", false);
    let error = shaders::source(&shader, Probes::best()).unwrap_err();
    assert!(error.contains("attention/attention:") && error.contains("DIM_V"), "{error}");
}

#[test]
fn a_name_that_is_declared_twice_is_found() {
    let line = "packed_char4 reinterpreted_packed_char4_e7 = as_type<packed_char4>(_e7);";
    let once = format!("{{\n  {line}\n}}\n{{\n  {line}\n}}\n");
    assert_eq!(declared_twice(&once), None);
    let twice = format!("{{\n  {line}\n  {{\n  }}\n  {line}\n}}\n");
    assert_eq!(declared_twice(&twice), Some("reinterpreted_packed_char4_e7"));
}
