//! The rules for `private-addresses`: which ranges it may open.

use std::sync::Arc;

use ipnet::IpNet;

use crate::policy::host::{never_dialled, parse_range};
use crate::policy::location::{Fault, Located};

/// Returns the ranges, and adds every fault of them.
pub(super) fn private(written: &[Located<String>], faults: &mut Vec<Fault>) -> Arc<[IpNet]> {
    let mut ranges = Vec::new();
    for written in written {
        match judge(&written.value) {
            Ok(range) => ranges.push(range),
            Err((what, remedy)) => {
                let place = written.place.clone();
                faults.push(Fault { place, what, remedy: remedy.to_owned() });
            }
        }
    }
    ranges.into()
}

fn judge(text: &str) -> Result<IpNet, (String, &'static str)> {
    let range = parse_range(text).ok_or_else(|| {
        let remedy = "write it as 10.1.0.0/24, fd00:1::/64 or a single address";
        (format!("{text:?} is not an address range"), remedy)
    })?;
    if !is_private(&range) {
        let remedy = "private-addresses accepts ranges of RFC 1918, fc00::/7 and 100.64.0.0/10; \
                      use [addresses] allow for others";
        return Err((format!("{range} is not private"), remedy));
    }
    match never_dialled(&range) {
        Some(why) => Err((format!("{range} is {why}, which no setting allows"), "remove it")),
        None => Ok(range),
    }
}

/// Whether a range lies within what `private-addresses` may open: RFC 1918, ULA (RFC 4193) and the
/// shared space of RFC 6598.
fn is_private(range: &IpNet) -> bool {
    const PRIVATE: &[&str] =
        &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];
    PRIVATE.iter().any(|outer| outer.parse::<IpNet>().is_ok_and(|outer| outer.contains(range)))
}
