//! The kernels as Metal would get them, run on a CPU: naga's text in Metal's language, compiled as C++ with the part of its
//! library in `msl/metal_stdlib`, gives the bits of the devices here in three orders of threads. `docs/metal.md` says what
//! that proves and what it does not.
//!
//! Wanted: clang 16 or newer, and a device to record the calls on (lavapipe does); without them the test says so and
//! passes, with `CI` set it fails. `KARAT_MSL_SANITIZE=1` adds ASan and UBSan, `KARAT_MSL_KEEP=folder` keeps the files,
//! `KARAT_MSL_ONLY=text,…` runs the kernels whose files' names hold one of the texts, `KARAT_MSL_CASE=text,…` records the
//! cases whose names do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "what was skipped, and how much was run, is shown")]
#![allow(clippy::disallowed_methods, reason = "a test has no app::config")]

mod few;
mod skip;
mod translate;

use few::Few;
use gpu::matrix;
use gpu::params::ROWS;
use gpu::probes::Probes;
use gpu::record::Call;
use gpu::shaders::{self, Shader};
use graph::cases::{self, Case, Cut};
use graph::{Arithmetic, LoadOptions};
use skip::say_skipped;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// How a shader is written and compiled.
struct Variant {
    name: &'static str,
    probes: Probes,
    checked: bool,
    /// Metal's compiler is a clang, and wgpu leaves it in its default mode, which is fast math.
    fast: bool,
    /// What is done to the text: nothing, or harm that must be found.
    change: Change,
}

type Change = fn(String) -> String;

fn variants() -> [Variant; 3] {
    let (best, worst) = (Probes::best(), Probes::worst());
    // Fast math makes quotients and roots approximations, which the probes of a device find.
    let metal = Probes { div: false, sqrt: false, ..best };
    [
        Variant { name: "exact", probes: best, checked: false, fast: false, change: |text| text },
        Variant {
            name: "integers, checked",
            probes: worst,
            checked: true,
            fast: false,
            change: |text| text,
        },
        Variant {
            name: "fast math",
            probes: metal,
            checked: false,
            fast: true,
            change: |text| text,
        },
    ]
}

fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}, and CI is set");
    let thread = std::thread::current();
    say_skipped(&format!("{}: {why}", thread.name().unwrap_or("a test")));
}

fn clang() -> Option<&'static str> {
    ["clang++-19", "clang++-18", "clang++-17", "clang++-16", "clang++"].into_iter().find(|name| {
        // Apple's clang and those before 16 lack the elementwise builtins.
        let version = Command::new(name).arg("-dumpversion").output().ok();
        let text = version.map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        text.and_then(|t| t.split('.').next()?.trim().parse::<u32>().ok()).is_some_and(|v| v >= 16)
    })
}

/// The parameters of the kernel, one text each.
fn parameters(msl: &str) -> Vec<String> {
    let from = msl.split_once("kernel void main_(").unwrap().1;
    let (mut depth, mut all) = (0, vec![String::new()]);
    for c in from.chars() {
        match c {
            '(' | '[' | '<' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '>' => depth -= 1,
            ',' if depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        all.last_mut().unwrap().push(c);
    }
    all.iter().map(|p| p.trim().to_owned()).collect()
}

/// Metal has no double: a number without a suffix is a float there.
fn float_literals(msl: &str) -> String {
    let (mut out, mut chars) = (String::new(), msl.chars().peekable());
    while let Some(c) = chars.next() {
        let inside_name = out.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        out.push(c);
        if !c.is_ascii_digit() || inside_name {
            continue;
        }
        let mut is_float = false;
        while let Some(&next) = chars.peek() {
            let sign = (next == '-' || next == '+') && out.ends_with('e') && is_float;
            if !(next.is_alphanumeric() || next == '.' || sign) {
                break;
            }
            is_float |= next == '.';
            out.push(next);
            chars.next();
        }
        if is_float && !out.ends_with(['f', 'h']) {
            out.push('f');
        }
    }
    out
}

/// Our matrices lie in memory as vectors, of which naga's helper takes no pointers: Metal would refuse it, one more reason for
/// which no matrix unit is used there (`device.rs`). Here it takes them.
fn pointers_to_vectors(msl: String) -> String {
    let result = ["metal::simdgroup_half8x8 ", "metal::simdgroup_half16x16 "];
    result.into_iter().fold(msl, |msl, result| {
        let helper =
            |pointee: &str| format!("NagaCooperativeLoad(const threadgroup {pointee}* ptr");
        msl.replace(
            &format!("{result}{}", helper("half")),
            &format!("template <class Pointee> {result}{}", helper("Pointee")),
        )
    })
}

/// One translation unit: the kernel in a namespace of its own, and what calls it for one thread.
fn unit(msl: &str, id: usize) -> String {
    let (mut arguments, mut shared) = (Vec::new(), Vec::new());
    for parameter in parameters(msl) {
        let (declared, attribute) = parameter.split_once("[[").unwrap_or((&parameter, ""));
        let (kind, _) = declared.trim().rsplit_once(' ').unwrap();
        let object = kind.trim_end_matches('&').trim_start_matches("threadgroup ");
        if let Some(slot) = attribute.strip_prefix("buffer(") {
            let slot = slot.split(')').next().unwrap();
            arguments.push(format!("*({object} *)thread_.buffers[{slot}]"));
        } else if kind.starts_with("threadgroup ") {
            arguments.push(format!("*({object} *)thread_.shared[{}]", shared.len()));
            shared.push(format!("sizeof({object})"));
        } else if attribute.starts_with("threadgroup_position_in_grid") {
            let [x, y, z] = [0, 1, 2].map(|i| format!("thread_.group[{i}]"));
            arguments.push(format!("metal::uint3{{{x}, {y}, {z}}}"));
        } else if attribute.starts_with("thread_index_in_threadgroup") {
            arguments.push("thread_.index".to_owned());
        } else if attribute.starts_with("simdgroup_index_in_threadgroup") {
            arguments.push("thread_.index / msl_lanes()".to_owned());
        } else if attribute.starts_with("thread_index_in_simdgroup") {
            arguments.push("msl_lane()".to_owned());
        } else {
            panic!("unknown parameter: {parameter}");
        }
    }
    let n = shared.len();
    shared.push("0".to_owned());
    format!(
        "#include \"runtime.h\"\nnamespace {{\n{}\n}}\nvoid entry{id}(const Thread &thread_) {{ main_({}); }}\n\
         extern const size_t shared{id}[] = {{{}}};\nextern const size_t n_shared{id} = {n};\n",
        float_literals(msl),
        arguments.join(", "),
        shared.join(", ")
    )
}

/// Threads of a workgroup, as the shader says.
fn threads(shader: &Shader) -> u32 {
    let source = shaders::source(shader, Probes::best()).unwrap();
    let size = source.split_once("@workgroup_size(").unwrap().1;
    size.split(')').next().unwrap().parse().unwrap()
}

/// Threads of a simdgroup: as many as the matrix unit's, 32 on every GPU with Metal.
fn simd(shader: &Shader) -> u32 {
    shader.matrix.map_or(32, |matrix| matrix.subgroup)
}

/// What is compiled, and how.
struct Build {
    clang: &'static str,
    dir: PathBuf,
    sanitize: bool,
}

impl Build {
    fn flags(&self) -> Vec<&str> {
        let mut flags = vec!["-std=c++17"];
        if self.sanitize {
            // naga declares an array of unknown length as one of length 1, and casts floats as Metal defines it.
            let off = "alignment,array-bounds,float-divide-by-zero,float-cast-overflow";
            let off: &'static str = Box::leak(format!("-fno-sanitize={off}").into_boxed_str());
            flags.extend([
                "-g1",
                "-fsanitize=address,undefined",
                "-fno-sanitize-recover=undefined",
                off,
            ]);
        }
        flags
    }

    fn compile(&self, file: &Path, extra: &[&str]) {
        let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/msl");
        let out = Command::new(self.clang)
            .args(self.flags())
            .args(extra)
            .arg("-I")
            .arg(&include)
            .arg("-c")
            .arg(file)
            .arg("-o")
            .arg(file.with_extension("o"))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{}:\n{errors}", file.display());
    }

    fn kernel(&self, id: usize, shader: &Shader, variant: &Variant) {
        let file = self.dir.join(format!("k{id}.cpp"));
        let msl = translate::to_msl(shader, variant.probes, variant.checked);
        let msl = pointers_to_vectors(msl);
        let msl = (variant.change)(msl);
        std::fs::write(&file, unit(&msl, id)).unwrap();
        let math: &[&str] =
            if variant.fast { &["-O2", "-ffast-math"] } else { &["-O1", "-ffp-contract=off"] };
        // Halves are rounded after every operation, and not, as C++ allows, once behind an expression.
        let shim = ["-include", "metal_stdlib", "-Wno-everything", "-fexcess-precision=16"];
        // Every GPU with Metal has fma as an instruction; in fast math, without one, clang would not round once.
        #[cfg(target_arch = "x86_64")]
        let own: &[&str] = match (is_x86_feature_detected!("fma"), is_x86_feature_detected!("f16c"))
        {
            (true, true) => &["-mfma", "-mf16c"],
            (true, false) => &["-mfma"],
            _ => &[],
        };
        #[cfg(not(target_arch = "x86_64"))]
        let own: &[&str] = &[];
        self.compile(&file, &[math, own, &shim].concat());
    }

    /// Compiles all kernels in all variants and links them with the program that runs them.
    fn program(&self, shaders: &[Shader], variants: &[Variant]) -> PathBuf {
        let all: Vec<(usize, &Variant)> =
            (0..shaders.len()).flat_map(|s| variants.iter().map(move |v| (s, v))).collect();
        let next = Mutex::new(0..all.len());
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    loop {
                        let Some(id) = next.lock().unwrap().next() else { return };
                        self.kernel(id, &shaders[all[id].0], all[id].1);
                    }
                });
            }
        });
        let (mut declared, mut table) = (String::new(), String::new());
        for (id, (s, variant)) in all.iter().enumerate() {
            let (file, threads) = (shaders[*s].file, threads(&shaders[*s]));
            writeln!(declared, "void entry{id}(const Thread &); extern const size_t shared{id}[]; extern const size_t n_shared{id};").unwrap();
            writeln!(
                table,
                "  {{\"k{id} {file} {}\", {s}, {threads}, {}, entry{id}, shared{id}, n_shared{id}}},",
                variant.name,
                simd(&shaders[*s])
            )
            .unwrap();
        }
        let text = format!(
            "#include \"runtime.h\"\n{declared}const Kernel kernels[] = {{\n{table}  {{nullptr, 0, 0, 0, nullptr, nullptr, 0}}\n}};\n"
        );
        std::fs::write(self.dir.join("table.cpp"), text).unwrap();
        self.compile(&self.dir.join("table.cpp"), &[]);
        let runtime = self.dir.join("runtime.cpp");
        std::fs::write(&runtime, include_str!("msl/runtime.cpp")).unwrap();
        self.compile(&runtime, &["-O2"]);
        let program = self.dir.join("run");
        let objects = ["table", "runtime"].map(str::to_owned).into_iter();
        let objects = objects.chain((0..all.len()).map(|id| format!("k{id}")));
        let out = Command::new(self.clang)
            .args(self.flags())
            .args(objects.map(|o| self.dir.join(o + ".o")))
            .arg("-o")
            .arg(&program)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        program
    }
}

/// The calls in the form that `runtime.cpp` reads.
fn encode(calls: &[(usize, Call)]) -> Vec<u8> {
    let mut words = vec![calls.len() as u32];
    let list = |all: &mut Vec<u32>, part: &[u32]| {
        all.push(part.len() as u32);
        all.extend(part);
    };
    for (shader, call) in calls {
        words.push(*shader as u32);
        words.extend(call.grid);
        // They are checked in steps of 64 bytes.
        let mut params = call.params.clone();
        params.resize(16, 0);
        list(&mut words, &params);
        words.push(call.buffers.len() as u32);
        for (i, held) in call.buffers.iter().enumerate() {
            list(&mut words, held);
            let written = call.written.iter().find(|(at, _)| *at == i).map(|(_, w)| w);
            let updated = Call::updated(&call.shader) == Some(i);
            words.push(u32::from(written.is_some()) + u32::from(updated));
            if let Some(written) = written {
                let is: Vec<u32> = written.iter().map(|w| u32::from(w.is_some())).collect();
                list(&mut words, &is);
                let expected: Vec<u32> = written.iter().map(|w| w.unwrap_or(0)).collect();
                list(&mut words, &expected);
            }
        }
    }
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Runs calls with a program of `Build::program`, on all cores; what it says, and whether nothing was wrong.
fn run(program: &Path, calls: &[(usize, Call)]) -> (String, bool) {
    let n = std::thread::available_parallelism().map_or(1, usize::from);
    let start = |part: usize| {
        let part_of = calls.iter().skip(part).step_by(n).cloned().collect::<Vec<_>>();
        let file = program.with_file_name(format!("calls-{part}"));
        std::fs::write(&file, encode(&part_of)).unwrap();
        Command::new(program)
            .arg(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let running: Vec<_> = (0..n).map(start).collect();
    let (mut all, mut right) = (String::new(), true);
    for child in running {
        let out = child.wait_with_output().unwrap();
        all += &String::from_utf8_lossy(&out.stdout);
        all += &String::from_utf8_lossy(&out.stderr);
        right &= out.status.success();
    }
    (all, right)
}

/// The cases that are run: every op and format; those with the longest attention and one size of products are left to
/// the devices.
fn chosen() -> Vec<(Case, Vec<Cut>)> {
    let all = cases::all().unwrap().into_iter();
    all.filter_map(|case| {
        let product = case.name.starts_with("products");
        let small =
            ["n_in 7 ", "n_in 100 ", "n_in 96 ", "n_in 256 "].iter().any(|n| case.name.contains(n));
        let near = case.first_position == 0;
        let cuts =
            if product { vec![Cut::Chunks(512)] } else { vec![Cut::Chunks(72), Cut::Batch(512)] };
        (if product { small } else { near }).then_some((case, cuts))
    })
    .chain(experts())
    .collect()
}

/// Experts whose weights are a softmax over all, and over the chosen; with these come all steps of a router, and biases.
fn experts() -> impl Iterator<Item = (Case, Vec<Cut>)> {
    let all = cases::experts().unwrap().into_iter().enumerate();
    all.filter(|(i, _)| [0, 3].contains(i)).map(|(_, case)| (case, vec![Cut::Chunks(72)]))
}

/// How a format's weights are read does not depend on the arithmetic: `int16` in one decoder, and in products of formats whose
/// runs and sums differ.
fn is_wanted(case: &Case, options: LoadOptions) -> bool {
    let formats = [
        "products Q4_1 ",
        "products Q4_K ",
        "products Q2_K ",
        "products Q8_0 ",
        "decoder Q4_0",
        "experts Q8_0 ",
    ];
    options.arithmetic != Arithmetic::Int16
        || formats.iter().any(|format| case.name.contains(format))
}

fn only() -> String {
    std::env::var("KARAT_MSL_ONLY").unwrap_or_default()
}

fn only_cases() -> String {
    std::env::var("KARAT_MSL_CASE").unwrap_or_default()
}

/// Whether kernels or cases are left out on request.
fn is_part() -> bool {
    !(only().is_empty() && only_cases().is_empty())
}

/// Calls on a device, of products and attention on it where it takes the kernels with many lanes, and of RoPE and the
/// storing of keys and values each by itself, as devices with few buffers do them.
fn record(
    gpu: &gpu::Gpu,
    wide: Option<&gpu::Gpu>,
    narrow: &gpu::Gpu,
) -> (Vec<Shader>, Vec<(usize, Call)>) {
    let few = Few::default();
    let mut all: Vec<_> = chosen().into_iter().map(|(case, cuts)| (gpu, case, cuts)).collect();
    all.push((narrow, cases::decoders().unwrap().swap_remove(0), vec![Cut::Batch(512)]));
    if let Some(wide) = wide {
        let products = chosen().into_iter().filter(|(case, _)| case.name.starts_with("products"));
        // A plain one, one with a window, one with a cap: where fma is made of integers they take long.
        let decoders = cases::decoders().unwrap().into_iter().enumerate();
        let attention = decoders.filter(|(i, _)| [0, 2, 3].contains(i));
        let attention = attention.map(|(_, case)| (case, vec![Cut::Batch(512)]));
        all.extend(products.chain(attention).map(|(case, cuts)| (wide, case, cuts)));
    }
    let wanted = only_cases();
    all.retain(|(_, case, _)| wanted.split(',').any(|text| case.name.contains(text)));
    for (gpu, case, cuts) in all {
        for options in case.options().into_iter().filter(|options| is_wanted(&case, *options)) {
            for &cut in &cuts {
                let (graph, sink) = (Arc::clone(&case.graph), Box::new(few.clone()));
                let mut loaded = gpu.load_recorded(graph, &[&case.file], options, sink).unwrap();
                case.record(loaded.as_mut(), cut).unwrap();
                case.greedy(loaded.as_mut()).unwrap();
            }
        }
    }
    let mut calls = few.take();
    // No device here has a matrix unit: products in every form that one may have, several at once in one of them.
    let units = matrix::known();
    let on_units = |call: &Call| {
        let units = if call.shader.writes == 1 { &units[..] } else { &units[..1] };
        units.iter().filter_map(|&unit| call.on_matrix_unit(unit)).collect::<Vec<_>>()
    };
    let products: Vec<Call> = calls.iter().flat_map(on_units).collect();
    calls.extend(products.into_iter().chain(units.map(Call::of_matrix_probe)));
    let wanted = only();
    calls.retain(|call| wanted.split(',').any(|text| call.shader.file.contains(text)));
    let mut shaders: Vec<Shader> = Vec::new();
    let numbered = calls.into_iter().map(|call| {
        let at = shaders.iter().position(|s| *s == call.shader).unwrap_or_else(|| {
            shaders.push(call.shader.clone());
            shaders.len() - 1
        });
        (at, call)
    });
    let numbered = numbered.collect();
    (shaders, numbered)
}

/// As many parameters are recorded as the shader declares (`tests/shaders.rs` says that their names and places agree).
fn check_parameters(shaders: &[Shader], calls: &[(usize, Call)]) {
    for (at, call) in calls {
        let shader = &shaders[*at];
        assert_eq!(call.params.len(), ROWS.len() + shader.params.len(), "{shader:?}");
    }
}

/// Calls of the norm and of a matrix unit's products with barriers taken out, and with a word written past the end, are
/// found to be wrong.
fn check_that_harm_is_found(build: &Build, shaders: &[Shader], calls: &[(usize, Call)]) {
    let harms: [(&str, &str, Change); 4] = [
        ("norm_rope/rms_norm", "no barrier", |text| {
            text.replace("metal::threadgroup_barrier(", "(void)(")
        }),
        ("norm_rope/rms_norm", "out of range", |text| text.replace(" out[", " out[1u + ")),
        ("mat_mul/coop", "no barrier", |t| t.replace("metal::threadgroup_barrier(", "(void)(")),
        ("mat_mul/coop", "no barrier of a simdgroup", |text| {
            text.replace("metal::simdgroup_barrier(", "(void)(")
        }),
    ];
    for (file, name, change) in harms {
        let at = shaders.iter().position(|s| s.file == file).unwrap();
        let calls = calls.iter().filter(|(s, _)| *s == at).map(|(_, call)| (0, call.clone()));
        let calls: Vec<_> = calls.collect();
        let (best, checked, fast) = (Probes::best(), false, false);
        let variant = Variant { name, probes: best, checked, fast, change };
        let program = build.program(&shaders[at..=at], &[variant]);
        let (text, right) = run(&program, &calls);
        println!("{file}, {name}: {}", text.lines().last().unwrap_or(""));
        assert!(!right, "{file}, {name}, was not found:\n{text}");
    }
}

#[test]
fn metal_s_language_on_a_cpu_gives_the_bits() {
    let Some(clang) = clang() else { return skip("no clang 16 or newer") };
    let Some(adapter) = gpu::adapters(gpu::Api::Any).into_iter().next() else {
        return skip("no GPU device to record the calls on");
    };
    let gpu = adapter.open(2).unwrap();
    let start = std::time::Instant::now();
    let wide = gpu.widened();
    let narrow = gpu.narrowed(64 << 20);
    let (shaders, calls) = record(&gpu, wide.as_ref(), &narrow);
    check_parameters(&shaders, &calls);
    let keep = std::env::var_os("KARAT_MSL_KEEP").map(PathBuf::from);
    let dir = keep.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("msl"));
    std::fs::create_dir_all(&dir).unwrap();
    let sanitize = std::env::var_os("KARAT_MSL_SANITIZE").is_some();
    println!(
        "{} calls of {} shaders recorded on {} in {:.1} s",
        calls.len(),
        shaders.len(),
        adapter.info().name,
        start.elapsed().as_secs_f64()
    );
    let build = Build { clang, dir: dir.clone(), sanitize };
    let program = build.program(&shaders, &variants());
    println!(
        "{} variants compiled by {clang} in {:.1} s",
        3 * shaders.len(),
        start.elapsed().as_secs_f64()
    );
    let (text, right) = run(&program, &calls);
    println!("{text}{:.1} s in all", start.elapsed().as_secs_f64());
    assert!(right, "{text}");
    if !sanitize && !is_part() {
        check_that_harm_is_found(&build, &shaders, &calls);
    }
    if is_part() {
        let (kernels, cases) = (only(), only_cases());
        return say_skipped(&format!("kernels and cases but for \"{kernels}\" and \"{cases}\""));
    }
    // Every kernel is there, but for those that only open or measure a device.
    let missing: Vec<_> = shaders::all()
        .into_iter()
        .filter(|s| {
            !["probe/probe", "probe/limits"].contains(&s.file)
                && !shaders.iter().any(|r| r.file == s.file)
        })
        .map(|s| s.file)
        .collect();
    assert!(missing.is_empty(), "never called: {missing:?}");
}
