//! The JSON of `/policy`: the current policy, with the key names of the configuration.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use ipnet::IpNet;
use serde::Serialize;

use crate::account::{ParentTrouble, Status};
use crate::policy::{
    Budget, Client, Enforcement, Limits, Parent, PolicySet, PrivateOnly, Registry, Route,
    StaticAddress,
};

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct PolicyView<'a> {
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<String>,
    enforcement: &'static str,
    registries: Vec<RegistryView<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parents: Vec<ParentView<'a>>,
    clients: Vec<ClientView<'a>>,
    addresses_allow: &'a [IpNet],
    dns_servers: Vec<String>,
    dns_stale_ms: u128,
    dns_hosts: BTreeMap<&'a str, Vec<String>>,
    limits: LimitsView,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct RegistryView<'a> {
    name: &'a str,
    file: &'a str,
    /// `None` if every client is allowed.
    clients: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    download_bytes_per_second: Option<u64>,
    endpoints: Vec<EndpointView>,
    private_addresses: &'a [IpNet],
    private_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a str>,
}

/// As `[[parent]]` names it, without its secrets.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ParentView<'a> {
    name: &'a str,
    addresses: Vec<&'a str>,
    connect: &'static str,
    up: bool,
    /// Why it opened no tunnel the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<ParentTrouble>,
}

/// A `[[client]]`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ClientView<'a> {
    name: &'a str,
    networks: &'a [IpNet],
    certificate_names: Vec<String>,
    users: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_bytes_per_hour: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_sessions: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_sessions_per_second: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    download_bytes_per_second: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct EndpointView {
    host: String,
    endpoint: &'static str,
    place: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload: Option<BudgetView>,
}

/// The value of `upload`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct BudgetView {
    base_bytes: u64,
    ratio_percent: u64,
    request_bytes: u64,
}

/// The values of `[limits]`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct LimitsView {
    head_timeout_ms: u128,
    hello_timeout_ms: u128,
    hello_bytes: usize,
    dial_timeout_ms: u128,
    idle_timeout_ms: u128,
    drain_timeout_ms: u128,
    open_sessions: usize,
    open_sessions_per_client: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_sessions_per_second_per_client: Option<NonZeroU32>,
    session_lifetime_ms: u128,
}

pub(super) fn policy<'a>(set: &'a PolicySet, status: &Status) -> PolicyView<'a> {
    let rules = set.rules();
    let pins = rules.pins.iter();
    PolicyView {
        generation: set.generation(),
        stale: status.stale.as_deref().map(str::to_owned),
        enforcement: match rules.enforcement {
            Enforcement::Enforce => "enforce",
            Enforcement::Report => "report",
        },
        registries: set.routes().map(|(one, route)| of_registry(set, one, route)).collect(),
        parents: rules.parents.iter().map(|parent| of_parent(parent, status)).collect(),
        clients: rules.clients.iter().map(|client| of_client(client)).collect(),
        addresses_allow: &rules.allowed_addresses,
        dns_servers: rules.dns_servers.iter().map(ToString::to_string).collect(),
        dns_stale_ms: rules.dns_stale.as_millis(),
        dns_hosts: pins
            .map(|(name, pins)| (name.as_str(), pins.iter().map(of_pin).collect()))
            .collect(),
        limits: of_limits(set.limits()),
    }
}

fn of_client(client: &Client) -> ClientView<'_> {
    ClientView {
        name: &client.name,
        networks: &client.networks,
        certificate_names: client.certificate_names.iter().map(ToString::to_string).collect(),
        users: client.users.iter().map(|user| &**user).collect(),
        upload_bytes_per_hour: client.limits.upload_bytes_per_hour,
        open_sessions: client.limits.open_sessions,
        new_sessions_per_second: client.limits.new_sessions_per_second,
        download_bytes_per_second: client.limits.download_bytes_per_second,
    }
}

fn of_parent<'a>(parent: &'a Parent, status: &Status) -> ParentView<'a> {
    let known = status.parents.iter().find(|one| one.name == parent.name);
    ParentView {
        name: &parent.name,
        addresses: parent.addresses.iter().map(|address| &**address.text()).collect(),
        connect: parent.connect.code(),
        up: known.is_none_or(|one| one.is_up),
        trouble: known.and_then(|one| one.trouble.clone()),
    }
}

fn of_registry<'a>(
    set: &'a PolicySet,
    registry: &'a Registry,
    route: &'a Route,
) -> RegistryView<'a> {
    let clients = set.admitted(registry.name());

    let endpoints = registry.endpoints().iter().map(|endpoint| EndpointView {
        host: endpoint.target.to_string(),
        endpoint: endpoint.kind.code(),
        place: endpoint.place.to_string(),
        upload: registry.budgets().of(endpoint.kind).map(of_budget),
    });
    RegistryView {
        name: registry.name(),
        file: registry.file(),
        clients: clients.map(|groups| groups.iter().map(|client| &*client.name).collect()),
        download_bytes_per_second: registry.download_bytes_per_second(),
        endpoints: endpoints.collect(),
        private_addresses: registry.private_addresses(),
        private_only: registry.private_only() == PrivateOnly::Yes,
        parent: route.parent().map(|parent| &*parent.name),
    }
}

fn of_budget(Budget { base_bytes, ratio_percent, request_bytes }: Budget) -> BudgetView {
    BudgetView { base_bytes, ratio_percent, request_bytes }
}

fn of_pin(pin: &StaticAddress) -> String {
    match pin.port {
        Some(port) => std::net::SocketAddr::new(pin.address, port).to_string(),
        None => pin.address.to_string(),
    }
}

fn of_limits(limits: &Limits) -> LimitsView {
    LimitsView {
        head_timeout_ms: limits.head_timeout.as_millis(),
        hello_timeout_ms: limits.hello_timeout.as_millis(),
        hello_bytes: limits.hello_bytes,
        dial_timeout_ms: limits.dial_timeout.as_millis(),
        idle_timeout_ms: limits.idle_timeout.as_millis(),
        drain_timeout_ms: limits.drain_timeout.as_millis(),
        open_sessions: limits.open_sessions,
        open_sessions_per_client: limits.open_sessions_per_client,
        new_sessions_per_second_per_client: limits.new_sessions_per_second_per_client,
        session_lifetime_ms: limits.session_lifetime.as_millis(),
    }
}
