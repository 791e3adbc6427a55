//! The cost of accounting for one session: opened, filled, closed, its audit line queued.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "criterion makes its own functions, and a bench fails by panicking"
)]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use pullgate::account::{Account, Arrival, Sink, Stage};
use pullgate::config::{self, File, Files};
use pullgate::policy::{Allowed, ClientIdentity, Ending, Enforcement, Reason, Target};

const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn allowed() -> Allowed {
    let file = |path: &str, text: &str| File { path: path.into(), text: Ok(text.into()) };
    let registry = r#"
        login-server = "contoso.azurecr.io"
        data-endpoints = ["contoso.eastus.data.azurecr.io"]"#;
    let files = Files {
        main: file("pullgate.toml", "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:0\""),
        registries: vec![file("registries.d/contoso.toml", registry)],
        further: Vec::new(),
    };
    let set = config::compile(&files, 1).unwrap().policy;
    let target = Target::parse_authority("contoso.eastus.data.azurecr.io:443").unwrap();
    set.judge_name(&target, &ClientIdentity::at(CLIENT), Enforcement::Enforce).unwrap()
}

fn arrival(listener: &Arc<str>) -> Arrival {
    Arrival {
        client: CLIENT,
        listener: listener.clone(),
        accepted: Instant::now(),
        first: Stage::Head,
    }
}

fn sessions(criterion: &mut Criterion) {
    let sink = Sink::File("/dev/null".into());
    let account = Account::new(prometheus::Registry::new(), sink).unwrap();
    let (listener, allowed) = (Arc::from("127.0.0.1:3128"), allowed());
    criterion.bench_function("account/relayed", |bench| {
        bench.iter(|| {
            let mut open = account.open(arrival(&listener));
            open.ask("contoso.eastus.data.azurecr.io:443");
            open.admit().unwrap();
            open.allow(&allowed);
            for stage in [Stage::Resolve, Stage::Dial, Stage::Hello, Stage::Relay] {
                open.record.stages.enter(stage);
            }
            open.record.upstream = Some(([20, 1, 2, 3], 443).into());
            open.record.volume.up.copied = 517;
            open.record.volume.down.spliced = 1 << 20;
            black_box(open.close(&Ok(Ending::Closed)))
        });
    });
    let mut count = 0u64;
    criterion.bench_function("account/denied", |bench| {
        bench.iter(|| {
            count += 1;
            let mut open = account.open(arrival(&listener));
            open.ask(&format!("{count}.blob.core.windows.net:443"));
            open.admit().unwrap();
            black_box(open.close(&Err(Reason::StorageAccount.into())))
        });
    });
    criterion.bench_function("account/denied-again", |bench| {
        bench.iter(|| {
            let mut open = account.open(arrival(&listener));
            open.ask("x.blob.core.windows.net:443");
            open.admit().unwrap();
            black_box(open.close(&Err(Reason::StorageAccount.into())))
        });
    });
    // Checks that the lines were written, not dropped.
    account.finish(std::time::Duration::from_secs(5));
}

criterion_group!(benches, sessions);
criterion_main!(benches);
