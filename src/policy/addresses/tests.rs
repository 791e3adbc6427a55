//! The table of addresses, a naive twin of the judge, and its laws.
#![allow(
    clippy::string_slice,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the twin cuts ASCII digits; clippy's exception for tests covers #[test] functions only"
)]

use proptest::prelude::*;

use super::*;

const CASES: &str = include_str!("../../../tests/data/addresses.txt");

fn described(class: Class) -> (&'static str, &'static str) {
    match class {
        Class::Public => ("public", ""),
        Class::Private(what) => ("private", what),
        Class::Openable(what) => ("openable", what),
        Class::Never(what) => ("never", what),
    }
}

/// The rows of the table: address, class, what it is called.
fn cases() -> Vec<(IpAddr, &'static str, &'static str)> {
    let lines = CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &'static str| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [address, class, what, source] = columns[..] else { panic!("{line}") };
        assert!(!source.is_empty(), "{line}");
        (address.parse().unwrap_or_else(|_| panic!("{line}")), class, what)
    };
    lines.map(row).collect()
}

fn everything() -> [IpNet; 2] {
    ["0.0.0.0/0", "::/0"].map(|range| range.parse().unwrap())
}

fn opens(ranges: &[IpNet]) -> AddressExceptions<'_> {
    AddressExceptions { everywhere: ranges, private: ranges, private_only: PrivateOnly::No }
}

const CLOSED: AddressExceptions<'_> =
    AddressExceptions { everywhere: &[], private: &[], private_only: PrivateOnly::No };

#[test]
fn addresses_are_what_the_documents_say() {
    let cases = cases();
    assert!(cases.len() >= 80, "{}", cases.len());
    for (address, class, what) in cases {
        assert_eq!(described(class_of(address)), (class, what), "{address}");
    }
}

#[test]
fn each_class_is_opened_by_what_the_design_says() {
    let everything = everything();
    for (address, class, _) in cases() {
        let by_registry = AddressExceptions { private: &everything, ..CLOSED };
        let private_only =
            AddressExceptions { private_only: PrivateOnly::Yes, ..opens(&everything) };
        let verdicts = [CLOSED, by_registry, opens(&everything), private_only]
            .map(|opened| judge(address, &opened).is_ok());
        let carries_public = reached(canonical(address)).any(|ip| class_of(ip) == Class::Public);
        let expected = match class {
            "public" => [true, true, true, false],
            "private" => [false, true, true, true],
            "openable" => [false, false, true, !carries_public],
            _ => [false; 4],
        };
        assert_eq!(verdicts, expected, "{address}");
    }
}

#[test]
fn a_carrier_that_is_opened_opens_nothing_inside() {
    let cases: &[(&[&str], &str, bool)] = &[
        (&["64:ff9b::/96"], "64:ff9b::10.1.2.3", false),
        (&["10.1.0.0/16"], "64:ff9b::10.1.2.3", false),
        (&["64:ff9b::/96", "10.1.0.0/16"], "64:ff9b::10.1.2.3", true),
        (&["64:ff9b:1::/48"], "64:ff9b:1::20.1.2.3", true),
        (&["64:ff9b:1::/48"], "64:ff9b:1::10.1.2.3", false),
        (&["64:ff9b:1::/48"], "64:ff9b:1:fffe::20.1.2.3", true),
        (&["64:ff9b:1::/48"], "64:ff9b:1:0:14:102:300:0", true),
        (&["64:ff9b:1::/48"], "64:ff9b:1:0:0a:102:300:0", false),
        (&["64:ff9b:1::/48", "10.0.0.0/8"], "64:ff9b:1:0:0a:102:300:0", true),
        (&["2002::/16"], "2002:a01:203::1", false),
        (&["2002::/16"], "2002:1401:203::1", true),
        (&["::/0"], "::ffff:10.1.2.3", false),
        (&["10.0.0.0/8"], "::ffff:10.1.2.3", true),
    ];
    for (ranges, address, dialled) in cases {
        let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
        let verdict = judge(address.parse().unwrap(), &opens(&ranges));
        assert_eq!(verdict.is_ok(), *dialled, "{address} where {ranges:?} is open: {verdict:?}");
    }
}

/// The twin: the same ranges by first and last address, in any order, the smallest deciding; what
/// is carried is cut out of the address's text in hexadecimal.
mod twin {
    use super::*;

    const V4: &[(u32, u32, &str)] = &[
        (0x0000_0000, 0xffff_ffff, "public"),
        (0x0000_0000, 0x00ff_ffff, "never"),
        (0x0a00_0000, 0x0aff_ffff, "private"),
        (0x6440_0000, 0x647f_ffff, "private"),
        (0x6464_64c8, 0x6464_64c8, "never"),
        (0x7f00_0000, 0x7fff_ffff, "openable"),
        (0xa83f_8110, 0xa83f_8110, "never"),
        (0xa9fe_0000, 0xa9fe_ffff, "never"),
        (0xac10_0000, 0xac1f_ffff, "private"),
        (0xc000_0000, 0xc000_00ff, "openable"),
        (0xc000_00c0, 0xc000_00c0, "never"),
        (0xc000_0200, 0xc000_02ff, "openable"),
        (0xc01f_c400, 0xc01f_c4ff, "openable"),
        (0xc034_c100, 0xc034_c1ff, "openable"),
        (0xc058_6300, 0xc058_63ff, "openable"),
        (0xc0a8_0000, 0xc0a8_ffff, "private"),
        (0xc0af_3000, 0xc0af_30ff, "openable"),
        (0xc612_0000, 0xc613_ffff, "openable"),
        (0xc633_6400, 0xc633_64ff, "openable"),
        (0xcb00_7100, 0xcb00_71ff, "openable"),
        (0xe000_0000, 0xefff_ffff, "never"),
        (0xf000_0000, 0xffff_ffff, "openable"),
        (0xffff_ffff, 0xffff_ffff, "never"),
    ];

    /// By the first hexadecimal digits that all of a range share.
    const V6: &[(&str, &str)] = &[
        ("", "openable"),
        ("00000000000000000000000000000000", "never"),
        ("2", "public"),
        ("3", "public"),
        ("20010000", "openable"),
        ("200100", "openable"),
        ("200101", "openable"),
        ("20010db8", "openable"),
        ("2620004f8000", "openable"),
        ("3fff0", "openable"),
        ("fc", "private"),
        ("fd", "private"),
        ("fd000ec2", "never"),
        ("fd2000ce000000000000000000000254", "never"),
        ("fd0000c10000000000000000a9fea9fe", "never"),
        ("fd000042000000000000000000000042", "never"),
        ("fd00a9fea9fe00000000000000000001", "never"),
        ("fd000100000000000000000001000200", "never"),
        ("fe8", "never"),
        ("fe9", "never"),
        ("fea", "never"),
        ("feb", "never"),
        ("ff", "never"),
    ];

    fn v4(hexadecimal: &str) -> &'static str {
        let bits = u32::from_str_radix(hexadecimal, 16).unwrap();
        let rows = V4.iter().filter(|(first, last, _)| (*first..=*last).contains(&bits));
        rows.min_by_key(|(first, last, _)| last - first).unwrap().2
    }

    pub(super) fn class_of(address: IpAddr) -> &'static str {
        let address = match address {
            IpAddr::V4(address) => return v4(&format!("{:08x}", u32::from(address))),
            IpAddr::V6(address) => format!("{:032x}", u128::from(address)),
        };
        if let Some(inner) = address.strip_prefix("00000000000000000000ffff") {
            return v4(inner);
        }
        let rows = V6.iter().filter(|(digits, _)| address.starts_with(digits));
        let row = rows.max_by_key(|(digits, _)| digits.len()).unwrap().1;
        let inside = inside(&address);
        if row == "never" || inside.iter().any(|inner| v4(inner) == "never") {
            return "never";
        }
        if address.starts_with("0064ff9b0000000000000000") {
            return if v4(&inside[0]) == "public" { "public" } else { "openable" };
        }
        if inside.is_empty() { row } else { "openable" }
    }

    fn inside(address: &str) -> Vec<String> {
        let last = address[24..].to_owned();
        let mut found = Vec::new();
        if address.starts_with("2002") {
            found.push(address[4..12].to_owned());
        }
        if address.starts_with("20010000") {
            found.push(address[8..16].to_owned());
            found.push(format!("{:08x}", !u32::from_str_radix(&last, 16).unwrap()));
        }
        if address.starts_with("0064ff9b0001") {
            let readings = [
                last.clone(),
                address[18..26].to_owned(),
                address[14..16].to_owned() + &address[18..24],
                address[12..16].to_owned() + &address[18..22],
            ];
            let host = |text: &&String| !text.starts_with("00") && !text.ends_with("0000");
            found.extend(readings.iter().filter(host).cloned());
            if found.is_empty() {
                found.push(last.clone());
            }
        }
        let none = "000000000000000000000000";
        let loops = "00000000000000000000000000000001";
        let compatible = address.starts_with(none) && address > loops;
        let translated = address.starts_with("0000000000000000ffff0000");
        let well_known = address.starts_with("0064ff9b0000000000000000");
        let isatap = ["00005efe", "02005efe"].contains(&&address[16..24]);
        if compatible || translated || well_known || isatap {
            found.push(last);
        }
        found
    }
}

#[test]
fn the_twin_agrees_on_the_table() {
    for (address, class, _) in cases() {
        assert_eq!(twin::class_of(address), class, "{address}");
    }
}

/// IPv4 addresses, every other one at an edge of a range.
fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
    let edges: Vec<u32> = V4
        .iter()
        .flat_map(|row| [u32::from(row.net.network()), u32::from(row.net.broadcast())])
        .flat_map(|edge| [edge.wrapping_sub(1), edge, edge.wrapping_add(1)])
        .collect();
    prop_oneof![any::<u32>(), prop::sample::select(edges)].prop_map(Ipv4Addr::from_bits)
}

/// The IPv6 addresses that carry an IPv4 one, each way; the last bits where they are free.
fn carriers(inner: Ipv4Addr, free: u64) -> Vec<Ipv6Addr> {
    let bits = u128::from(inner.to_bits());
    let free = u128::from(free);
    let local = 0x0064_ff9b_0001_u128 << 80;
    let skipping = |shift: u32| {
        let joined = bits << shift;
        local | (joined >> 56) << 64 | joined & ((1 << 56) - 1)
    };
    [
        0xffff_u128 << 32 | bits,
        bits,
        0xffff_u128 << 48 | bits,
        0x0064_ff9b_u128 << 96 | bits,
        local | bits,
        skipping(24),
        skipping(32),
        skipping(40),
        0x2002_u128 << 112 | bits << 80 | free,
        0x2001_0000_u128 << 96 | free << 32 | (!bits & 0xffff_ffff),
        0x2001_0000_u128 << 96 | bits << 64 | free,
        0x2603_1030_u128 << 96 | 0x5efe_u128 << 32 | bits,
        0xfd00_u128 << 112 | 0x0200_5efe_u128 << 32 | bits,
    ]
    .map(Ipv6Addr::from_bits)
    .to_vec()
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    let rows: Vec<u128> = V6
        .iter()
        .flat_map(|row| [row.net.network().to_bits(), row.net.broadcast().to_bits()])
        .flat_map(|edge| [edge.wrapping_sub(1), edge, edge.wrapping_add(1)])
        .collect();
    let v6 = prop_oneof![any::<u128>(), prop::sample::select(rows)].prop_map(Ipv6Addr::from_bits);
    let carrier = (any_v4(), any::<u64>(), 0..13_usize)
        .prop_map(|(inner, free, way)| IpAddr::V6(carriers(inner, free)[way]));
    prop_oneof![any_v4().prop_map(IpAddr::V4), v6.prop_map(IpAddr::V6), carrier]
}

fn any_ranges() -> impl Strategy<Value = Vec<IpNet>> {
    let range = (any_address(), 0..=128_u8).prop_map(|(address, prefix)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, prefix.min(longest)).unwrap()
    });
    prop::collection::vec(range, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn the_twin_agrees(address in any_address()) {
        prop_assert_eq!(described(class_of(address)).0, twin::class_of(address), "{}", address);
    }

    #[test]
    fn what_is_never_dialled_is_opened_by_nothing(
        address in any_address(),
        mut ranges in any_ranges(),
        private_only in prop_oneof![Just(PrivateOnly::No), Just(PrivateOnly::Yes)],
    ) {
        ranges.extend(everything());
        let verdict = judge(address, &AddressExceptions { private_only, ..opens(&ranges) });
        if matches!(class_of(address), Class::Never(_)) {
            prop_assert!(matches!(verdict, Err(AddressFault::Never(_))), "{}", address);
        }
    }

    #[test]
    fn an_address_is_never_more_open_inside_a_carrier(
        inner in any_v4(),
        free in any::<u64>(),
        ranges in any_ranges(),
        with_carriers in any::<bool>(),
    ) {
        let mut ranges = ranges;
        if with_carriers {
            ranges.push(everything()[1]);
        }
        // No translator sends to 0.0.0.0/8, so a reading there is taken for another length's zeros.
        prop_assume!(inner.octets()[0] != 0);
        let alone = judge(inner.into(), &opens(&ranges)).is_ok();
        for carrier in carriers(inner, free) {
            let dialled = judge(carrier.into(), &opens(&ranges)).is_ok();
            prop_assert!(alone || !dialled, "{} inside {}", inner, carrier);
        }
    }

    #[test]
    fn ranges_only_ever_open(address in any_address(), ranges in any_ranges()) {
        if judge(address, &CLOSED).is_ok() {
            prop_assert!(judge(address, &opens(&ranges)).is_ok(), "{}", address);
        }
    }
}
