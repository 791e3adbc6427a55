//! Which addresses may be dialled: public unicast, what an exception opens, and nothing else.
//!
//! Pure: it sees addresses, never a socket. IPv4 addresses inside IPv6 ones are judged as what they
//! reach. Three classes: [`Class::Public`]; [`Class::Openable`], dialled only where a policy's range
//! covers it; [`Class::Never`], which nothing opens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What kind of address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Globally reachable unicast.
    Public,
    /// Private space that `private-addresses` or `[addresses] allow` may open: RFC 1918, ULA,
    /// 100.64/10.
    Private(&'static str),
    /// What only `[addresses] allow` may open: loopback, documentation, benchmarking and other
    /// special ranges.
    Openable(&'static str),
    /// What nothing opens: metadata services, link-local, multicast, unspecified.
    Never(&'static str),
}

/// Why an address that a name resolved to is not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    /// A range that nothing opens.
    #[error("is {0}, which is never dialled")]
    Never(&'static str),
    /// A range that no exception of the policy covers.
    #[error("is {0}, and no range of the policy covers it")]
    Closed(&'static str),
    /// A public address where the registry is `private-only`.
    #[error("is public, and the registry is private-only")]
    Public,
    /// An address or listener of the gate itself.
    #[error("is the gate's own")]
    Own,
}

/// A row of the table: range, class and the document that sets it apart.
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

/// IPv4, the more specific first. Source: IANA's IPv4 Special-Purpose Address Registry.
const V4: &[Range<Ipv4Net>] = &[
    v4(168, 63, 129, 16, 32, Class::Never("Azure's platform address")), // Azure, virtual public IP
    v4(0, 0, 0, 0, 8, Class::Never("this network")),                    // RFC 791 §3.2
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
    v4(192, 88, 99, 0, 24, Class::Openable("a 6to4 relay")),            // RFC 7526
    v4(192, 175, 48, 0, 24, Class::Openable("AS112")),                  // RFC 7534
    v4(198, 18, 0, 0, 15, Class::Openable("for benchmarks")),           // RFC 2544
    v4(198, 51, 100, 0, 24, Class::Openable("for documentation")),      // RFC 5737
    v4(203, 0, 113, 0, 24, Class::Openable("for documentation")),       // RFC 5737
    v4(240, 0, 0, 0, 4, Class::Openable("reserved")),                   // RFC 1112 §4
];

/// IPv6, the more specific first; what no row covers is public within 2000::/3 only.
/// Source: IANA's IPv6 Special-Purpose Address Registry.
const V6: &[Range<Ipv6Net>] = &[
    v6([0; 8], 128, Class::Never("unspecified")), // RFC 4291 §2.5.2
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Class::Openable("loopback")), // RFC 4291 §2.5.3
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Class::Never("link-local")), // RFC 4291 §2.5.6
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Class::Openable("site-local")), // RFC 3879
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Class::Never("multicast")), // RFC 4291 §2.7
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, Class::Never("a metadata service")), // AWS IMDS
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Class::Never("a metadata service")), // Google
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

/// Tells the class of an address, of the IPv4 address inside it where there is one.
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
    match embedded_v4(address) {
        // The NAT64 prefix is how an IPv6-only network reaches IPv4: as public as what is inside.
        Some((Carrier::Mapped | Carrier::Nat64, inner)) => return class_of_v4(inner),
        Some((carrier, inner)) => {
            return match class_of_v4(inner) {
                never @ Class::Never(_) => never,
                _ => Class::Openable(carrier.title()),
            };
        }
        None => {}
    }
    V6.iter()
        .find(|range| range.net.contains(&address))
        .map_or(Class::Openable("not allocated"), |range| range.class)
}

/// How an IPv6 address carries an IPv4 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Mapped,
    Nat64,
    Compatible,
    Translated,
    LocalNat64,
    SixToFour,
    Teredo,
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
        }
    }
}

/// The IPv4 address that a datagram to this IPv6 address may end up at.
fn embedded_v4(address: Ipv6Addr) -> Option<(Carrier, Ipv4Addr)> {
    let from = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some((Carrier::Mapped, from(high, low))), // RFC 4291
        [0, 0, 0, 0, 0xffff, 0, high, low] => Some((Carrier::Translated, from(high, low))), // RFC 2765
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some((Carrier::Nat64, from(high, low))), // RFC 6052
        [0x64, 0xff9b, 1, .., high, low] => Some((Carrier::LocalNat64, from(high, low))), // RFC 8215
        [0x2002, high, low, ..] => Some((Carrier::SixToFour, from(high, low))), // RFC 3056
        [0x2001, 0, .., high, low] => Some((Carrier::Teredo, from(!high, !low))), // RFC 4380
        // RFC 4291 §2.5.5.1, deprecated; `::` and `::1` are rows of the table.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some((Carrier::Compatible, from(high, low))),
        _ => None,
    }
}

/// The address that is dialled and compared: a v4-mapped one is the IPv4 address it maps.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The exceptions that hold for one registry.
#[derive(Debug, Clone, Copy)]
pub struct Opened<'a> {
    /// `[addresses] allow`: ranges open for every registry, whatever the class but never
    /// [`Class::Never`].
    pub everywhere: &'a [IpNet],
    /// `private-addresses`: ranges of [`Class::Private`] open for this registry.
    pub private: &'a [IpNet],
    /// `private-only`: whether public answers are refused.
    pub private_only: PrivateOnly,
}

/// Whether a registry's names may resolve to public addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivateOnly {
    /// They may.
    #[default]
    No,
    /// They may not: its public endpoint has been removed.
    Yes,
}

/// Judges one address for one registry.
///
/// # Errors
/// Why it is not dialled.
pub fn judge(address: IpAddr, opened: &Opened<'_>) -> Result<(), AddressFault> {
    let address = canonical(address);
    let covers = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&address));
    match class_of(address) {
        Class::Never(what) => Err(AddressFault::Never(what)),
        Class::Public if opened.private_only == PrivateOnly::No => Ok(()),
        Class::Public => Err(AddressFault::Public),
        Class::Private(_) if covers(opened.private) || covers(opened.everywhere) => Ok(()),
        Class::Openable(_) if covers(opened.everywhere) => Ok(()),
        Class::Private(what) | Class::Openable(what) => Err(AddressFault::Closed(what)),
    }
}
