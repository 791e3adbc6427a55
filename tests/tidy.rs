//! Keeps the house as `src/lib.rs` describes it: reads the sources and the manual, and fails where
//! an arrow between modules runs up or sideways, where a pure module knows the outside world, and
//! where the manual and the closed sets have drifted apart.
//!
//! It reads text, not syntax trees: comments and literals are blanked first, and test modules cut.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pullgate::policy::{Cause, Reason};

/// The floors, from the ground up; modules on one floor do not import one another.
const FLOORS: &[&[&str]] = &[
    &["oci"],
    &["policy"],
    &["config", "hello"],
    &["account"],
    &["dial", "relay"],
    &["listen"],
    &["dns"],
    &["admin", "reload"],
    &["session"],
    &["app"],
    &["tools"],
    &["cli"],
    &["main", "lib"],
];

/// Modules that take bytes and facts and return values.
const PURE: &[&str] = &["oci", "policy", "hello", "config"];

/// Words that a pure module has no use for: runtimes, files, sockets, clocks, the environment.
const OUTSIDE_WORLD: &[&str] = &[
    "tokio",
    "hyper",
    "rustix",
    "nix",
    "socket2",
    "notify",
    "hickory_resolver",
    "fs",
    "env",
    "process",
    "thread",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "Instant",
    "SystemTime",
    "Clock",
];

/// Where output may be printed: the commands.
const PRINTERS: &[&str] = &["cli", "main"];

/// Where a connection may be opened: `dial` does it with a Permit, the demo and the doctor play
/// the client.
const DIALLERS: &[&str] = &["dial", "tools"];

/// What opens one, asks the system's resolver, or blocks a worker of the runtime.
const DIALLING: &[&str] =
    &["TcpStream::connect", ".connect(", "lookup_host", "to_socket_addrs", "thread::sleep"];

/// Types that make a `static` a global state.
const MUTABLE: &[&str] = &["Mutex", "RwLock", "OnceLock", "LazyLock", "DashMap", "OnceCell"];

/// Lines that a file may have before its tests.
const LONGEST_FILE: usize = 500;

struct Source {
    /// Path below `src`.
    path: String,
    /// The text as it stands, up to the tests.
    text: String,
    /// The text without comments, literals and tests.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = without_tests(&blanked(text));
        let text = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
        Self { path: path.to_owned(), text, code }
    }

    /// The module on a floor that the file belongs to.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many `super`s lead from the file's module to the crate's root.
    fn depth(&self) -> usize {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        if matches!(path, "lib" | "main") { 0 } else { path.split('/').count() }
    }
}

#[test]
fn arrows_run_down_only() {
    assert_tidy(&sources(), wrong_arrows);
}

#[test]
fn pure_modules_know_nothing_of_the_outside_world() {
    assert_tidy(&sources(), outside_world);
}

#[test]
fn files_are_one_thing() {
    assert_tidy(&sources(), |source| {
        let lines = source.text.lines().count();
        let long = format!("{lines} lines before its tests; {LONGEST_FILE} are the most");
        (lines > LONGEST_FILE).then_some(long).into_iter().collect()
    });
}

#[test]
fn every_module_opens_with_what_it_is() {
    assert_tidy(&sources(), |source| {
        let opens = source.text.starts_with("//!");
        (!opens).then(|| "does not open with a `//!` paragraph".to_owned()).into_iter().collect()
    });
}

#[test]
fn only_the_commands_print() {
    assert_tidy(&sources(), prints);
}

#[test]
fn only_dial_dials() {
    assert_tidy(&sources(), dials);
}

#[test]
fn there_is_no_global_state() {
    assert_tidy(&sources(), globals);
}

#[test]
fn names_say_what_things_are() {
    assert_tidy(&sources(), vague_names);
}

#[test]
fn the_manual_has_every_reason_and_cause() {
    let manual = manual();
    let codes = Reason::ALL.iter().map(|reason| reason.code());
    let absent: Vec<&str> = codes
        .chain(Cause::ALL.iter().map(|cause| cause.code()))
        .filter(|code| !manual.contains(&format!("`{code}`")))
        .collect();
    assert!(absent.is_empty(), "docs/*.md do not explain: {}", absent.join(", "));
}

#[test]
fn the_manual_and_the_code_name_the_same_metrics() {
    let documented = metrics_in(&manual());
    let sources = sources();
    let declared: BTreeSet<String> = sources
        .iter()
        .filter(|source| source.module() == "account")
        .flat_map(|source| metrics_in(&source.text))
        .collect();
    let invented: Vec<&String> = documented.difference(&declared).collect();
    assert!(invented.is_empty(), "docs/*.md name metrics that do not exist: {invented:?}");
    let silent: Vec<&String> = declared.difference(&documented).collect();
    assert!(silent.is_empty(), "docs/*.md do not explain the metrics {silent:?}");
}

#[test]
fn the_threat_model_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let named: Vec<(&str, &str)> =
        page.split('`').filter_map(|piece| piece.split_once(".rs::")).collect();
    assert!(named.len() > 20, "the page names {} tests", named.len());
    let missing = named.iter().filter(|(file, test)| {
        let text = fs::read_to_string(root.join(format!("{file}.rs"))).unwrap_or_default();
        !text.contains(&format!("fn {test}("))
    });
    let missing: Vec<String> = missing.map(|(file, test)| format!("{file}.rs::{test}")).collect();
    assert!(missing.is_empty(), "docs/threat-model.md names tests that are not: {missing:?}");
}

fn wrong_arrows(source: &Source) -> Vec<String> {
    let floor = |module: &str| FLOORS.iter().position(|floor| floor.contains(&module));
    let from = source.module();
    let Some(own) = floor(from) else {
        return vec![format!("`{from}` is on no floor; give it one in tests/tidy.rs")];
    };
    imports(&source.code, source.depth())
        .into_iter()
        .filter(|to| to != from)
        .filter(|to| floor(to).is_some_and(|other| other >= own))
        .map(|to| format!("imports `{to}`, which is not below it"))
        .collect()
}

fn outside_world(source: &Source) -> Vec<String> {
    if !PURE.contains(&source.module()) {
        return Vec::new();
    }
    let words: BTreeSet<&str> = words(&source.code).collect();
    OUTSIDE_WORLD
        .iter()
        .filter(|word| words.contains(*word))
        .map(|word| format!("names `{word}`, but is to be pure"))
        .collect()
}

fn prints(source: &Source) -> Vec<String> {
    if PRINTERS.contains(&source.module()) {
        return Vec::new();
    }
    ["print!", "println!", "eprint!", "eprintln!", "dbg!"]
        .iter()
        .filter(|macro_name| {
            source.code.match_indices(**macro_name).any(|(at, _)| starts_word(&source.code, at))
        })
        .map(|macro_name| format!("uses {macro_name}; only cli prints"))
        .collect()
}

fn dials(source: &Source) -> Vec<String> {
    if DIALLERS.contains(&source.module()) {
        return Vec::new();
    }
    DIALLING
        .iter()
        .filter(|call| source.code.contains(**call))
        .map(|call| format!("uses {call}; only dial opens connections, and only with a Permit"))
        .collect()
}

fn globals(source: &Source) -> Vec<String> {
    source
        .code
        .lines()
        .map(str::trim)
        .filter(|line| line.contains("static ") && !line.contains("'static "))
        .filter(|line| {
            line.contains("static mut ")
                || words(line).any(|word| MUTABLE.contains(&word) || word.starts_with("Atomic"))
        })
        .map(|line| format!("has global state: {line}"))
        .collect()
}

fn vague_names(source: &Source) -> Vec<String> {
    let words: Vec<&str> = words(&source.code).collect();
    words
        .windows(2)
        .filter_map(|pair| match pair {
            ["struct" | "enum" | "trait", name]
                if ["Manager", "Handler", "Util", "Utils", "Helper"]
                    .iter()
                    .any(|vague| name.ends_with(vague)) =>
            {
                Some(format!("`{name}` says nothing"))
            }
            ["fn", name] if name.starts_with("get_") => Some(format!("`{name}`: drop the get_")),
            _ => None,
        })
        .collect()
}

/// The crate's modules that the code names by `crate::…`, `crate::{…}` or enough `super::`.
fn imports(code: &str, depth: usize) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut take = |rest: &str| match rest.strip_prefix('{') {
        Some(group) => found.extend(heads_of_group(group)),
        None => found.extend(words(rest).next().map(ToOwned::to_owned)),
    };
    for (at, start) in code.match_indices("crate::") {
        if starts_word(code, at) {
            take(&code[at + start.len()..]);
        }
    }
    let up = "super::".repeat(depth);
    for (at, start) in code.match_indices(&up).filter(|_| depth > 0) {
        if starts_word(code, at) {
            take(&code[at + start.len()..]);
        }
    }
    found
}

/// The first words of a group's entries: `a::b, c::{d, e}` has `a` and `c`.
fn heads_of_group(group: &str) -> BTreeSet<String> {
    let mut heads = BTreeSet::new();
    let mut level = 0;
    let mut entry = String::new();
    for letter in group.chars() {
        match letter {
            '{' => level += 1,
            '}' | ',' if level == 0 => {
                heads.extend(words(&entry).next().map(ToOwned::to_owned));
                entry.clear();
                if letter == '}' {
                    break;
                }
            }
            '}' => level -= 1,
            _ => entry.push(letter),
        }
    }
    heads
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| !word.is_empty())
}

/// Whether the word at a byte offset is not the tail of a longer path or word.
fn starts_word(text: &str, at: usize) -> bool {
    !text[..at].ends_with(|before: char| before.is_alphanumeric() || "_:$".contains(before))
}

fn metrics_in(text: &str) -> BTreeSet<String> {
    words(text)
        .filter(|word| word.starts_with("pullgate_"))
        .map(|word| {
            let series = ["_bucket", "_sum", "_count"];
            series.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
        })
        .collect()
}

/// The source with comments, strings and characters replaced by blanks, line for line.
fn blanked(text: &str) -> String {
    let mut blank = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(rest),
            'r' | 'b' if !blank.ends_with(|last: char| last.is_alphanumeric() || last == '_') => {
                raw_string_length(rest)
            }
            '\'' => character_length(rest),
            _ => 0,
        };
        let taken = if skipped == 0 { first.len_utf8() } else { skipped };
        if skipped == 0 {
            blank.push(first);
        } else {
            blank.push(' ');
            blank.extend(rest[..taken].chars().filter(|letter| *letter == '\n'));
        }
        rest = &rest[taken..];
    }
    blank
}

/// The length of the string that `text` begins with.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the raw or byte string that `text` begins with, or 0.
fn raw_string_length(text: &str) -> usize {
    let prefix = text.len() - text.trim_start_matches(['b', 'r']).len();
    let after = &text[prefix..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    if prefix > 2 || !after[hashes..].starts_with('"') {
        return 0;
    }
    if !text[..prefix].contains('r') {
        return if hashes == 0 { prefix + string_length(after) } else { 0 };
    }
    let body = prefix + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    text[body..].find(&end).map_or(text.len(), |at| body + at + end.len())
}

/// The length of the character literal that `text` begins with, or 0 for a lifetime.
fn character_length(text: &str) -> usize {
    let mut letters = text.char_indices().skip(1);
    match letters.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(0, |at| at + 4),
        Some(_) => match letters.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

/// The (blanked) code without the items that `#[cfg(test)]` stands before.
fn without_tests(code: &str) -> String {
    let mark = "#[cfg(test)]";
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(mark) {
        kept.push_str(&rest[..at]);
        rest = &rest[at + mark.len()..];
        let mut level = 0;
        let end = rest.char_indices().find_map(|(at, letter)| {
            match letter {
                '{' => level += 1,
                '}' => level -= 1,
                _ => {}
            }
            let ends = letter == ';' || letter == '}';
            (ends && level == 0).then_some(at + 1)
        });
        rest = &rest[end.unwrap_or(rest.len())..];
    }
    kept.push_str(rest);
    kept
}

/// Every source file outside tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, "rs", &mut paths);
    let found: Vec<Source> = paths
        .iter()
        .filter(|path| !path.components().any(|part| is_test(&part.as_os_str().to_string_lossy())))
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            Source::new(&path.strip_prefix(&root).unwrap().to_string_lossy(), &text)
        })
        .collect();
    assert!(found.len() > 10, "src/ was not read");
    found
}

/// `tests.rs`, `relay_tests.rs` and what lies in `tests/`.
fn is_test(part: &str) -> bool {
    let stem = part.trim_end_matches(".rs");
    stem == "tests" || stem.ends_with("_tests")
}

/// All pages of the manual.
fn manual() -> String {
    let mut paths = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs"), "md", &mut paths);
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

fn collect(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn assert_tidy(sources: &[Source], check: impl Fn(&Source) -> Vec<String>) {
    let faults: Vec<String> = sources
        .iter()
        .flat_map(|source| {
            check(source).into_iter().map(|fault| format!("src/{}: {fault}", source.path))
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The checks catch what they are there for.
mod catches {
    use super::*;

    fn offences(path: &str, text: &str, check: impl Fn(&Source) -> Vec<String>) -> usize {
        check(&Source::new(path, text)).len()
    }

    #[test]
    fn arrows() {
        for (path, text, offences_expected) in [
            ("policy/name.rs", "use crate::config::Settings;", 1),
            ("policy/name.rs", "use super::super::config::Settings;", 1),
            ("policy/name.rs", "use super::target::Target;", 0),
            ("config/mod.rs", "use crate::{hello::Guard, policy::Name};", 1),
            ("config/mod.rs", "use super::hello::Guard;", 1),
            ("relay/mod.rs", "fn f(x: &crate::listen::Head) {}", 1),
            ("session.rs", "use crate::{dial, listen::{Head, app}, relay};", 0),
            ("session.rs", "// use crate::app;\nlet x = \"crate::app\";", 0),
            ("session.rs", "let r = br#\"crate::app \" crate::app\"#;", 0),
            ("session.rs", "let c = '\"'; use crate::app; // \"", 1),
            ("session.rs", "fn f<'a>(x: &'a str) { crate::app::run(x) }", 1),
            ("session.rs", "#[cfg(test)]\nmod tests { use crate::app; }\nuse crate::cli;", 1),
            ("session.rs", "other_crate::app(); $crate::app();", 0),
            ("attic.rs", "", 1),
        ] {
            assert_eq!(offences(path, text, wrong_arrows), offences_expected, "{path}: {text}");
        }
    }

    #[test]
    fn impurity() {
        for (path, text, expected) in [
            ("policy/mod.rs", "use std::time::Instant;", 1),
            ("hello/mod.rs", "use std::{fs, io};", 1),
            ("config/mod.rs", "async fn f() { tokio::spawn(x) }", 1),
            ("config/mod.rs", "use std::net::{IpAddr, TcpStream};", 1),
            ("config/mod.rs", "use std::time::Duration; use std::net::IpAddr;", 0),
            ("config/mod.rs", "// the fs\n#[cfg(test)]\nmod tests { use std::fs; }", 0),
            ("dial/mod.rs", "use tokio::net::TcpStream;", 0),
        ] {
            assert_eq!(offences(path, text, outside_world), expected, "{path}: {text}");
        }
    }

    #[test]
    fn printing_state_and_names() {
        assert_eq!(offences("relay/mod.rs", "println!(); eprintln!();", prints), 2);
        assert_eq!(offences("cli/run.rs", "println!()", prints), 0);
        assert_eq!(offences("listen/mod.rs", "TcpStream::connect(x).await", dials), 1);
        assert_eq!(offences("dial/mod.rs", "TcpStream::connect(x).await", dials), 0);
        assert_eq!(offences("relay/mod.rs", "static A: AtomicU64 = x;", globals), 1);
        assert_eq!(offences("relay/mod.rs", "static mut A: u8 = 1;", globals), 1);
        assert_eq!(offences("relay/mod.rs", "static A: &[&str] = &[];", globals), 0);
        assert_eq!(offences("relay/mod.rs", "fn f(a: &'static AtomicU64) {}", globals), 0);
        assert_eq!(offences("a.rs", "struct PipeManager; fn get_pipe() {}", vague_names), 2);
    }

    #[test]
    fn metrics() {
        let found = metrics_in("`pullgate_open_sessions` pullgate_stage_seconds_bucket{x}");
        let expected = ["pullgate_open_sessions", "pullgate_stage_seconds"];
        assert_eq!(found, expected.map(ToOwned::to_owned).into());
    }
}
