//! The heads of the kernels' files tell the truth: the flags and constants that a file uses, what a file that includes it
//! must declare, and that the host sets those names and no others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use gpu::probes::Probes;
use gpu::{kernels, shaders};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What WGSL itself declares, of what the kernels use.
const WGSL: &str = "if else for while return let var const fn struct true false enable \
    f16 f32 u32 u16 i32 bool vec2 vec3 vec4 array atomic bitcast select min max abs clamp round floor sqrt fma \
    workgroup storage read read_write immediate A B C main wgpu_int16 wgpu_cooperative_matrix \
    workgroup_id local_invocation_index num_workgroups subgroup_id subgroup_invocation_id \
    workgroupBarrier subgroupBarrier atomicStore atomicLoad atomicMax atomicMin atomicAdd dot4I8Packed extractBits \
    countLeadingZeros unpack4xI8 unpack2x16float coopLoad coopLoadT coopStore coopMultiplyAdd coop_mat*x*";

type Names = BTreeSet<String>;

/// A file, as its head says it is (`flags`, `constants`, `needs`) and as it is.
#[derive(Default)]
struct File {
    flags: Names,
    constants: Names,
    needs: Names,
    uses_flags: Names,
    uses_constants: Names,
    includes: Vec<String>,
    /// Names of WGSL that it uses, and those that it declares, loop variables of the template among them.
    uses: Names,
    declares: Names,
}

/// A name in which every number is a `*`: what stands for the number of a loop may be written out elsewhere.
fn any_number(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            '0'..='9' if out.ends_with('*') => {}
            '0'..='9' => out.push('*'),
            c => out.push(c),
        }
    }
    out
}

/// Names and single characters of a line of WGSL. `{{I}}` within a name is a `*`, by itself it is no name.
fn tokens(code: &str, constants: &mut Names) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let (mut rest, mut inside) = (code, false);
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{{") {
            let (name, after) = after.split_once("}}").unwrap();
            constants.insert(name.to_owned());
            if inside {
                out.last_mut().unwrap().push('*');
            } else {
                // A number: what follows it belongs to it.
                out.push("0".to_owned());
                inside = true;
            }
            rest = after;
            continue;
        }
        let is_word = c.is_alphanumeric() || c == '_';
        if is_word && inside {
            out.last_mut().unwrap().push(c);
        } else if !c.is_whitespace() {
            out.push(c.to_string());
        }
        inside = is_word;
        rest = &rest[c.len_utf8()..];
    }
    out
}

impl File {
    fn read(name: &str) -> Self {
        let mut file = Self::default();
        let text = kernels::text(name).unwrap_or_else(|| panic!("{name}: no such file"));
        let mut all = Vec::new();
        for line in text.lines() {
            let code = file.directives(line.trim_start());
            let code = code.split("//").next().unwrap();
            let mut constants = Names::new();
            all.extend(tokens(code, &mut constants));
            file.uses_constants.extend(constants);
        }
        file.names(&all);
        let loops: Vec<String> = file
            .declares
            .iter()
            .filter_map(|n| n.strip_prefix("{{")?.strip_suffix("}}").map(str::to_owned))
            .collect();
        let own = |name: &String| loops.contains(name);
        file.uses_constants.retain(|name| !own(name));
        let given = file.needs.clone();
        file.uses_constants.retain(|name| {
            let name = format!("{{{{{name}}}}}");
            !given.contains(&name) || !file.uses.insert(name)
        });
        file
    }

    /// Takes the directives of a line; what is left is WGSL.
    fn directives<'a>(&mut self, mut line: &'a str) -> &'a str {
        while line.starts_with('#') {
            let (word, text) = line.split_once(' ').unwrap_or((line, ""));
            let first = || text.split_whitespace().next().unwrap().to_owned();
            match word {
                "#flag" => self.flags.extend([first()]),
                "#const" => self.constants.extend([first()]),
                "#needs" => {
                    self.needs.extend(text.trim_end_matches(',').split(", ").map(any_number))
                }
                "#include" => self.includes.push(first()),
                "#if" | "#elif" => {
                    let flag = first();
                    self.uses_flags
                        .insert(flag.trim_start_matches('!').trim_end_matches(':').to_owned());
                }
                "#for" => {
                    self.declares.insert(format!("{{{{{}}}}}", first()));
                    let head = text.split(": ").next().unwrap();
                    tokens(head, &mut self.uses_constants);
                }
                "#else" | "#endif" | "#endfor" => {}
                _ => panic!("{line}"),
            }
            let is_one_line = ["#if", "#for"].contains(&word);
            line = text.split_once(": ").filter(|_| is_one_line).map_or("", |(_, body)| body);
        }
        line
    }

    /// Which names the tokens of the file use and declare.
    fn names(&mut self, tokens: &[String]) {
        let at = |i: usize| tokens.get(i).map_or("", String::as_str);
        for (i, token) in tokens.iter().enumerate() {
            let before = if i == 0 { "" } else { at(i - 1) };
            if !token.starts_with(|c: char| c.is_alphabetic() || c == '_') || before == "@" {
                continue;
            }
            let name = any_number(token);
            // `var<workgroup> name`: three tokens, or five with an access.
            let is_var = before == ">" && [4, 6].iter().any(|n| i >= *n && at(i - n) == "var");
            if is_var
                || at(i + 1) == ":"
                || ["fn", "let", "const", "struct", "var"].contains(&before)
            {
                self.declares.insert(name);
            } else if before == "." && i >= 2 && at(i - 2) == "p" {
                self.uses.insert(format!("p.{name}"));
            } else if before != "." {
                self.uses.insert(name);
            }
        }
    }
}

fn files() -> BTreeMap<&'static str, File> {
    kernels::NAMES.iter().map(|name| (*name, File::read(name))).collect()
}

/// A file and all that it includes, directly or not.
fn with_includes<'a>(files: &'a BTreeMap<&str, File>, name: &str) -> Vec<&'a File> {
    let file = &files[name];
    let more = file.includes.iter().flat_map(|name| with_includes(files, name));
    std::iter::once(file).chain(more).collect()
}

/// Whether some of the files declare a name; `p.n` is the field `n` of the parameters.
fn declare(files: &[&File], name: &str) -> bool {
    let name = name.strip_prefix("p.").unwrap_or(name);
    files.iter().any(|file| file.declares.contains(name))
}

#[test]
fn every_file_is_in_the_list() {
    let mut found = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels");
    for folder in std::fs::read_dir(&root).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path().with_extension("");
            let name: Vec<_> =
                path.strip_prefix(&root).unwrap().iter().map(|p| p.to_str().unwrap()).collect();
            found.push(name.join("/"));
        }
    }
    found.sort();
    assert_eq!(found, kernels::NAMES);
}

#[test]
fn a_head_lists_what_its_file_uses_and_needs() {
    let files = files();
    let wgsl: Names = WGSL.split_whitespace().map(any_number).collect();
    let mut wrong = Vec::new();
    for (name, file) in &files {
        let all = with_includes(&files, name);
        let mut free = file.uses.clone();
        free.extend(file.includes.iter().flat_map(|name| files[name.as_str()].needs.clone()));
        free.retain(|used| !declare(&all, used) && !wgsl.contains(used));
        if declare(&all, "Params") || free.iter().any(|used| used.starts_with("p.")) {
            free.remove("p");
        }
        let pairs = [
            ("#flag", &file.flags, &file.uses_flags),
            ("#const", &file.constants, &file.uses_constants),
            ("#needs", &file.needs, &free),
        ];
        for (what, says, is) in pairs {
            let (more, missing) = (says.difference(is), is.difference(says));
            wrong.extend(more.map(|n| format!("{name}: {what} {n} is not used")));
            wrong.extend(missing.map(|n| format!("{name}: {what} {n} is missing")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_host_sets_what_the_heads_list_and_nothing_else() {
    let files = files();
    // For each file and flag the values that it has in some shader; a constant has one.
    let mut set: BTreeMap<(&str, String), BTreeSet<bool>> = BTreeMap::new();
    let (worst, best) = (Probes::worst().defines(), Probes::best().defines());
    let wide = Probes { wide: true, ..Probes::worst() }.defines();
    for shader in shaders::all() {
        let mut names = vec![shader.file.to_owned()];
        let mut i = 0;
        while i < names.len() {
            names.extend(files[names[i].as_str()].includes.iter().cloned());
            i += 1;
        }
        let knows = |define: &str| {
            names
                .iter()
                .map(|n| &files[n.as_str()])
                .any(|f| f.flags.contains(define) || f.constants.contains(define))
        };
        let unknown: Vec<&str> = shader.defines.names().filter(|define| !knows(define)).collect();
        assert!(
            unknown.is_empty(),
            "{}: the host sets {unknown:?}, which no head lists",
            shader.file
        );
        for defines in [&shader.defines, &worst, &wide, &best, &shaders::constants()] {
            for define in defines.names() {
                let is_on = defines.is_on(define).unwrap_or(true);
                for name in &names {
                    let name = *kernels::NAMES.iter().find(|n| *n == name).unwrap();
                    set.entry((name, define.to_owned())).or_default().insert(is_on);
                }
            }
        }
    }
    for (name, file) in &files {
        for flag in &file.flags {
            let values = set.get(&(*name, flag.clone())).map_or(0, BTreeSet::len);
            assert_eq!(values, 2, "{name}: {flag} is not both on and off in some shader");
        }
        for constant in &file.constants {
            assert!(
                set.contains_key(&(*name, constant.clone())),
                "{name}: {constant} is never set"
            );
        }
    }
}
