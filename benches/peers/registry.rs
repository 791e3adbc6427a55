//! The registry that answers behind the proxies that read requests: one manifest and one layer, over
//! HTTP/1.1 with keep-alive. It is a part of the origin.

use std::io::{self, Read, Write};

use aws_lc_rs::digest::{Context, SHA256};

use crate::wire::DATA;

/// Size of the layer, in bytes.
pub const LAYER: u64 = 64 << 20;

/// Path of the manifest.
pub const MANIFEST: &str = "/v2/team/app/manifests/v1";

/// Type of the manifest.
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Size of the manifest, in bytes.
const MANIFEST_SIZE: usize = 2_000;

/// The repository whose layers are redirected to the data endpoint. The others send them.
const REDIRECTED: &str = "team/redirected";

/// The path of the layer on the data endpoint, before the digest.
const ON_DATA: &str = "/layers/";

/// Maximum size of a request's head, in bytes.
const LARGEST_HEAD: usize = 16 * 1024;

/// The content of the registry.
pub struct Registry {
    pub manifest: Vec<u8>,
    /// Digest of the layer.
    pub layer: String,
    manifest_digest: String,
    /// The layer repeats it.
    piece: Vec<u8>,
}

impl Registry {
    pub fn new() -> Self {
        let piece: Vec<u8> = (0..256 * 1024_u32).map(|index| (index % 251) as u8).collect();
        let mut context = Context::new(&SHA256);
        (0..LAYER / piece.len() as u64).for_each(|_| context.update(&piece));
        let layer = digest_of(context);
        let manifest = manifest(&layer);
        let mut context = Context::new(&SHA256);
        context.update(&manifest);
        Self { manifest_digest: digest_of(context), manifest, layer, piece }
    }

    /// Path of the layer, sent by the login server itself.
    pub fn layer_path(&self) -> String {
        format!("/v2/team/app/blobs/{}", self.layer)
    }

    /// Path of the layer, redirected to the data endpoint.
    pub fn redirected_path(&self) -> String {
        format!("/v2/{REDIRECTED}/blobs/{}", self.layer)
    }

    /// Answers requests until the client closes. `first` is what was already read.
    pub fn serve(&self, stream: &mut (impl Read + Write), first: &[u8]) -> io::Result<()> {
        let mut head = first.to_vec();
        while fill(stream, &mut head)? {
            self.answer(stream, &String::from_utf8_lossy(&head))?;
            head.clear();
        }
        Ok(())
    }

    fn answer(&self, stream: &mut impl Write, head: &str) -> io::Result<()> {
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let with_body = method == "GET";
        if path == "/v2/" {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        } else if path.starts_with("/v2/") && path.contains("/manifests/") {
            let mut answer = ok(&self.manifest_digest, MANIFEST_TYPE, self.manifest.len() as u64);
            if with_body {
                answer.extend_from_slice(&self.manifest);
            }
            stream.write_all(&answer)?;
        } else if path.contains(REDIRECTED) && path.ends_with(&self.layer) {
            let to = format!("https://{DATA}{ON_DATA}{}", self.layer);
            let head = "HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\nLocation";
            stream.write_all(format!("{head}: {to}\r\n\r\n").as_bytes())?;
        } else if path.ends_with(&self.layer) {
            stream.write_all(&ok(&self.layer, "application/octet-stream", LAYER))?;
            for _ in 0..LAYER / self.piece.len() as u64 {
                if with_body {
                    stream.write_all(&self.piece)?;
                }
            }
        } else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
        }
        stream.flush()
    }
}

/// Reads up to the end of a head. Returns false if the client closes before it.
fn fill(stream: &mut impl Read, head: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let count = stream.read(&mut buffer)?;
        if count == 0 || head.len() > LARGEST_HEAD {
            return Ok(false);
        }
        head.extend_from_slice(&buffer[..count]);
    }
    Ok(true)
}

fn ok(digest: &str, content: &str, length: u64) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content}\r\nContent-Length: {length}\r\n\
         Docker-Content-Digest: {digest}\r\nEtag: \"{digest}\"\r\n\r\n"
    )
    .into_bytes()
}

/// Returns an image of ten layers, as large as a usual manifest.
fn manifest(layer: &str) -> Vec<u8> {
    let layer = serde_json::json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": LAYER, "digest": layer
    });
    let mut manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "size": LAYER,
            "digest": layer["digest"],
        },
        "layers": vec![layer; 10],
        "annotations": { "note": "" },
    });
    let missing = MANIFEST_SIZE.saturating_sub(manifest.to_string().len());
    manifest["annotations"]["note"] = "x".repeat(missing).into();
    manifest.to_string().into_bytes()
}

fn digest_of(context: Context) -> String {
    format!("sha256:{}", hex(context.finish().as_ref()))
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
