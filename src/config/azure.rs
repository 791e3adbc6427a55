//! What the `az` command prints of a registry: `az acr show-endpoints`, and `az acr show`.
//!
//! Fields that the gate does not need are passed over, since `az` adds some from time to time.
//! Trailing commas do no harm: Microsoft's own sample has them.

use std::fmt::Write as _;
use std::sync::Arc;

use jsonc_parser::ast::{Array, Object, Value};
use jsonc_parser::common::Ranged as _;
use jsonc_parser::errors::ParseErrorKind;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::source::Source;
use crate::policy::{DataSpec, Fault, HostKind, Located, Name, Place, RegistrySpec, parse_host};

const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: true,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// What `az` prints is flat: deeper text is none of its making.
const DEEPEST: usize = 64;

/// An endpoint and its region, where that was told.
#[derive(Debug)]
struct Regional {
    host: Located<String>,
    region: Option<String>,
}

/// What `az` told of a registry.
#[derive(Debug)]
struct Told {
    login: Located<String>,
    data: Vec<Regional>,
    regional: Vec<Regional>,
    /// Where `dataEndpointEnabled: false` stands.
    disabled: Option<Place>,
}

/// Reads a registry's file; nothing where it is not what `az` prints.
pub(super) fn read(source: &Source<'_>, name: Arc<str>) -> Option<RegistrySpec> {
    let told = told(source)?;
    if told.data.is_empty() {
        let place = told.disabled.clone().unwrap_or_else(|| source.whole());
        let label = told.login.value.split(['.', '-']).next().unwrap_or("REGISTRY");
        source.fault(
            place,
            "the registry has no data endpoint: dedicated data endpoints are off",
            format!("az acr update --name {label} --data-endpoint-enabled, then print it again"),
        );
    }
    let hosts = |list: Vec<Regional>| list.into_iter().map(|one| one.host).collect();
    let mut spec = RegistrySpec::new(name, told.login);
    spec.data = DataSpec::Listed(hosts(told.data));
    spec.regional = hosts(told.regional);
    Some(spec)
}

fn told(source: &Source<'_>) -> Option<Told> {
    let text = source.text();
    if depth(text) > DEEPEST {
        source.fault(
            source.whole(),
            "it is nested too deeply",
            "save what az printed as it stands",
        );
        return None;
    }
    let parsed = match parse_to_ast(text, &CollectOptions::default(), &OPTIONS) {
        Ok(parsed) => parsed,
        Err(error) => {
            // What is not closed is mended where the text ends.
            let at = match error.kind() {
                ParseErrorKind::UnterminatedObject | ParseErrorKind::UnterminatedArray => {
                    text.len()
                }
                _ => error.range().start,
            };
            let what = format!("column {}: {}", source.column(at), error.kind());
            source.fault(source.place(at), what, "save what az printed as it stands");
            return None;
        }
    };
    let Some(Value::Object(object)) = parsed.value else {
        source.fault(
            source.whole(),
            "it is not one JSON object",
            "save what az acr show-endpoints --name NAME printed, a file a registry",
        );
        return None;
    };
    let login = match text_of(source, &object, "loginServer") {
        Some(login) => login,
        None => {
            source.fault(
                source.whole(),
                "there is no loginServer",
                "save what az acr show-endpoints or az acr show printed",
            );
            return None;
        }
    };
    let mut data = endpoints(source, &object, "dataEndpoints");
    data.extend(endpoints(source, &object, "dataEndpointHostNames"));
    let regional = endpoints(source, &object, "regionalEndpoints");
    let disabled = object.get("dataEndpointEnabled").and_then(|enabled| match &enabled.value {
        Value::BooleanLit(enabled) if !enabled.value => Some(source.place(enabled.range.start)),
        _ => None,
    });
    Some(Told { login, data, regional, disabled })
}

/// How deep brackets stand in each other at the most, strings not looked at: an upper bound, so
/// that a recursive parser is not led to the end of its stack.
fn depth(text: &str) -> usize {
    let mut deepest = 0usize;
    let mut open = 0usize;
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' => open += 1,
            b'}' | b']' => open = open.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(open);
    }
    deepest
}

fn text_of(source: &Source<'_>, object: &Object<'_>, key: &str) -> Option<Located<String>> {
    let value = &object.get(key)?.value;
    let place = source.place(value.range().start);
    match value {
        Value::StringLit(text) => Some(Located { value: text.value.to_string(), place }),
        _ => {
            source.fault(
                place,
                format!("{key} is not a string"),
                "save what az printed as it stands",
            );
            None
        }
    }
}

/// A list of endpoints: objects with `endpoint` and `region`, or the hosts alone.
fn endpoints(source: &Source<'_>, object: &Object<'_>, key: &str) -> Vec<Regional> {
    let Some(property) = object.get(key) else { return Vec::new() };
    let list: &Array<'_> = match &property.value {
        Value::Array(list) => list,
        Value::NullKeyword(_) => return Vec::new(),
        other => {
            let place = source.place(other.range().start);
            source.fault(
                place,
                format!("{key} is not a list"),
                "save what az printed as it stands",
            );
            return Vec::new();
        }
    };
    let mut found = Vec::with_capacity(list.elements.len());
    for element in &list.elements {
        let place = source.place(element.range().start);
        match element {
            Value::StringLit(host) => found.push(Regional {
                host: Located { value: host.value.to_string(), place },
                region: None,
            }),
            Value::Object(one) => {
                let region = text_of(source, one, "region").map(|region| region.value);
                match text_of(source, one, "endpoint") {
                    Some(host) => found.push(Regional { host, region }),
                    None => {
                        let what = format!("an item of {key} has no endpoint");
                        source.fault(place, what, "save what az printed as it stands");
                    }
                }
            }
            _ => {
                let what = format!("an item of {key} is neither a host nor an object");
                source.fault(place, what, "save what az printed as it stands");
            }
        }
    }
    found
}

/// A registry's TOML, made from what `az` printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The file's text.
    pub toml: String,
    /// The name that its file should have: the login server's first label.
    pub name: String,
    /// The resource's name, as `az acr update --name` takes it.
    pub resource: String,
    /// Whether the data endpoints are those that the registry will have once they are switched on.
    pub endpoints: ImportedEndpoints,
}

/// Where an import's data endpoints come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportedEndpoints {
    /// As printed.
    Present,
    /// Derived from the regions of storage wildcards.
    Future,
}

/// Makes a registry's TOML from what `az acr show-endpoints` or `az acr show` printed.
///
/// While dedicated data endpoints are off, `az` prints `*.blob.core.windows.net` for each region;
/// those become `<label>.<region>.data.<suffix>`, which must be allowed before the switch.
///
/// # Errors
/// Every fault of the text.
pub fn import(file: &Arc<str>, text: &str) -> Result<Import, Vec<Fault>> {
    let source = Source::new(file, text);
    let made = told(&source).and_then(|told| imported(&source, &told));
    let faults = source.take_faults();
    match made {
        Some(made) if faults.is_empty() => Ok(made),
        _ => Err(faults),
    }
}

fn imported(source: &Source<'_>, told: &Told) -> Option<Import> {
    let login = parse_host(&told.login.value).ok();
    let (label, suffix) = match login.as_ref().map(|login| HostKind::of(&login.name)) {
        Some(HostKind::Login { cloud, label }) => (label.to_owned(), cloud.registry_suffix),
        _ => {
            source.fault(
                told.login.place.clone(),
                format!("{:?} is not a login server of Azure", told.login.value),
                "print it with az acr show-endpoints --name NAME",
            );
            return None;
        }
    };
    let mut endpoints = ImportedEndpoints::Present;
    let mut data = Vec::new();
    for Regional { host, region } in &told.data {
        if !is_storage(&host.value) {
            data.push(host.value.clone());
            continue;
        }
        endpoints = ImportedEndpoints::Future;
        let region = region.as_deref().map(|region| region.replace(' ', "").to_lowercase());
        match region.filter(|region| {
            !region.is_empty() && region.bytes().all(|byte| byte.is_ascii_alphanumeric())
        }) {
            Some(region) => data.push(format!("{label}.{region}.data.{suffix}")),
            None => source.fault(
                host.place.clone(),
                format!("{} has no region to derive its data endpoint from", host.value),
                "print it with az acr show-endpoints --name NAME",
            ),
        }
    }
    if data.is_empty() {
        source.fault(
            source.whole(),
            "there is no data endpoint, nor a region to derive one from",
            "print it with az acr show-endpoints --name NAME",
        );
    }
    let mut toml = format!("login-server = {:?}\n", told.login.value);
    list(&mut toml, "data-endpoints", &data);
    let regional: Vec<String> = told.regional.iter().map(|one| one.host.value.clone()).collect();
    if !regional.is_empty() {
        list(&mut toml, "regional-endpoints", &regional);
    }
    let resource = label.split('-').next().unwrap_or_default().to_owned();
    Some(Import { toml, name: label, resource, endpoints })
}

/// Whether `az` printed storage in place of a data endpoint.
fn is_storage(host: &str) -> bool {
    let behind = host.trim_start_matches(['*', '.']);
    let name = Name::parse(&format!("any.{behind}"));
    name.is_ok_and(|name| matches!(HostKind::of(&name), HostKind::Storage { .. }))
}

fn list(toml: &mut String, key: &str, hosts: &[String]) {
    // Writing to a string cannot fail.
    let _ = writeln!(toml, "{key} = [");
    for host in hosts {
        let _ = writeln!(toml, "    {host:?},");
    }
    toml.push_str("]\n");
}
