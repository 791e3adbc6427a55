//! Data-driven tests of the configuration: each folder `tests/faults/NN-name/` contains one error,
//! and the expected messages in `expected.txt`. A missing `pullgate.toml` or registry file is
//! replaced with a valid one.
//!
//! To update the expected messages, run `BLESS=1 cargo test --test config`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking; clippy's exception for tests covers #[test] functions only"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use pullgate::config::presets::{Catalog, is_shared};
use pullgate::config::{
    self, AdminAddress, AuditTarget, File, Files, ImportedEndpoints, Loaded, Readers,
    ReferencedFile,
};
use pullgate::policy::{CLOUDS, Fault};
use pullgate::reload;

const MAIN: &str = "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:3128\"\n";
const SOUND: &str = "login-server = \"sound.azurecr.io\"\n\
                     data-endpoints = [\"sound.eastus.data.azurecr.io\"]\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file(path: &str, text: &str) -> File {
    File { path: path.into(), text: Ok(text.to_owned()) }
}

fn files(main: &str, registries: &[(&str, &str)]) -> Files {
    let registries = registries.iter().map(|(name, text)| file(name, text)).collect();
    Files { main: file("pullgate.toml", main), registries, further: Vec::new() }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Returns the files of a case; missing ones are replaced.
fn case(folder: &Path) -> Files {
    let main = fs::read_to_string(folder.join("pullgate.toml"));
    let registries = folder.join("registries.d");
    let mut found: Vec<File> = Vec::new();
    if registries.is_dir() {
        for path in entries(&registries) {
            let text = fs::read(&path).unwrap();
            let text = String::from_utf8(text).map_err(|error| error.utf8_error().to_string());
            found.push(File { path: format!("registries.d/{}", name(&path)).into(), text });
        }
    } else if !folder.join("no-registries").exists() {
        found.push(file("registries.d/sound.toml", SOUND));
    }
    let main = file("pullgate.toml", &main.unwrap_or(MAIN.to_owned()));
    let mut named = config::named_by(&main).map(|named| named.further).unwrap_or_default();
    named.extend(found.iter().flat_map(config::named_by_registry));
    let further = named.into_iter().map(|path| {
        let content = fs::read(folder.join(&path)).map_err(|_| "it is not there".to_owned());
        ReferencedFile { path, content: content.map(Into::into), readers: Readers::Few }
    });
    Files { main, registries: found, further: further.collect() }
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("{fault}\n")).collect()
}

/// Returns the messages of a case: its errors, otherwise its warnings.
fn said(compiled: &Result<Loaded, Vec<Fault>>) -> String {
    match compiled {
        Err(faults) => lines(faults),
        Ok(loaded) => loaded.warnings.iter().map(|one| format!("warning: {one}\n")).collect(),
    }
}

#[test]
fn every_invalid_folder_is_reported_as_expected() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut cases = 0;
    for folder in entries(&root().join("tests/faults")) {
        let said = said(&config::compile(&case(&folder), 1));
        let expected = folder.join("expected.txt");
        if bless {
            fs::write(&expected, &said).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        assert_eq!(said, expected, "{}", folder.display());
        assert!(!said.is_empty(), "{} has no fault", folder.display());
        // There is no line number if a file cannot be read at all.
        let located = |line: &str| {
            let place = line.trim_start_matches("warning: ").split(": ").next().unwrap_or("");
            let number = place.rsplit_once(':').map(|(_, number)| number.parse::<u32>());
            matches!(number, Some(Ok(1..))) || line.contains("cannot be read")
        };
        assert!(said.lines().all(located), "{}: a line has no place:\n{said}", folder.display());
        assert!(said.lines().all(|line| line.contains("; ")), "no remedy:\n{said}");
        cases += 1;
    }
    assert!(cases >= 80, "{cases} cases");
}

/// Under systemd and in containers these cannot be opened by their names.
#[test]
fn standard_output_by_name_is_standard_output() {
    for path in ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let written = files(&format!("{MAIN}[audit]\npath = \"{path}\"\n"), &[("a.toml", SOUND)]);
        let loaded = config::compile(&written, 1).unwrap();
        assert_eq!(loaded.settings.audit, AuditTarget::StandardOutput, "{path}");
    }
}

#[test]
fn a_small_profile_has_few_sessions_unless_limits_say_otherwise() {
    for (more, sessions, per_client) in [
        ("", 10_000, 1_000),
        ("[process]\nprofile = \"normal\"\n", 10_000, 1_000),
        ("[process]\nprofile = \"small\"\n", 256, 256),
        ("[limits]\nopen-sessions = 20\n[process]\nprofile = \"small\"\n", 20, 256),
    ] {
        let written = files(&format!("{MAIN}{more}"), &[("a.toml", SOUND)]);
        let limits = config::compile(&written, 1).unwrap().policy.rules().limits;
        let found = (limits.open_sessions, limits.open_sessions_per_client);
        assert_eq!(found, (sessions, per_client), "{more}");
    }
    let unknown = files(&format!("{MAIN}[process]\nprofile = \"tiny\"\n"), &[("a.toml", SOUND)]);
    let faults = lines(&config::compile(&unknown, 1).unwrap_err());
    assert_eq!(
        faults,
        "pullgate.toml:5: profile \"tiny\" is unknown; write \"normal\" or \"small\"\n"
    );
}

/// The package is started before it has a registry, and then the manual has one put into the folder.
#[test]
fn the_packages_configuration_needs_no_change_for_the_first_registry() {
    let text = fs::read_to_string(root().join("deploy/debian/pullgate.toml")).unwrap();
    for registries in [&[][..], &[("contoso.toml", SOUND)]] {
        assert_eq!(said(&config::compile(&files(&text, registries), 1)), "");
    }
}

#[test]
fn twelve_broken_files_are_twelve_faults() {
    let faults = config::compile(&case(&root().join("tests/faults/twelve")), 1).unwrap_err();
    assert_eq!(faults.len(), 12, "{}", lines(&faults));
    let mut files: Vec<&str> = faults.iter().map(|fault| &*fault.place.file).collect();
    files.dedup();
    assert_eq!(files.len(), 12, "each in a file of its own");
    assert!(faults.iter().all(|fault| fault.place.line > 0));
}

#[test]
fn what_is_shipped_in_config_has_no_fault_and_no_warning() {
    let main = root().join("config/pullgate.toml");
    let files = reload::read_files(&main).unwrap();
    let loaded = config::compile(&files, 1).unwrap_or_else(|faults| panic!("{}", lines(&faults)));
    assert!(loaded.warnings.is_empty(), "{}", lines(&loaded.warnings));
    let examples = entries(&root().join("config/examples"));
    let registries: Vec<File> = examples
        .iter()
        .map(|path| file(&path.to_string_lossy(), &fs::read_to_string(path).unwrap()))
        .collect();
    assert!(registries.len() >= 5, "the examples are there");
    let registries = [files.registries, registries].concat();
    let together = Files { registries, ..files };
    let loaded =
        config::compile(&together, 1).unwrap_or_else(|faults| panic!("{}", lines(&faults)));
    assert!(loaded.warnings.is_empty(), "{}", lines(&loaded.warnings));
}

/// The examples cannot go stale: what the table knows is taken from it, at its newest date.
#[test]
fn the_examples_are_those_of_the_presets() {
    let catalog = Catalog::built_in();
    let (_, newest) = catalog.dates().unwrap();
    let mut with_preset = 0;
    for path in entries(&root().join("config/examples")) {
        let text = fs::read_to_string(&path).unwrap();
        let table: toml::Table = text.parse().unwrap();
        if let Some(name) = table.get("preset") {
            with_preset += 1;
            let preset = catalog.find(name.as_str().unwrap()).unwrap();
            assert_eq!(table["preset-date"].as_str(), Some(newest.to_string().as_str()), "{name}");
            let parameters = preset.parameters.iter().map(|one| one.name.as_str());
            let given = table.get("preset-parameters").and_then(toml::Value::as_table);
            let given = given.into_iter().flatten().map(|(name, _)| name.as_str());
            assert_eq!(given.collect::<BTreeSet<_>>(), parameters.collect(), "{name}");
        }
        // Written by hand, a host of a preset would stay when the preset changes.
        let known = catalog.presets().iter().flat_map(|preset| &preset.hosts);
        for host in known.filter(|host| !host.host.contains('{') && !is_shared(&host.host)) {
            assert!(!text.contains(&format!("{:?}", host.host)), "{}: {host:?}", path.display());
        }
    }
    assert!(with_preset >= 5, "{with_preset} examples use a preset");
}

#[test]
fn the_settings_are_as_written() {
    let main = "[[listen]]\nmode = \"connect\"\naddress = \"127.0.0.1:0\"\nenforcement = \"report\"\n\
                [[listen]]\nmode = \"connect\"\naddress = \"[::1]:3128\"\n\
                [admin]\naddress = \"unix:/run/pullgate/admin.sock\"\n\
                [dns]\nservers = [\"10.0.0.2\", \"[::1]:5353\"]\n\
                [dns.hosts]\n\"Contoso.azurecr.io\" = [\"10.1.0.4\", \"10.1.0.5:8443\"]\n\
                \"sound.azurecr.io\" = \"[fd00::4]:8443\"\n\
                [limits]\nhead-timeout-ms = 2_500\nopen-sessions = 0x10\n\
                [relay]\nbatch-ms = 0\n\
                [audit]\npath = \"audit.jsonl\"\n";
    let mut written = files(main, &[("etc/registries.d/sound.toml", SOUND)]);
    written.main.path = "etc/pullgate.toml".into();
    let Loaded { settings, policy, warnings, .. } = config::compile(&written, 7).unwrap();
    assert!(warnings.is_empty(), "{}", lines(&warnings));
    assert_eq!(policy.generation(), 7);
    assert_eq!(settings.listeners.len(), 2);
    assert_eq!(settings.listeners[0].address.port(), 0);
    assert!(settings.listeners[0].enforcement.is_some());
    assert_eq!(settings.admin, Some(AdminAddress::Unix("/run/pullgate/admin.sock".into())));
    assert_eq!(settings.audit, AuditTarget::File("etc/audit.jsonl".into()));
    assert_eq!(settings.batch, None);
    let rules = policy.rules();
    assert_eq!(rules.dns_servers[0].to_string(), "10.0.0.2:53");
    assert_eq!(rules.dns_servers[1].to_string(), "[::1]:5353");
    assert_eq!(rules.pins["contoso.azurecr.io"].len(), 2);
    assert_eq!(rules.pins["sound.azurecr.io"][0].port, Some(8443));
    assert_eq!(rules.limits.head_timeout.as_millis(), 2_500);
    assert_eq!(rules.limits.open_sessions, 16);
    assert_eq!(rules.limits.open_sessions_per_client, 1_000);
    let silent = config::compile(&files(MAIN, &[("registries.d/sound.toml", SOUND)]), 1).unwrap();
    assert_eq!(silent.settings.batch, Some(config::BATCH));
    assert_eq!(config::named_by(&written.main).unwrap().registries, Path::new("etc/registries.d"));
}

/// The hosts of one registry's file.
fn hosts(path: &str, text: &str) -> Vec<String> {
    let compiled = config::compile(&files(MAIN, &[(path, text)]), 1);
    let loaded = compiled.unwrap_or_else(|faults| panic!("{text}\n{}", lines(&faults)));
    let endpoints = loaded.policy.rules().registries[0].endpoints();
    endpoints.iter().map(|one| format!("{} {}", one.kind.code(), one.target)).collect()
}

#[test]
fn what_az_prints_is_read_as_it_stands() {
    let endpoints = "{\n  \"loginServer\": \"my-d7e.azurecr.cn\",\n  \"dataEndpoints\": [\n    \
                     {\n \"region\": \"chinaeast2\",\n \"endpoint\": \
                     \"my-d7e.chinaeast2.data.azurecr.cn\",\n },\n  ],\n \"regionalEndpoints\": [ \
                     { \"region\": \"chinaeast2\", \"endpoint\": \
                     \"my-d7e.chinaeast2.geo.azurecr.cn\" } ], \"newField\": { \"a\": [1, 2.5e3] },\n}";
    let expected = [
        "login my-d7e.azurecr.cn:443",
        "data my-d7e.chinaeast2.data.azurecr.cn:443",
        "regional my-d7e.chinaeast2.geo.azurecr.cn:443",
    ];
    assert_eq!(hosts("my.json", endpoints), expected);
    assert_eq!(hosts("my.json", &format!("\u{feff}{}", endpoints.replace('\n', "\r\n"))), expected);
    let show = "{\"adminUserEnabled\": false, \"dataEndpointEnabled\": true, \
                \"dataEndpointHostNames\": [\"contoso.eastus.data.azurecr.io\"], \"encryption\": null, \
                \"loginServer\": \"Contoso.azurecr.io\", \"name\": \"contoso\", \
                \"regionalEndpoints\": null}";
    let expected = ["login contoso.azurecr.io:443", "data contoso.eastus.data.azurecr.io:443"];
    assert_eq!(hosts("contoso.json", show), expected);
}

#[test]
fn every_region_is_a_list_made_when_loading() {
    for cloud in CLOUDS {
        let suffix = cloud.registry_suffix;
        let text = format!("login-server = \"a-b.{suffix}\"\ndata-endpoints = \"every-region\"\n");
        let found = hosts("a.toml", &text);
        assert_eq!(found.len(), 1 + cloud.regions.len(), "{suffix}");
        assert!(found.contains(&format!("data a-b.{}.data.{suffix}:443", cloud.regions[0])));
    }
    let beside = "login-server = \"a.azurecr.io\"\ndata-endpoints = [\"every-region\", \
                  \"a.atlantis.data.azurecr.io\", \"a.eastus.data.azurecr.io\"]\n";
    let found = hosts("a.toml", beside);
    assert_eq!(found.len(), 2 + CLOUDS[0].regions.len(), "a new region beside it, none twice");
}

#[test]
fn what_az_prints_while_data_endpoints_are_off_is_imported() {
    let storage = "core.chinacloudapi.cn";
    let printed = format!(
        "{{\"loginServer\": \"my-d7e.azurecr.cn\", \"dataEndpoints\": [\
         {{\"region\": \"chinaeast2\", \"endpoint\": \"*.blob.{storage}\"}},\n\
         {{\"region\": \"China North\", \"endpoint\": \"*.blob.{storage}\"}},\n\
         {{\"region\": \"chinaeast2\", \"endpoint\": \"my-d7e.chinaeast2.data.azurecr.cn\"}},]}}"
    );
    let import = config::import(&"-".into(), &printed).unwrap();
    assert_eq!(import.endpoints, ImportedEndpoints::Future);
    assert_eq!((&*import.name, &*import.resource), ("my-d7e", "my"));
    let expected = "login-server = \"my-d7e.azurecr.cn\"\ndata-endpoints = [\n    \
                    \"my-d7e.chinaeast2.data.azurecr.cn\",\n    \
                    \"my-d7e.chinanorth.data.azurecr.cn\",\n]\n";
    assert_eq!(import.toml, expected);
    assert_eq!(hosts("my-d7e.toml", &import.toml).len(), 3);
}

#[test]
fn input_that_cannot_be_imported_is_reported() {
    let cases = [
        ("{", 1, "nterminated"),
        ("[]", 1, "its own file"),
        ("{\"loginServer\": \"ghcr.io\", \"dataEndpoints\": []}", 1, "not a login server of Azure"),
        ("{\n\"loginServer\": \"a.azurecr.io\",\n\"dataEndpoints\": []}", 3, "no data endpoint"),
        (
            "{\"loginServer\": \"a.azurecr.io\",\n\"dataEndpoints\": [\"*.blob.core.windows.net\"]}",
            2,
            "has no region",
        ),
        (
            "{\"loginServer\": \"a.azurecr.io\",\n\"dataEndpoints\": [\"b.eastus.data.azurecr.io\"]}",
            2,
            "another label",
        ),
        (
            "{\"loginServer\": \"a.azurecr.io\",\n\"dataEndpoints\": [{\"region\": \"e.evil\", \
             \"endpoint\": \"*.blob.core.windows.net\"}]}",
            2,
            "has no region",
        ),
    ];
    for (text, line, word) in cases {
        let faults = config::import(&"printed".into(), text).unwrap_err();
        let found = faults.iter().any(|one| one.place.line == line && one.what.contains(word));
        assert!(found, "{text}: {}", lines(&faults));
    }
}

#[test]
fn a_folder_that_is_not_there_hides_no_other_fault() {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("pullgate.toml");
    fs::write(&main, format!("{MAIN}[policy]\nregistries = \"gone\"\nenforcment = \"report\"\n"))
        .unwrap();
    let faults = reload::read_files(&main).unwrap_err();
    let found: Vec<_> =
        faults.iter().map(|one| (one.place.line, one.what.contains("gone"))).collect();
    assert_eq!(found, [(5, true), (6, false)], "{}", lines(&faults));
}

/// Fragments that reach corner cases faster than random letters.
fn fragments(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let word = prop_oneof![proptest::sample::select(words).prop_map(str::to_owned), "\\PC{0,6}"];
    proptest::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

const TOML: &[&str] = &[
    "\n",
    "\n",
    "\n",
    " = ",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    ", ",
    "#",
    "-1",
    "0x1f",
    "1979-05-27",
    "true",
    "\\u12",
    "listen",
    "admin",
    "policy",
    "dns",
    "hosts",
    "addresses",
    "allow",
    "limits",
    "audit",
    "mode",
    "address",
    "path",
    "registries",
    "deny-all",
    "open-sessions",
    "login-server",
    "data-endpoints",
    "also",
    "private-addresses",
    "accept-shared-storage",
    "\"every-region\"",
    "\"connect\"",
    "\"127.0.0.1:1\"",
    "\"contoso.azurecr.io\"",
    "\"*.a.b\"",
    "\"0.0.0.0/0\"",
    "\"::ffff:0:0/95\"",
];

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\n",
    "\"",
    "\\",
    "null",
    "true",
    "1e9",
    "\"loginServer\"",
    "\"dataEndpoints\"",
    "\"dataEndpointEnabled\"",
    "\"dataEndpointHostNames\"",
    "\"regionalEndpoints\"",
    "\"region\"",
    "\"endpoint\"",
    "\"eastus\"",
    "\"a.azurecr.io\"",
    "\"a.eastus.data.azurecr.io\"",
    "\"*.blob.core.windows.net\"",
];

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(
        main in fragments(TOML), toml in fragments(TOML), json in fragments(JSON)
    ) {
        let files = files(&main, &[("a.toml", &toml), ("b.json", &json)]);
        let _ = config::named_by(&files.main);
        let _ = config::compile(&files, 1);
        let _ = config::import(&"a".into(), &json);
    }

    #[test]
    fn a_fault_of_one_file_never_hides_one_of_another(toml in fragments(TOML), json in fragments(JSON)) {
        let alone = |registry: (&str, &str)| {
            config::compile(&files(MAIN, &[registry]), 1).err().unwrap_or_default()
        };
        let both = [("a.toml", &*toml), ("b.json", &*json)];
        let together = config::compile(&files(MAIN, &both), 1).err().unwrap_or_default();
        for fault in both.into_iter().flat_map(alone) {
            prop_assert!(together.contains(&fault), "{}", fault);
        }
    }

    #[test]
    fn what_import_writes_has_no_fault(
        label in "[a-z0-9]{1,8}(-[a-z0-9]{4})?",
        cloud in 0..CLOUDS.len(),
        regions in proptest::collection::btree_map("[a-z]{4,8}[23]?", any::<bool>(), 1..5),
    ) {
        let (cloud, mut wanted) = (&CLOUDS[cloud], Vec::new());
        let suffix = cloud.registry_suffix;
        wanted.push(format!("login {label}.{suffix}:443"));
        wanted.extend(regions.keys().map(|region| format!("data {label}.{region}.data.{suffix}:443")));
        let endpoints: String = regions.iter().map(|(region, enabled)| {
            let host = if *enabled {
                format!("{label}.{region}.data.{suffix}")
            } else {
                format!("*.blob.{}", cloud.storage_suffixes[0])
            };
            format!("{{\"region\": {region:?}, \"endpoint\": {host:?}}},")
        }).collect();
        let printed = format!("{{\"dataEndpoints\": [{endpoints}], \"loginServer\": \"{label}.{suffix}\"}}");
        let path: Arc<str> = "printed.json".into();
        let import = config::import(&path, &printed).unwrap();
        prop_assert_eq!(hosts("imported.toml", &import.toml), wanted);
    }
}
