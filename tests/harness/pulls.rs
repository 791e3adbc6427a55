//! Pulls by each client, whose result is compared with what was pushed, byte for byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::containerd::containerd;
use super::image::{Image, sha256};
use super::lab::{Lab, Way};

/// Pulls by skopeo into a folder of the laboratory. Returns every file of it.
pub fn skopeo_pull(lab: &Lab, way: Way, reference: &str, name: &str) -> BTreeMap<String, Vec<u8>> {
    let to = lab.dir().join(name);
    let copy = "skopeo copy --preserve-digests";
    lab.sh(way, &format!("{copy} docker://{reference} dir:{}", to.display())).succeeded();
    let entries = fs::read_dir(to).unwrap().map(Result::unwrap);
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

/// Pulls by podman, and compares the files in the layers.
pub fn podman_pull(lab: &Lab, way: Way, reference: &str, image: &Image) {
    lab.sh(way, &format!("podman pull --quiet {reference}")).succeeded();
    let mounted = lab.sh(Way::Direct, &format!("podman image mount {reference}")).succeeded();
    for (name, content) in &image.files {
        let pulled = fs::read(Path::new(&mounted.stdout()).join(name)).unwrap();
        assert!(pulled == *content, "{name} differs");
    }
}

/// Pulls by ctr into a containerd of its own, and compares the layers.
pub fn ctr_pull(lab: &Lab, way: Way, reference: &str, image: &Image) {
    let (_containerd, ctr) = containerd(lab);
    lab.sh(way, &format!("{ctr} images pull --snapshotter native {reference}")).succeeded();
    for (digest, _) in &image.layers {
        let blob = lab.sh(Way::Direct, &format!("{ctr} content get {digest}")).succeeded();
        assert!(blob.stdout == image.blob(digest), "{digest} differs");
    }
}

/// Pulls by skopeo, podman and ctr, each of which starts with nothing and leaves nothing.
pub fn every_client_pulls(lab: &Lab, way: Way, reference: &str, image: &Image) {
    let files = skopeo_pull(lab, way, reference, "by-skopeo");
    assert_eq!(format!("sha256:{}", sha256(&files["manifest.json"])), image.digest);
    for (digest, _) in &image.layers {
        assert!(files[&digest[7..]] == image.blob(digest), "{digest} differs");
    }
    podman_pull(lab, way, reference, image);
    lab.sh(Way::Direct, &format!("podman rmi --force {reference}")).succeeded();
    ctr_pull(lab, way, reference, image);
    for folder in ["by-skopeo", "containerd", "containerd-state"] {
        fs::remove_dir_all(lab.dir().join(folder)).unwrap();
    }
}

/// Returns whether a session was relayed, or ended by its client. A Go program that ends resets a
/// connection that it opened to have one to spare, and one with a session ticket (RFC 8446 §4.6.1)
/// that it has not read. Whether its pull succeeded is for the test to look at.
pub fn relayed_or_aborted(line: &serde_json::Value) -> bool {
    line["outcome"] == "relayed" || line["reason"] == "client-aborted"
}
