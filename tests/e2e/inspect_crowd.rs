//! A hundred pulls and twenty pushes through an inspected login server, with layers from 1 KiB to
//! 1 GiB: none is broken. `make faults` runs it.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::harness::{BLOBS, Blobs, Gate, Image, Lab, Ran, Way, relayed_or_aborted, sha256};
use crate::inspect::{LOGIN, authority, bearer, policy, trust};

/// How many clients run at once.
const AT_ONCE: usize = 5;

/// The pulls of each image: its name, the sizes of its layers, and how often it is pulled with the
/// layers spliced, and how often with the data endpoint inspected, too.
const PULLED: [(&str, &[usize], usize, usize); 4] = [
    ("small", &[1 << 10, 2 << 10, 5_000, 700, 17 << 10, 64 << 10], 45, 5),
    ("medium", &[1 << 20, 3 << 20, 16 << 20, 1 << 10], 35, 5),
    ("large", &[256 << 20, 1 << 20], 5, 1),
    ("giant", &[1 << 30], 3, 1),
];

/// The pushes: the sizes of the layers, and how many images of them.
const PUSHED: [(&[usize], usize); 4] = [
    (&[1 << 10, 3_000, 700, 48 << 10], 11),
    (&[2 << 20, 9 << 20], 7),
    (&[192 << 20], 1),
    (&[1 << 30], 1),
];

/// Makes an image of any size, on the disk alone. Its layers are random bytes: nobody unpacks them.
fn stored(lab: &Lab, seed: usize, sizes: &[usize]) -> Image {
    let layout = lab.dir().join(format!("stored-{seed}"));
    let blobs = layout.join(BLOBS);
    fs::create_dir_all(&blobs).unwrap();
    let layer = |(number, size): (usize, &usize)| {
        let made = blobs.join("made");
        let script = format!(
            "openssl enc -aes-128-ctr -K {:032x} -iv 0 -in /dev/zero 2>/dev/null | \
             head -c {size} > {at}; sha256sum {at}",
            seed * 100 + number + 1,
            at = made.display()
        );
        let ran = lab.run(Way::Direct, &["sh", "-c", &script]).succeeded().stdout();
        let hex = ran.split(' ').next().unwrap().to_owned();
        fs::rename(&made, blobs.join(&hex)).unwrap();
        (format!("sha256:{hex}"), *size)
    };
    let layers = sizes.iter().enumerate().map(layer).collect();
    Image::of_layers(layout, Vec::new(), layers)
}

/// The command line that pushes an image to `contoso.azurecr.io/team/NAME:v1`.
fn pushing(lab: &Lab, image: &Image, name: &str) -> Vec<String> {
    lab.pushing(image, &format!("{LOGIN}/team/{name}:v1"))
}

/// Runs commands, several at once. Fails with the first that fails.
#[track_caller]
fn run_all(lab: &Lab, gate: &Gate, lines: &[Vec<String>]) {
    for lines in lines.chunks(AT_ONCE) {
        let start = |line: &Vec<String>| {
            let mut command = lab.command(Way::Through(gate), line);
            let (out, err) = (std::process::Stdio::piped(), std::process::Stdio::piped());
            (line.join(" "), command.stdout(out).stderr(err).spawn().unwrap())
        };
        let started: Vec<_> = lines.iter().map(start).collect();
        for (line, child) in started {
            Ran::of(&line, &child.wait_with_output().unwrap()).succeeded();
        }
    }
}

/// Pulls an image by skopeo, which compares each digest.
fn pulling(lab: &Lab, name: &str, number: usize) -> Vec<String> {
    let to = format!("dir:{}/pulled-{name}-{number}", lab.dir().display());
    let from = format!("docker://{LOGIN}/team/{name}:v1");
    ["skopeo", "copy", "--preserve-digests", &from, &to].map(ToOwned::to_owned).to_vec()
}

/// Pulls an image `times` times, and compares what came with what was pushed.
fn pull(lab: &Lab, gate: &Gate, name: &str, image: &Image, times: usize) {
    // The large ones one after another: their copies take room on the disk.
    let is_large = matches!(name, "large" | "giant");
    let numbers: Vec<usize> = (0..times).collect();
    for numbers in numbers.chunks(if is_large { 1 } else { AT_ONCE }) {
        let lines: Vec<_> = numbers.iter().map(|number| pulling(lab, name, *number)).collect();
        run_all(lab, gate, &lines);
        for number in numbers {
            let to = lab.dir().join(format!("pulled-{name}-{number}"));
            let manifest = fs::read(to.join("manifest.json")).unwrap();
            assert_eq!(format!("sha256:{}", sha256(&manifest)), image.digest);
            for (digest, _) in &image.layers {
                assert!(to.join(&digest[7..]).exists(), "{name}: {digest} is missing");
            }
            fs::remove_dir_all(to).unwrap();
        }
    }
}

/// Fetches the layers with curl, over one connection to each server, and compares their digests.
fn fetch(lab: &Lab, gate: &Gate, name: &str, image: &Image) {
    let bearer = bearer(lab, gate, &format!("repository:team/{name}:pull"));
    for (digest, _) in &image.layers {
        let url = format!("https://{LOGIN}/v2/team/{name}/blobs/{digest}");
        let ca = authority(lab);
        let script = format!(
            "curl -sSfL --cacert {} -H '{bearer}' {url} | sha256sum",
            ca.with_extension("both").display()
        );
        let ran = lab.run(Way::Through(gate), &["sh", "-c", &script]).succeeded();
        assert_eq!(ran.stdout().split(' ').next().unwrap(), &digest[7..], "{name}");
    }
}

fn sum(lines: &[Value], field: &str) -> u64 {
    lines.iter().filter_map(|line| line[field].as_u64()).sum()
}

#[test]
#[ignore = "takes minutes, and 5 GiB on the disk: make faults"]
fn a_hundred_pulls_and_twenty_pushes_are_not_broken() {
    let began = Instant::now();
    let lab = Lab::new(Blobs::DataEndpoint);
    let rules = "pull = [\"team/**\"]\npush = [\"team/**\"]\ntags = [\"v*\"]";
    // The first policy makes the authority, which then permits the data endpoint, too.
    let all = policy(&lab, &format!("hosts = \"all\"\n{rules}"));
    trust(&lab);
    let data = "contoso.eastus.data.azurecr.io";
    let folder = Path::new("/etc/containers/certs.d").join(data);
    fs::create_dir_all(&folder).unwrap();
    fs::copy(authority(&lab), folder.join("pullgate.crt")).unwrap();
    let both = [fs::read(authority(&lab)).unwrap(), fs::read(lab.authority()).unwrap()].concat();
    fs::write(authority(&lab).with_extension("both"), both).unwrap();
    let images: Vec<Image> = PULLED
        .iter()
        .enumerate()
        .map(|(seed, (name, sizes, ..))| {
            let image = stored(&lab, seed, sizes);
            lab.run(Way::Direct, &pushing(&lab, &image, name)).succeeded();
            fs::remove_dir_all(&image.layout).unwrap();
            image
        })
        .collect();
    println!("made and pushed: {:?}", began.elapsed());

    let gate = lab.gate(&policy(&lab, rules));
    let mut pulls = 0;
    for ((name, _, spliced, _), image) in PULLED.iter().zip(&images) {
        pull(&lab, &gate, name, image, spliced - 1);
        fetch(&lab, &gate, name, image);
        pulls += spliced;
        println!("{pulls} pulls: {:?}", began.elapsed());
    }
    let mut pushes = 0;
    for (sizes, count) in PUSHED {
        for chunk in (0..count).collect::<Vec<_>>().chunks(AT_ONCE) {
            let fresh: Vec<Image> = chunk
                .iter()
                .map(|_| {
                    pushes += 1;
                    stored(&lab, 100 + pushes, sizes)
                })
                .collect();
            let first = pushes + 1 - fresh.len();
            let lines: Vec<_> = fresh
                .iter()
                .enumerate()
                .map(|(at, image)| pushing(&lab, image, &format!("push-{}", first + at)))
                .collect();
            run_all(&lab, &gate, &lines);
            for (at, image) in fresh.iter().enumerate() {
                let name = format!("push-{}", first + at);
                let raw = format!("skopeo inspect --raw docker://{LOGIN}/team/{name}:v1");
                let raw = lab.sh(Way::Direct, &raw).succeeded();
                assert_eq!(format!("sha256:{}", sha256(&raw.stdout)), image.digest);
                fs::remove_dir_all(&image.layout).unwrap();
            }
        }
        println!("{pushes} pushes: {:?}", began.elapsed());
    }
    let lines = gate.audit_of_all();
    assert!(lines.iter().all(relayed_or_aborted), "{:?}", {
        lines.iter().find(|line| !relayed_or_aborted(line))
    });
    let (up, down) = (sum(&lines, "bytes-up"), sum(&lines, "spliced-down"));
    println!("{} lines; {up} bytes up, {down} bytes spliced down", lines.len());
    let of = |sizes: &[usize]| sizes.iter().sum::<usize>() as u64;
    let expected: u64 =
        PULLED.iter().map(|(_, sizes, spliced, _)| of(sizes) * *spliced as u64).sum();
    assert!(down > expected * 95 / 100, "{down} bytes spliced of {expected}");
    let expected: u64 = PUSHED.iter().map(|(sizes, count)| of(sizes) * *count as u64).sum();
    assert!(up > expected, "{up} bytes up of {expected}");
    let audit = gate.audit_file();
    drop(gate);
    fs::remove_file(audit).unwrap();

    let gate = lab.gate(&all);
    for ((name, .., inspected), image) in PULLED.iter().zip(&images) {
        pull(&lab, &gate, name, image, inspected - 1);
        fetch(&lab, &gate, name, image);
        pulls += inspected;
    }
    let lines = gate.audit_of_all();
    assert!(lines.iter().all(relayed_or_aborted), "{:?}", {
        lines.iter().find(|line| !relayed_or_aborted(line))
    });
    println!("{pulls} pulls, {pushes} pushes: {:?}", began.elapsed());
    assert!(pulls >= 100 && pushes >= 20, "{pulls} pulls, {pushes} pushes");
}
