//! Which format each tensor gets: the mixes of llama-quantize, and its fallbacks for rows that fit no block.

use super::file_type::FileType;
use super::recipe::{Mixing, OutputMatrix, Recipe, Target};
use super::rules::{self, Place};
use crate::arch::{has_deep_attention, is_70b};
use crate::{Error, ErrorKind, Result};
use gguf::{DType, File, TensorInfo};
use std::cmp::Ordering;

/// What becomes of one tensor.
pub(crate) struct Planned<'a> {
    pub(crate) info: &'a TensorInfo,
    pub(crate) dtype: DType,
}

/// Every tensor in the order of writing, with its format.
pub(crate) struct Plan<'a> {
    pub(crate) tensors: Vec<Planned<'a>>,
    pub(crate) fallbacks: usize,
}

impl Planned<'_> {
    /// Whether it is quantised for a second time.
    pub(super) fn is_requantised(&self) -> bool {
        self.dtype != self.info.dtype && !is_float(self.info.dtype) && !is_float(self.dtype)
    }
}

impl Plan<'_> {
    /// Whether a tensor has the format that a file of this type is named for.
    pub(super) fn has_type(&self, target: Target) -> bool {
        match target {
            Target::Type(file_type) => {
                self.tensors.iter().any(|planned| planned.dtype == file_type.dtype())
            }
            Target::Copy => true,
        }
    }
}

/// What the mixes ask about a model as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    arch: String,
    n_layer: u64,
    n_expert: u64,
    /// Query heads of the first layer.
    n_head: u64,
    /// Its key heads.
    n_head_kv: u64,
}

/// Chooses the formats of the tensors of a model. `has_matrix` says whether an importance matrix is given.
pub(crate) fn plan<'a>(
    facts: &Facts,
    tensors: &'a [TensorInfo],
    recipe: Recipe<'_>,
    has_matrix: bool,
) -> Result<Plan<'a>> {
    let tensors = in_order(tensors);
    let plain = match recipe.target {
        Target::Type(file_type) => file_type,
        Target::Copy => {
            let tensors = tensors.into_iter().map(|info| Planned { info, dtype: info.dtype });
            return Ok(Plan { tensors: tensors.collect(), fallbacks: 0 });
        }
    };
    let mut mixer = Mixer::new(facts, plain, &tensors);
    mixer.has_matrix = has_matrix;
    let mut plan = Plan { tensors: Vec::with_capacity(tensors.len()), fallbacks: 0 };
    for info in tensors {
        let wanted = if is_kept(info, recipe.output) {
            Wanted::Exactly(info.dtype)
        } else {
            mixer.choose(info, recipe)?
        };
        let dtype = match wanted {
            Wanted::Exactly(dtype) => dtype,
            Wanted::Fitting(dtype) => fitting(dtype, info),
        };
        plan.fallbacks += usize::from(dtype != wanted.dtype());
        plan.tensors.push(Planned { info, dtype });
    }
    Ok(plan)
}

/// The same format for every matrix that is quantised at all, and the fallbacks where it does not fit.
pub(crate) fn plan_pure(wanted: DType, tensors: &[TensorInfo]) -> Plan<'_> {
    let mut plan = Plan { tensors: Vec::with_capacity(tensors.len()), fallbacks: 0 };
    for info in in_order(tensors) {
        let dtype = if is_quantised(info) { fitting(wanted, info) } else { info.dtype };
        plan.fallbacks += usize::from(is_quantised(info) && dtype != wanted);
        plan.tensors.push(Planned { info, dtype });
    }
    plan
}

/// A format that was chosen for a tensor.
#[derive(Clone, Copy)]
enum Wanted {
    /// It, or a related one where the rows are no whole blocks of it.
    Fitting(DType),
    /// It or nothing.
    Exactly(DType),
}

impl Wanted {
    fn dtype(self) -> DType {
        match self {
            Self::Fitting(dtype) | Self::Exactly(dtype) => dtype,
        }
    }
}

fn in_order(tensors: &[TensorInfo]) -> Vec<&TensorInfo> {
    let mut tensors: Vec<&TensorInfo> = tensors.iter().collect();
    tensors.sort_by(|a, b| by_layer(&a.name, &b.name));
    tensors
}

/// llama.cpp's order: tensors outside of the layers first, then layer by layer, by name. The mixes count along it.
fn by_layer(a: &str, b: &str) -> Ordering {
    layer_of(a).cmp(&layer_of(b)).then_with(|| a.cmp(b))
}

/// The layer that a name says, `None` (which is less) outside of layers.
fn layer_of(name: &str) -> Option<u64> {
    let (number, _) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse().ok()
}

fn is_float(dtype: DType) -> bool {
    dtype.quant().is_none()
}

/// Parts of names of matrices that are small or sensitive, and stay as they are.
const KEPT: [&str; 35] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// Whether a tensor stays as it is.
fn is_kept(info: &TensorInfo, output: OutputMatrix) -> bool {
    !is_quantised(info) || (output == OutputMatrix::Kept && info.name == "output.weight")
}

/// Whether a tensor is converted at all: matrices named `….weight`, save the [`KEPT`] ones and learnt positions.
fn is_quantised(info: &TensorInfo) -> bool {
    let name = info.name.as_str();
    // ggml does not count trailing dimensions of 1.
    let n_dims = info.dims.iter().rposition(|&n| n > 1).map_or(1, |last| last + 1);
    n_dims >= 2
        && name.ends_with("weight")
        && !matches!(name, "position_embd.weight" | "token_types.weight")
        && !KEPT.iter().any(|kept| name.contains(kept))
}

/// What a tensor is for, as far as the mixes ask. By name, as llama-quantize has it: it also takes files of
/// architectures that karat does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Category {
    Output,
    TokenEmbd,
    /// Values, also where they are fused with queries and keys.
    AttnV,
    AttnK,
    AttnOutput,
    FfnDown,
    /// Gate and up projections. They get the plain format; in a model with experts llama-quantize also checks the layer
    /// number in their names.
    FfnIn,
    Other,
}

impl Category {
    fn of(name: &str) -> Self {
        let has = |part: &str| name.contains(part);
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Self::TokenEmbd,
            _ if has("attn_qkv.weight") || has("attn_kv_b.weight") || has("attn_v.weight") => {
                Self::AttnV
            }
            _ if has("attn_k.weight") => Self::AttnK,
            _ if has("attn_q.weight") => Self::Other,
            _ if has("attn_output.weight") => Self::AttnOutput,
            _ if has("ffn_up") || has("ffn_gate") => Self::FfnIn,
            _ if has("ffn_down") => Self::FfnDown,
            _ => Self::Other,
        }
    }
}

/// The rules of a mix. Some go by the number of tensors of a category that came before, which is counted here.
struct Mixer {
    file_type: FileType,
    facts: Facts,
    has_matrix: bool,
    /// Whether the embedding is the output matrix.
    tied: bool,
    n_attn_v: u64,
    seen_attn_v: u64,
    seen_ffn_down: u64,
}

impl Facts {
    pub(crate) fn of(source: &File) -> Result<Self> {
        let arch = source.str("general.architecture")?.unwrap_or_default();
        // It alone has a list of its own of tensors that are kept or never go below Q8_0.
        if arch == "glm5-next" {
            let what = "general.architecture: llama-quantize has rules for \"glm5-next\" that karat does not have";
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let get = |key: &str| source.u64(&format!("{arch}.{key}"));
        // Some architectures give the heads layer by layer; the first layer's count.
        let heads = |key: &str| {
            let key = format!("{arch}.attention.{key}");
            let all = source.u32s(&key).ok().flatten();
            let first = all.and_then(|all| all.first().copied()).map(u64::from);
            first.or_else(|| source.u64(&key).ok().flatten())
        };
        let n_head = heads("head_count").unwrap_or(0);
        Ok(Self {
            n_layer: get("block_count")?.unwrap_or(0),
            n_expert: get("expert_count")?.unwrap_or(0),
            n_head,
            n_head_kv: heads("head_count_kv").unwrap_or(n_head),
            arch: arch.into_owned(),
        })
    }

    /// Whether llama-quantize takes it for a 70B, whose value projections get more bits.
    fn is_70b(&self) -> bool {
        is_70b(&self.arch, self.n_layer, self.n_head != self.n_head_kv)
    }

    fn is_falcon(&self) -> bool {
        self.arch == "falcon"
    }
}

impl Mixer {
    fn new(facts: &Facts, file_type: FileType, tensors: &[&TensorInfo]) -> Self {
        let count = |category: Category| {
            tensors.iter().filter(|info| Category::of(&info.name) == category).count()
        };
        Self {
            file_type,
            facts: facts.clone(),
            has_matrix: false,
            tied: count(Category::Output) == 0,
            n_attn_v: count(Category::AttnV) as u64,
            seen_attn_v: 0,
            seen_ffn_down: 0,
        }
    }

    /// The format of a tensor that is quantised: what flags say of it, else what the file type says.
    fn choose(&mut self, info: &TensorInfo, recipe: Recipe<'_>) -> Result<Wanted> {
        let (plain, category) = (self.file_type.dtype(), Category::of(&info.name));
        let named = recipe.named.iter().find(|named| named.fits(&info.name));
        // The flag for the embedding is for gemma's table per layer, too, unless that is named.
        let is_embedding = category == Category::TokenEmbd
            && (info.name == "token_embd.weight" || named.is_none());
        if let Some(dtype) = recipe.token_embedding.filter(|_| is_embedding) {
            return exactly(dtype, info);
        }
        if let Some(dtype) = recipe.output.dtype().filter(|_| category == Category::Output) {
            return exactly(dtype, info);
        }
        if is_float(plain) {
            return Ok(Wanted::Exactly(plain));
        }
        let pure = recipe.mixing == Mixing::Pure || self.file_type == FileType::MXFP4;
        Ok(Wanted::Fitting(match named {
            Some(named) => encodable(named.dtype, info)?,
            None if pure => plain,
            // Without an output matrix the embedding is it.
            None if category == Category::Output => self.output(info),
            None if category == Category::TokenEmbd && self.tied => {
                recipe.output.dtype().unwrap_or_else(|| self.output(info))
            }
            None => self.mixed(info, category)?,
        }))
    }

    /// The format that the mix gives a tensor that is no output matrix.
    fn mixed(&mut self, info: &TensorInfo, category: Category) -> Result<DType> {
        let plain = self.file_type.dtype();
        if self.file_type == FileType::MXFP4_MOE {
            return Ok(self.mxfp4_moe(info, category));
        }
        Ok(match category {
            Category::Output | Category::TokenEmbd | Category::Other => plain,
            Category::AttnV => self.attn_v(),
            Category::AttnK if self.facts.n_expert == 8 => DType::Q8_0,
            Category::AttnK => plain,
            Category::AttnOutput => {
                rules::attn_output(self.file_type, &self.place(0, 0)).unwrap_or(plain)
            }
            Category::FfnDown => self.ffn_down(info)?,
            Category::FfnIn => {
                self.expert_layer(info)?;
                plain
            }
        })
    }

    fn output(&self, info: &TensorInfo) -> DType {
        let plain = self.file_type.dtype();
        let fits = info.row_len().is_multiple_of(plain.block_len() as u64);
        let large = matches!(self.file_type, FileType::Q8_0 | FileType::MXFP4_MOE);
        if large || self.facts.is_falcon() || !fits { DType::Q8_0 } else { DType::Q6_K }
    }

    /// Experts lie one behind the other in a third dimension. In Ling 3.0, matrices of attention do so, too.
    fn mxfp4_moe(&self, info: &TensorInfo, category: Category) -> DType {
        let is_deep = info.dims.get(2).is_some_and(|&n| n > 1);
        let is_ffn = matches!(category, Category::FfnIn | Category::FfnDown);
        let is_expert = is_deep && (!has_deep_attention(&self.facts.arch) || is_ffn);
        if is_expert { DType::MXFP4 } else { DType::Q8_0 }
    }

    fn place(&self, layer: u64, n_layers: u64) -> Place {
        Place {
            layer,
            n_layers,
            heads_per_key: self.facts.n_head.checked_div(self.facts.n_head_kv).unwrap_or(0),
            n_expert: self.facts.n_expert,
            is_falcon: self.facts.is_falcon(),
            has_matrix: self.has_matrix,
        }
    }

    fn attn_v(&mut self) -> DType {
        let place = self.place(self.seen_attn_v, self.n_attn_v);
        self.seen_attn_v += 1;
        // With eight experts the attention is a small part of the model.
        if self.facts.n_expert == 8 {
            return DType::Q8_0;
        }
        let dtype = rules::attn_v(self.file_type, &place).unwrap_or(self.file_type.dtype());
        let small = matches!(dtype, DType::Q3_K | DType::Q4_K);
        if small && self.facts.is_70b() { DType::Q5_K } else { dtype }
    }

    fn ffn_down(&mut self, info: &TensorInfo) -> Result<DType> {
        let layer = self.expert_layer(info)?.unwrap_or(self.seen_ffn_down);
        self.seen_ffn_down += 1;
        let place = self.place(layer, self.facts.n_layer);
        Ok(rules::ffn_down(self.file_type, &place).unwrap_or(self.file_type.dtype()))
    }

    /// In a model with experts, whose tensors are not met in the order of layers, the layer that the name says.
    fn expert_layer(&self, info: &TensorInfo) -> Result<Option<u64>> {
        if self.facts.n_expert <= 1 {
            return Ok(None);
        }
        let n_layer = self.facts.n_layer;
        let bad = |found: String| {
            let what = format!("tensor {}: {found}, allowed layers 0..{n_layer}", info.name);
            Error::new(ErrorKind::BadTensor, what)
        };
        match layer_of(&info.name) {
            Some(layer) if layer < n_layer => Ok(Some(layer)),
            Some(layer) => Err(bad(format!("layer {layer}"))),
            None => Err(bad("no layer in the name".to_owned())),
        }
    }
}

/// A format that a flag names, if karat has an encoder of it, or the tensor is in it already.
fn encodable(dtype: DType, info: &TensorInfo) -> Result<DType> {
    if dtype.has_encoder() || info.dtype == dtype {
        return Ok(dtype);
    }
    let all = DType::ALL.into_iter().filter(|dtype| dtype.has_encoder());
    let known = all.map(DType::name).collect::<Vec<_>>().join(" ");
    let what =
        format!("tensor {}: karat does not quantise to {dtype}, allowed are {known}", info.name);
    Err(Error::new(ErrorKind::BadRequest, what))
}

/// A format that a flag names for one tensor: there is no other where it does not fit.
fn exactly(dtype: DType, info: &TensorInfo) -> Result<Wanted> {
    let (row, block) = (info.row_len(), encodable(dtype, info)?.block_len() as u64);
    let name = &info.name;
    if row.is_multiple_of(block) {
        return Ok(Wanted::Exactly(dtype));
    }
    let what = format!(
        "tensor {name}: rows of {row} are no whole blocks of {dtype}, allowed multiples of {block}"
    );
    Err(Error::new(ErrorKind::BadRequest, what))
}

/// `wanted` where the rows are whole blocks of it, else its stand-in with shorter blocks, else F16.
fn fitting(wanted: DType, info: &TensorInfo) -> DType {
    let fits = |dtype: DType| info.row_len().is_multiple_of(dtype.block_len() as u64);
    if fits(wanted) {
        return wanted;
    }
    let shorter = wanted.shorter().unwrap_or(wanted);
    if fits(shorter) { shorter } else { DType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::rules::more_bits;
    use crate::{Branch, Role};
    use gguf::{Builder, Value};

    /// A model of 16 layers with one matrix of each category in each, rows of 256.
    fn model(arch: &str, keys: &[(&str, u32)], extra: &[(&str, &[u64])]) -> File {
        let mut builder = Builder::new().kv("general.architecture", arch);
        let defaults =
            [("block_count", 16), ("attention.head_count", 8), ("attention.head_count_kv", 8)];
        for &(key, value) in defaults.iter().chain(keys) {
            builder = builder.kv(&format!("{arch}.{key}"), Value::U32(value));
        }
        let key = |wanted: &str| keys.iter().find(|(key, _)| *key == wanted).map(|(_, n)| *n);
        let n_layer = key("block_count").unwrap_or(16);
        let n_expert = key("expert_count").map_or(1, u64::from);
        let mut names = vec!["token_embd.weight".to_owned(), "output_norm.weight".to_owned()];
        for category in [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
            "attn_norm",
        ] {
            // By name, as a converter writes them: layer 10 comes before layer 2.
            let mut layers: Vec<String> =
                (0..n_layer).map(|layer| format!("blk.{layer}.{category}.weight")).collect();
            layers.sort();
            names.extend(layers);
        }
        for name in &names {
            let dims: &[u64] = match name {
                _ if name.contains("norm") => &[256],
                _ if name.contains("ffn") && n_expert > 1 => &[256, 2, n_expert],
                _ => &[256, 2],
            };
            let zeros = vec![0; 4 * dims.iter().product::<u64>() as usize];
            builder = builder.tensor(name, DType::F32, dims, &zeros);
        }
        for &(name, dims) in extra {
            let zeros = vec![0; 4 * dims.iter().product::<u64>() as usize];
            builder = builder.tensor(name, DType::F32, dims, &zeros);
        }
        File::from_bytes(builder.build().unwrap()).unwrap()
    }

    fn plan(file: &File, file_type: FileType) -> Result<Plan<'_>> {
        super::plan(&Facts::of(file)?, file.tensors(), file_type.into(), false)
    }

    /// The formats of one category, one letter for a layer: 4, 5 and 6 for K-quants, 8 for Q8_0.
    fn layers(file: &File, file_type: FileType, category: &str) -> String {
        let plan = plan(file, file_type).unwrap();
        let of = |layer: usize| {
            let name = format!("blk.{layer}.{category}.weight");
            let planned = plan.tensors.iter().find(|planned| planned.info.name == name).unwrap();
            planned.dtype.name().chars().nth(1).unwrap()
        };
        (0..16).map(of).collect()
    }

    fn one(file: &File, file_type: FileType, name: &str) -> DType {
        let plan = plan(file, file_type).unwrap();
        plan.tensors.iter().find(|planned| planned.info.name == name).unwrap().dtype
    }

    /// The models of `tools/quantize_mixes.py`.
    fn named_model(name: &str) -> File {
        let grouped = ("attention.head_count_kv", 2);
        match name {
            "plain" => model("llama", &[], &[]),
            "grouped" => model("llama", &[grouped], &[]),
            "eight" => model("llama", &[("expert_count", 8)], &[]),
            "four" => model("llama", &[("expert_count", 4)], &[]),
            "falcon" => model("falcon", &[], &[]),
            "70b" => model("llama", &[("block_count", 80), grouped], &[]),
            other => panic!("{other}"),
        }
    }

    fn letter(dtype: DType) -> char {
        match dtype.name() {
            "IQ4_NL" => 'n',
            "IQ4_XS" => 'x',
            "MXFP4" => 'm',
            other => other.chars().nth(1).unwrap(),
        }
    }

    /// What llama-quantize gives models whose architecture, heads, experts or layers it has rules for.
    #[test]
    fn mixes_are_llama_quantize_s() {
        let mut checked = 0;
        for line in include_str!("mixes.txt").lines() {
            let mut words = line.split(' ');
            let file = named_model(words.next().unwrap());
            let plan = plan(&file, words.next().unwrap().parse().unwrap()).unwrap();
            let wanted: Vec<_> = words.map(|word| word.split_once('=').unwrap()).collect();
            for planned in plan.tensors.iter().filter(|planned| is_quantised(planned.info)) {
                let name = planned.info.name.as_str();
                let category = name.split('.').rev().nth(1).unwrap();
                let layer = layer_of(name).unwrap_or(0) as usize;
                let of = |category: &str| wanted.iter().find(|(key, _)| *key == category);
                let (_, letters) = of(category.trim_end_matches("_exps")).or(of("attn_q")).unwrap();
                let theirs = letters.chars().nth(layer).or(letters.chars().next());
                assert_eq!(Some(letter(planned.dtype)), theirs, "{line}: {name}");
                checked += 1;
            }
        }
        assert_eq!(checked, 13 * (5 * (7 * 16 + 1) + 7 * 80 + 1));
    }

    #[test]
    fn more_bits_for_first_last_and_every_third_layer() {
        let layers = |n| (0..n).filter(|&layer| more_bits(layer, n)).collect::<Vec<_>>();
        assert_eq!(layers(16), [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!(layers(30), [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]);
        assert_eq!(layers(1), [0]);
    }

    const MORE: &str = "6644644644644666";
    const ALL_4: &str = "4444444444444444";
    const ALL_8: &str = "8888888888888888";

    #[test]
    fn mixes() {
        let file = model("llama", &[], &[]);
        for category in ["attn_v", "ffn_down"] {
            assert_eq!(layers(&file, FileType::Q4_K_M, category), MORE, "{category}");
            assert_eq!(
                layers(&file, FileType::Q5_K_M, category),
                MORE.replace('4', "5"),
                "{category}"
            );
            assert_eq!(layers(&file, FileType::Q6_K, category), "6".repeat(16), "{category}");
            assert_eq!(layers(&file, FileType::Q4_0, category), ALL_4, "{category}");
        }
        for category in ["attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"] {
            assert_eq!(layers(&file, FileType::Q4_K_M, category), ALL_4, "{category}");
        }
        // F32 as they were.
        assert_eq!(layers(&file, FileType::Q4_K_M, "attn_norm"), "3".repeat(16));
        assert_eq!(one(&file, FileType::Q8_0, "output_norm.weight"), DType::F32);
    }

    #[test]
    fn output_and_embedding() {
        let tied = model("llama", &[], &[]);
        let untied = model("llama", &[], &[("output.weight", &[256, 2])]);
        for (file_type, alone, apart) in [
            (FileType::Q4_K_M, DType::Q6_K, DType::Q4_K),
            (FileType::Q4_0, DType::Q6_K, DType::Q4_0),
            (FileType::Q5_1, DType::Q6_K, DType::Q5_1),
            (FileType::Q8_0, DType::Q8_0, DType::Q8_0),
            (FileType::BF16, DType::BF16, DType::BF16),
        ] {
            assert_eq!(one(&tied, file_type, "token_embd.weight"), alone, "{file_type}");
            assert_eq!(one(&untied, file_type, "token_embd.weight"), apart, "{file_type}");
            assert_eq!(one(&untied, file_type, "output.weight"), alone, "{file_type}");
        }
    }

    #[test]
    fn experts() {
        let eight =
            model("llama", &[("expert_count", 8)], &[("blk.3.ffn_gate_inp.weight", &[256, 8])]);
        for category in ["attn_v", "attn_k"] {
            assert_eq!(layers(&eight, FileType::Q4_K_M, category), ALL_8, "{category}");
        }
        assert_eq!(layers(&eight, FileType::Q4_K_M, "attn_output"), ALL_4.replace('4', "5"));
        assert_eq!(layers(&eight, FileType::Q5_K_M, "attn_output"), ALL_4.replace('4', "5"));
        assert_eq!(layers(&eight, FileType::Q4_0, "attn_output"), ALL_4);
        assert_eq!(layers(&eight, FileType::Q4_K_M, "ffn_down"), MORE);
        assert_eq!(one(&eight, FileType::Q4_K_M, "blk.3.ffn_gate_inp.weight"), DType::F32);

        let deep =
            model("llama", &[("expert_count", 4)], &[("blk.16.ffn_down_exps.weight", &[256, 2])]);
        let error = plan(&deep, FileType::Q4_K_M).err().unwrap().to_string();
        assert_eq!(error, "tensor blk.16.ffn_down_exps.weight: layer 16, allowed layers 0..16");
    }

    #[test]
    fn models_with_rules_of_their_own() {
        // As deep as a 70B, but with as many key heads as query heads.
        let llama65b = model("llama", &[("block_count", 80)], &[]);
        assert_eq!(layers(&llama65b, FileType::Q4_K_M, "attn_v"), "6666666666446446");
        let error = plan(&model("glm5-next", &[], &[]), FileType::Q4_0).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn rows_that_fit_no_block() {
        let file = model(
            "llama",
            &[],
            &[
                ("blk.0.a.weight", &[96, 2]),
                ("blk.0.b.weight", &[48, 2]),
                ("blk.0.ffn_down_shexp.weight", &[96, 2]),
                ("output.weight", &[48, 2]),
            ],
        );
        let get = |file_type, name| one(&file, file_type, name);
        assert_eq!(get(FileType::Q4_K_M, "blk.0.a.weight"), DType::Q5_0);
        assert_eq!(get(FileType::Q5_K_M, "blk.0.a.weight"), DType::Q5_1);
        assert_eq!(get(FileType::Q6_K, "blk.0.a.weight"), DType::Q8_0);
        assert_eq!(get(FileType::Q4_0, "blk.0.a.weight"), DType::Q4_0);
        assert_eq!(get(FileType::Q4_K_M, "blk.0.ffn_down_shexp.weight"), DType::Q8_0);
        for file_type in [FileType::Q4_K_M, FileType::Q6_K, FileType::Q8_0, FileType::Q4_1] {
            assert_eq!(get(file_type, "blk.0.b.weight"), DType::F16, "{file_type}");
            assert_eq!(get(file_type, "output.weight"), DType::F16, "{file_type}");
        }
        assert_eq!(get(FileType::F32, "blk.0.b.weight"), DType::F32);
        assert_eq!(plan(&file, FileType::Q8_0).unwrap().fallbacks, 2);
    }

    /// The mixes know tensors by name, the decoder says how it uses them: the two must not contradict each other.
    #[test]
    fn names_say_what_the_decoder_uses_them_for() {
        for arch in crate::arch::ARCHS {
            let mut builder = Builder::new()
                .kv("general.architecture", arch.name)
                .kv(&format!("{}.{}", arch.name, arch.eps_key()), Value::F32(1e-5));
            for (key, n) in [
                ("vocab_size", 8),
                ("block_count", 2),
                ("context_length", 64),
                ("embedding_length", 256),
                ("feed_forward_length", 512),
                ("attention.head_count", 4),
            ] {
                builder = builder.kv(&format!("{}.{key}", arch.name), Value::U32(n));
            }
            for (key, value) in arch.usual.keys {
                builder = builder.kv(&format!("{}.{key}", arch.name), value.clone());
            }
            if arch.usual.attention_every > 1 {
                let heads = Value::Array(gguf::Array::U32(vec![0, 4]));
                builder = builder.kv(&format!("{}.attention.head_count_kv", arch.name), heads);
            }
            let file = File::from_bytes(builder.build().unwrap()).unwrap();
            for tensor in arch.tensors(&crate::spec(&file).unwrap()).unwrap() {
                let (name, role) = (tensor.name.as_str(), tensor.role);
                let dims = tensor.shape.iter().map(|dim| dim.n as u64).collect();
                let info = TensorInfo {
                    name: name.to_owned(),
                    dtype: DType::F32,
                    dims,
                    offset: 0,
                    n_bytes: 0,
                    shard: 0,
                };
                // llama-quantize leaves routers as they are, which experts a token gets hangs on their last bits, and learned positions.
                let is_kept = role == Role::Positions || name.contains("ffn_gate_inp");
                let wanted = !role.is_elementwise() && !is_kept;
                assert_eq!(is_quantised(&info), wanted, "{name} {role:?}");
                let category = Category::of(name);
                let agrees = match role {
                    Role::Table => category == Category::TokenEmbd,
                    Role::Output => category == Category::Output,
                    Role::Positions => category == Category::Other,
                    // llama-quantize knows the output projection of attention only.
                    Role::Branch { branch: Branch::Mixer, .. } => {
                        let is_attention = name.contains("attn_output");
                        (category == Category::AttnOutput) == is_attention
                            && (is_attention || category == Category::Other)
                    }
                    Role::Branch { branch: Branch::FeedForward, .. } => {
                        category == Category::FfnDown
                    }
                    Role::Inner => matches!(
                        category,
                        Category::AttnV | Category::AttnK | Category::FfnIn | Category::Other
                    ),
                    Role::Norm(_) | Role::Conv | Role::Bias | Role::Sinks | Role::RopeFactors => {
                        true
                    }
                };
                assert!(agrees, "{name} is {role:?} and {category:?}");
            }
        }
    }

    #[test]
    fn what_stays() {
        let extra: &[(&str, &[u64])] = &[
            ("blk.0.attn_q.bias", &[256, 2]),
            ("blk.0.attn_q_norm.weight", &[256, 2]),
            ("blk.0.ssm_conv1d.weight", &[256, 2]),
            ("blk.0.flat.weight", &[512, 1]),
            ("position_embd.weight", &[256, 2]),
            ("blk.0.cube.weight", &[256, 1, 2]),
        ];
        let file = model("llama", &[], extra);
        for (name, _) in &extra[..5] {
            assert_eq!(one(&file, FileType::Q4_0, name), DType::F32, "{name}");
        }
        assert_eq!(one(&file, FileType::Q4_0, "blk.0.cube.weight"), DType::Q4_0);
    }
}
