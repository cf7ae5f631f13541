//! `karat ps` and `karat serve`, which people know from other programs: what karat has in their place.

use crate::exit::{Code, Failure};

/// Whatever was said, there is none.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<std::ffi::OsString>,
}

/// Says why there is nothing to list.
pub(crate) fn run(Args { words: _ }: &Args) -> anyhow::Result<()> {
    let what = "karat has no server, and a model is in memory only while a command uses it";
    Err(Failure::new(Code::Usage, what)
        .hint("karat chat talks, and karat list prints the models of the cache")
        .into())
}
