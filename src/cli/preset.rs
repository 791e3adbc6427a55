//! `pullgate preset`: the hosts of public registries by date, and what a newer date changes.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;

use super::output;
use crate::config::presets::{Catalog, Date, Parameter, Preset, PresetHost, PresetKind};
use crate::policy::EndpointKind;

/// Show the hosts of public registries by date, and what a newer date changes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List all presets.
    List {
        /// One JSON array, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Show the hosts of a preset, with the source of each.
    Show {
        /// The preset.
        name: String,
        /// The date; the newest by default.
        #[arg(long, value_name = "DATE")]
        date: Option<String>,
        /// One JSON object, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Show the hosts that a later date adds and removes.
    Diff {
        /// The preset.
        name: String,
        /// The date in use.
        from: String,
        /// The other date; the newest by default.
        to: Option<String>,
        /// One JSON object, for scripts.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Listed<'a> {
    name: &'a str,
    title: &'a str,
    parameters: Vec<&'a str>,
    /// The last date on which its hosts changed.
    changed: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Shown<'a> {
    name: &'a str,
    title: &'a str,
    date: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
    parameters: Vec<ShownParameter<'a>>,
    hosts: Vec<ShownHost<'a>>,
}

#[derive(Debug, Serialize)]
struct ShownParameter<'a> {
    name: &'a str,
    example: &'a str,
}

#[derive(Debug, Serialize)]
struct ShownHost<'a> {
    host: &'a str,
    kind: &'static str,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    source: &'a str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Difference<'a> {
    name: &'a str,
    from: String,
    to: String,
    added: Vec<ShownHost<'a>>,
    removed: Vec<ShownHost<'a>>,
}

impl<'a> From<&'a Preset> for Listed<'a> {
    fn from(preset: &'a Preset) -> Self {
        let changed = preset.change_dates().last().map(ToString::to_string);
        Self {
            name: &preset.name,
            title: &preset.title,
            parameters: preset.parameters.iter().map(|one| one.name.as_str()).collect(),
            changed: changed.unwrap_or_default(),
        }
    }
}

impl<'a> From<&'a Parameter> for ShownParameter<'a> {
    fn from(parameter: &'a Parameter) -> Self {
        Self { name: &parameter.name, example: &parameter.example }
    }
}

impl<'a> From<&'a PresetHost> for ShownHost<'a> {
    fn from(host: &'a PresetHost) -> Self {
        Self {
            host: &host.host,
            kind: EndpointKind::from(host.kind).code(),
            since: host.since.to_string(),
            until: host.until.map(|until| until.to_string()),
            source: &host.source,
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let catalog = Catalog::built_in();
    match &args.action {
        Action::List { json } => list(&catalog, *json)?,
        Action::Show { name, date, json } => {
            let preset = find(&catalog, name)?;
            show(preset, date_or_newest(&catalog, date.as_deref())?, *json)?;
        }
        Action::Diff { name, from, to, json } => {
            let preset = find(&catalog, name)?;
            let from = date_or_newest(&catalog, Some(from))?;
            let to = date_or_newest(&catalog, to.as_deref())?;
            difference(preset, from, to, *json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn find<'a>(catalog: &'a Catalog, name: &str) -> anyhow::Result<&'a Preset> {
    let unknown = || anyhow::anyhow!("there is no preset {name:?}; see pullgate preset list");
    catalog.find(name).ok_or_else(unknown)
}

fn date_or_newest(catalog: &Catalog, text: Option<&str>) -> anyhow::Result<Date> {
    match (text, catalog.dates()) {
        (None, Some((_, last))) => Ok(last),
        (text, _) => {
            let text = text.unwrap_or_default();
            let date = catalog.date(text);
            date.map_err(|(what, remedy)| anyhow::anyhow!("{text:?}: {what}; {remedy}"))
        }
    }
}

fn list(catalog: &Catalog, json: bool) -> anyhow::Result<()> {
    let all: Vec<Listed<'_>> = catalog.presets().iter().map(Into::into).collect();
    if json {
        return output::print_json(&all);
    }
    let mut out = String::new();
    let width = all.iter().map(|one| one.name.len()).max().unwrap_or_default();
    for Listed { name, title, parameters, changed } in &all {
        let needs = match parameters.is_empty() {
            true => String::new(),
            false => format!(" (parameters: {})", parameters.join(", ")),
        };
        writeln!(out, "{name:width$}  {changed}  {title}{needs}")?;
    }
    output::print(&out)
}

fn show(preset: &Preset, date: Date, json: bool) -> anyhow::Result<()> {
    let shown = Shown {
        name: &preset.name,
        title: &preset.title,
        date: date.to_string(),
        note: preset.note.as_deref(),
        parameters: preset.parameters.iter().map(Into::into).collect(),
        hosts: preset.on(date).map(Into::into).collect(),
    };
    if json {
        return output::print_json(&shown);
    }
    let mut out = String::new();
    writeln!(out, "{}: {}, on {date}", shown.name, shown.title)?;
    if let Some(note) = shown.note {
        writeln!(out, "  note: {note}")?;
    }
    write_hosts(&mut out, "", &shown.hosts)?;
    writeln!(out, "To use it, write into a registry's file:")?;
    writeln!(out, "  preset = {:?}\n  preset-date = \"{date}\"", shown.name)?;
    if !shown.parameters.is_empty() {
        let values: Vec<String> = shown
            .parameters
            .iter()
            .map(|one| format!("{} = {:?}", one.name, one.example))
            .collect();
        writeln!(out, "  preset-parameters = {{ {} }}", values.join(", "))?;
    }
    output::print(&out)
}

fn difference(preset: &Preset, from: Date, to: Date, json: bool) -> anyhow::Result<()> {
    let changes = preset.changes(from, to);
    let difference = Difference {
        name: &preset.name,
        from: from.to_string(),
        to: to.to_string(),
        added: changes.added.iter().map(|host| (*host).into()).collect(),
        removed: changes.removed.iter().map(|host| (*host).into()).collect(),
    };
    if json {
        return output::print_json(&difference);
    }
    let mut out = String::new();
    writeln!(out, "{}, from {from} to {to}:", preset.name)?;
    if changes.is_empty() {
        writeln!(out, "  no host changes")?;
    }
    write_hosts(&mut out, "+ ", &difference.added)?;
    write_hosts(&mut out, "- ", &difference.removed)?;
    let moved = changes.added.iter().any(|host| host.kind == PresetKind::Login);
    if moved {
        writeln!(out, "  the login server changes: clients must ask for the new one")?;
    }
    output::print(&out)
}

fn write_hosts(out: &mut String, sign: &str, hosts: &[ShownHost<'_>]) -> std::fmt::Result {
    for ShownHost { host, kind, since, until, source } in hosts {
        let until = until.as_ref().map(|until| format!(", until {until}")).unwrap_or_default();
        writeln!(out, "  {sign}{host} ({kind}), since {since}{until}; {source}")?;
    }
    Ok(())
}
