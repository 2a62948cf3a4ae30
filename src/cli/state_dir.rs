//! Where the command keeps what it remembers between calls, by the XDG base directory specification.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// `$XDG_STATE_HOME/watershed`, or `~/.local/state/watershed`; it need not exist.
///
/// # Errors
/// When neither `XDG_STATE_HOME` nor `HOME` names an absolute folder.
pub(crate) fn state_dir() -> Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("watershed"))
        .context("there is no folder to remember things in; set HOME or XDG_STATE_HOME")
}
