//! Images of random layers, written directly as an OCI layout.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub struct Image {
    /// The OCI layout, for `skopeo copy oci:…:latest`.
    pub layout: PathBuf,
    /// The files in the layers, one per layer.
    pub files: Vec<(String, Vec<u8>)>,
    /// Digest and size of each layer's blob.
    pub layers: Vec<(String, usize)>,
    /// Digest of the manifest.
    pub digest: String,
}

/// The folder of the blobs in a layout.
pub const BLOBS: &str = "blobs/sha256";

impl Image {
    /// Creates an image with one layer per size. The same seed gives the same bytes.
    pub fn random(dir: &Path, seed: u64, sizes: &[usize]) -> Self {
        let layout = dir.join(format!("image-{seed}"));
        fs::create_dir_all(layout.join(BLOBS)).unwrap();
        let mut random = Random::new(seed);
        let mut files = Vec::new();
        let mut layers = Vec::new();
        for (number, size) in sizes.iter().enumerate() {
            let file = (format!("layer-{number}"), random.bytes(*size));
            let tar = tar_of(&file.0, &file.1);
            layers.push((put(&layout, &tar), tar.len()));
            files.push(file);
        }
        Self::of_layers(layout, files, layers)
    }

    /// Completes an image whose layers are among its blobs already, as digests and sizes.
    pub fn of_layers(
        layout: PathBuf,
        files: Vec<(String, Vec<u8>)>,
        layers: Vec<(String, usize)>,
    ) -> Self {
        let put = |bytes: &[u8]| put(&layout, bytes);
        let digests: Vec<&String> = layers.iter().map(|(digest, _)| digest).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": digests },
            "history": layers.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
        })
        .to_string();
        let described: Vec<Value> = layers
            .iter()
            .map(|(digest, size)| {
                let media = "application/vnd.oci.image.layer.v1.tar";
                json!({ "mediaType": media, "digest": digest, "size": size })
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": put(config.as_bytes()), "size": config.len(),
            },
            "layers": described,
        })
        .to_string();
        let digest = put(manifest.as_bytes());
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest, "size": manifest.len(),
                "annotations": { "org.opencontainers.image.ref.name": "latest" },
            }],
        });
        fs::write(layout.join("index.json"), index.to_string()).unwrap();
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { layout, files, layers, digest }
    }

    /// Returns the size of all layers, in bytes.
    pub fn size(&self) -> usize {
        self.layers.iter().map(|(_, size)| size).sum()
    }

    /// Returns the bytes of one blob.
    pub fn blob(&self, digest: &str) -> Vec<u8> {
        let hex = digest.strip_prefix("sha256:").unwrap();
        fs::read(self.layout.join(BLOBS).join(hex)).unwrap()
    }
}

/// Stores a blob. Returns its digest.
fn put(layout: &Path, bytes: &[u8]) -> String {
    let hex = sha256(bytes);
    fs::write(layout.join(BLOBS).join(&hex), bytes).unwrap();
    format!("sha256:{hex}")
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// Marsaglia's xorshift64: random enough to be incompressible, and reproducible.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// A ustar archive of one file.
fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    // Full blocks of 512 bytes, and two empty blocks at the end.
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}
