//! The layout of an image's archive.
//!
//! Decides files and documents, after the OCI image layout and image manifest specifications 1.0. Must not know where the binary is from. Invariant: every
//! document names what it points to by digest and size, and nothing depends on the clock or on who builds.

use std::io::Write;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Where the binary is in the image.
const BINARY: &str = "switchboard";
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What an image is made of.
pub(super) struct Image<'a> {
    /// With its tag.
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    /// As Go writes it.
    pub(super) architecture: &'a str,
    pub(super) binary: &'a [u8],
}

/// A file that others name by its digest.
struct Blob {
    kind: &'static str,
    content: Vec<u8>,
}

impl Blob {
    fn document(kind: &'static str, value: &Value) -> Result<Self> {
        Ok(Self { kind, content: serde_json::to_vec(value).context("writing JSON")? })
    }

    fn descriptor(&self) -> Value {
        json!({"mediaType": self.kind, "digest": format!("sha256:{}", digest(&self.content)), "size": self.content.len()})
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", digest(&self.content))
    }
}

/// Writes the archive.
pub(super) fn write(image: &Image<'_>, to: impl Write) -> Result<()> {
    let layer = layer(image.binary)?;
    let config = Blob::document(CONFIG, &config(image, &digest(&layer)))?;
    let layer = Blob { kind: LAYER, content: compressed(&layer)? };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
        "annotations": labels(image),
    });
    let manifest = Blob::document(MANIFEST, &manifest)?;
    let mut named = manifest.descriptor();
    named["platform"] = json!({"architecture": image.architecture, "os": "linux"});
    // The tag is what the specification wants; containerd reads the whole name from a key of its own.
    let tag = image.name.rsplit_once(':').map_or(image.name, |(_, tag)| tag);
    named["annotations"] =
        json!({"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": image.name});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [named]});
    // Docker's older archives begin here, and kind looks for names in it.
    let docker = json!([{"Config": config.path(), "RepoTags": [image.name], "Layers": [layer.path()]}]);

    let mut archive = tar::Builder::new(to);
    add(&mut archive, "oci-layout", 0o644, &serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?)?;
    add(&mut archive, "index.json", 0o644, &serde_json::to_vec(&index)?)?;
    add(&mut archive, "manifest.json", 0o644, &serde_json::to_vec(&docker)?)?;
    for blob in [manifest, config, layer] {
        add(&mut archive, &blob.path(), 0o644, &blob.content)?;
    }
    archive.into_inner().and_then(|mut to| to.flush()).context("ending the archive")
}

fn config(image: &Image<'_>, layer: &str) -> Value {
    json!({
        "created": CREATED,
        "architecture": image.architecture,
        "os": "linux",
        "config": {
            // Root, since capabilities that Kubernetes adds reach no other user.
            "User": "0:0",
            "Entrypoint": [format!("/{BINARY}")],
            "Cmd": ["run", "--source", "kube"],
            "Labels": labels(image),
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        "history": [{"created": CREATED, "created_by": "cargo xtask image"}],
    })
}

fn labels(image: &Image<'_>) -> Value {
    json!({
        "org.opencontainers.image.title": "switchboard",
        "org.opencontainers.image.description": "eBPF load balancer for Kubernetes Services",
        "org.opencontainers.image.version": image.version,
        "org.opencontainers.image.licenses": "Apache-2.0 OR MIT",
    })
}

fn layer(binary: &[u8]) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, BINARY, 0o755, binary)?;
    layer.into_inner().context("ending the layer")
}

fn add<W: Write>(to: &mut tar::Builder<W>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    to.append_data(&mut header, path, content).with_context(|| format!("writing {path}"))
}

fn compressed(layer: &[u8]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(layer).context("compressing the layer")?;
    gzip.finish().context("compressing the layer")
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
