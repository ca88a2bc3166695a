//! Where things are: the workspace's root, its target folder, and how cargo is started there.
//! Knows no verb. Invariant: a cargo started here sees the same environment as one started by
//! hand, so that switching between the two rebuilds nothing.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

/// The folder with the workspace's Cargo.toml.
pub(crate) fn root() -> PathBuf {
    let xtask = env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|folder| folder.join("src/workspace.rs").is_file())
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    xtask.parent().map_or_else(|| xtask.clone(), Path::to_path_buf)
}

/// The folder cargo builds into: `CARGO_TARGET_DIR`, or `target` under the root.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// `cargo ARGS` in the workspace's root, with cargo's own bin folder on PATH.
///
/// The variables that `cargo run` gave to xtask are taken away again: several build scripts ask
/// to be run anew when one of them changes.
pub(crate) fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root()).env("PATH", path());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Where `cargo install` puts programs.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))?;
    Some(home.join("bin"))
}

/// PATH with cargo's bin folder in front, and with the folders for system programs, which an
/// ordinary user's PATH lacks on Debian.
///
/// In front, since setup may have installed Debian's rustc too, and a cargo of one release with a
/// rustdoc of another cannot read what the other compiled.
pub(crate) fn path() -> OsString {
    let given = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&given).collect();
    if let Some(bin) = cargo_bin() {
        folders.retain(|folder| *folder != bin);
        folders.insert(0, bin);
    }
    for folder in ["/usr/sbin", "/sbin"].map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    env::join_paths(folders).unwrap_or(given)
}

/// Whether a program is found on [`path`].
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    which::which_in(name, Some(path()), root()).ok()
}
