//! `image --check`: the archive is unpacked as an engine would, and its binary run with nothing else around it.
//!
//! Decides by the archive alone, not by what it was made of. Must not need an engine. Invariant: as root the
//! binary sees no file but itself; otherwise it is only run, and that is said.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::rights::Rights;
use crate::terminal;

/// Runs the entry point of the image in `archive` with `--version`; returns what it says.
pub(super) fn run(archive: &Path) -> Result<String> {
    let doing = || format!("checking {}", archive.display());
    let root = archive.with_extension("root");
    let entry = unpack(archive, &root).with_context(doing)?;
    let said = start(&root, &entry);
    fs::remove_dir_all(&root).with_context(|| format!("removing {}", root.display()))?;
    said.with_context(doing)
}

/// Unpacks the layers into `root`; returns the entry point.
fn unpack(archive: &Path, root: &Path) -> Result<PathBuf> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(fs::File::open(archive)?).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        files.insert(path, content);
    }
    let blob = |descriptor: &Value| -> Result<&Vec<u8>> {
        let digest = descriptor["digest"].as_str().context("a descriptor without a digest")?;
        files.get(&format!("blobs/{}", digest.replace(':', "/"))).with_context(|| format!("no blob {digest}"))
    };
    let index: Value = serde_json::from_slice(files.get("index.json").context("no index.json")?)?;
    let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])?)?;
    let config: Value = serde_json::from_slice(blob(&manifest["config"])?)?;
    fs::create_dir_all(root)?;
    for layer in manifest["layers"].as_array().context("no layers")? {
        tar::Archive::new(flate2::read::GzDecoder::new(&**blob(layer)?)).unpack(root)?;
    }
    let entry = config["config"]["Entrypoint"][0].as_str().context("no entry point")?;
    Ok(PathBuf::from(entry))
}

fn start(root: &Path, entry: &Path) -> Result<String> {
    let mut command = if Rights::find() == Rights::Root {
        let mut command = Command::new("chroot");
        command.arg(root).arg(entry);
        command
    } else {
        terminal::note("without root the image's binary is run with this machine's files around it");
        Command::new(root.join(entry.strip_prefix("/").unwrap_or(entry)))
    };
    let output = command.arg("--version").output().context("starting the image's entry point")?;
    ensure!(
        output.status.success(),
        "the image's entry point ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::archive::{self, Image};
    use super::*;

    /// A static program, as small as the compiler makes it.
    fn program(folder: &Path) -> Vec<u8> {
        let source = folder.join("program.rs");
        fs::write(&source, "fn main() { println!(\"program 7 {}\", std::env::args().nth(1).unwrap()); }")
            .unwrap();
        let binary = folder.join("program");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let status = Command::new(rustc)
            .args(["-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
            .arg(&binary)
            .arg(&source)
            .status()
            .unwrap();
        assert!(status.success());
        fs::read(binary).unwrap()
    }

    #[test]
    fn the_binary_in_an_archive_runs_with_nothing_around_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.tar");
        let pack = |binary: &[u8]| {
            let image = Image { name: "a/b:1", version: "1", architecture: "amd64", binary };
            archive::write(&image, fs::File::create(&path).unwrap()).unwrap();
        };
        pack(&program(folder.path()));
        assert_eq!(run(&path).unwrap(), "program 7 --version");
        assert!(!path.with_extension("root").exists());

        pack(b"#!/bin/sh\nexit 0\n");
        if Rights::find() == Rights::Root {
            assert!(run(&path).is_err(), "there is no shell in it");
        }
    }
}
