//! What a denial is about, for whoever has to do something about it.

use crate::account::AuditText;
use crate::policy::{HostKind, Name, Reason};

/// What needs doing about a denial: the reason, but for a replica that the policy does not know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Finding {
    Storage,
    Replica,
    OtherRegistry,
    HostNotAllowed,
    Else(Reason),
    /// A code of another version of the gate.
    Unknown(String),
}

impl Finding {
    pub(super) fn of(reason: &str, host: &str) -> Self {
        match Reason::from_code(reason) {
            Some(Reason::StorageAccount) => Self::Storage,
            Some(Reason::OtherRegistry) => Self::OtherRegistry,
            // The label is that of a registry which the policy names: see `PolicySet`.
            Some(Reason::HostNotAllowed) if is_replica(host) => Self::Replica,
            Some(Reason::HostNotAllowed) => Self::HostNotAllowed,
            Some(reason) => Self::Else(reason),
            None => Self::Unknown(AuditText::new(reason).as_str().to_owned()),
        }
    }

    pub(super) fn code(&self) -> &str {
        match self {
            Self::Storage => Reason::StorageAccount.code(),
            Self::Replica => "unknown-replica",
            Self::OtherRegistry => Reason::OtherRegistry.code(),
            Self::HostNotAllowed => Reason::HostNotAllowed.code(),
            Self::Else(reason) => reason.code(),
            Self::Unknown(code) => code,
        }
    }

    pub(super) fn title(&self) -> String {
        match self {
            Self::Storage => "Storage accounts: layers of a registry without dedicated data \
                              endpoints, or data on its way out"
                .into(),
            Self::Replica => "Replicas that the policy does not know".into(),
            Self::OtherRegistry => "Registries that the policy does not name".into(),
            Self::HostNotAllowed => "Hosts that no registry's policy names".into(),
            Self::Else(reason) => reason.meaning().trim_end_matches('.').into(),
            Self::Unknown(_) => "A reason that this version does not know".into(),
        }
    }

    /// What to do, a step each.
    pub(super) fn remedy(&self) -> &'static [&'static str] {
        match self {
            // Microsoft's order: whoever switches first breaks every client behind a firewall that
            // does not know the new endpoints.
            Self::Storage => &[
                "az acr show-endpoints --name NAME | pullgate import -   (names the data endpoints \
                 to come)",
                "put what it prints into registries.d of every gate, and allow the same hosts in \
                 every other firewall",
                "only then: az acr update --name NAME --data-endpoint-enabled",
                "report again: whoever still asks for a storage account does not pull from \
                 that registry, and should be asked why",
            ],
            Self::Replica => {
                &["az acr show-endpoints --name NAME again, and put its output into registries.d: \
                 pulls break when traffic moves to that replica"]
            }
            Self::OtherRegistry => &[
                "add a file for the registry to registries.d, if these clients may pull from it; \
                 else leave it denied",
            ],
            Self::HostNotAllowed => {
                &["add the host to `also` of the registry whose clients need it (an identity \
                 provider, say); else leave it denied"]
            }
            Self::Else(reason) => remedy(*reason),
            Self::Unknown(_) => &["read these files with the pullgate that wrote them"],
        }
    }
}

fn remedy(reason: Reason) -> &'static [&'static str] {
    match reason {
        Reason::ClientNotAllowed => {
            &["let the registry's policy name the client, if it may pull; else leave it denied"]
        }
        Reason::UploadBudget => &[
            "a pull sends little: raise the budget where pushes are meant; else ask the client's \
               owner what it sent",
        ],
        Reason::PortNotAllowed => {
            &["write host:port into the registry's file, if that port is meant"]
        }
        Reason::AddressNotAllowed => {
            &["pullgate explain HOST tells the addresses; open them by `private-addresses` or \
               `[addresses] allow`, if they are meant"]
        }
        Reason::IpLiteral => &["have the client ask by name: the policy knows names only"],
        Reason::SessionLimit | Reason::RateLimit => {
            &["raise the limit in [limits], if the client is to be trusted with more"]
        }
        _ => &["see the reason in the manual"],
    }
}

fn is_replica(host: &str) -> bool {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let Ok(name) = Name::parse(host) else { return false };
    matches!(HostKind::of(&name), HostKind::Data { .. } | HostKind::Regional { .. })
}
