//! The keys of a registry's file that use a preset: `preset`, `preset-date`, `preset-parameters`
//! and `preset-without`.

use std::collections::HashSet;
use std::sync::Arc;

use super::presets::{Catalog, Date, Preset, PresetHost, PresetKind, Values, is_shared};
use super::source::Source;
use super::table::{Strings, Table};
use crate::policy::{Absence, AbsentHost, Located, Location, PresetInUse, Target, parse_host};

/// The hosts that a preset adds to a file, each at the place of `preset`.
#[derive(Debug)]
pub(super) struct Expanded {
    pub(super) login: Option<Located<String>>,
    pub(super) data: Strings,
    pub(super) also: Strings,
    pub(super) in_use: PresetInUse,
}

/// Parameters and what is written for each.
type Entries = Vec<(Located<String>, Option<Strings>)>;

/// The keys as they are written.
#[derive(Debug, Default)]
pub(super) struct PresetKeys {
    preset: Option<Located<String>>,
    date: Option<Located<String>>,
    parameters: Option<(Location, Entries)>,
    without: Strings,
}

/// The hosts that the file itself lists.
#[derive(Debug)]
pub(super) struct OwnHosts<'a> {
    /// All hosts that it lists. They stay the file's own.
    pub(super) listed: Vec<&'a Located<String>>,
    /// Its `login-server`.
    pub(super) login: Option<&'a Located<String>>,
    /// `accept-shared-storage`.
    pub(super) accepted: &'a [Located<String>],
}

impl PresetKeys {
    pub(super) fn read(file: &mut Table<'_>) -> Self {
        let preset = file.string("preset");
        let date = file.string("preset-date");
        let parameters = file.table("preset-parameters", "preset-parameters");
        let parameters = parameters.map(|table| (table.place().clone(), table.entries()));
        Self { preset, date, parameters, without: file.strings("preset-without") }
    }

    /// Whether the file uses a preset.
    pub(super) fn are_used(&self) -> bool {
        self.preset.is_some()
    }

    /// Returns the preset's hosts; `None` if the file uses none, or where the keys have a fault.
    pub(super) fn expand(
        self,
        source: &Source<'_>,
        catalog: &Catalog,
        own: &OwnHosts<'_>,
    ) -> Option<Expanded> {
        let Some(written) = &self.preset else {
            self.warn_of_strays(source);
            return None;
        };
        let preset = find(source, catalog, written)?;
        let date = date(source, catalog, preset, written, self.date.as_ref())?;
        let (place, entries) = self.parameters.unwrap_or((written.place.clone(), Vec::new()));
        let values = values(source, preset, &place, entries)?;
        warn_of_newer(source, preset, date, self.date.as_ref().map_or(&place, |one| &one.place));
        let left_out = left_out(source, preset, date, &values, &self.without);
        let work = Expansion { source, preset, date, values: &values, place: &written.place };
        Some(work.run(own, &left_out))
    }

    fn warn_of_strays(&self, source: &Source<'_>) {
        let date = self.date.as_ref().map(|one| ("preset-date", &one.place));
        let parameters = self.parameters.as_ref().map(|(place, _)| ("preset-parameters", place));
        let without = self.without.first().map(|one| ("preset-without", &one.place));
        for (key, place) in [date, parameters, without].into_iter().flatten() {
            let what = format!("{key} has no effect without preset");
            source.missing(place, what, "name a preset (pullgate preset list), or remove it");
        }
    }
}

fn find<'a>(
    source: &Source<'_>,
    catalog: &'a Catalog,
    written: &Located<String>,
) -> Option<&'a Preset> {
    let found = catalog.find(&written.value);
    if found.is_none() {
        let names: Vec<&str> = catalog.presets().iter().map(|one| one.name.as_str()).collect();
        let what = format!("there is no preset {:?}", written.value);
        let remedy = format!("write one of {}", names.join(", "));
        source.fault(written.place.clone(), what, remedy);
    }
    found
}

fn date(
    source: &Source<'_>,
    catalog: &Catalog,
    preset: &Preset,
    written: &Located<String>,
    date: Option<&Located<String>>,
) -> Option<Date> {
    let Some(date) = date else {
        let what = format!("preset {:?} has no preset-date", written.value);
        let last = catalog.dates().map(|(_, last)| last.to_string()).unwrap_or_default();
        let remedy = format!("write preset-date = \"{last}\", the newest that this release knows");
        source.missing(&written.place, what, &remedy);
        return None;
    };
    match catalog.date(&date.value) {
        Ok(found) if preset.on(found).next().is_none() => {
            let first = preset.change_dates().first().map(ToString::to_string).unwrap_or_default();
            let what = format!("preset {} has no host on {found}", preset.name);
            source.fault(date.place.clone(), what, format!("its first date is {first}"));
            None
        }
        Ok(found) => Some(found),
        Err((what, remedy)) => {
            source.fault(
                date.place.clone(),
                format!("preset-date {:?}: {what}", date.value),
                remedy,
            );
            None
        }
    }
}

/// Reads the parameters' values; `None` where one is missing or wrong.
fn values(
    source: &Source<'_>,
    preset: &Preset,
    place: &Location,
    entries: Entries,
) -> Option<Values> {
    let mut values: Values = Vec::new();
    let mut is_sound = true;
    let mut fault = |place: &Location, what: String, remedy: String| {
        source.fault(place.clone(), what, remedy);
        is_sound = false;
    };
    for (name, written) in entries {
        let Some(parameter) = preset.parameters.iter().find(|one| one.name == name.value) else {
            let what = format!("preset {} has no parameter {:?}", preset.name, name.value);
            fault(&name.place, what, "remove it".into());
            continue;
        };
        // What is neither a string nor a list has been reported.
        let listed = written.unwrap_or_default();
        for value in &listed {
            if let Err(wanted) = parameter.judge(&value.value) {
                let what = format!("{} is {:?}", parameter.name, value.value);
                fault(&value.place, what, format!("write {wanted}, as in {:?}", parameter.example));
            }
        }
        let lower = listed.into_iter().map(|one| one.value.to_ascii_lowercase()).collect();
        values.push((name.value, lower));
    }
    for parameter in &preset.parameters {
        if values.iter().any(|(name, listed)| *name == parameter.name && !listed.is_empty()) {
            continue;
        }
        let what = format!("preset {} needs the parameter {}", preset.name, parameter.name);
        let example = format!("{} = {:?}", parameter.name, parameter.example);
        fault(place, what, format!("write preset-parameters = {{ {example} }}"));
    }
    is_sound.then_some(values)
}

fn warn_of_newer(source: &Source<'_>, preset: &Preset, date: Date, place: &Location) {
    let Some(newest) = preset.change_dates().last().copied().filter(|newest| *newest > date) else {
        return;
    };
    let changes = preset.changes(date, newest);
    let what = format!("preset {} of {newest} {}", preset.name, changes.summary());
    let remedy = format!("see pullgate preset diff {} {date}, then set preset-date", preset.name);
    source.warn(place.clone(), what, remedy);
}

/// Reads `preset-without`. Each host must be one that the preset stands for.
fn left_out(
    source: &Source<'_>,
    preset: &Preset,
    date: Date,
    values: &Values,
    written: &[Located<String>],
) -> HashSet<Target> {
    let hosts = preset.on(date).flat_map(|host| host.filled(values));
    let known: HashSet<Target> = hosts.filter_map(|host| parse_host(&host).ok()).collect();
    let mut left_out = HashSet::new();
    for host in written {
        match parse_host(&host.value) {
            Ok(target) if known.contains(&target) => {
                left_out.insert(target);
            }
            Ok(target) => {
                let what = format!("{target} is no host of preset {} on {date}", preset.name);
                let remedy = format!("remove it (pullgate preset show {} lists them)", preset.name);
                source.fault(host.place.clone(), what, remedy);
            }
            Err(fault) => {
                let what = format!("{:?}: {fault}", host.value);
                source.fault(host.place.clone(), what, fault.remedy());
            }
        }
    }
    left_out
}

struct Expansion<'a> {
    source: &'a Source<'a>,
    preset: &'a Preset,
    date: Date,
    values: &'a Values,
    place: &'a Location,
}

impl Expansion<'_> {
    fn run(&self, own: &OwnHosts<'_>, left_out: &HashSet<Target>) -> Expanded {
        let listed = own.listed.iter().filter_map(|host| parse_host(&host.value).ok());
        let listed: HashSet<Target> = listed.collect();
        let accepted = own.accepted.iter().filter_map(|host| parse_host(&host.value).ok());
        let accepted: HashSet<Target> = accepted.collect();
        let in_use = PresetInUse {
            name: self.preset.name.as_str().into(),
            date: self.date.to_string().into(),
            place: self.place.clone(),
            absent: self.absent(),
        };
        let mut expanded = Expanded { login: None, data: Vec::new(), also: Vec::new(), in_use };
        for host in self.preset.on(self.date) {
            for filled in host.filled(self.values) {
                // What does not parse is a fault of the rules for loading, at this place.
                let target = parse_host(&filled).ok();
                if target.as_ref().is_some_and(|one| listed.contains(one) || left_out.contains(one))
                {
                    continue;
                }
                if is_shared(&filled) && !target.as_ref().is_some_and(|one| accepted.contains(one))
                {
                    self.leave_out_shared(&filled, &mut expanded.in_use);
                    continue;
                }
                self.add(host.kind, filled, own, &mut expanded);
            }
        }
        expanded
    }

    fn add(&self, kind: PresetKind, host: String, own: &OwnHosts<'_>, to: &mut Expanded) {
        let host = Located { value: host, place: self.place.clone() };
        match kind {
            PresetKind::Data => to.data.push(host),
            PresetKind::Also => to.also.push(host),
            PresetKind::Login => {
                if let Some(login) = own.login {
                    let what = format!(
                        "login-server is {}, and preset {} stands for {}",
                        login.value, self.preset.name, host.value
                    );
                    self.source.fault(login.place.clone(), what, "keep one of the two");
                } else if let Some(first) = &to.login {
                    let what = format!("{} and {} are two login servers", first.value, host.value);
                    let remedy = "give each a file of its own";
                    self.source.fault(self.place.clone(), what, remedy);
                } else {
                    to.login = Some(host);
                }
            }
        }
    }

    fn leave_out_shared(&self, host: &str, in_use: &mut PresetInUse) {
        let what = format!(
            "{host} is left out of preset {}: all tenants share this storage",
            self.preset.name
        );
        let remedy = "list it in accept-shared-storage if layers come from there and the risk is \
                      accepted, otherwise in preset-without";
        self.source.warn(self.place.clone(), what, remedy);
        if let Ok(target) = parse_host(host) {
            in_use.absent.push(AbsentHost { name: target.name, why: Absence::SharedStorage });
        }
    }

    /// Returns the hosts that the preset has on other dates only.
    fn absent(&self) -> Vec<AbsentHost> {
        let preset: Arc<str> = self.preset.name.as_str().into();
        let why = |host: &PresetHost| match host.until {
            Some(until) if until <= self.date => {
                Absence::Older { preset: preset.clone(), until: until.to_string().into() }
            }
            _ => Absence::Newer { preset: preset.clone(), since: host.since.to_string().into() },
        };
        let others = self.preset.hosts.iter().filter(|host| !host.stands_on(self.date));
        others
            .flat_map(|host| host.filled(self.values).into_iter().map(|one| (why(host), one)))
            .filter_map(|(why, host)| Some(AbsentHost { name: parse_host(&host).ok()?.name, why }))
            .collect()
    }
}
