//! Where the binary under test is.
//!
//! Decides by the environment, then by the place of the running program; must not build anything.

use std::path::{Path, PathBuf};

/// Environment variable that names the binary under test.
const VARIABLE: &str = "SWITCHBOARD_BIN";

/// The `switchboard` binary: what `SWITCHBOARD_BIN` names, else the one built into the same folder
/// as the running program (`target/<profile>/`, of which test executables are one level below).
///
/// # Panics
/// When there is none: no test of the agent can go on without it.
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os(VARIABLE).map(PathBuf::from) {
        assert!(named.is_file(), "{VARIABLE} names {}, which is no file", named.display());
        return named;
    }
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().skip(1).take(2).map(|folder| folder.join("switchboard")).find(|path| path.is_file()).unwrap_or_else(
        || {
            panic!(
                "no `switchboard` binary next to {}: run the tests by `cargo xtask test`, which builds it, or \
                 name one in {VARIABLE}",
                own.parent().unwrap_or(Path::new("?")).display()
            )
        },
    )
}
