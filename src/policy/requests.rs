//! Judges registry requests: the client, the registry, and its rules.
//!
//! An [`AllowedRequest`] is the permission to query the login server of the registry, to fetch a
//! token from a host of the registry, and to follow its redirects within the limits of its file. It
//! grants no host that a client named.

use std::sync::Arc;

use super::clients::{Client, ClientIdentity, Login};
use super::cloud::HostKind;
use super::endpoint::{Endpoint, EndpointKind};
use super::mirror::{BlobHosts, Blobs, Mirror, RegistryCredentials};
use super::name::Name;
use super::offer::Offer;
use super::parent::Route;
use super::permits::{Allowed, Grant};
use super::reason::{Denial, Reason};
use super::rules::Enforcement;
use super::set::PolicySet;
use super::target::Target;
use crate::oci::{Method, RegistryName, Request, RequestFault, UriReference};

/// An allowed request. Only a decision creates it.
#[derive(Debug, Clone)]
pub struct AllowedRequest {
    offer: Offer,
    /// The server that is asked.
    server: Target,
    /// The permission for it.
    grant: Grant,
    client: Option<Arc<Client>>,
    would_deny: Option<Denial>,
    enforcement: Enforcement,
    route: Route,
}

/// A registry that the mirror offers.
struct Offered {
    /// Its index among the registries.
    registry: usize,
    mirror: Arc<Mirror>,
    /// Its login server.
    server: Target,
    grant: Grant,
}

impl PolicySet {
    /// Judges a request to the mirror.
    ///
    /// # Errors
    /// The denial. In report mode, reportable reasons are allowed and stored in the
    /// [`AllowedRequest`].
    pub fn judge_request(
        &self,
        request: &Request,
        asker: &ClientIdentity,
        enforcement: Enforcement,
    ) -> Result<AllowedRequest, Denial> {
        let offered = self.mirrored(request.registry.as_ref())?;
        let registry = offered.registry;
        let admit = || self.clients.admit(registry, asker);
        let allowed = self.judge_by(offered, request, enforcement, admit)?;
        let client = allowed.client.clone().or_else(|| self.group_of(asker).cloned());
        Ok(AllowedRequest { client, ..allowed })
    }

    fn judge_by(
        &self,
        offered: Offered,
        request: &Request,
        enforcement: Enforcement,
        admit: impl FnOnce() -> Result<Option<Arc<Client>>, Denial>,
    ) -> Result<AllowedRequest, Denial> {
        let Offered { registry, mirror, server, grant } = offered;
        let mut would_deny = None;
        let mut report = |denial: Denial| {
            let passes = enforcement == Enforcement::Report && denial.reason.is_reportable();
            if !passes {
                return Err(denial);
            }
            would_deny.get_or_insert(denial);
            Ok(())
        };
        let client = match admit() {
            Ok(client) => client,
            Err(denial) => {
                report(denial)?;
                None
            }
        };
        let offer = Offer::Mirror(mirror);
        if let Err(denial) = offer.judge(request) {
            report(denial)?;
        }
        let route = self.route(registry);
        Ok(AllowedRequest { offer, server, grant, client, would_deny, enforcement, route })
    }

    /// Judges a request in an inspected tunnel. `tunnel` is the permission for the tunnel, by this
    /// set.
    ///
    /// # Errors
    /// The denial; `policy-revoked` if the tunnel is not to be inspected. In report mode,
    /// reportable reasons are allowed and stored in the [`AllowedRequest`].
    pub fn judge_inspected(
        &self,
        tunnel: &Allowed,
        request: &Request,
        enforcement: Enforcement,
    ) -> Result<AllowedRequest, Denial> {
        let grant = tunnel.grant.clone();
        let Some((grant, inspect)) = grant.and_then(|grant| {
            let inspect = grant.inspect.clone()?;
            Some((grant, inspect))
        }) else {
            return Err(Reason::PolicyRevoked.into());
        };
        let offer = Offer::Inspect(inspect);
        let would_deny = match offer.judge(request) {
            Err(denial) if enforcement == Enforcement::Report && denial.reason.is_reportable() => {
                Some(denial)
            }
            judged => judged.map(|()| None)?,
        };
        let (server, client) = (tunnel.target.clone(), tunnel.client.clone());
        let route = tunnel.route.clone();
        Ok(AllowedRequest { offer, server, grant, client, would_deny, enforcement, route })
    }

    /// Judges a request for any client of a group.
    ///
    /// # Errors
    /// As [`Self::judge_request`].
    pub fn judge_request_for(
        &self,
        request: &Request,
        group: &Arc<Client>,
        enforcement: Enforcement,
    ) -> Result<AllowedRequest, Denial> {
        let offered = self.mirrored(request.registry.as_ref())?;
        let registry = offered.registry;
        self.judge_by(offered, request, enforcement, || {
            self.clients.admit_group(registry, group)?;
            Ok(Some(group.clone()))
        })
    }

    /// Returns whether the registry would admit the client with a password. Without a registry,
    /// returns whether any would.
    #[must_use]
    pub fn wants_password(&self, name: Option<&RegistryName>, asker: &ClientIdentity) -> bool {
        if asker.login != Login::Absent {
            return false;
        }
        let wants = |registry: usize| {
            let judged = self.clients.admit(registry, asker);
            judged.is_err_and(|denial| denial.reason == Reason::CredentialsRequired)
        };
        match name {
            Some(name) => self.mirror_names.find(Some(name)).is_some_and(wants),
            None => {
                let registries = self.rules().registries.iter().enumerate();
                registries.filter(|(_, one)| one.mirror().is_some()).any(|(at, _)| wants(at))
            }
        }
    }

    /// Checks that a registry is offered under this name.
    ///
    /// # Errors
    /// `registry-unknown`.
    pub fn offers(&self, name: Option<&RegistryName>) -> Result<(), Denial> {
        self.mirrored(name).map(|_| ())
    }

    fn mirrored(&self, name: Option<&RegistryName>) -> Result<Offered, Denial> {
        let found = self.mirror_names.find(name).and_then(|at| {
            let registry = self.rules().registries.get(at)?;
            let mirror = registry.mirror()?.clone();
            let login = registry.endpoints().first()?;
            let grant = self.grant_of(at, registry, login);
            Some(Offered { registry: at, mirror, server: login.target.clone(), grant })
        });
        found.ok_or_else(|| {
            let remedy = match name {
                Some(_) => "name a registry of the policy that has a [mirror]",
                None => "name the registry by ?ns= or as the first part of the path",
            };
            Denial::with_remedy(Reason::RegistryUnknown, remedy)
        })
    }

    /// Judges a request that an older set allowed, after a reload.
    ///
    /// # Errors
    /// `policy-revoked`.
    pub fn request_still_stands(
        &self,
        allowed: &AllowedRequest,
        request: &Request,
        asker: &ClientIdentity,
        enforcement: Enforcement,
    ) -> Result<(), Denial> {
        let revoked = || Denial::new(Reason::PolicyRevoked);
        if matches!(&asker.login, Login::Proved(user) if !self.users().still_have(user)) {
            return Err(revoked());
        }
        let again = self.judge_request(request, asker, enforcement).map_err(|_| revoked())?;
        let same =
            again.grant.registry == allowed.grant.registry && again.route.keeps(&allowed.route);
        if same { Ok(()) } else { Err(revoked()) }
    }
}

/// Returns the denial for a request that could not be parsed.
#[must_use]
pub fn denial_of_request(fault: RequestFault) -> Denial {
    let reason = match fault.is_unknown_operation() {
        true => Reason::OperationNotAllowed,
        false => Reason::RequestMalformed,
    };
    Denial::with_remedy(reason, fault.to_string())
}

impl AllowedRequest {
    /// Judges for which registry a token is asked, where the body says so.
    ///
    /// # Errors
    /// `host-mismatch` for that of another tenant.
    pub fn judge_service(&self, service: &str) -> Result<(), Denial> {
        self.offer.judge_service(service)
    }

    /// Returns the credentials of the gate; `None` if it has none, or the client sends its own.
    #[must_use]
    pub fn credentials(&self) -> Option<&RegistryCredentials> {
        match &self.offer {
            Offer::Mirror(mirror) => mirror.credentials(),
            Offer::Inspect(_) => None,
        }
    }

    /// Returns where blobs are fetched from.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        match &self.offer {
            Offer::Mirror(mirror) => mirror.blobs(),
            Offer::Inspect(_) => &Blobs::Redirect,
        }
    }

    /// Returns the grant of the registry.
    #[must_use]
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Returns the group of the client; `None` if it has none.
    #[must_use]
    pub fn client(&self) -> Option<&Arc<Client>> {
        self.client.as_ref()
    }

    /// Returns the denial that enforcement would have caused.
    #[must_use]
    pub fn would_deny(&self) -> Option<&Denial> {
        self.would_deny.as_ref()
    }

    /// Returns the permission to resolve the server that is asked.
    #[must_use]
    pub fn server(&self) -> Allowed {
        self.allowed(self.server.clone(), self.grant.clone())
    }

    /// Returns the permission to resolve a token server; `None` if it is not a host of the
    /// registry.
    #[must_use]
    pub fn token_server(&self, host: &str) -> Option<Allowed> {
        let name = Name::parse(host).ok()?;
        self.offer.endpoint(&name).map(|endpoint| self.allowed_at(endpoint))
    }

    /// Returns whether the client may follow a redirect. It may not where it may only look what is there
    /// before it pushes: by the redirect it would get the bytes.
    #[must_use]
    pub fn may_be_redirected(&self, request: &Request) -> bool {
        let pull = Request { method: Method::Get, ..request.clone() };
        self.enforcement == Enforcement::Report || self.offer.judge(&pull).is_ok()
    }

    /// Judges a redirect that the client will follow. Returns the denial that report mode ignores.
    ///
    /// # Errors
    /// `redirect-not-allowed`.
    pub fn judge_redirect(&self, location: &UriReference) -> Result<Option<Denial>, Denial> {
        let UriReference::Absolute { host, .. } = location else {
            return self.redirect_denied("its own host").map(Some);
        };
        let name = Name::parse(host).ok();
        let endpoint = name.and_then(|name| self.offer.endpoint(&name));
        match endpoint {
            Some(endpoint) if endpoint.kind == EndpointKind::Data => Ok(None),
            _ => self.redirect_denied(host).map(Some),
        }
    }

    /// Judges a redirect that the gate will follow. `from`: the host that sent it.
    ///
    /// # Errors
    /// `redirect-not-allowed`.
    pub fn judge_hop(&self, location: &UriReference, from: &Name) -> Result<Allowed, Denial> {
        let name = match location {
            UriReference::Relative(_) => Some(from.clone()),
            UriReference::Absolute { host, .. } => Name::parse(host).ok(),
        };
        let Some(name) = name else {
            return Err(Denial::with_remedy(
                Reason::RedirectNotAllowed,
                "the host is not a valid name",
            ));
        };
        if let Some(endpoint) = self.offer.endpoint(&name)
            && (endpoint.kind == EndpointKind::Data || name == *from)
        {
            return Ok(self.allowed_at(endpoint));
        }
        let listed = match self.blobs() {
            Blobs::Relay(BlobHosts::Announced) => true,
            Blobs::Relay(BlobHosts::Listed(hosts)) => hosts.contains(&name),
            Blobs::Redirect => false,
        };
        if !listed && name != *from {
            self.redirect_denied(name.as_str())?;
        }
        let mut grant = Grant { endpoint: EndpointKind::Data, ..self.grant.clone() };
        if !matches!(self.blobs(), Blobs::Relay(BlobHosts::Listed(_))) {
            // The registry named the host, and the operator's private ranges do not apply to it.
            grant.private_addresses = Arc::from([]);
        }
        Ok(self.allowed(Target::https(name), grant))
    }

    fn redirect_denied(&self, host: &str) -> Result<Denial, Denial> {
        let is_storage = Name::parse(host)
            .is_ok_and(|name| matches!(HostKind::of(&name), HostKind::Storage { .. }));
        let remedy = match (is_storage, self.blobs()) {
            (true, Blobs::Redirect) if matches!(self.offer, Offer::Inspect(_)) => {
                "enable dedicated data endpoints, or serve the registry by a [mirror] with \
                 blobs = \"relay\" and blob-hosts = \"announced\""
            }
            (true, Blobs::Redirect) => {
                "enable dedicated data endpoints, or set blobs = \"relay\" with \
                 blob-hosts = \"announced\""
            }
            (true, Blobs::Relay(_)) => {
                "enable dedicated data endpoints, or set blob-hosts = \"announced\""
            }
            (false, Blobs::Redirect) => "name it in data-endpoints",
            (false, Blobs::Relay(_)) => "name it in blob-hosts or data-endpoints",
        };
        let remedy = format!("the registry redirects to {host}; {remedy}");
        let denial = Denial::with_remedy(Reason::RedirectNotAllowed, remedy);
        match self.enforcement {
            Enforcement::Report => Ok(denial),
            Enforcement::Enforce => Err(denial),
        }
    }

    fn allowed_at(&self, endpoint: &Endpoint) -> Allowed {
        let grant =
            Grant { endpoint: endpoint.kind, place: endpoint.place.clone(), ..self.grant.clone() };
        self.allowed(endpoint.target.clone(), grant)
    }

    fn allowed(&self, target: Target, grant: Grant) -> Allowed {
        let (client, route) = (self.client.clone(), self.route.clone());
        Allowed { target, grant: Some(grant), client, would_deny: None, route }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Naming, RepositoryGlobs, RequestRules, TagGlobs};
    use crate::policy::location::{Located, Location};
    use crate::policy::mirror::{MirrorSpec, TunnelHosts};
    use crate::policy::registry::Registry;
    use crate::policy::registry_spec::{DataSpec, RegistrySpec};
    use crate::policy::rules::Rules;

    fn located(value: &str) -> Located<String> {
        let place = Location { file: "registries.d/contoso.toml".into(), line: 2 };
        Located { value: value.to_owned(), place }
    }

    fn set(blobs: Blobs, tunnel: TunnelHosts) -> PolicySet {
        let mut pull = RepositoryGlobs::default();
        pull.add("team/**").unwrap();
        let mut tags = TagGlobs::default();
        tags.add("v*").unwrap();
        let rules = RequestRules { pull: Some(pull), tags: Some(tags), ..RequestRules::default() };
        let mirror = MirrorSpec {
            place: located("").place,
            names: vec![located("docker.io")],
            default: Some(located("").place),
            rules,
            blobs,
            credentials: None,
        };
        let spec = RegistrySpec {
            data: DataSpec::Listed(vec![located("contoso.eastus.data.azurecr.io")]),
            also: vec![located("auth.example.com")],
            mirror: Some(mirror),
            tunnel,
            ..RegistrySpec::new("contoso".into(), located("contoso.azurecr.io"))
        };
        let registries = vec![Registry::new(&spec).unwrap()];
        PolicySet::new(1, Rules { registries, ..Rules::default() }).unwrap()
    }

    fn judged(
        set: &PolicySet,
        target: &str,
        enforcement: Enforcement,
    ) -> Result<AllowedRequest, Denial> {
        let request = Request::parse("GET", target, Naming::Mirror).unwrap();
        let asker = ClientIdentity::at(std::net::Ipv4Addr::LOCALHOST.into());
        set.judge_request(&request, &asker, enforcement)
    }

    #[test]
    fn requests_are_judged() {
        let set = set(Blobs::Redirect, TunnelHosts::All);
        for (target, expected) in [
            ("/v2/team/app/manifests/v1", None),
            ("/v2/team/app/manifests/v1?ns=docker.io", None),
            ("/v2/contoso.azurecr.io/team/app/manifests/v1", None),
            ("/v2/fabrikam.azurecr.io/team/app/manifests/v1", Some(Reason::RegistryUnknown)),
            ("/v2/team/app/manifests/v1?ns=evil.com", Some(Reason::RegistryUnknown)),
            ("/v2/other/manifests/v1", Some(Reason::RepositoryNotAllowed)),
            ("/v2/team/app/manifests/latest", Some(Reason::TagNotAllowed)),
            ("/v2/team/app/tags/list", Some(Reason::ListingNotAllowed)),
            ("/v2/_catalog", Some(Reason::ListingNotAllowed)),
            ("/oauth2/token", Some(Reason::OperationNotAllowed)),
        ] {
            let found = judged(&set, target, Enforcement::Enforce);
            assert_eq!(found.err().map(|denial| denial.reason), expected, "{target}");
            let reported = judged(&set, target, Enforcement::Report);
            let passes = expected.is_none_or(Reason::is_reportable);
            assert_eq!(reported.is_ok(), passes, "{target}");
        }
    }

    #[test]
    fn hops_lead_where_the_file_says() {
        let listed = |host: &str| BlobHosts::Listed(vec![Name::parse(host).unwrap()]);
        let from = Name::parse("contoso.azurecr.io").unwrap();
        for (blobs, location, expected) in [
            (Blobs::Redirect, "https://contoso.eastus.data.azurecr.io/x", true),
            (Blobs::Redirect, "https://x.blob.core.windows.net/x", false),
            (Blobs::Relay(listed("cdn.example.com")), "https://cdn.example.com/x", true),
            (Blobs::Relay(listed("cdn.example.com")), "https://evil.example.com/x", false),
            (Blobs::Relay(listed("cdn.example.com")), "/v2/x", true),
            (Blobs::Relay(listed("cdn.example.com")), "https://auth.example.com/x", false),
            (Blobs::Relay(BlobHosts::Announced), "https://x.blob.core.windows.net/x", true),
            (Blobs::Relay(BlobHosts::Announced), "https://127.0.0.1/x", false),
            (Blobs::Relay(BlobHosts::Announced), "https://localhost/x", false),
        ] {
            let set = set(blobs, TunnelHosts::All);
            let allowed = judged(&set, "/v2/team/app/manifests/v1", Enforcement::Enforce).unwrap();
            let location = UriReference::parse(location).unwrap();
            assert_eq!(allowed.judge_hop(&location, &from).is_ok(), expected, "{location:?}");
        }
        let set = set(Blobs::Redirect, TunnelHosts::All);
        let allowed = judged(&set, "/v2/team/app/manifests/v1", Enforcement::Enforce).unwrap();
        let passed = |text: &str| {
            allowed
                .judge_redirect(&UriReference::parse(text).unwrap())
                .map_err(|denial| denial.remedy)
        };
        assert_eq!(passed("https://contoso.eastus.data.azurecr.io/x"), Ok(None));
        let remedy = passed("https://x.blob.core.windows.net/x").unwrap_err().unwrap();
        assert!(remedy.contains("x.blob.core.windows.net") && remedy.contains("data endpoints"));
        assert!(passed("https://contoso.azurecr.io/x").is_err() && passed("/x").is_err());
        assert!(allowed.token_server("auth.example.com").is_some());
        assert!(allowed.token_server("evil.example.com").is_none());
    }

    #[test]
    fn tunnels_reach_the_hosts_that_the_file_says() {
        let asker = ClientIdentity::at(std::net::Ipv4Addr::LOCALHOST.into());
        for (tunnel, expected) in [
            (TunnelHosts::All, [true, true, true]),
            (TunnelHosts::Data, [false, true, false]),
            (TunnelHosts::None, [false, false, false]),
        ] {
            let set = set(Blobs::Redirect, tunnel);
            let hosts =
                ["contoso.azurecr.io", "contoso.eastus.data.azurecr.io", "auth.example.com"];
            let found = hosts.map(|host| {
                let target = Target::https(Name::parse(host).unwrap());
                set.judge_name(&target, &asker, Enforcement::Enforce).is_ok()
            });
            assert_eq!(found, expected, "{tunnel:?}");
            // The mirror needs no tunnel.
            assert!(judged(&set, "/v2/team/app/manifests/v1", Enforcement::Enforce).is_ok());
        }
    }
}
