//! The flags for an answer that goes past the context, with llama.cpp's names.

/// Flags of the context's end.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct ShiftArgs {
    /// Go on where the context is full: forget half of what stands behind the first --keep tokens, and read the rest again
    #[arg(long)]
    context_shift: bool,
    /// Tokens at the beginning that --context-shift keeps
    #[arg(long, value_name = "N", default_value_t = 0, requires = "context_shift")]
    keep: usize,
}

impl ShiftArgs {
    /// The tokens that stay; `None` where an answer ends at the context's end.
    pub(crate) fn keep(&self) -> Option<usize> {
        self.context_shift.then_some(self.keep)
    }
}
