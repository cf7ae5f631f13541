//! What the mixes of llama-quantize give the tensors that get more than the plain format, file type by file type.

use super::file_type::FileType;
use gguf::DType;

/// What the rules ask about a tensor and its model.
pub(super) struct Place {
    /// Its layer, or how many tensors of its category came before.
    pub(super) layer: u64,
    /// All layers, or all tensors of the category.
    pub(super) n_layers: u64,
    /// Query heads that share a key head.
    pub(super) heads_per_key: u64,
    /// Experts of a layer.
    pub(super) n_expert: u64,
    /// Falcon's mixes differ in several places.
    pub(super) is_falcon: bool,
    /// Whether an importance matrix is given.
    pub(super) has_matrix: bool,
}

impl Place {
    /// Whether it is among the first layers, one in `part` of all.
    fn is_first(&self, part: u64) -> bool {
        self.layer < self.n_layers / part
    }

    /// The first and the last eighth of the layers, and every third between them.
    fn has_more_bits(&self) -> bool {
        more_bits(self.layer, self.n_layers)
    }

    /// Value projections are small beside the queries where four heads or more share them.
    fn is_grouped(&self) -> bool {
        self.heads_per_key >= 4
    }
}

pub(super) fn more_bits(layer: u64, n_layers: u64) -> bool {
    let eighth = n_layers / 8;
    layer < eighth || layer >= n_layers.saturating_mul(7) / 8 || (layer - eighth) % 3 == 2
}

/// The format of a value projection; `None` for the plain one.
pub(super) fn attn_v(file_type: FileType, at: &Place) -> Option<DType> {
    use FileType as T;
    match file_type {
        T::Q2_K => Some(if at.is_grouped() { DType::Q4_K } else { DType::Q3_K }),
        T::Q2_K_S => at.is_grouped().then_some(DType::Q4_K),
        T::Q3_K_M => Some(if at.layer < 2 { DType::Q5_K } else { DType::Q4_K }),
        T::Q3_K_L => Some(DType::Q5_K),
        T::Q4_K_S => (at.layer < 4).then_some(DType::Q5_K),
        T::Q4_K_M | T::Q5_K_M => at.has_more_bits().then_some(DType::Q6_K),
        T::IQ4_NL | T::IQ4_XS => at.is_grouped().then_some(DType::Q5_K),
        T::F32 | T::F16 | T::BF16 | T::Q8_0 | T::Q6_K | T::Q5_K_S => None,
        T::Q5_1 | T::Q5_0 | T::Q4_1 | T::Q4_0 | T::MXFP4 | T::MXFP4_MOE | T::Q3_K_S => None,
    }
}

/// The same of a down projection.
pub(super) fn ffn_down(file_type: FileType, at: &Place) -> Option<DType> {
    use FileType as T;
    let falcon = at.is_falcon;
    match file_type {
        T::Q2_K => Some(DType::Q3_K),
        T::Q2_K_S => at.is_first(8).then_some(DType::Q4_K),
        T::Q3_K_M if at.is_first(16) => Some(DType::Q5_K),
        T::Q3_K_M => (!falcon || at.has_more_bits()).then_some(DType::Q4_K),
        T::Q3_K_L => Some(if falcon { DType::Q4_K } else { DType::Q5_K }),
        T::Q4_K_S => (!falcon && at.is_first(8)).then_some(DType::Q5_K),
        T::Q4_K_M if falcon && at.is_first(16) => Some(DType::Q6_K),
        T::Q4_K_M if falcon => at.has_more_bits().then_some(DType::Q5_K),
        T::Q4_K_M | T::Q5_K_M => at.has_more_bits().then_some(DType::Q6_K),
        T::IQ4_NL | T::IQ4_XS => (at.is_first(8) && !at.has_matrix).then_some(DType::Q5_K),
        // The first ones of these can go wrong even with a matrix.
        T::Q4_0 => (at.is_first(8) && at.has_matrix).then_some(DType::Q4_1),
        T::Q5_0 => (at.is_first(8) && at.has_matrix).then_some(DType::Q5_1),
        T::F32 | T::F16 | T::BF16 | T::Q8_0 | T::Q6_K | T::Q5_K_S => None,
        T::Q5_1 | T::Q4_1 | T::MXFP4 | T::MXFP4_MOE | T::Q3_K_S => None,
    }
}

/// The same of attention's output projection.
pub(super) fn attn_output(file_type: FileType, at: &Place) -> Option<DType> {
    use FileType as T;
    // With eight experts the attention is a small part of the model.
    let eight = at.n_expert == 8;
    match file_type {
        T::Q3_K_L if at.is_falcon => Some(DType::Q4_K),
        _ if at.is_falcon => None,
        T::Q2_K => Some(if eight { DType::Q5_K } else { DType::Q3_K }),
        T::Q3_K_M => Some(if eight { DType::Q5_K } else { DType::Q4_K }),
        T::Q3_K_L => (!eight).then_some(DType::Q5_K),
        T::Q3_K_S | T::Q4_K_S | T::Q4_K_M | T::IQ4_NL | T::IQ4_XS => eight.then_some(DType::Q5_K),
        T::F32 | T::F16 | T::BF16 | T::Q8_0 | T::Q6_K | T::Q5_K_M | T::Q5_K_S => None,
        T::Q5_1 | T::Q5_0 | T::Q4_1 | T::Q4_0 | T::MXFP4 | T::MXFP4_MOE | T::Q2_K_S => None,
    }
}
