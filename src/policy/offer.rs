//! The table of a registry's file that a request is judged by, and what denies one.

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::inspect::Inspect;
use super::mirror::Mirror;
use super::name::Name;
use super::reason::{Denial, Reason};
use super::target::Target;
use crate::oci::{Action, Operation, Request, RuleFault, TokenQuery};

/// The table of a registry's file that a request is judged by.
#[derive(Debug, Clone)]
pub(super) enum Offer {
    Mirror(Arc<Mirror>),
    Inspect(Arc<Inspect>),
}

impl Offer {
    pub(super) fn endpoints(&self) -> &[Endpoint] {
        match self {
            Self::Mirror(mirror) => &mirror.endpoints,
            Self::Inspect(inspect) => &inspect.endpoints,
        }
    }

    /// Returns the endpoint of a host on port 443.
    pub(super) fn endpoint(&self, name: &Name) -> Option<&Endpoint> {
        let target = Target::https(name.clone());
        self.endpoints().iter().find(|endpoint| endpoint.target == target)
    }

    pub(super) fn judge(&self, request: &Request) -> Result<(), Denial> {
        let operation = &request.operation;
        let judged = match self {
            // The mirror only reads, whatever the rules for pushes, and issues no tokens.
            Self::Mirror(_) if matches!(operation, Operation::Token { .. }) => {
                Err(RuleFault::Operation)
            }
            Self::Mirror(mirror) => mirror.rules().judge(request),
            Self::Inspect(inspect) => inspect.rules().judge(request),
        };
        judged.map_err(|fault| self.denial_of(fault, operation))?;
        match operation {
            Operation::Token { query: TokenQuery { service: Some(service), .. }, .. } => {
                self.judge_service(service.as_str())
            }
            _ => Ok(()),
        }
    }

    /// Judges for which registry a token is asked.
    pub(super) fn judge_service(&self, service: &str) -> Result<(), Denial> {
        let foreign = match self {
            Self::Inspect(inspect) => inspect.foreign_service(service),
            Self::Mirror(_) => None,
        };
        match foreign {
            None => Ok(()),
            Some(name) => {
                let remedy = format!("the token would be for {name}");
                Err(Denial::with_remedy(Reason::HostMismatch, remedy))
            }
        }
    }

    fn denial_of(&self, fault: RuleFault, operation: &Operation) -> Denial {
        match fault {
            RuleFault::Operation => {
                let remedy = match (self, operation.action()) {
                    (Self::Mirror(_), _) => "this mirror allows pulls only",
                    (Self::Inspect(_), Action::Write) => "nobody may push here",
                    (Self::Inspect(_), Action::Delete) => {
                        "deleting is not allowed through the gate"
                    }
                    (Self::Inspect(_), Action::Read) => "the path is not an allowed operation",
                };
                Denial::with_remedy(Reason::OperationNotAllowed, remedy)
            }
            RuleFault::Repository if operation.action() == Action::Write => {
                let remedy = "pushing to it, or mounting from there, is not allowed";
                Denial::with_remedy(Reason::RepositoryNotAllowed, remedy)
            }
            RuleFault::Repository => Reason::RepositoryNotAllowed.into(),
            RuleFault::Tag => {
                let tag = operation.tag().map(ToString::to_string).unwrap_or_default();
                Denial::with_remedy(Reason::TagNotAllowed, format!("tag {tag}"))
            }
            RuleFault::Listing => Reason::ListingNotAllowed.into(),
        }
    }
}
