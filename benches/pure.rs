//! Benchmarks of the pure modules: reading and judging a ClientHello, the guard's part of a
//! handshake, and compiling, querying and reloading a policy of 10, 1,000 and 100,000 registries.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "criterion makes its own functions, and a bench fails by panicking"
)]

#[path = "common/flights.rs"]
mod flights;

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use flights::flights;
use pullgate::config::{self, File, Files};
use pullgate::hello::{Guard, Hello, HelloReader, HelloStep, Onward, Output};
use pullgate::policy::{ClientIdentity, Enforcement, OwnAddresses, Permit, PolicySet, Target};

/// The host of the registry in the middle of the set.
const NAME: &str = "contoso.azurecr.io";

/// How many registries a policy has.
const SIZES: [usize; 3] = [10, 1_000, 100_000];

/// Payload of a TCP segment on Ethernet, in bytes.
const SEGMENT: usize = 1_448;

fn hellos(criterion: &mut Criterion) {
    let (hello, answer) = flights(NAME, 0);
    // With a key share of ML-KEM's size, a hello needs two segments.
    let (large, _) = flights(NAME, 1_216);
    let read = |pieces: &[&[u8]]| {
        let mut reader = HelloReader::new();
        let mut hello = None;
        for piece in pieces {
            if let HelloStep::Complete(whole) = reader.feed(piece).unwrap() {
                hello = Some(whole);
            }
        }
        hello.unwrap()
    };
    let mut group = criterion.benchmark_group("hello");
    group.bench_function("read", |bench| bench.iter(|| read(&[black_box(&hello)])));
    let segments: Vec<&[u8]> = large.chunks(SEGMENT).collect();
    group.bench_function("read-two-segments", |bench| bench.iter(|| read(black_box(&segments))));
    let bytes: Vec<&[u8]> = hello.chunks(1).collect();
    group.bench_function("read-byte-by-byte", |bench| bench.iter(|| read(black_box(&bytes))));
    let Hello { facts, .. } = read(&[&hello]);
    group.bench_function("guard", |bench| {
        bench.iter(|| {
            let mut guard = Guard::new(facts.clone());
            let mut output = Output::default();
            guard.server(black_box(&answer), &mut output).unwrap();
            assert!(matches!(guard.onward(), Some(Onward::Free)));
            output
        });
    });
    group.finish();
}

fn judgements(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("judgement");
    let asker = ClientIdentity::at(Ipv4Addr::new(10, 0, 0, 7).into());
    let target = |text: &str| Target::parse_authority(text).unwrap();
    let named = target(&format!("{NAME}:443"));
    let stranger = target("x0000000.blob.core.windows.net:443");
    let (found, own) = ([SocketAddr::from(([20, 1, 2, 3], 443))], OwnAddresses::default());
    for size in SIZES {
        let set = compile(&files(size), 1);
        let judge = |target: &Target| set.judge_name(target, &asker, Enforcement::Enforce);
        let permit = || -> Permit {
            let allowed = judge(&named).unwrap();
            set.judge_addresses(allowed, &found, &own).unwrap().permit
        };
        group.bench_function(BenchmarkId::new("name", size), |bench| {
            bench.iter(|| judge(black_box(&named)).unwrap());
        });
        group.bench_function(BenchmarkId::new("stranger", size), |bench| {
            bench.iter(|| judge(black_box(&stranger)).unwrap_err());
        });
        group.bench_function(BenchmarkId::new("whole", size), |bench| {
            bench.iter(|| set.judge_hello(permit(), black_box(&named.name)).unwrap());
        });
        let permit = permit();
        group.bench_function(BenchmarkId::new("after-reload", size), |bench| {
            let ask = || {
                set.still_stands(&permit, Some(found[0]), &asker, Enforcement::Enforce, &own)
                    .unwrap()
            };
            bench.iter(ask);
        });
    }
    group.finish();
}

fn reloads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reload");
    for size in SIZES {
        let files = files(size);
        if size > 1_000 {
            group.sample_size(10);
        }
        group.bench_function(BenchmarkId::new("compile", size), |bench| {
            bench.iter_with_large_drop(|| compile(&files, 2));
        });
        group.bench_function(BenchmarkId::new("drop", size), |bench| {
            bench.iter_batched(|| compile(&files, 2), drop, BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn compile(files: &Files, generation: u64) -> PolicySet {
    config::compile(files, generation).unwrap().policy
}

/// Returns `size` registry files, alternately TOML and the output of `az acr show-endpoints`.
fn files(size: usize) -> Files {
    let file = |path: String, text: String| File { path: path.into(), text: Ok(text) };
    let registries = (0..size).map(|number| {
        let label =
            if number == size / 2 { "contoso".to_owned() } else { format!("registry{number:06}") };
        let (login, data) =
            (format!("{label}.azurecr.io"), format!("{label}.eastus.data.azurecr.io"));
        if number % 2 == 0 {
            let text = format!("login-server = \"{login}\"\ndata-endpoints = [\"{data}\"]\n");
            file(format!("registries.d/{label}.toml"), text)
        } else {
            let text = format!(
                "{{\n  \"loginServer\": \"{login}\",\n  \"dataEndpoints\": [\n    {{ \"region\": \
                 \"eastus\", \"endpoint\": \"{data}\" }}\n  ]\n}}\n"
            );
            file(format!("registries.d/{label}.json"), text)
        }
    });
    let main = "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:0\"";
    Files {
        main: file("pullgate.toml".into(), main.into()),
        registries: registries.collect(),
        further: Vec::new(),
    }
}

criterion_group!(benches, hellos, judgements, reloads);
criterion_main!(benches);
