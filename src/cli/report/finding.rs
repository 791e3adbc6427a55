//! Groups denials and failures by what the operator has to do about them.

use crate::account::AuditText;
use crate::policy::{Cause, HostKind, Name, Reason};

/// The group of a denial or failure: its reason or cause, or a replica that is missing from the
/// policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Finding {
    Storage,
    Replica,
    OtherRegistry,
    HostNotAllowed,
    Else(Reason),
    Failed(Cause),
    /// A reason code of another version of the gate.
    Unknown(String),
}

impl Finding {
    pub(super) fn of(reason: &str, host: &str) -> Self {
        match Reason::from_code(reason) {
            Some(Reason::StorageAccount) => Self::Storage,
            Some(Reason::OtherRegistry) => Self::OtherRegistry,
            // `PolicySet` gives this reason only if the label belongs to a registry of the policy.
            Some(Reason::HostNotAllowed) if is_replica(host) => Self::Replica,
            Some(Reason::HostNotAllowed) => Self::HostNotAllowed,
            Some(reason) => Self::Else(reason),
            None => Self::Unknown(AuditText::new(reason).as_str().to_owned()),
        }
    }

    pub(super) fn of_failure(cause: &str) -> Self {
        match Cause::from_code(cause) {
            Some(cause) => Self::Failed(cause),
            None => Self::Unknown(AuditText::new(cause).as_str().to_owned()),
        }
    }

    pub(super) fn code(&self) -> &str {
        match self {
            Self::Storage => Reason::StorageAccount.code(),
            Self::Replica => "unknown-replica",
            Self::OtherRegistry => Reason::OtherRegistry.code(),
            Self::HostNotAllowed => Reason::HostNotAllowed.code(),
            Self::Else(reason) => reason.code(),
            Self::Failed(cause) => cause.code(),
            Self::Unknown(code) => code,
        }
    }

    pub(super) fn title(&self) -> String {
        match self {
            Self::Storage => "Storage accounts: layers of a registry without dedicated data \
                              endpoints, or data exfiltration"
                .into(),
            Self::Replica => "Replicas that are missing from the policy".into(),
            Self::OtherRegistry => "Registries that are not in the policy".into(),
            Self::HostNotAllowed => "Hosts that are not in the policy".into(),
            Self::Else(reason) => reason.meaning().trim_end_matches('.').into(),
            Self::Failed(cause) => cause.meaning().trim_end_matches('.').into(),
            Self::Unknown(_) => "A reason that this version does not know".into(),
        }
    }

    /// Returns the steps to take, in order.
    pub(super) fn remedy(&self) -> Vec<&'static str> {
        match self {
            // The order that Microsoft documents: switching first breaks every client behind a firewall
            // that does not allow the new endpoints.
            Self::Storage => vec![
                "run az acr show-endpoints --name NAME | pullgate import -   (it lists the future data \
                 endpoints)",
                "add its output to registries.d of every gate, and allow the same hosts in \
                 every other firewall",
                "only then run az acr update --name NAME --data-endpoint-enabled",
                "run the report again: clients that still connect to a storage account do not pull from \
                 that registry; find out why they connect",
            ],
            Self::Replica => vec![
                "run az acr show-endpoints --name NAME again, and add its output to registries.d: \
                 pulls break when traffic moves to that replica",
            ],
            Self::OtherRegistry => vec![Reason::OtherRegistry.advice()],
            Self::HostNotAllowed => vec![Reason::HostNotAllowed.advice()],
            Self::Else(reason) => vec![reason.advice()],
            Self::Failed(cause) => vec![cause.advice()],
            Self::Unknown(_) => {
                vec!["read these files with the version of pullgate that wrote them"]
            }
        }
    }
}

fn is_replica(host: &str) -> bool {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    let Ok(name) = Name::parse(host) else { return false };
    matches!(HostKind::of(&name), HostKind::Data { .. } | HostKind::Regional { .. })
}
