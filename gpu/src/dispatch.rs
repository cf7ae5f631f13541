//! One dispatch of a step: a kernel, what it is bound to, its parameters, and the grid that it gets in a step of some size.

use crate::device::{Device, MAX_PARAMS, Pipeline, Range};
use crate::kv::LayerKv;
use crate::shaders::Shader;
use graph::{CacheId, KV_BLOCK, Mask, Result, Rows, Step};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The size of a step, as far as it decides what is dispatched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepSize {
    pub(crate) tokens: usize,
    pub(crate) outputs: usize,
    /// The position of the last token.
    pub(crate) last_position: u32,
    pub(crate) sequences: usize,
}

impl StepSize {
    pub(crate) fn of(step: &Step) -> Self {
        Self {
            tokens: step.tokens.len(),
            outputs: step.outputs.len(),
            last_position: step.positions.last().copied().unwrap_or(0),
            sequences: step.tables.len(),
        }
    }

    pub(crate) fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Outputs => self.outputs,
            Rows::Sequences => self.sequences,
        }
    }

    /// The step that probably follows this one, if this is one token of one sequence.
    pub(crate) fn next_token(self) -> Option<Self> {
        (self.tokens == 1 && self.outputs == 1).then(|| Self {
            last_position: self.last_position + 1,
            sequences: 1,
            ..self
        })
    }
}

/// Any number of rows or tokens.
pub(crate) const ANY: RangeInclusive<usize> = 0..=usize::MAX;

/// How many workgroups a grid has in its third dimension.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Depth {
    One,
    /// As many as are given: the slots of chosen experts.
    Slots(usize),
    /// A workgroup for each chunk of 64 positions that the last token sees through a window.
    Chunks {
        window: u32,
    },
}

/// The grid of a dispatch, and the steps that it is for.
#[derive(Clone, Debug)]
pub(crate) struct Grid {
    /// Workgroups across.
    pub(crate) x: usize,
    /// Rows that one workgroup takes.
    pub(crate) rows_each: usize,
    pub(crate) depth: Depth,
    /// Only for steps with this many rows.
    pub(crate) for_rows: RangeInclusive<usize>,
    /// Only for steps with this many tokens for each sequence.
    pub(crate) for_tokens_each: RangeInclusive<usize>,
}

impl Grid {
    /// A row of `x` workgroups for each row, in every step.
    pub(crate) fn each_row(x: usize) -> Self {
        Self { x, rows_each: 1, depth: Depth::One, for_rows: ANY, for_tokens_each: ANY }
    }
}

pub(crate) struct Dispatch {
    pub(crate) shader: Shader,
    pub(crate) ranges: Vec<Range>,
    /// The layer whose cache is group 1.
    pub(crate) cache: Option<CacheId>,
    /// The rows that it may take: from `first_row` on, at most `max_rows`.
    pub(crate) rows: Rows,
    pub(crate) first_row: usize,
    pub(crate) max_rows: usize,
    pipeline: Arc<Pipeline>,
    bind: wgpu::BindGroup,
    /// Parameters; the first two are set for each step: the rows of this dispatch and the first of them.
    params: Vec<u32>,
    grid: Grid,
}

/// Some consecutive rows of all that a step has of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowSpan {
    pub(crate) rows: Rows,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

/// A dispatch in a step of some size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Launch {
    /// Rows, and the first of them: the first two parameters.
    pub(crate) rows: [u32; 2],
    pub(crate) grid: [u32; 3],
}

impl Dispatch {
    /// Binds a kernel to ranges of buffers; `params` are the words behind the first two.
    pub(crate) fn new(
        device: &Device,
        shader: &Shader,
        ranges: Vec<Range>,
        params: &[u32],
        span: RowSpan,
    ) -> Result<Self> {
        let pipeline = device.pipeline(shader)?;
        Ok(Self {
            shader: shader.clone(),
            bind: device.bind(&pipeline, &ranges),
            pipeline,
            ranges,
            cache: None,
            params: [&[0, 0], params].concat(),
            rows: span.rows,
            first_row: span.first,
            max_rows: span.count,
            grid: Grid::each_row(1),
        })
    }

    /// With this grid, and the cache of this layer.
    pub(crate) fn over(self, grid: Grid, cache: Option<CacheId>) -> Self {
        Self { grid, cache, ..self }
    }

    /// Its rows and grid in a step; `None` where it has nothing to do.
    pub(crate) fn launch(&self, size: StepSize) -> Option<Launch> {
        let (all, grid) = (size.rows(self.rows), &self.grid);
        let rows = all.saturating_sub(self.first_row).min(self.max_rows);
        let tokens_each = size.tokens / size.sequences.max(1);
        let wanted = grid.for_rows.contains(&all) && grid.for_tokens_each.contains(&tokens_each);
        if rows == 0 || grid.x == 0 || !wanted {
            return None;
        }
        let z = match grid.depth {
            Depth::One => 1,
            Depth::Slots(slots) => slots as u32,
            Depth::Chunks { window } => {
                let last = size.last_position;
                let first = Mask::Window(window).first_visible(last);
                last / KV_BLOCK as u32 - first / KV_BLOCK as u32 + 1
            }
        };
        let y = rows.div_ceil(grid.rows_each) as u32;
        Some(Launch { rows: [rows as u32, self.first_row as u32], grid: [grid.x as u32, y, z] })
    }

    /// Its parameters for a step. Every dispatch of every step asks, so nothing is allocated.
    pub(crate) fn with_params<T>(&self, launch: Launch, use_words: impl FnOnce(&[u32]) -> T) -> T {
        let mut words = [0; MAX_PARAMS as usize / 4];
        let words = &mut words[..self.params.len()];
        words.copy_from_slice(&self.params);
        words[..2].copy_from_slice(&launch.rows);
        use_words(words)
    }

    /// Encodes it, if it has something to do.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, size: StepSize, kv: &[LayerKv]) {
        let Some(launch) = self.launch(size) else { return };
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind, &[]);
        if let Some(cache) = self.cache {
            pass.set_bind_group(1, &kv[cache.0].bind, &[]);
        }
        self.with_params(launch, |words| pass.set_immediates(0, bytemuck::cast_slice(words)));
        let [x, y, z] = launch.grid;
        pass.dispatch_workgroups(x, y, z);
    }
}
