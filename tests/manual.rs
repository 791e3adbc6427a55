//! Checks the manual against the code: its examples load, its tables contain every key with its
//! default, and its links have targets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pullgate::config::{self, File, Files};
use pullgate::listen::http::answer::RefusalAnswer;
use pullgate::policy::{Cause, Failure, Fault, Limits, Reason, Side, Stop};

const LISTEN: &str = "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:3128\"\n";
const REGISTRY: &str = "login-server = \"contoso.azurecr.io\"\n";

struct Page {
    path: PathBuf,
    text: String,
}

/// README.md and the pages of the manual.
fn pages() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    manual
        .chain([root.join("README.md")])
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        .map(|path| Page { text: fs::read_to_string(&path).unwrap(), path })
        .collect()
}

fn page(name: &str) -> String {
    pages().into_iter().find(|page| page.path.ends_with(name)).unwrap().text
}

/// Returns the code blocks of a page in this language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

/// Returns the errors that `pullgate check` would report for a main file and one registry file.
fn faults(main: &str, name: &str, registry: &str) -> Vec<Fault> {
    let file = |path: &str, text: &str| File { path: path.into(), text: Ok(text.to_owned()) };
    let files = Files {
        main: file("pullgate.toml", main),
        registries: vec![file(&format!("registries.d/{name}"), registry)],
        further: Vec::new(),
    };
    let mut faults = config::compile(&files, 1).err().unwrap_or_default();
    // The files that an example refers to do not exist.
    faults.retain(|fault| !fault.what.ends_with("it was not read"));
    // The authority is in the main file, which the example of a registry lacks.
    faults.retain(|fault| fault.what != "there is no authority to inspect with");
    faults
}

#[test]
fn every_example_loads() {
    let mut loaded = 0;
    for page in pages() {
        let mut check = |main: &str, name: &str, registry: &str| {
            let faults = faults(main, name, registry);
            assert!(faults.is_empty(), "{}: {faults:?}\n{main}{registry}", page.path.display());
            loaded += 1;
        };
        for block in blocks(&page.text, "toml") {
            if block.contains("login-server") || block.contains("preset = ") {
                check(LISTEN, "example.toml", block);
            } else if block.contains("[[listen]]") {
                check(block, "example.toml", REGISTRY);
            } else if block.contains("[policy]") {
                check(&format!("{LISTEN}{block}"), "example.toml", REGISTRY);
            }
        }
        for block in blocks(&page.text, "json") {
            if block.contains("loginServer") {
                check(LISTEN, "example.json", block);
            }
        }
    }
    assert!(loaded >= 8, "{loaded} examples were found");
}

/// Returns the keys of a table, as listed in the remedy for an unknown key.
fn keys(faults: &[Fault]) -> Vec<String> {
    let listed = |fault: &Fault| {
        let list = fault.remedy.split_once("known keys are ")?.1;
        Some(list.split(", ").map(str::to_owned).collect::<Vec<_>>())
    };
    faults.iter().filter_map(listed).flatten().collect()
}

#[test]
fn every_key_is_explained() {
    let unknown = "a-key-that-nobody-knows = 1\n";
    let mut main = format!("{unknown}{LISTEN}{unknown}");
    for table in [
        "[[client]]",
        "[[parent]]",
        "[answerer]",
        "[admin]",
        "[policy]",
        "[dns]",
        "[addresses]",
        "[limits]",
        "[relay]",
        "[audit]",
        "[process]",
    ] {
        main.push_str(&format!("{table}\n{unknown}"));
    }
    let mut known = keys(&faults(&main, "example.toml", REGISTRY));
    known.extend(keys(&faults(LISTEN, "example.toml", &format!("{REGISTRY}{unknown}"))));
    assert!(known.len() > 25, "the reader knows more keys than {known:?}");
    let manual = page("docs/configuration.md");
    let absent: Vec<&String> = known
        .iter()
        .filter(|key| {
            let forms = [format!("`{key}`"), format!("[{key}]"), format!("dns.{key}]")];
            !forms.iter().any(|form| manual.contains(form))
        })
        .collect();
    assert!(absent.is_empty(), "docs/configuration.md does not explain {absent:?}");
}

#[test]
fn the_limits_have_the_defaults_of_the_table() {
    let Limits {
        head_timeout,
        hello_timeout,
        dial_timeout,
        idle_timeout,
        stall_timeout,
        drain_timeout,
        open_sessions,
        open_sessions_per_client,
        session_lifetime,
        ..
    } = Limits::default();
    let manual = page("docs/configuration.md");
    for (key, default) in [
        ("head-timeout-ms", head_timeout.as_millis()),
        ("hello-timeout-ms", hello_timeout.as_millis()),
        ("dial-timeout-ms", dial_timeout.as_millis()),
        ("idle-timeout-ms", idle_timeout.as_millis()),
        ("stall-timeout-ms", stall_timeout.as_millis()),
        ("drain-timeout-ms", drain_timeout.as_millis()),
        ("batch-ms", config::BATCH.as_millis()),
        ("open-sessions", open_sessions as u128),
        ("open-sessions-per-client", open_sessions_per_client as u128),
        ("session-lifetime-ms", session_lifetime.as_millis()),
    ] {
        let row = format!("| `{key}` | {default} |");
        assert!(manual.contains(&row), "docs/configuration.md has no {row}");
    }
}

/// Returns the cells of each table row of `docs/reasons.md` that begins with a code.
fn rows_of_reasons() -> Vec<Vec<String>> {
    let text = page("docs/reasons.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.split(" | ").map(|cell| cell.trim_matches(['|', ' ']).to_owned()).collect())
        .collect()
}

#[test]
fn the_table_of_reasons_has_the_statuses_and_the_phrases_of_the_answers() {
    let denials = Reason::ALL.iter().map(|reason| Stop::from(*reason));
    let failure = |cause: &Cause| Stop::Failed(Failure { side: Side::Gate, cause: *cause });
    let stops: Vec<Stop> = denials.chain(Cause::ALL.iter().map(failure)).collect();
    let rows = rows_of_reasons();
    assert_eq!(rows.len(), stops.len(), "one row for each reason and cause, in their order");
    let mut phrases = 0;
    for (row, stop) in rows.iter().zip(&stops) {
        let [code, answer, _, example, remedy] = row.as_slice() else {
            panic!("five columns: {row:?}")
        };
        assert_eq!(*code, format!("`{}`", stop.code()));
        assert!(!example.is_empty() && !remedy.is_empty(), "{code} lacks an example or a remedy");
        let refusal = |host| RefusalAnswer { stop, host, id: "…" };
        let status = refusal(None).response().status().as_u16().to_string();
        let is_status = |word: &&str| word.parse::<u16>().is_ok();
        for stated in answer.split(", ").filter(is_status) {
            assert_eq!(stated, status, "the status of {code}");
        }
        // An example may have a remedy of its own between the meaning and the code.
        for quoted in example.split('`').filter(|text| text.starts_with("pullgate: ")) {
            let about = quoted.trim_start_matches("pullgate: ");
            let host = match about.strip_prefix("the request ") {
                Some(_) => "the request",
                None => about.split(' ').next().unwrap(),
            };
            let phrase = refusal(Some(host)).phrase();
            let (start, end) = phrase.split_at(phrase.find(" [").unwrap());
            assert!(quoted.starts_with(start), "{quoted:?} should start with {start:?}");
            assert!(quoted.ends_with(end), "{quoted:?} should end in {end:?}");
            phrases += 1;
        }
    }
    assert!(phrases > 20, "{phrases} examples quote a phrase");
}

/// The modules directly below `src`.
fn modules() -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let stem = |entry: fs::DirEntry| entry.path().file_stem().unwrap().to_string_lossy().into();
    let mut modules: Vec<String> =
        fs::read_dir(source).unwrap().map(|entry| stem(entry.unwrap())).collect();
    modules.sort();
    modules.dedup();
    modules
}

#[test]
fn the_architecture_names_every_module_and_files_that_exist() {
    let text = page("docs/architecture.md");
    let [floors] = blocks(&text, "text")[..] else { panic!("the floors are one block") };
    let mut named: Vec<String> = floors.split_whitespace().map(str::to_owned).collect();
    named.sort();
    assert_eq!(named, modules(), "the floors are those of src");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src/", "tests/", "benches/", "fuzz/", "docs/"];
    let quoted = text.split('`').skip(1).step_by(2);
    let paths: Vec<&str> =
        quoted.filter(|text| folders.iter().any(|one| text.starts_with(one))).collect();
    assert!(paths.len() > 40, "{} paths", paths.len());
    let missing: Vec<&&str> = paths.iter().filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "docs/architecture.md names files that do not exist: {missing:?}");
}

/// Returns the target of each link of a page.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// Returns the anchor of a heading: lower case, dashes for spaces, no other punctuation.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|one| one.is_alphanumeric() || " -_".contains(*one));
    kept.map(|one| if one == ' ' { '-' } else { one }).collect()
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        for link in links(&page.text).filter(|link| !link.starts_with("http")) {
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let to = match file {
                "" => page.path.clone(),
                file => page.path.parent().unwrap().join(file),
            };
            assert!(to.exists(), "{}: {link} leads nowhere", page.path.display());
            if !fragment.is_empty() {
                let text = fs::read_to_string(&to).unwrap();
                let there = text
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| anchor(line) == fragment);
                assert!(there, "{}: {link} has no such heading", page.path.display());
            }
        }
    }
}

#[test]
fn the_manual_has_every_reason_and_cause() {
    let manual = every_page();
    let codes = Reason::ALL.iter().map(|reason| reason.code());
    let absent: Vec<&str> = codes
        .chain(Cause::ALL.iter().map(|cause| cause.code()))
        .filter(|code| !manual.contains(&format!("`{code}`")))
        .collect();
    assert!(absent.is_empty(), "docs/*.md do not explain: {}", absent.join(", "));
}

#[test]
fn the_manual_and_the_code_name_the_same_metrics() {
    let documented = metrics_in(&every_page());
    let account = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/account");
    let files = fs::read_dir(account).unwrap().map(|entry| entry.unwrap().path());
    let declared: BTreeSet<String> = files
        .filter(|path| {
            path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs")
        })
        .flat_map(|path| {
            metrics_in(fs::read_to_string(path).unwrap().split("#[cfg(test)]").next().unwrap())
        })
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

/// The names of metrics in a text, without the endings of a histogram's series.
fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| word.len() > "pullgate_".len() && word.starts_with("pullgate_"))
        .map(|word| {
            let series = ["_bucket", "_sum", "_count"];
            series.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
        })
        .collect()
}

/// All pages of the manual as one text.
fn every_page() -> String {
    pages().into_iter().map(|page| page.text).collect()
}
