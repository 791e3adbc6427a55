//! An image of random layers, created in memory and served without copying.
//!
//! The layers are random bytes, not tar archives, because they are only transferred and hashed.

use super::DemoError;
use bytes::Bytes;
use oci_client::manifest::{IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Fractions of the size for each layer, uneven as in real images.
const SHARES: [u64; 5] = [6, 4, 3, 2, 1];

/// Bytes and their digest.
#[derive(Debug, Clone)]
pub struct Blob {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    /// The content. Clones share it.
    pub bytes: Bytes,
}

impl Blob {
    fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let mut digest = String::from("sha256:");
        for byte in Sha256::digest(&bytes) {
            let _ = write!(digest, "{byte:02x}");
        }
        Self { digest, bytes }
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// A manifest, a configuration and layers with matching digests.
#[derive(Debug, Clone)]
pub struct Image {
    /// The OCI image manifest.
    pub manifest: Blob,
    /// The configuration in the manifest.
    pub config: Blob,
    /// The layers in the manifest, in order.
    pub layers: Vec<Blob>,
}

impl Image {
    /// Creates an image whose layers have at least `size` bytes in total; another `seed` gives
    /// other bytes. Hashing is most of the work, so each layer uses its own thread.
    pub async fn generate(seed: u64, size: u64) -> Result<Self, DemoError> {
        let whole: u64 = SHARES.iter().sum();
        let making: Vec<_> = SHARES
            .iter()
            .zip(0..)
            .map(|(share, index)| {
                let length = (size * share).div_ceil(whole);
                let seed = seed.wrapping_mul(SHARES.len() as u64).wrapping_add(index);
                tokio::task::spawn_blocking(move || Blob::new(noise(seed, length)))
            })
            .collect();
        let mut layers = Vec::with_capacity(making.len());
        for layer in making {
            layers.push(layer.await?);
        }

        let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.digest).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Blob::new(config.to_string());
        let descriptor = |media_type: &str, blob: &Blob| json!({ "mediaType": media_type, "digest": blob.digest, "size": blob.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE_MEDIA_TYPE,
            "config": descriptor(IMAGE_CONFIG_MEDIA_TYPE, &config),
            "layers": layers.iter().map(|layer| descriptor(IMAGE_LAYER_MEDIA_TYPE, layer)).collect::<Vec<_>>(),
        });
        Ok(Self { manifest: Blob::new(manifest.to_string()), config, layers })
    }

    /// Returns the total size of the layers, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.layers.iter().map(Blob::len).sum()
    }

    /// Returns the layer or configuration with this digest; `None` if there is none.
    #[must_use]
    pub fn blob(&self, digest: &str) -> Option<&Blob> {
        self.layers.iter().chain([&self.config]).find(|blob| blob.digest == digest)
    }
}

/// Returns `length` incompressible bytes: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let mut state = seed;
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        for (byte, random) in chunk.iter_mut().zip(word.to_le_bytes()) {
            *byte = random;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn manifest_names_the_layers_and_their_sizes() {
        let image = Image::generate(1, 100_000).await.unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), SHARES.len());
        let total: u64 = layers.iter().map(|layer| layer["size"].as_u64().unwrap()).sum();
        assert_eq!(total, image.size());
        assert!(total >= 100_000);
        for layer in layers {
            assert!(image.blob(layer["digest"].as_str().unwrap()).is_some());
        }
        assert!(image.blob(manifest["config"]["digest"].as_str().unwrap()).is_some());
    }

    #[tokio::test]
    async fn seeds_and_layers_differ() {
        let (one, two) =
            (Image::generate(1, 4096).await.unwrap(), Image::generate(2, 4096).await.unwrap());
        let digests: std::collections::HashSet<_> =
            one.layers.iter().chain(&two.layers).map(|layer| layer.digest.clone()).collect();
        assert_eq!(digests.len(), 2 * SHARES.len());
    }

    #[test]
    fn the_empty_blob_has_its_well_known_digest() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Blob::new("").digest, digest);
    }
}
