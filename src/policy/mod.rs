//! Names, targets, reasons, and all decisions. The decisions create permits.
//!
//! Pure: no sockets, clocks or files. Values of these types are valid. A [`Permit`] allows dialling
//! its addresses, a [`Cleared`] allows relaying, and only [`PolicySet`] creates them.

mod addresses;
mod advice;
mod budget;
mod certificate;
mod clients;
mod cloud;
mod endpoint;
mod explain;
mod host;
mod inspect;
mod limits;
mod location;
mod mirror;
mod name;
mod name_server;
mod offer;
mod parent;
mod permits;
mod preset;
mod reason;
mod regions;
mod registry;
mod registry_spec;
mod requests;
mod routes;
mod rules;
mod set;
mod strangers;
mod target;
mod users;
mod via;
mod way_out;

pub use addresses::{AddressFault, Class, PrivateOnly, canonical, class_of};
pub use budget::{Budget, Budgets, LEAST_RESPONSE};
pub use certificate::{CertificateName, CertificateNameFault, CertificateNames};
pub use clients::{Client, ClientAddress, ClientIdentity, ClientLimits, Login, subscriber};
pub use cloud::{CLOUDS, Cloud, HostKind, without_private_link};
pub use endpoint::{Endpoint, EndpointKind};
pub use explain::{ExplainedClient, ImageVerdict, ImageWay};
pub use host::{HostFault, never_dialled, parse_host, parse_range};
pub use inspect::{Inspect, InspectSpec, InspectedHosts, is_host};
pub use limits::Limits;
pub use location::{Fault, Located, Location};
pub use mirror::{
    BlobHosts, Blobs, Mirror, MirrorSpec, RegistryCredentials, TunnelHosts, parse_blob_host,
};
pub use name::{LONGEST_NAME, Name, NameError};
pub use name_server::NameServer;
pub use parent::{
    ConnectBy, NO_PARENT, Parent, ParentAddress, ParentChoice, ParentCredentials, ParentHost,
    ParentPermit, ParentTls, Route, never_a_parent,
};
pub use permits::{Allowed, Cleared, Grant, NoneVetted, Permit, Vetted};
pub use preset::{Absence, AbsentHost, PresetInUse};
pub use reason::{
    Cause, Denial, DetailedFailure, Ending, Failure, ParentFailure, Reason, Side, Stop,
};
pub use registry::Registry;
pub use registry_spec::{Clientele, DataSpec, Origin, RegistrySpec};
pub use requests::{AllowedRequest, denial_of_request};
pub use rules::{
    Enforcement, LABELLED_REGISTRIES, NO_LABEL, OTHER_LABEL, OwnAddresses, Rules, StaticAddress,
};
pub use set::PolicySet;
pub use target::{HTTPS, Target, TargetError, parse_port};
pub use users::{Challenge, MOST_MEMORY_KIB, PasswordHash, PasswordHashFault, User, Users};
pub use via::{GateId, Via};
