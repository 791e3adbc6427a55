//! Generates `docs/audit.schema.json` from the types of the audit line, and compares the two.
//!
//! The types here stand for the form of a field's text. To renew the file, run
//! `BLESS=1 cargo test --lib account::schema`.

use std::borrow::Cow;
use std::path::Path;
use std::{env, fs};

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::audit_field::DROPPED_SHOWN;
use super::audit_line::{AuditLine, REQUEST};
use super::dedup::SAMPLES;
use super::record::Outcome;
use super::request::RequestVia;
use super::text::LONGEST;
use crate::policy::EndpointKind;

/// Declares types that are only a schema: a definition of the file if named, else in place.
macro_rules! forms {
    ($($type:ident $name:literal $schema:expr;)*) => {$(
        pub(super) struct $type;

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                $name.is_empty()
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let schema: fn(&mut SchemaGenerator) -> Value = $schema;
                Schema::try_from(schema(generator)).unwrap()
            }
        }
    )*};
}

forms! {
    Time "time" |_| json!({
        "description": "UTC, with milliseconds",
        "type": "string",
        "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
    });
    Id "id" |_| json!({
        "description": "ULID", "type": "string", "pattern": "^[0-9A-HJKMNP-TV-Z]{26}$",
    });
    Address "address" |_| json!({ "type": "string", "pattern": "^[0-9a-f.:]+$" });
    Socket "socket" |_| json!({
        "type": "string", "pattern": r"^([0-9.]+|\[[0-9a-f.:]+(%[0-9]+)?\]):[0-9]{1,5}$",
    });
    Text "text" |_| json!({
        "description": "text from a client: printable ASCII, escaped",
        "type": "string", "maxLength": LONGEST, "pattern": "^[ -~]*$",
    });
    Code "code" |_| json!({ "type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$" });
    Milliseconds "milliseconds" |_| json!({ "type": "number", "minimum": 0 });
    Name "" |_| json!({ "type": "string", "maxLength": 64 });
    AtLeastOne "" |_| json!({ "type": "integer", "minimum": 1 });
    True "" |_| json!({ "const": true });
    RequestKind "" |_| json!({ "const": REQUEST });
    ResolvedBy "" |_| json!({ "enum": ["parent"] });
    ViaCode "" |_| json!({ "enum": [RequestVia::Mirror.code(), RequestVia::Inspect.code()] });
    MethodName "" |_| json!({ "enum": ["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE"] });
    Status "" |_| json!({ "type": "integer", "minimum": 0, "maximum": 599 });
    Endpoint "" |_| {
        json!({ "enum": EndpointKind::ALL.iter().map(|kind| kind.code()).collect::<Vec<_>>() })
    };
    OutcomeCode "" |_| {
        json!({ "enum": Outcome::ALL.iter().map(|one| one.code()).collect::<Vec<_>>() })
    };
    RepeatedOutcome "" |_| json!({ "enum": [Outcome::Denied.code(), Outcome::Failed.code()] });
    StageTimes "" |generator| json!({
        "type": "object",
        "propertyNames": generator.subschema_for::<Code>(),
        "additionalProperties": generator.subschema_for::<Milliseconds>(),
    });
    FactTexts "" |generator| json!({
        "type": "object",
        "propertyNames": generator.subschema_for::<Code>(),
        "additionalProperties": generator.subschema_for::<Text>(),
    });
    DroppedAddresses "" |_| json!({
        "type": "array", "maxItems": DROPPED_SHOWN + 1, "items": { "type": "string" },
    });
    Samples "" |generator| json!({
        "type": "array", "maxItems": SAMPLES, "items": generator.subschema_for::<Text>(),
    });
}

/// Lines that the gate writes have no other fields, and no field needs a default.
fn close(kind: &mut Map<String, Value>) {
    let Some(properties) = kind.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    properties
        .values_mut()
        .for_each(|field| drop(field.as_object_mut().unwrap().remove("default")));
    kind.insert("additionalProperties".into(), false.into());
}

fn generated() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<AuditLine<'_>>();
    schema.insert("$id".into(), "pullgate/audit.schema.json".into());
    schema.insert("title".into(), "A line of pullgate's audit".into());
    let mut schema = schema.to_value();
    // A line is of one kind.
    let kinds = schema.as_object_mut().unwrap().remove("anyOf").unwrap();
    schema["oneOf"] = kinds;
    let definitions = schema["$defs"].as_object_mut().unwrap();
    definitions.values_mut().filter_map(Value::as_object_mut).for_each(close);
    schema
}

/// Each kind of line, with every field.
fn whole() -> [Value; 4] {
    let with = |mut line: Value, more: Value| {
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    let common = json!({
        "time": "2024-11-24T03:40:00.123Z", "id": "01JDE42FQV0000000000000001",
        "client": "10.0.0.7", "client-name": "agents", "registry": "contoso",
        "outcome": "denied", "reason": "sni-mismatch",
    });
    let session = with(
        common.clone(),
        json!({
            "listener": "127.0.0.1:3128", "target": "a:443", "query": "A", "sni": "a",
            "endpoint": "login",
        }),
    );
    [
        with(
            session.clone(),
            json!({
                "would-deny": "storage-account", "ended": "timeout", "upstream": "20.1.2.3:443",
                "verified": true, "inspected": true, "parent": "corp", "resolved-by": "parent",
                "bytes-up": 1, "bytes-down": 2, "spliced-up": 3, "spliced-down": 4,
                "generation": 5, "ms": { "head": 0.5 }, "addresses-dropped": ["a"],
                "facts": { "dns": "stale" },
            }),
        ),
        with(
            common,
            json!({
                "kind": "request", "session": "01JDE42FQV0000000000000001", "via": "mirror",
                "method": "GET", "operation": "manifest", "repository": "a", "reference": "v1",
                "digest": "sha256:00", "status": 200, "upstream": "20.1.2.3:443",
                "bytes-up": 0, "bytes-down": 2, "ms": 0.5,
            }),
        ),
        with(
            session,
            json!({ "repeated": 2, "until": "2024-11-24T03:40:01.123Z", "samples": ["a:443"] }),
        ),
        json!({ "time": "2024-11-24T03:40:00.123Z", "dropped": 3, "dropped-denied": 1 }),
    ]
}

#[test]
fn the_schema_in_the_manual_is_that_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/audit.schema.json");
    let generated = serde_json::to_string_pretty(&generated()).unwrap() + "\n";
    if env::var_os("BLESS").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap();
    assert_eq!(kept, generated, "run BLESS=1 cargo test --lib account::schema");
}

#[test]
fn what_is_read_is_what_was_written_and_fits_the_schema() {
    let schema = generated();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (kind, line) in ["session", "request", "repeated", "lost"].into_iter().zip(whole()) {
        let read = AuditLine::read(line.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), line);
        assert!(validator.is_valid(&line), "{line}");
        let properties = schema["$defs"][kind]["properties"].as_object().unwrap();
        assert!(properties.keys().all(|key| line.get(key).is_some()), "{kind}");
        let required = schema["$defs"][kind]["required"].as_array().unwrap();
        for key in required {
            let mut lacking = line.clone();
            lacking.as_object_mut().unwrap().remove(key.as_str().unwrap());
            assert!(!validator.is_valid(&lacking), "{kind} without {key}");
            assert!(AuditLine::read(lacking.to_string().as_bytes()).is_ok(), "{kind} {key}");
        }
    }
}
