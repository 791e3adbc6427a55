//! Parses the output of `az acr show-endpoints` and `az acr show`.
//!
//! Unknown fields are ignored, because `az` adds some from time to time. Trailing commas are
//! accepted, because Microsoft's own sample has them.

use std::fmt::Write as _;
use std::sync::Arc;

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::Ranged as _;
use jsonc_parser::errors::ParseErrorKind;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

use super::az_forms;
use super::source::Source;
use super::uploads::Uploads;
use super::values::RegistryDefaults;
use crate::policy::{
    DataSpec, Fault, HostKind, Located, Location, Name, Origin, Registry, RegistrySpec, parse_host,
};

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

/// The remedy for text that is not the output of `az`.
const AS_IT_STANDS: &str = "save the output of az unchanged";

/// Maximum nesting depth. The output of `az` is flat.
const DEEPEST: usize = 64;

/// An endpoint and its region, if it was given.
#[derive(Debug)]
struct Regional {
    host: Located<String>,
    region: Option<String>,
}

/// The endpoints in the output of `az`.
#[derive(Debug)]
struct AzEndpoints {
    login: Located<String>,
    data: Vec<Regional>,
    regional: Vec<Regional>,
    /// The place of the data endpoints, even if the list is empty.
    data_place: Location,
}

/// Parses a registry file; `None` if it is not the output of `az`.
///
/// `inherited`: the defaults of the main file.
pub(super) fn read(
    source: &Source<'_>,
    name: Arc<str>,
    inherited: &RegistryDefaults,
) -> Option<RegistrySpec> {
    let az = parse_endpoints(source)?;
    let mut spec = RegistrySpec::new(name, az.login);
    if az.data.is_empty() {
        let label = spec.login.iter().flat_map(|login| login.value.split(['.', '-'])).next();
        let label = label.unwrap_or("NAME");
        source.fault(
            az.data_place,
            "the registry has no data endpoint: dedicated data endpoints are off",
            format!(
                "az acr show-endpoints --name {label} | pullgate import creates the file with the \
                 future ones: deploy it, then run az acr update --name {label} --data-endpoint-enabled"
            ),
        );
    }
    let hosts = |list: Vec<Regional>| list.into_iter().map(|one| one.host).collect();
    spec.origin = Origin::Az;
    spec.download_bytes_per_second = inherited.download;
    spec.clientele = inherited.clientele.clone();
    spec.budgets = Uploads::default().budgets(&inherited.uploads, false);
    spec.data = DataSpec::Listed(hosts(az.data));
    spec.regional = hosts(az.regional);
    Some(spec)
}

fn parse_endpoints(source: &Source<'_>) -> Option<AzEndpoints> {
    let object = object(source)?;
    let place = source.place(object.range.start);
    let Some(login) = property(source, &object, "loginServer") else {
        let remedy = "save the output of az acr show-endpoints or az acr show";
        source.fault(place, "loginServer is missing", remedy);
        return None;
    };
    let login = string(source, "loginServer", login)?;
    let mut data_place = None;
    let mut data = Vec::new();
    for key in ["dataEndpointEnabled", "dataEndpoints", "dataEndpointHostNames"] {
        if let Some(value) = property(source, &object, key) {
            data_place.get_or_insert_with(|| source.place(value.range().start));
            if key != "dataEndpointEnabled" {
                data.extend(endpoints(source, key, value)?);
            }
        }
    }
    let regional = match property(source, &object, "regionalEndpoints") {
        Some(value) => endpoints(source, "regionalEndpoints", value)?,
        None => Vec::new(),
    };
    Some(AzEndpoints { login, data, regional, data_place: data_place.unwrap_or(place) })
}

/// The object that `az` prints.
fn object<'a>(source: &Source<'a>) -> Option<Object<'a>> {
    let text = source.text();
    if let Some(what) = az_forms::recognised(text) {
        source.fault(source.whole(), what, az_forms::AS_JSON);
        return None;
    }
    if depth(text) > DEEPEST {
        source.fault(source.whole(), "it is nested too deeply", AS_IT_STANDS);
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
            source.fault(source.place(at), what, AS_IT_STANDS);
            return None;
        }
    };
    match parsed.value {
        Some(Value::Object(object)) => Some(object),
        Some(Value::Array(list)) => {
            let place = source.place(list.range.start);
            let remedy =
                "save the output of az acr show-endpoints --name NAME, one file per registry";
            source.fault(place, "it is a list, but each registry must have its own file", remedy);
            None
        }
        _ => {
            source.fault(source.whole(), "it is not a JSON object", az_forms::AS_JSON);
            None
        }
    }
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

/// Returns a property that exists and is not null. A duplicate property is an error, because
/// parsers differ in which one they use.
fn property<'a, 'b>(
    source: &Source<'_>,
    object: &'b Object<'a>,
    key: &str,
) -> Option<&'b Value<'a>> {
    let mut found = object.properties.iter().filter(|property| property.name.as_str() == key);
    let first = found.next()?;
    if let Some(second) = found.next() {
        let place = source.place(second.range.start);
        source.fault(place, format!("{key} is listed twice"), AS_IT_STANDS);
    }
    Some(&first.value).filter(|value| !matches!(value, Value::NullKeyword(_)))
}

fn string(source: &Source<'_>, key: &str, value: &Value<'_>) -> Option<Located<String>> {
    let place = source.place(value.range().start);
    match value {
        Value::StringLit(text) => Some(Located { value: text.value.to_string(), place }),
        _ => {
            source.fault(place, format!("{key} is not a string"), AS_IT_STANDS);
            None
        }
    }
}

/// Returns a list of endpoints: objects with `endpoint` and `region`, or plain hosts. `None` if it
/// is not a list.
fn endpoints(source: &Source<'_>, key: &str, value: &Value<'_>) -> Option<Vec<Regional>> {
    let Value::Array(list) = value else {
        let place = source.place(value.range().start);
        source.fault(place, format!("{key} is not a list"), AS_IT_STANDS);
        return None;
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
                let text = |key| string(source, key, property(source, one, key)?);
                let region = text("region").map(|region| region.value);
                if property(source, one, "endpoint").is_none() {
                    let what = format!("an item of {key} has no endpoint");
                    source.fault(place, what, AS_IT_STANDS);
                }
                found.extend(text("endpoint").map(|host| Regional { host, region }));
            }
            _ => {
                let what = format!("an item of {key} is neither a host nor an object");
                source.fault(place, what, AS_IT_STANDS);
            }
        }
    }
    Some(found)
}

/// The TOML of a registry, generated from the output of `az`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The text of the file.
    pub toml: String,
    /// The recommended name of the file: the first label of the login server.
    pub name: String,
    /// The name of the resource for `az acr update --name`.
    pub resource: String,
    /// Whether the data endpoints are current or future ones.
    pub endpoints: ImportedEndpoints,
}

/// The source of the data endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportedEndpoints {
    /// The output of `az`.
    Present,
    /// Derived from the regions of the storage wildcards.
    Future,
}

/// Converts the output of `az acr show-endpoints` or `az acr show` to the TOML of a registry.
///
/// While dedicated data endpoints are off, `az` prints `*.blob.core.windows.net` for each region.
/// Those become `<label>.<region>.data.<suffix>`, which must be allowed before the switch. The
/// result passes all checks of a registry file.
///
/// # Errors
/// All errors in the text.
pub fn import(file: &Arc<str>, text: &str) -> Result<Import, Vec<Fault>> {
    let source = Source::new(file, text);
    let made = parse_endpoints(&source).and_then(|az| imported(&source, az));
    match made {
        Some(made) if source.is_faultless() => Ok(made),
        _ => Err(source.take_faults()),
    }
}

fn imported(source: &Source<'_>, az: AzEndpoints) -> Option<Import> {
    let login = parse_host(&az.login.value).ok();
    let kind = login.as_ref().map(|login| HostKind::of(&login.name));
    let Some(HostKind::Login { cloud, label }) = kind else {
        let what = format!("{:?} is not a login server of Azure", az.login.value);
        source.fault(az.login.place, what, "print it with az acr show-endpoints --name NAME");
        return None;
    };
    let mut endpoints = ImportedEndpoints::Present;
    let mut data: Vec<Located<String>> = Vec::new();
    for Regional { mut host, region } in az.data {
        if is_storage(&host.value) {
            endpoints = ImportedEndpoints::Future;
            let Some(region) = region.as_deref().and_then(region_in_names) else {
                let what = format!("{} has no region to derive its data endpoint from", host.value);
                source.fault(host.place, what, "print it with az acr show-endpoints --name NAME");
                continue;
            };
            host.value = format!("{label}.{region}.data.{}", cloud.registry_suffix);
        }
        if !data.iter().any(|known| known.value == host.value) {
            data.push(host);
        }
    }
    if data.is_empty() && source.is_faultless() {
        source.fault(
            az.data_place,
            "there is no data endpoint, nor a region to derive one from",
            "print it with az acr show-endpoints --name NAME, which lists the regions",
        );
    }
    let mut toml = format!("login-server = {:?}\n", az.login.value);
    list(&mut toml, "data-endpoints", &data);
    let regional: Vec<Located<String>> = az.regional.into_iter().map(|one| one.host).collect();
    if !regional.is_empty() {
        list(&mut toml, "regional-endpoints", &regional);
    }
    let resource = label.split('-').next().unwrap_or_default().to_owned();
    let name: Arc<str> = label.into();
    let mut spec = RegistrySpec::new(name.clone(), az.login);
    spec.origin = Origin::Az;
    spec.data = DataSpec::Listed(data);
    spec.regional = regional;
    for Fault { place, what, remedy } in Registry::new(&spec).err().unwrap_or_default() {
        source.fault(place, what, remedy);
    }
    Some(Import { toml, name: name.to_string(), resource, endpoints })
}

/// Returns whether `az` printed storage instead of a data endpoint.
fn is_storage(host: &str) -> bool {
    let behind = host.trim_start_matches(['*', '.']);
    let name = Name::parse(&format!("any.{behind}"));
    name.is_ok_and(|name| matches!(HostKind::of(&name), HostKind::Storage { .. }))
}

/// Returns a region as it appears in host names: `az` prints `eastus`, the portal `East US`.
fn region_in_names(written: &str) -> Option<String> {
    let region = written.replace(' ', "").to_ascii_lowercase();
    let plain = !region.is_empty() && region.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then_some(region)
}

fn list(toml: &mut String, key: &str, hosts: &[Located<String>]) {
    // Writing to a string cannot fail.
    let _ = writeln!(toml, "{key} = [");
    for host in hosts {
        let _ = writeln!(toml, "    {:?},", host.value);
    }
    toml.push_str("]\n");
}
