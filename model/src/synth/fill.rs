//! How each tensor of a synthetic model is filled, by its role.
//!
//! The sizes are chosen so that a random model behaves: every norm hands on activations of size 1, projections keep
//! it, the 2 · n_layer branches add up to a residual stream of size 1, scores `q · k / √d` and activations stay of
//! that size whatever the depth. The embedding is small beside the branches, or a model whose embedding is its output
//! would answer every token with itself. Logits have a standard deviation of 3: the best token gets some per cent.

use super::blocks::Extremes;
use crate::shape::Numbers;
use crate::{Branch, NormPlace, Norms, Role, Spec, TensorSpec};

/// Standard deviation of the logits.
const LOGITS: f64 = 3.0;
/// An embedding that is the output projection, too, is smaller by this factor.
const TIED_EMBEDDING: f64 = 0.3;
/// 1 / √E[silu(x)²]: the last matrix of a feed-forward makes up for what the activation takes away. GELU is near it.
const ACTIVATION: f64 = 1.6;
/// Standard deviation of norm weights, as a part of their mean.
const NORM_SPREAD: f64 = 0.1;
/// Standard deviation of biases.
const BIAS: f64 = 0.05;
/// Norms of adversarial models blow some channels up by 1e4; products that are squared, multiplied with one another or
/// cached as f16 are shrunk by this, or they would leave the range of f16.
const TAMED: f64 = 0.01;

/// How a tensor is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fill {
    /// Mean 0; one standard deviation for all.
    Matrix {
        /// The standard deviation.
        std: f64,
        /// What scales at the ends of f16 there are.
        extremes: Extremes,
    },
    /// f32, one number for each channel, or a few.
    Vector(VectorFill),
}

/// Numbers around a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct VectorFill {
    /// The mean.
    pub(super) mean: f64,
    /// The standard deviation.
    pub(super) std: f64,
    /// Whether some channels are 1e4.
    pub(super) outliers: bool,
}

/// What the tensors of one model have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filler {
    /// The size of an element that the embedding hands on before its scale.
    embd: f64,
    tied: bool,
    /// The size of the logits before their scale.
    logits: f64,
    /// What each branch adds, relative to the residual stream: 1 / √(number of branches).
    branch: f64,
    numbers: Numbers,
}

impl Filler {
    pub(super) fn new(spec: &Spec, tied: bool, numbers: Numbers) -> Self {
        let scale = f64::from(spec.embd_scale.unwrap_or(1.0));
        Self {
            // As output projection it must be of size 1 after the norm; where it is smaller, that norm makes up for it.
            embd: if tied { TIED_EMBEDDING / scale } else { 1.0 / scale },
            tied,
            logits: LOGITS / f64::from(spec.logit_scale.unwrap_or(1.0)),
            // Each branch adds its share to the variance of the residual stream.
            branch: 1.0
                / (2.0 * spec.layers.len() as f64).sqrt()
                / f64::from(spec.residual_scale.unwrap_or(1.0)),
            numbers,
        }
    }

    pub(super) fn fill(&self, tensor: &TensorSpec) -> Fill {
        let unit = 1.0 / (tensor.shape[0].n as f64).sqrt();
        match tensor.role {
            Role::Table => {
                self.matrix(self.embd / (tensor.shape[0].n as f64).sqrt(), Extremes::Small)
            }
            Role::Inner => match self.numbers {
                Numbers::Ordinary => self.matrix(unit, Extremes::None),
                Numbers::Adversarial => self.matrix(TAMED * unit, Extremes::Small),
            },
            Role::Branch { branch, norms } => {
                self.matrix(self.branch_gain(branch, norms) * unit, Extremes::All)
            }
            // As large as what it is added to.
            Role::Positions => self.matrix(self.embd * unit, Extremes::None),
            Role::Output => self.matrix(self.logits * unit, Extremes::All),
            Role::Norm(place) => self.norm(place),
            // The rows of a convolution are as large as what it makes of them.
            Role::Conv => Fill::Vector(VectorFill { mean: 0.0, std: unit, outliers: false }),
            Role::Bias => Fill::Vector(VectorFill { mean: 0.0, std: BIAS, outliers: false }),
            // As large as scores.
            Role::Sinks => Fill::Vector(VectorFill { mean: 0.0, std: 1.0, outliers: false }),
            Role::RopeFactors => Fill::Vector(VectorFill { mean: 1.0, std: 0.0, outliers: false }),
        }
    }

    fn matrix(&self, std: f64, adversarial: Extremes) -> Fill {
        let extremes = match self.numbers {
            Numbers::Ordinary => Extremes::None,
            Numbers::Adversarial => adversarial,
        };
        Fill::Matrix { std, extremes }
    }

    /// The size of what a branch's last matrix makes; where a norm follows, that norm sets it.
    fn branch_gain(&self, branch: Branch, norms: Norms) -> f64 {
        let gain = match branch {
            Branch::Mixer => 1.0,
            Branch::FeedForward => ACTIVATION,
        };
        match norms {
            Norms::Before | Norms::Parallel(_) => gain * self.branch,
            Norms::BeforeAndAfter | Norms::After => gain,
        }
    }

    fn norm(&self, place: NormPlace) -> Fill {
        let (mean, may_have_outliers) = match place {
            NormPlace::BeforeBranch => (1.0, true),
            NormPlace::Embedding => (self.embd, false),
            // Outliers here would meet those of the next norm, and 1e8 does not fit the f16 sums of Q8_1.
            NormPlace::AfterBranch => (self.branch, false),
            NormPlace::Heads => (1.0, false),
            NormPlace::BeforeOutput => {
                (if self.tied { self.logits / self.embd } else { 1.0 }, true)
            }
        };
        let outliers = may_have_outliers && self.numbers == Numbers::Adversarial;
        Fill::Vector(VectorFill { mean, std: mean * NORM_SPREAD, outliers })
    }
}
