//! Files that are written: what a name cannot take is found before the work, what is there is kept unless it shall be
//! replaced, and what is not finished leaves nothing behind.

use crate::error::{Error, ErrorKind, Result};
use crate::sources;
pub use model::output::{Existing, Output};
use std::path::Path;

/// Starts a file that appears as `path` once [`Output::keep`] is called. Links are followed; devices and pipes are written
/// to as they are.
///
/// # Errors
/// [`ErrorKind::Usage`] for a folder, and for a file that is there and shall stay; [`ErrorKind::Io`] where no file can be
/// made.
pub fn create(path: &Path, existing: Existing) -> Result<Output> {
    Output::create(path, existing).map_err(|error| {
        if error.kind() == model::ErrorKind::BadRequest {
            return Error::new(ErrorKind::Usage, error.to_string());
        }
        error.into()
    })
}

/// Removes what this process has written and not finished, downloads too: for a program that was asked to end, just before
/// it does. What a killed process left is swept by the next that writes in the same folder.
pub fn remove_unfinished() {
    // It would go on writing to what is removed.
    sources::end_helper();
    model::output::remove_unfinished();
}
