//! Where things are kept when nobody says otherwise.

use std::path::{Path, PathBuf};

/// `/var/lib/vipyard` for root, else `$XDG_STATE_HOME/vipyard` or `~/.local/state/vipyard`.
pub(super) fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/vipyard".into();
    }
    let state = std::env::var_os("XDG_STATE_HOME").filter(|dir| Path::new(dir).is_absolute()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from).join(".local/state");
    state.unwrap_or_else(home).join("vipyard")
}
