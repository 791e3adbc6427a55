//! Which addresses can be dialled: public unicast addresses and explicit exceptions.
//!
//! Pure: no sockets. An IPv6 address that contains an IPv4 one is judged as both, so that no
//! wrapper is more permissive than its content. Four classes: [`Class::Public`]; [`Class::Private`]
//! and [`Class::Openable`], which can be dialled only if a range of the policy covers them; and
//! [`Class::Never`], which no setting allows. A network-specific NAT64 prefix (RFC 6052 §2.2) and
//! 6rd (RFC 5969) look like any global address, so only the operator knows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The class of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Globally reachable unicast.
    Public,
    /// Private space that `private-addresses` or `[addresses] allow` can allow: RFC 1918, ULA,
    /// 100.64/10.
    Private(&'static str),
    /// Space that only `[addresses] allow` can allow: loopback, documentation, benchmarking and
    /// other special ranges.
    Openable(&'static str),
    /// Addresses that no setting allows: metadata services, link-local, multicast, unspecified.
    Never(&'static str),
}

/// Why an address of a name is not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// A range that no setting allows.
    #[error("is {0}, which is never dialled")]
    Never(&'static str),
    /// A private range that no exception of the policy covers.
    #[error("is {0}, and neither private-addresses nor [addresses] allow covers it")]
    Closed(&'static str),
    /// A range that `[addresses] allow` would have to cover.
    #[error("is {0}, and [addresses] allow does not cover it")]
    Special(&'static str),
    /// A public address of a `private-only` registry.
    #[error("is public, and the registry is private-only")]
    Public,
    /// An address of the gate's machine that `[addresses] allow` does not cover.
    #[error("is an address of the gate itself, and [addresses] allow does not cover it")]
    Own,
    /// An address on which the gate listens.
    #[error("is where the gate itself listens, which is never dialled")]
    Listener,
}

impl AddressFault {
    /// Returns the key that allows the address, or what else to check, for the end of the client's
    /// message.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Never(_) => "check what the DNS answers",
            Self::Closed(_) => "see private-addresses",
            Self::Special(_) => "see [addresses] allow",
            Self::Public => "see private-only",
            Self::Own => "it is the gate's own: see [addresses] allow",
            Self::Listener => "it is the gate itself: check what the DNS answers",
        }
    }
}

/// A row of a table: range and class, with the defining document in a comment.
struct Range<Net> {
    net: Net,
    class: Class,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, class: Class) -> Range<Ipv4Net> {
    Range { net: Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix), class }
}

const fn v6(segments: [u16; 8], prefix: u8, class: Class) -> Range<Ipv6Net> {
    let [a, b, c, d, e, f, g, h] = segments;
    Range { net: Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix), class }
}

/// IPv4 ranges, more specific ones first. Source: IANA's IPv4 Special-Purpose Address Registry.
const V4: &[Range<Ipv4Net>] = &[
    v4(168, 63, 129, 16, 32, Class::Never("Azure's platform address")), // Azure, virtual public IP
    v4(0, 0, 0, 0, 8, Class::Never("this network")),                    // RFC 1122 §3.2.1.3
    v4(169, 254, 0, 0, 16, Class::Never("link-local")),                 // RFC 3927; metadata
    v4(224, 0, 0, 0, 4, Class::Never("multicast")),                     // RFC 5771
    v4(255, 255, 255, 255, 32, Class::Never("broadcast")),              // RFC 919
    v4(10, 0, 0, 0, 8, Class::Private("private")),                      // RFC 1918
    v4(172, 16, 0, 0, 12, Class::Private("private")),                   // RFC 1918
    v4(192, 168, 0, 0, 16, Class::Private("private")),                  // RFC 1918
    v4(100, 100, 100, 200, 32, Class::Never("a metadata service")),     // Alibaba Cloud metadata
    v4(100, 64, 0, 0, 10, Class::Private("shared")),                    // RFC 6598
    v4(127, 0, 0, 0, 8, Class::Openable("loopback")),                   // RFC 1122 §3.2.1.3
    v4(192, 0, 0, 192, 32, Class::Never("a metadata service")),         // Oracle Cloud metadata
    v4(192, 0, 0, 0, 24, Class::Openable("reserved for protocols")),    // RFC 6890
    v4(192, 0, 2, 0, 24, Class::Openable("for documentation")),         // RFC 5737
    v4(192, 31, 196, 0, 24, Class::Openable("AS112")),                  // RFC 7535
    v4(192, 52, 193, 0, 24, Class::Openable("AMT")),                    // RFC 7450
    v4(192, 88, 99, 0, 24, Class::Openable("a 6to4 relay")),            // RFC 7526, RFC 6751
    v4(192, 175, 48, 0, 24, Class::Openable("AS112")),                  // RFC 7534
    v4(198, 18, 0, 0, 15, Class::Openable("for benchmarks")),           // RFC 2544
    v4(198, 51, 100, 0, 24, Class::Openable("for documentation")),      // RFC 5737
    v4(203, 0, 113, 0, 24, Class::Openable("for documentation")),       // RFC 5737
    v4(240, 0, 0, 0, 4, Class::Openable("reserved")),                   // RFC 1112 §4
];

/// IPv6 ranges, more specific ones first. Other addresses are public only within 2000::/3. Source:
/// IANA's IPv6 Special-Purpose Address Registry.
const V6: &[Range<Ipv6Net>] = &[
    v6([0; 8], 128, Class::Never("unspecified")), // RFC 4291 §2.5.2
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Class::Openable("loopback")), // RFC 4291 §2.5.3
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Class::Never("link-local")), // RFC 4291 §2.5.6
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Class::Openable("site-local")), // RFC 3879
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Class::Never("multicast")), // RFC 4291 §2.7
    // Amazon VPC services: metadata ::254, EKS credentials ::23, DNS ::253, time ::123.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32, Class::Never("a metadata service")),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Class::Never("a metadata service")), // Google
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, Class::Never("a metadata service")), // Oracle
    v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128, Class::Never("a metadata service")), // Scaleway
    v6([0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1], 128, Class::Never("a metadata service")), // Akamai
    v6([0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200], 128, Class::Never("a metadata service")), // Alibaba
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Class::Private("unique-local")), // RFC 4193
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, Class::Openable("for discarding")), // RFC 6666
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, Class::Openable("a dummy prefix")), // RFC 9780
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Class::Openable("for documentation")), // RFC 3849
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Class::Openable("reserved for protocols")), // RFC 2928
    v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48, Class::Openable("AS112")), // RFC 7534
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Class::Openable("for documentation")), // RFC 9637
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, Class::Openable("for segment routing")), // RFC 9602
    v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, Class::Public), // RFC 4291 §2.4: global unicast today
];

/// Returns the class of an address, or of the IPv4 address that it maps.
#[must_use]
pub fn class_of(address: IpAddr) -> Class {
    match address {
        IpAddr::V4(address) => class_of_v4(address),
        IpAddr::V6(address) => class_of_v6(address),
    }
}

fn class_of_v4(address: Ipv4Addr) -> Class {
    V4.iter().find(|range| range.net.contains(&address)).map_or(Class::Public, |range| range.class)
}

fn class_of_v6(address: Ipv6Addr) -> Class {
    let row = V6.iter().find(|range| range.net.contains(&address));
    let mut class = row.map_or(Class::Openable("not allocated"), |range| range.class);
    for (carrier, inner) in carried(address) {
        class = match (class, carrier, class_of_v4(inner)) {
            (_, Carrier::Mapped, inner) => inner,
            (never @ Class::Never(_), ..) | (.., never @ Class::Never(_)) => never,
            // How an IPv6-only network reaches IPv4; global addresses only (RFC 6052 §3.1).
            (_, Carrier::Nat64, Class::Public) => Class::Public,
            (_, carrier, _) => Class::Openable(carrier.title()),
        };
    }
    class
}

/// How an IPv6 address contains an IPv4 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Mapped,
    Nat64,
    Compatible,
    Translated,
    LocalNat64,
    SixToFour,
    Teredo,
    Isatap,
}

impl Carrier {
    fn title(self) -> &'static str {
        match self {
            Self::Mapped => "v4-mapped",
            Self::Nat64 => "NAT64",
            Self::Compatible => "v4-compatible",
            Self::Translated => "v4-translated",
            Self::LocalNat64 => "local NAT64",
            Self::SixToFour => "6to4",
            Self::Teredo => "Teredo",
            Self::Isatap => "ISATAP",
        }
    }
}

/// Returns every IPv4 address that a datagram to this IPv6 address may reach.
fn carried(address: Ipv6Addr) -> impl Iterator<Item = (Carrier, Ipv4Addr)> {
    let bits = address.to_bits();
    let inner = |shift: u32| (bits >> shift) as u32;
    let low = inner(0);
    let one = |carrier, inner| [Some((carrier, inner)), None, None, None];
    let by_prefix = match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] => one(Carrier::Mapped, low), // RFC 4291 §2.5.5.2
        [0, 0, 0, 0, 0xffff, 0, ..] => one(Carrier::Translated, low), // RFC 2765 §2.1
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => one(Carrier::Nat64, low), // RFC 6052 §2.1
        [0x64, 0xff9b, 1, ..] => {
            local_nat64(bits).map(|inner| inner.map(|inner| (Carrier::LocalNat64, inner)))
        }
        [0x2002, ..] => one(Carrier::SixToFour, inner(80)), // RFC 3056 §2
        // RFC 4380 §4: the client, with inverted bits, and the server that it registered with.
        [0x2001, 0, ..] => {
            [Some((Carrier::Teredo, !low)), Some((Carrier::Teredo, inner(64))), None, None]
        }
        // RFC 4291 §2.5.5.1, deprecated. `::` and `::1` are rows of the table.
        [0, 0, 0, 0, 0, 0, ..] if bits > 1 => one(Carrier::Compatible, low),
        _ => [None; 4],
    };
    // RFC 5214 §6.1: an interface identifier of 0:5efe or 200:5efe, with any prefix.
    let isatap = matches!(inner(32), 0x0000_5efe | 0x0200_5efe).then_some((Carrier::Isatap, low));
    let found = by_prefix.into_iter().chain([isatap]).flatten();
    found.map(|(carrier, inner)| (carrier, Ipv4Addr::from_bits(inner)))
}

/// Returns what a translator with a prefix in 64:ff9b:1::/48 (RFC 8215) may read. The network
/// chooses the length of its prefix, and with it the position of the IPv4 address (RFC 6052 §2.2).
fn local_nat64(bits: u128) -> [Option<u32>; 4] {
    // Shorter lengths skip bits 64 to 71.
    let skipped = (bits >> 64) << 56 | bits & ((1 << 56) - 1);
    let whole = bits as u32;
    let readings = [whole, (skipped >> 24) as u32, (skipped >> 32) as u32, (skipped >> 40) as u32];
    // A reading at a wrong length has mostly zero bits and is not a host address.
    let hosts = readings.map(|reading| Some(reading).filter(|it| it >> 24 != 0 && it << 16 != 0));
    if hosts == [None; 4] { [Some(whole), None, None, None] } else { hosts }
}

/// Returns the address itself and the IPv4 addresses that it contains.
pub fn reached(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inside = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(carried(address)),
    };
    let inside = inside.into_iter().flatten().map(|(_, inner)| IpAddr::V4(inner));
    std::iter::once(address).chain(inside)
}

/// Returns the address that is dialled and compared: the IPv4 address for a v4-mapped one.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The exceptions of one registry.
#[derive(Debug, Clone, Copy)]
pub struct AddressExceptions<'a> {
    /// `[addresses] allow`: ranges allowed for every registry, of any class except
    /// [`Class::Never`].
    pub everywhere: &'a [IpNet],
    /// `private-addresses`: ranges of [`Class::Private`] allowed for this registry.
    pub private: &'a [IpNet],
    /// `private-only`: whether public addresses are rejected.
    pub private_only: PrivateOnly,
}

/// Whether the names of a registry can resolve to public addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivateOnly {
    /// Public addresses are accepted.
    #[default]
    No,
    /// Public addresses are rejected, because the public endpoint was removed.
    Yes,
}

/// Judges one address for one registry. Addresses that it contains must be allowed, too.
///
/// # Errors
/// Why it is not dialled.
pub fn judge(address: IpAddr, opened: &AddressExceptions<'_>) -> Result<(), AddressFault> {
    reached(canonical(address)).try_for_each(|address| judge_alone(address, opened))
}

fn judge_alone(address: IpAddr, opened: &AddressExceptions<'_>) -> Result<(), AddressFault> {
    let covers = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
    match class_of(address) {
        Class::Never(what) => Err(AddressFault::Never(what)),
        Class::Public if opened.private_only == PrivateOnly::No => Ok(()),
        Class::Public => Err(AddressFault::Public),
        Class::Private(_) if covers(opened.private) || covers(opened.everywhere) => Ok(()),
        Class::Openable(_) if covers(opened.everywhere) => Ok(()),
        Class::Private(what) => Err(AddressFault::Closed(what)),
        Class::Openable(what) => Err(AddressFault::Special(what)),
    }
}

#[cfg(test)]
mod tests;
