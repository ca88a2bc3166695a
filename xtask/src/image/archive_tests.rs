//! An archive is read back by somebody who knows only the specification: by digests, from the index to the binary.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::*;

const IMAGE: Image<'_> =
    Image { name: "localhost/switchboard:1.2", version: "1.2", architecture: "arm64", binary: &[7; 100_000] };

fn archive(image: &Image<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(image, &mut bytes).unwrap();
    bytes
}

/// What a reader that only knows the specification finds: files by path, with their modes.
fn files(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.unwrap();
        let (path, mode) = (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap());
        assert_eq!((entry.header().uid().unwrap(), entry.header().mtime().unwrap()), (0, 0), "{path}");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (path, (mode, content))
    };
    archive.entries().unwrap().map(read).collect()
}

fn document(files: &BTreeMap<String, (u32, Vec<u8>)>, path: &str) -> Value {
    serde_json::from_slice(&files[path].1).unwrap()
}

/// Follows a descriptor, and checks what it says.
fn follow(files: &BTreeMap<String, (u32, Vec<u8>)>, descriptor: &Value, kind: &str) -> Vec<u8> {
    assert_eq!(descriptor["mediaType"], kind);
    let (algorithm, claimed) = descriptor["digest"].as_str().unwrap().split_once(':').unwrap();
    let content = &files[&format!("blobs/{algorithm}/{claimed}")].1;
    assert_eq!(descriptor["size"], content.len());
    assert_eq!(claimed, digest(content));
    content.clone()
}

#[test]
fn an_archive_read_by_its_digests_ends_at_the_binary_ready_to_run() {
    let found = files(&archive(&IMAGE));
    assert_eq!(document(&found, "oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
    let index = document(&found, "index.json");
    let named = &index["manifests"][0];
    assert_eq!(named["platform"], json!({"architecture": "arm64", "os": "linux"}));
    assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "1.2");
    assert_eq!(named["annotations"]["io.containerd.image.name"], "localhost/switchboard:1.2");

    let manifest: Value = serde_json::from_slice(&follow(&found, named, MANIFEST)).unwrap();
    let config: Value = serde_json::from_slice(&follow(&found, &manifest["config"], CONFIG)).unwrap();
    assert_eq!(config["config"]["Entrypoint"], json!(["/switchboard"]));
    assert_eq!((&config["architecture"], &config["os"]), (&json!("arm64"), &json!("linux")));

    let mut layer = Vec::new();
    let compressed = follow(&found, &manifest["layers"][0], LAYER);
    flate2::read::GzDecoder::new(&*compressed).read_to_end(&mut layer).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", digest(&layer))]));
    assert_eq!(files(&layer), BTreeMap::from([("switchboard".to_owned(), (0o755, vec![7; 100_000]))]));
}

#[test]
fn dockers_older_layout_names_the_same_files() {
    let found = files(&archive(&IMAGE));
    let docker = document(&found, "manifest.json");
    assert_eq!(docker[0]["RepoTags"], json!(["localhost/switchboard:1.2"]));
    for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
        assert!(found.contains_key(path.as_str().unwrap()), "{path}");
    }
}

#[test]
fn the_same_binary_gives_the_same_archive_and_another_does_not() {
    assert_eq!(archive(&IMAGE), archive(&IMAGE));
    assert_ne!(archive(&IMAGE), archive(&Image { binary: b"other", ..IMAGE }));
}

#[test]
fn the_digest_is_sha_256() {
    // NIST's example for the message "abc".
    assert_eq!(digest(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}
