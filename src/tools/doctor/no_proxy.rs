//! `NO_PROXY`: hosts that clients connect to without their proxy. Programs interpret it
//! differently; a host counts as exempt if Go, curl or Python exempts it.

use crate::policy::Target;

/// Returns the first entry of `NO_PROXY` that exempts a host; `None` if none does. Addresses and
/// networks do not exempt hosts given by name.
pub(super) fn exempting<'a>(no_proxy: &'a str, target: &Target) -> Option<&'a str> {
    let entries = no_proxy.split(|byte: char| byte == ',' || byte.is_whitespace());
    entries.filter(|entry| !entry.is_empty()).find(|entry| exempts(entry, target))
}

fn exempts(entry: &str, target: &Target) -> bool {
    if entry == "*" {
        return true;
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (entry, None),
    };
    if port.is_some_and(|port| port.parse() != Ok(target.port)) {
        return false;
    }
    let domain = host.trim_start_matches('*').trim_matches('.').to_ascii_lowercase();
    let name = target.name.as_str();
    let below = name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'));
    !domain.is_empty() && (name == domain || below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::parse_host;

    #[test]
    fn entries_as_programs_read_them() {
        let target = parse_host("contoso.azurecr.io").unwrap();
        for (no_proxy, exempting_entry) in [
            ("contoso.azurecr.io", Some("contoso.azurecr.io")),
            ("localhost, .azurecr.io", Some(".azurecr.io")),
            ("localhost azurecr.io", Some("azurecr.io")),
            ("*.AzureCR.io", Some("*.AzureCR.io")),
            ("azurecr.io:443", Some("azurecr.io:443")),
            ("io", Some("io")),
            ("10.0.0.1,*", Some("*")),
            ("azurecr.io:80", None),
            ("urecr.io", None),
            ("fabrikam.azurecr.io", None),
            ("a.contoso.azurecr.io", None),
            ("10.0.0.0/8,::1,[::1]:443,127.0.0.1", None),
            ("", None),
            (",. , *. , :443", None),
        ] {
            assert_eq!(exempting(no_proxy, &target), exempting_entry, "{no_proxy}");
        }
    }
}
