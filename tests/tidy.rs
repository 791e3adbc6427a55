//! Keeps the house as `docs/architecture.md` describes it: arrows between modules, and between the
//! files inside one, point down only; pure modules do not know the outside world; files and
//! functions stay short; names say what things are.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

mod house;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use house::{House, Length, Source, sources, sources_of};

/// Modules that take bytes and facts and return values.
const PURE: &[&str] = &["policy", "hello", "config", "oci"];
/// What a pure module must not name: runtimes, files, sockets, clocks, the environment.
const OUTSIDE_WORLD: &str = "tokio hyper rustix nix socket2 notify hickory_proto fs env process \
    thread TcpStream TcpListener UdpSocket UnixStream UnixListener Instant SystemTime Clock";
/// `dial` connects with a Permit; `tools` play the client.
const DIALLERS: &[&str] = &["dial", "tools"];
/// What opens a connection, or asks the system's resolver and blocks the runtime meanwhile.
const DIALLING: &str = "connect lookup_host to_socket_addrs";
const CONNECTING: [&str; 2] = ["TcpStream", "connect"];
/// Types that make a `static` a global state.
const MUTABLE: &str = "mut Mutex RwLock OnceLock LazyLock DashMap OnceCell AtomicBool AtomicUsize \
    AtomicU64 AtomicU32";
const PRINTING: &str = "print println eprint eprintln dbg";
const VAGUE: &[&str] = &["Manager", "Handler", "Util", "Utils", "Helper"];
/// Most lines of a file before its tests, and of a function.
const LONGEST: (usize, usize) = (400, 60);

/// The floors of `docs/architecture.md`, the top one first: a line of modules each.
fn floors() -> Vec<Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    let page = fs::read_to_string(page).unwrap();
    let block = page.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    block.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// Fails with every fault that a check finds, in every file.
fn hold(check: impl Fn(&Source) -> Vec<String>) {
    let sources = sources();
    let faults = sources.iter().flat_map(|source| {
        check(source).into_iter().map(|fault| format!("src/{}: {fault}", source.path))
    });
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn words_of(list: &str, found: &BTreeSet<impl AsRef<str> + Ord>) -> Vec<String> {
    let listed: BTreeSet<&str> = list.split_whitespace().collect();
    found.iter().map(AsRef::as_ref).filter(|word| listed.contains(word)).map(Into::into).collect()
}

fn floor_of(floors: &[Vec<String>], module: &str) -> Option<usize> {
    floors.iter().rev().position(|floor| floor.iter().any(|room| room == module))
}

/// The modules that a file imports although they do not stand below its own.
fn upward(floors: &[Vec<String>], house: &House<'_>, source: &Source) -> Vec<String> {
    let Some(own) = floor_of(floors, source.top()) else {
        return vec![format!("`{}` is on no floor of docs/architecture.md", source.top())];
    };
    let modules = house
        .imports(source)
        .into_iter()
        .map(|path| path.split('/').next().unwrap().trim_end_matches(".rs"));
    let others: BTreeSet<&str> = modules.filter(|module| *module != source.top()).collect();
    let is_upward = |module: &&str| floor_of(floors, module).is_none_or(|other| other >= own);
    others
        .into_iter()
        .filter(is_upward)
        .map(|to| format!("imports `{to}`, which is not below"))
        .collect()
}

#[test]
fn arrows_between_modules_point_down() {
    let (floors, sources) = (floors(), sources());
    let house = House::new(&sources);
    hold(|source| upward(&floors, &house, source));
}

#[test]
fn no_file_depends_on_one_that_depends_on_it() {
    for folder in ["src", "benches/peers", "benches/soak"] {
        let sources = sources_of(folder);
        assert_eq!(House::new(&sources).circles(), Vec::<String>::new(), "{folder}");
    }
}

#[test]
fn no_file_climbs_past_its_parent() {
    hold(|source| {
        let climbs = source
            .paths
            .iter()
            .filter(|path| path.starts_with(&["super", "super"].map(Into::into)));
        climbs.map(|path| format!("`{}`: name it from its module", path.join("::"))).collect()
    });
}

#[test]
fn pure_modules_do_not_know_the_outside_world() {
    hold(|source| match PURE.contains(&source.top()) {
        true => words_of(OUTSIDE_WORLD, &source.words()),
        false => Vec::new(),
    });
}

#[test]
fn files_and_functions_are_short() {
    for folder in ["src", "benches"] {
        let faults = sources_of(folder).into_iter().flat_map(|source| {
            let too_long = source.lengths.into_iter().filter(|length| {
                let most = if length.what == "the file" { LONGEST.0 } else { LONGEST.1 };
                length.lines > most && !length.is_excused
            });
            let said = |length: Length| {
                format!("{}: {} has {} lines", source.path, length.what, length.lines)
            };
            too_long.map(said).collect::<Vec<_>>()
        });
        assert_eq!(faults.collect::<Vec<_>>(), Vec::<String>::new(), "{folder}");
    }
}

#[test]
fn only_commands_print_only_dial_dials_and_nothing_is_global() {
    hold(|source| {
        let mut faults = Vec::new();
        if !["cli", "main"].contains(&source.top()) {
            faults.extend(words_of(PRINTING, &source.macros));
        }
        if !DIALLERS.contains(&source.top()) {
            faults.extend(words_of(DIALLING, &source.calls));
            let ends =
                source.paths.iter().filter(|path| path.ends_with(&CONNECTING.map(Into::into)));
            faults.extend(ends.map(|path| path.join("::")));
        }
        faults.extend(source.statics.values().flat_map(|words| words_of(MUTABLE, words)));
        faults
    });
}

#[test]
fn names_and_opening_paragraphs_say_what_things_are() {
    hold(|source| {
        let vague = source.types.iter().filter(|name| VAGUE.iter().any(|end| name.ends_with(end)));
        let getters = source.functions.iter().filter(|name| name.starts_with("get_"));
        let silent = (!source.text.starts_with("//!")).then(|| "no `//!` paragraph".to_owned());
        vague.chain(getters).cloned().chain(silent).collect()
    });
}

#[test]
fn the_checks_find_what_they_are_there_for() {
    let floors =
        ["app", "relay listen", "policy"].map(|line| line.split(' ').map(str::to_owned).collect());
    let read = |files: &[(&str, &str)]| -> Vec<Source> {
        files.iter().map(|(path, text)| Source::new(path, text)).collect()
    };
    for (path, text, expected) in [
        ("policy/name.rs", "use crate::app::Gate;", 1),
        ("policy/name.rs", "use super::super::app::Gate;", 1),
        ("policy/name.rs", "fn f() { x!(crate::app::run()) }", 1),
        ("relay/mod.rs", "fn f(x: &crate::listen::Head) {}", 1),
        ("relay/mod.rs", "use crate::policy::{Name, Permit}; // crate::app", 0),
        ("app.rs", "use crate::{policy, relay::Relay};", 0),
        ("app.rs", "#[cfg(test)]\nmod tests { use crate::attic; }", 0),
        ("attic.rs", "", 1),
    ] {
        let stubs = ["app.rs", "relay/mod.rs", "listen/mod.rs", "policy/mod.rs", "policy/name.rs"];
        let mut files: Vec<(&str, &str)> = stubs.map(|stub| (stub, "")).to_vec();
        files.retain(|(stub, _)| *stub != path);
        files.push((path, text));
        let sources = read(&files);
        let faults = upward(&floors, &House::new(&sources), sources.last().unwrap());
        assert_eq!(faults.len(), expected, "{path}: {text}");
    }
    let circle =
        read(&[("a/mod.rs", "pub use b::B;"), ("a/b.rs", "use super::C;"), ("a/c.rs", "")]);
    assert_eq!(House::new(&circle).circles().len(), 2);
    let through = read(&[
        ("a/mod.rs", "pub use b::B; use c::C;"),
        ("a/b.rs", ""),
        ("a/c.rs", "use super::B;"),
    ]);
    assert_eq!(House::new(&through).circles().len(), 0);
}
