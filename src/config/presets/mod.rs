//! The hosts of public registries, by date: the table `config/presets.toml`, which is part of the
//! program.
//!
//! A preset and a date always stand for the same hosts, whatever release reads them: entries are
//! only added, with a date later than that of the last release, and a date that the table does not
//! reach yet is rejected.

mod date;

use std::collections::BTreeSet;

use serde::Deserialize;

pub use date::{Date, NotADate};

use crate::policy::{EndpointKind, HostKind, Name, parse_host};

/// The table.
const TABLE: &str = include_str!("../../../config/presets.toml");

/// All presets.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Catalog {
    /// Hosts whose day is not known stand from here on.
    first_date: Option<Date>,
    /// What happened later is not in the table.
    date: Option<Date>,
    #[serde(rename = "preset", default)]
    presets: Vec<Preset>,
}

/// The hosts of one registry, or of each that fits a template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// As files name it.
    pub name: String,
    /// What it is.
    pub title: String,
    /// What an operator should know.
    pub note: Option<String>,
    /// What the templates among its hosts need.
    #[serde(default)]
    pub parameters: Vec<Parameter>,
    /// Its hosts, of all dates.
    pub hosts: Vec<PresetHost>,
}

/// What stands in braces in a template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// As templates and files name it.
    pub name: String,
    /// What its values look like.
    pub form: Form,
    /// A value.
    pub example: String,
}

/// What a parameter's values look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One label of a host name.
    Label,
    /// Digits.
    Digits,
    /// A whole host name.
    Host,
}

/// A host, or a template of hosts, and when it belongs to its preset.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresetHost {
    /// The name, with parameters in braces.
    pub host: String,
    /// What it is to its registry.
    pub kind: PresetKind,
    /// The first date with it.
    pub since: Date,
    /// The first date without it.
    pub until: Option<Date>,
    /// Where this is known from.
    pub source: String,
}

/// What a preset's host is to its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PresetKind {
    /// The login server.
    Login,
    /// A host of blobs.
    Data,
    /// A further host.
    Also,
}

impl From<PresetKind> for EndpointKind {
    fn from(kind: PresetKind) -> Self {
        match kind {
            PresetKind::Login => Self::Login,
            PresetKind::Data => Self::Data,
            PresetKind::Also => Self::Also,
        }
    }
}

/// A parameter and its values.
pub type Values = Vec<(String, Vec<String>)>;

impl Catalog {
    /// Reads the table that is part of the program. A test checks that it is well-formed; an
    /// invalid table has no presets.
    #[must_use]
    pub fn built_in() -> Self {
        toml::from_str(TABLE).unwrap_or_default()
    }

    /// Returns the presets, in the table's order.
    #[must_use]
    pub fn presets(&self) -> &[Preset] {
        &self.presets
    }

    /// Returns the preset of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Preset> {
        self.presets.iter().find(|preset| preset.name == name)
    }

    /// Returns the first and the last date that the table knows.
    #[must_use]
    pub fn dates(&self) -> Option<(Date, Date)> {
        self.first_date.zip(self.date)
    }

    /// Reads a date that the table covers.
    ///
    /// # Errors
    /// What is wrong with it, and the remedy.
    pub fn date(&self, text: &str) -> Result<Date, (String, String)> {
        let Some((first, last)) = self.dates() else {
            return Err(("there are no presets".into(), "list the hosts".into()));
        };
        let remedy = format!("write a date from {first} to {last}");
        match text.parse::<Date>() {
            Err(fault) => Err((fault.to_string(), remedy)),
            Ok(date) if date < first => {
                Err((format!("{date} is before the first date that this release knows"), remedy))
            }
            // A later release may know a change in between: the date would not stay what it is.
            Ok(date) if date > last => {
                Err((format!("{date} is after the last date that this release knows"), remedy))
            }
            Ok(date) => Ok(date),
        }
    }
}

impl PresetHost {
    /// Whether it belongs to its preset on that date.
    #[must_use]
    pub fn stands_on(&self, date: Date) -> bool {
        self.since <= date && self.until.is_none_or(|until| date < until)
    }

    /// Fills a template in, once for each value. Hosts without a parameter are returned as they
    /// are.
    #[must_use]
    pub fn filled(&self, values: &Values) -> Vec<String> {
        let mut hosts = vec![self.host.clone()];
        for (name, values) in values {
            let braces = format!("{{{name}}}");
            if self.host.contains(&braces) {
                let fill = |host: &String| -> Vec<String> {
                    values.iter().map(|value| host.replace(&braces, value)).collect()
                };
                hosts = hosts.iter().flat_map(fill).collect();
            }
        }
        hosts
    }
}

impl Preset {
    /// Returns its hosts on a date.
    pub fn on(&self, date: Date) -> impl Iterator<Item = &PresetHost> {
        self.hosts.iter().filter(move |host| host.stands_on(date))
    }

    /// Returns the hosts that another date adds and removes.
    #[must_use]
    pub fn changes(&self, from: Date, to: Date) -> Changes<'_> {
        let only = |here: Date, there: Date| {
            let stands = move |host: &&PresetHost| host.stands_on(here) && !host.stands_on(there);
            self.hosts.iter().filter(stands).collect()
        };
        Changes { added: only(to, from), removed: only(from, to) }
    }

    /// Returns the dates on which its hosts change, the earliest first.
    #[must_use]
    pub fn change_dates(&self) -> BTreeSet<Date> {
        self.hosts.iter().flat_map(|host| [Some(host.since), host.until]).flatten().collect()
    }
}

/// What another date of a preset adds and removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Hosts that it has in addition.
    pub added: Vec<&'a PresetHost>,
    /// Hosts that it no longer has.
    pub removed: Vec<&'a PresetHost>,
}

impl Changes<'_> {
    /// Whether it is the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }

    /// Says what changes, in one clause.
    #[must_use]
    pub fn summary(&self) -> String {
        let hosts = |hosts: &[&PresetHost]| {
            hosts.iter().map(|host| host.host.as_str()).collect::<Vec<_>>().join(", ")
        };
        match (self.added.is_empty(), self.removed.is_empty()) {
            (true, true) => "changes nothing".to_owned(),
            (false, true) => format!("adds {}", hosts(&self.added)),
            (true, false) => format!("removes {}", hosts(&self.removed)),
            (false, false) => {
                format!("adds {} and removes {}", hosts(&self.added), hosts(&self.removed))
            }
        }
    }
}

impl Parameter {
    /// Says why some text is not a value of it.
    ///
    /// # Errors
    /// What to write in its place.
    pub fn judge(&self, value: &str) -> Result<(), &'static str> {
        let is_label =
            |text: &str| !text.contains('.') && Name::parse(&format!("{text}.invalid")).is_ok();
        match self.form {
            Form::Label if !is_label(value) => Err("letters, digits and dashes"),
            Form::Digits if value.is_empty() || !value.bytes().all(|one| one.is_ascii_digit()) => {
                Err("digits")
            }
            Form::Host if parse_host(value).is_err() => Err("host or host:port"),
            Form::Label | Form::Digits | Form::Host => Ok(()),
        }
    }
}

/// Whether a host is on storage that all tenants share, which only the operator can accept.
#[must_use]
pub fn is_shared(host: &str) -> bool {
    let target = parse_host(host);
    target.is_ok_and(|target| matches!(HostKind::of(&target.name), HostKind::SharedStorage))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn example(preset: &Preset) -> Values {
        let value = |one: &Parameter| (one.name.clone(), vec![one.example.clone()]);
        preset.parameters.iter().map(value).collect()
    }

    #[test]
    fn the_table_is_well_formed() {
        let catalog: Catalog = toml::from_str(TABLE).unwrap();
        let (first, last) = catalog.dates().unwrap();
        let mut names = HashSet::new();
        for preset in catalog.presets() {
            let name = &preset.name;
            assert!(names.insert(name), "{name} is listed twice");
            assert!(!preset.title.is_empty(), "{name}");
            let mut hosts = HashSet::new();
            for host in &preset.hosts {
                assert!(hosts.insert(&host.host), "{name}: {} stands twice", host.host);
                assert!(!host.source.is_empty(), "{name}: {} has no source", host.host);
                assert!((first..=last).contains(&host.since), "{name}: {}", host.host);
                let until = host.until.is_none_or(|until| until > host.since && until <= last);
                assert!(until, "{name}: {}", host.host);
                let filled = host.filled(&example(preset));
                assert!(parse_host(&filled[0]).is_ok(), "{name}: {filled:?}");
            }
            for parameter in &preset.parameters {
                assert_eq!(parameter.judge(&parameter.example), Ok(()), "{name}");
                let braces = format!("{{{}}}", parameter.name);
                assert!(preset.hosts.iter().any(|host| host.host.contains(&braces)), "{name}");
            }
            for date in preset.change_dates() {
                let logins = preset.on(date).filter(|host| host.kind == PresetKind::Login);
                assert_eq!(logins.count(), 1, "{name} on {date}");
            }
        }
        assert!(names.len() >= 15);
    }

    /// What a date stands for never changes: an update of the program cannot widen a policy.
    ///
    /// New dates are added to the file with `BLESS=1 cargo test --lib presets::`; a line of it that
    /// was released is never changed.
    #[test]
    fn every_date_stands_for_the_hosts_that_it_always_did() {
        use std::fmt::Write as _;
        let catalog = Catalog::built_in();
        let mut found = String::new();
        for preset in catalog.presets() {
            for date in preset.change_dates() {
                let hosts: Vec<&str> = preset.on(date).map(|host| host.host.as_str()).collect();
                writeln!(found, "{} {date} {}", preset.name, hosts.join(" ")).unwrap();
            }
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/presets.txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &found).unwrap();
        }
        assert_eq!(found, std::fs::read_to_string(path).unwrap());
    }

    #[test]
    fn dates_outside_the_table_are_rejected() {
        let catalog = Catalog::built_in();
        let (first, last) = catalog.dates().unwrap();
        for date in [first, last] {
            assert_eq!(catalog.date(&date.to_string()), Ok(date));
        }
        for (text, word) in [("2020-01-01", "before"), ("2099-01-01", "after"), ("May", "form")] {
            assert!(catalog.date(text).unwrap_err().0.contains(word), "{text}");
        }
    }

    #[test]
    fn templates_are_filled_once_for_each_value() {
        let catalog = Catalog::built_in();
        let values: Values = vec![
            ("account".into(), vec!["1".into()]),
            ("region".into(), vec!["a".into(), "b".into()]),
        ];
        let hosts = catalog.find("ecr").unwrap().hosts[0].filled(&values);
        assert_eq!(hosts, ["1.dkr.ecr.a.amazonaws.com", "1.dkr.ecr.b.amazonaws.com"]);
        assert!(is_shared("prod-a-starport-layer-bucket.s3.a.amazonaws.com"));
        assert!(!is_shared("registry-1.docker.io"));
    }

    #[test]
    fn values_that_would_name_another_host_are_rejected() {
        let catalog = Catalog::built_in();
        let account = &catalog.find("ecr").unwrap().parameters[0];
        let region = &catalog.find("ecr").unwrap().parameters[1];
        for value in ["", "1.evil.com", "a", "1-", "{region}"] {
            assert!(account.judge(value).is_err(), "{value}");
        }
        for value in ["", "a.b", "evil.com/", "-a", "a-", "*", "{account}", "a b", "a:1"] {
            assert!(region.judge(value).is_err(), "{value}");
        }
    }
}
