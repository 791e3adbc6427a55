//! What the policy says to the pull of an image, for `explain`: by each way in which a client can
//! ask for it.

use std::sync::Arc;

use super::clients::{Client, ClientIdentity};
use super::host::parse_host;
use super::permits::Grant;
use super::reason::Denial;
use super::requests::denial_of_request;
use super::set::PolicySet;
use super::target::{HTTPS, Target};
use crate::oci::{ImageName, Naming, Request};

/// The client that is explained.
#[derive(Debug, Clone)]
pub enum ExplainedClient {
    /// A client address.
    At(ClientIdentity),
    /// Any member of a group.
    Of(Arc<Client>),
}

/// How a client asks for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageWay {
    /// Through a tunnel to the registry's host.
    Tunnel,
    /// Inside a tunnel whose requests are judged.
    Inspect,
    /// From the mirror.
    Mirror,
}

/// The verdict for an image by one way.
#[derive(Debug, Clone)]
pub struct ImageVerdict {
    /// The way.
    pub way: ImageWay,
    /// What is judged: a host and port, or the image.
    pub asked: String,
    /// The registry, if the policy has it.
    pub grant: Option<Grant>,
    /// `Ok(None)`: allowed. `Ok(Some(_))`: report mode ignores the denial.
    pub judged: Result<Option<Denial>, Denial>,
}

impl ImageWay {
    /// Returns its code in the output of `explain`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Inspect => "inspect",
            Self::Mirror => "mirror",
        }
    }
}

impl ImageVerdict {
    /// Returns `allowed`, `would-deny` or `denied`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match &self.judged {
            Ok(None) => "allowed",
            Ok(Some(_)) => "would-deny",
            Err(_) => "denied",
        }
    }

    /// Returns the denial, also one that report mode ignores.
    #[must_use]
    pub fn denial(&self) -> Option<&Denial> {
        match &self.judged {
            Ok(ignored) => ignored.as_ref(),
            Err(denial) => Some(denial),
        }
    }
}

impl PolicySet {
    /// Judges the pull of an image: through a tunnel, inside it if it is inspected, and, if a registry of the policy has a mirror,
    /// from the mirror. No name is looked up.
    #[must_use]
    pub fn explain_image(
        &self,
        text: &str,
        image: &ImageName,
        client: &ExplainedClient,
    ) -> Vec<ImageVerdict> {
        let mut ways = vec![self.explain_host(image.host(), client)];
        ways.extend(self.explain_inspected(text, image, client));
        ways.extend(self.explain_mirrored(text, image, client));
        ways
    }

    /// Judges a host, with its port unless it is 443, for a tunnel. No name is looked up.
    #[must_use]
    pub fn explain_host(&self, host: &str, client: &ExplainedClient) -> ImageVerdict {
        let with_port = match host.rsplit_once(':') {
            Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host.to_owned(),
            _ => format!("{host}:{HTTPS}"),
        };
        let way = ImageWay::Tunnel;
        let target = match Target::parse_authority(&with_port) {
            Ok(target) => target,
            Err(fault) => {
                let denial = Denial::with_remedy(fault.reason(), fault.to_string());
                return ImageVerdict {
                    way,
                    asked: host.to_owned(),
                    grant: None,
                    judged: Err(denial),
                };
            }
        };
        let allowed = match client {
            ExplainedClient::At(asker) => self.judge_name(&target, asker, self.rules().enforcement),
            ExplainedClient::Of(group) => self.judge_name_for(&target, group),
        };
        ImageVerdict {
            way,
            asked: target.to_string(),
            grant: self.named(&target).ok(),
            judged: allowed.map(|allowed| allowed.would_deny().cloned()),
        }
    }

    /// Judges the pull of an image inside its tunnel; `None` if that is not inspected, or not allowed.
    #[must_use]
    pub fn explain_inspected(
        &self,
        text: &str,
        image: &ImageName,
        client: &ExplainedClient,
    ) -> Option<ImageVerdict> {
        let enforcement = self.rules().enforcement;
        let host = parse_host(image.host()).ok()?;
        let tunnel = match client {
            ExplainedClient::At(asker) => self.judge_name(&host, asker, enforcement).ok()?,
            ExplainedClient::Of(group) => self.judge_name_for(&host, group).ok()?,
        };
        tunnel.inspect()?;
        let request = Request::parse("GET", &image.target(), Naming::Connection);
        let allowed = request
            .map_err(denial_of_request)
            .and_then(|request| self.judge_inspected(&tunnel, &request, enforcement));
        Some(ImageVerdict {
            way: ImageWay::Inspect,
            asked: text.to_owned(),
            grant: tunnel.grant().cloned(),
            judged: allowed.map(|allowed| allowed.would_deny().cloned()),
        })
    }

    /// Judges the pull of an image from the mirror; `None` if no registry of the policy has one.
    #[must_use]
    pub fn explain_mirrored(
        &self,
        text: &str,
        image: &ImageName,
        client: &ExplainedClient,
    ) -> Option<ImageVerdict> {
        self.rules().registries.iter().find(|registry| registry.mirror().is_some())?;
        let enforcement = self.rules().enforcement;
        let request = Request::parse("GET", &image.mirror_target(), Naming::Mirror);
        let allowed = request.map_err(denial_of_request).and_then(|request| match client {
            ExplainedClient::At(asker) => self.judge_request(&request, asker, enforcement),
            ExplainedClient::Of(group) => self.judge_request_for(&request, group, enforcement),
        });
        Some(ImageVerdict {
            way: ImageWay::Mirror,
            asked: text.to_owned(),
            grant: allowed.as_ref().ok().map(|allowed| allowed.grant().clone()),
            judged: allowed.map(|allowed| allowed.would_deny().cloned()),
        })
    }
}
