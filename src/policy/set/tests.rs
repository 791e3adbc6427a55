//! Judgements of names, addresses and permits.

use super::*;
use crate::policy::clients::ClientLimits;
use crate::policy::location::Located;
use crate::policy::registry_spec::{Clientele, DataSpec, RegistrySpec};

fn local() -> ClientIdentity {
    ClientIdentity::at(std::net::Ipv4Addr::LOCALHOST.into())
}

fn registry(name: &str, login: &str, data: &[&str], private_only: PrivateOnly) -> Registry {
    let file: Arc<str> = format!("registries.d/{name}.toml").into();
    let located = |value: &str, line| Located {
        value: value.to_owned(),
        place: Location { file: file.clone(), line },
    };
    let data = data.iter().zip(2..).map(|(host, line)| located(host, line));
    let mut spec = RegistrySpec::new(name.into(), located(login, 1));
    spec.data = DataSpec::Listed(data.collect());
    spec.also.push(located("login.microsoftonline.com", 9));
    spec.private_addresses.push(located("10.1.0.0/24", 10));
    spec.private_only = private_only;
    Registry::new(&spec).unwrap()
}

fn contoso() -> Registry {
    let data = ["contoso.eastus.data.azurecr.io"];
    registry("contoso", "contoso.azurecr.io", &data, PrivateOnly::No)
}

fn set(registries: Vec<Registry>) -> PolicySet {
    PolicySet::new(1, Rules { registries, ..Rules::default() }).unwrap()
}

fn asked(set: &PolicySet, target: &str) -> Result<Allowed, Denial> {
    set.judge_name(&Target::parse_authority(target).unwrap(), &local(), Enforcement::Enforce)
}

#[test]
fn names_are_judged_exactly() {
    let set = set(vec![contoso()]);
    let cases = [
        ("contoso.azurecr.io:443", None),
        ("CONTOSO.azurecr.io:443", None),
        ("contoso.eastus.data.azurecr.io:443", None),
        ("login.microsoftonline.com:443", None),
        ("contoso.azurecr.io:80", Some(Reason::PortNotAllowed)),
        ("contoso.westus.data.azurecr.io:443", Some(Reason::HostNotAllowed)),
        ("evil.eastus.data.azurecr.io:443", Some(Reason::OtherRegistry)),
        ("contoso.eastus.data.azurecr.cn:443", Some(Reason::OtherRegistry)),
        ("fabrikam.azurecr.io:443", Some(Reason::OtherRegistry)),
        ("ghcr.io:443", Some(Reason::OtherRegistry)),
        ("x.blob.core.windows.net:443", Some(Reason::StorageAccount)),
        ("example.com:443", Some(Reason::HostNotAllowed)),
        ("a.contoso.azurecr.io:443", Some(Reason::OtherRegistry)),
    ];
    for (target, reason) in cases {
        assert_eq!(asked(&set, target).err().map(|denial| denial.reason), reason, "{target}");
    }
}

#[test]
fn a_single_label_is_malformed_unless_a_registry_names_it() {
    let file: Arc<str> = "registries.d/edge.toml".into();
    let at = |value: &str, line| Located {
        value: value.to_owned(),
        place: Location { file: file.clone(), line },
    };
    let mut spec = RegistrySpec::new("edge".into(), at("edge-parent", 1));
    assert!(Registry::new(&spec).unwrap_err()[0].remedy.contains("accept-single-label"));
    spec.accept_single_label = vec![at("Edge-Parent", 2)];
    let set = set(vec![contoso(), Registry::new(&spec).unwrap()]);
    assert_eq!(asked(&set, "EDGE-parent:443").unwrap().target().to_string(), "edge-parent:443");
    assert_eq!(asked(&set, "edge-parent:80").unwrap_err().reason, Reason::PortNotAllowed);
    for stranger in ["localhost:443", "contoso:443", "edge:443", "edge-parent2:443"] {
        let denial = asked(&set, stranger).unwrap_err();
        assert_eq!(denial.reason, Reason::BadTarget, "{stranger}");
        assert_eq!(denial.remedy.as_deref(), Some("the host has one label only"));
        assert_eq!(denial.of_hello(), Reason::HelloMalformed.into());
        let target = Target::parse_authority(stranger).unwrap();
        let reported = set.judge_name(&target, &local(), Enforcement::Report);
        assert_eq!(reported.unwrap_err().reason, Reason::BadTarget, "report mode, {stranger}");
    }
    // A search list is not applied: the label alone is the name.
    for name in ["edge-parent.contoso.com:443", "edge-parent.local:443"] {
        assert_eq!(asked(&set, name).unwrap_err().reason, Reason::HostNotAllowed, "{name}");
    }
    let hello = |named: &str| {
        let allowed = asked(&set, "edge-parent:443").unwrap();
        let found = ["20.1.2.3:443".parse().unwrap()];
        let vetted = set.judge_addresses(allowed, &found, &OwnAddresses::default()).unwrap();
        let judged = set.judge_hello(vetted.permit, &Name::parse_or_label(named).unwrap());
        judged.map(drop).map_err(|denial| denial.reason)
    };
    assert_eq!(hello("edge-parent"), Ok(()));
    assert_eq!(hello("localhost"), Err(Reason::HelloMalformed));
    assert_eq!(hello("contoso.azurecr.io"), Err(Reason::SniMismatch));
}

#[test]
fn a_host_is_allowed_on_whatever_port() {
    let other = registry("other", "other.example.com:8443", &[], PrivateOnly::No);
    let set = set(vec![contoso(), other]);
    let judge = |name: &str, enforcement| {
        let judged = set.judge_host(&Name::parse(name).unwrap(), &local(), enforcement);
        judged.map(|allowed| allowed.target().port).map_err(|denial| denial.reason)
    };
    let enforce = |name| judge(name, Enforcement::Enforce);
    assert_eq!(enforce("contoso.azurecr.io"), Ok(443));
    assert_eq!(enforce("other.example.com"), Ok(8443));
    assert_eq!(enforce("example.com"), Err(Reason::HostNotAllowed));
    assert_eq!(enforce("x.blob.core.windows.net"), Err(Reason::StorageAccount));
    assert_eq!(judge("x.blob.core.windows.net", Enforcement::Report), Ok(443));
}

#[test]
fn report_mode_lets_the_reportable_pass() {
    let set = set(vec![contoso()]);
    let judge = |text: &str| {
        let target = Target::parse_authority(text).unwrap();
        set.judge_name(&target, &local(), Enforcement::Report)
    };
    let passed = judge("x.blob.core.windows.net:443").unwrap();
    assert_eq!(passed.would_deny().unwrap().reason, Reason::StorageAccount);
    assert!(passed.grant().is_none());
    assert_eq!(judge("contoso.azurecr.io:22").unwrap_err().reason, Reason::PortNotAllowed);
}

#[test]
fn report_mode_lets_a_client_pass_whom_the_registry_does_not_name() {
    let client = |name: &str, network: &str| {
        Arc::new(Client {
            name: name.into(),
            place: Location { file: "pullgate.toml".into(), line: 5 },
            networks: vec![network.parse().unwrap()],
            certificate_names: Vec::new(),
            users: Vec::new(),
            limits: ClientLimits::default(),
        })
    };
    let place = Location { file: "registries.d/contoso.toml".into(), line: 1 };
    let login = Located { value: "contoso.azurecr.io".to_owned(), place: place.clone() };
    let named = Located { value: "fleet".to_owned(), place };
    let spec = RegistrySpec {
        clientele: Clientele::Named(vec![named]),
        ..RegistrySpec::new("contoso".into(), login)
    };
    let rules = Rules {
        registries: vec![Registry::new(&spec).unwrap()],
        clients: vec![client("local", "127.0.0.0/8"), client("fleet", "10.0.0.0/8")],
        ..Rules::default()
    };
    let set = PolicySet::new(1, rules).unwrap();
    let target = Target::parse_authority("contoso.azurecr.io:443").unwrap();
    let judged = |enforcement| set.judge_name(&target, &local(), enforcement);
    assert_eq!(judged(Enforcement::Enforce).unwrap_err().reason, Reason::ClientNotAllowed);
    let passed = judged(Enforcement::Report).unwrap();
    assert_eq!(passed.would_deny().unwrap().reason, Reason::ClientNotAllowed);
    // The denial names the registry and the group.
    assert_eq!(&*passed.grant().unwrap().registry, "contoso");
    assert_eq!(&*passed.client().unwrap().name, "local");
}

#[test]
fn an_answer_is_vetted_address_by_address() {
    let set = set(vec![contoso()]);
    let allowed = asked(&set, "contoso.azurecr.io:443").unwrap();
    let found = ["169.254.169.254:443", "20.1.2.3:443", "10.1.0.4:443", "10.2.0.4:443"];
    let found = found.map(|text| text.parse().unwrap());
    let vetted = set.judge_addresses(allowed, &found, &OwnAddresses::default()).unwrap();
    assert_eq!(vetted.permit.addresses(), &found[1..3]);
    assert_eq!(vetted.dropped.len(), 2);
    let allowed = asked(&set, "contoso.azurecr.io:443").unwrap();
    let refused = set.judge_addresses(allowed, &found[..1], &OwnAddresses::default());
    assert_eq!(refused.unwrap_err().denial.reason, Reason::AddressNotAllowed);
}

#[test]
fn a_denied_address_names_the_key_that_opens_it() {
    let set = set(vec![contoso()]);
    let interfaces = vec!["203.0.113.9".parse().unwrap(), "20.9.9.9".parse().unwrap()];
    let listeners = vec!["192.0.2.1:443".parse().unwrap()];
    let own = OwnAddresses { interfaces, listeners };
    for (found, remedy) in [
        (&["10.2.0.4:443"][..], "see private-addresses"),
        (&["127.0.0.1:443"], "see [addresses] allow"),
        (&["20.9.9.9:443"], "it is the gate's own: see [addresses] allow"),
        (&["169.254.169.254:443"], "check what the DNS answers"),
        (&["192.0.2.1:443"], "it is the gate itself: check what the DNS answers"),
        (&["169.254.169.254:443", "10.2.0.4:443"], "see private-addresses"),
    ] {
        let allowed = asked(&set, "contoso.azurecr.io:443").unwrap();
        let found: Vec<SocketAddr> = found.iter().map(|one| one.parse().unwrap()).collect();
        let denied = set.judge_addresses(allowed, &found, &own).unwrap_err().denial;
        assert_eq!(denied.remedy.as_deref(), Some(remedy), "{found:?}");
    }
}

#[test]
fn the_gates_own_listeners_are_opened_by_nothing() {
    let allow = vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    let rules = Rules { registries: vec![contoso()], allowed_addresses: allow, ..Rules::default() };
    let set = PolicySet::new(1, rules).unwrap();
    let own = OwnAddresses {
        interfaces: vec!["10.1.0.9".parse().unwrap(), "20.9.9.9".parse().unwrap()],
        listeners: vec!["0.0.0.0:3128".parse().unwrap(), "127.0.0.1:9128".parse().unwrap()],
    };
    let cases = [
        ("127.0.0.1:3128", false),
        ("127.0.0.2:3128", false),
        ("10.1.0.9:3128", false),
        ("127.0.0.1:9128", false),
        ("127.0.0.2:9128", true),
        ("10.1.0.9:443", true),
        ("127.0.0.1:443", true),
        ("20.9.9.9:443", false),
        ("[64:ff9b::20.9.9.9]:3128", false),
        ("[64:ff9b::20.9.9.9]:443", false),
        ("[64:ff9b::20.9.9.8]:443", true),
    ];
    for (address, dialled) in cases {
        let allowed = asked(&set, "contoso.azurecr.io:443").unwrap();
        let found = [address.parse().unwrap()];
        assert_eq!(set.judge_addresses(allowed, &found, &own).is_ok(), dialled, "{address}");
    }
}

#[test]
fn a_permit_stands_only_while_its_registry_names_the_host() {
    let first = set(vec![contoso()]);
    let allowed = asked(&first, "contoso.azurecr.io:443").unwrap();
    let upstream = "20.1.2.3:443".parse().unwrap();
    let own = OwnAddresses::default();
    let permit = first.judge_addresses(allowed, &[upstream], &own).unwrap().permit;
    let stands = |set: &PolicySet| {
        set.still_stands(&permit, Some(upstream), &local(), Enforcement::Enforce, &own).is_ok()
    };
    assert!(stands(&first));
    assert!(!stands(&set(vec![])));
    let private = registry("contoso", "contoso.azurecr.io", &[], PrivateOnly::Yes);
    assert!(!stands(&set(vec![private])));
}

#[test]
fn an_endpoint_stands_in_one_registry_and_also_in_many() {
    let data = ["cdn.example.com"];
    let one = registry("one", "one.example.com", &data, PrivateOnly::No);
    let other = registry("other", "other.example.com", &data, PrivateOnly::No);
    let rules = Rules { registries: vec![one, other], ..Rules::default() };
    let faults = PolicySet::new(1, rules).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].place.to_string(), "registries.d/other.toml:2");
}
