//! `image`: a container image of the agent, as an OCI archive, without a container engine.
//!
//! Decides what is in the image: one static binary, nothing else. Must not know how an archive is laid out (`archive`)
//! or what an ELF file is made of (`elf`). Invariant: the same binary under the same name gives the same
//! archive, byte for byte, and a binary that needs files which the image has not is refused.

mod archive;
mod check;
mod elf;

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{setup, terminal, workspace};
use archive::Image;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Options of `cargo xtask image`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The archive to write [default: image/switchboard-VERSION-ARCH.tar under the target folder]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The image's name, as manifests write it
    #[arg(long, value_name = "NAME:TAG", default_value_t = format!("localhost/switchboard:{VERSION}"))]
    name: String,
    /// A binary that is built already, instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Unpack the archive and run its binary with nothing around it (as root, in a chroot)
    #[arg(long)]
    check: bool,
}

/// Builds the binary and packs it.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    check_name(&options.name)?;
    let path = options.binary.clone().map_or_else(build, Ok)?;
    let binary = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let machine = elf::machine_of_static(&binary).with_context(|| {
        format!(
            "{} cannot be the only file of an image; leave --binary out to have one built",
            path.display()
        )
    })?;
    let output = options.output.clone().unwrap_or_else(|| {
        workspace::target_dir().join(format!("image/switchboard-{VERSION}-{}.tar", machine.oci()))
    });
    let image = Image { name: &options.name, version: VERSION, architecture: machine.oci(), binary: &binary };
    write(&image, &output)?;
    let size = fs::metadata(&output).with_context(|| format!("looking at {}", output.display()))?.len();
    terminal::note(&format!(
        "{} is {} for {}, {:.1} MB; load it with `ctr -n k8s.io images import`, `kind load image-archive`, \
         `k3s ctr images import` or `skopeo copy oci-archive:...`",
        output.display(),
        options.name,
        machine.oci(),
        megabytes(size)
    ));
    if options.check {
        terminal::note(&format!("unpacked and run, it says: {}", check::run(&output)?));
    }
    Ok(ExitCode::SUCCESS)
}

/// A half written archive never has the name of a whole one.
fn write(image: &Image<'_>, output: &Path) -> Result<()> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let unfinished = output.with_extension("unfinished");
    let file = fs::File::create(&unfinished).with_context(|| format!("making {}", unfinished.display()))?;
    archive::write(image, file).with_context(|| format!("writing {}", unfinished.display()))?;
    fs::rename(&unfinished, output).with_context(|| format!("naming {}", output.display()))
}

/// The agent, for this machine's processor, with its C library inside.
fn build() -> Result<PathBuf> {
    setup::required()?;
    let target = format!("{ARCH}-unknown-linux-gnu");
    terminal::note(&format!("building a static switchboard for {target}"));
    let status = cargo_for_image(&target).status().context("starting cargo")?;
    ensure!(status.success(), "the agent does not build (cargo's words are above)");
    Ok(workspace::target_dir().join(target).join("release/switchboard"))
}

fn cargo_for_image(target: &str) -> Command {
    let package = ["-p", "lb-userspace", "--bin", "switchboard"];
    let mut cargo = workspace::cargo(["build", "--quiet", "--release", "--locked", "--target", target]);
    // With --target these flags are for the binary alone, not for build scripts.
    cargo.args(package).env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    cargo
}

/// A registry's host is optional, a tag is not: without one, engines assume `latest`, and pull.
fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_/:".contains(c);
    let tag = name.rsplit_once(':').map(|(_, tag)| tag).unwrap_or_default();
    let repository = name.strip_suffix(tag).and_then(|rest| rest.strip_suffix(':')).unwrap_or_default();
    let tag_fits = tag.len() <= 128 && tag.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    if tag.is_empty() || !tag_fits || repository.is_empty() || !repository.chars().all(allowed) {
        bail!("{name} is no image name with a tag; write it like localhost/switchboard:{VERSION}");
    }
    Ok(())
}

fn megabytes(bytes: u64) -> f64 {
    u32::try_from(bytes / 1000).map_or(f64::INFINITY, f64::from) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_needs_a_tag_and_lower_case() {
        for good in ["switchboard:1", "localhost/switchboard:0.1.0", "registry.example:5000/a/b:Tag_1"] {
            check_name(good).unwrap();
        }
        for bad in
            ["", "switchboard", "switchboard:", ":1", "Switchboard:1", "registry:5000/switchboard", "a b:1"]
        {
            let message = check_name(bad).unwrap_err().to_string();
            assert!(message.contains("localhost/switchboard:"), "{bad}: {message}");
        }
    }

    #[test]
    fn no_half_written_archive_is_left_under_the_final_name() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("deep/image.tar");
        let image = Image { name: "a/b:1", version: "1", architecture: "amd64", binary: b"x" };
        write(&image, &output).unwrap();
        let names: Vec<_> =
            fs::read_dir(output.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["image.tar"]);
    }
}
