//! Which of a host's addresses to try first: RFC 6724, section 6, as far as Go follows it.
//!
//! What this machine has no way to comes last. Then it matters whether both ends are of one scope and of one kind of
//! network, and how each kind is ranked: IPv6 before IPv4, but IPv4 before networks of private IPv6 addresses. Among
//! equals the order of the answer stays, which is how name servers spread load; Go sorts IPv6 by the longest prefix
//! too (rule 9).

use std::cmp::Reverse;
use std::net::IpAddr;

/// Sorts addresses. `source` is where packets to one would come from.
pub fn sort(addresses: &mut [IpAddr], source: impl Fn(IpAddr) -> Option<IpAddr>) {
    if addresses.len() > 1 {
        addresses.sort_by_cached_key(|&to| {
            let from = source(to);
            (from.is_none(), from.map(|from| rank(to, from)))
        });
    }
}

/// The lower, the better: rules 2, 5, 6 and 8.
fn rank(to: IpAddr, from: IpAddr) -> (bool, bool, Reverse<u8>, Scope) {
    let ((precedence, label), (_, own)) = (policy(to), policy(from));
    let scope = scope(to);
    (
        scope != self::scope(from),
        label != own,
        Reverse(precedence),
        scope,
    )
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Link,
    Site,
    Global,
}

fn scope(address: IpAddr) -> Scope {
    match address {
        address if address.is_loopback() => Scope::Link,
        IpAddr::V4(v4) if v4.is_link_local() => Scope::Link,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Scope::Link,
        IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfec0 => Scope::Site,
        _ => Scope::Global,
    }
}

/// Precedence and label: the table of section 2.1.
fn policy(address: IpAddr) -> (u8, u8) {
    let IpAddr::V6(v6) = address else {
        return (35, 4);
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => (50, 0),
        [0, 0, 0, 0, 0, 0xffff, ..] => (35, 4),
        [0, 0, 0, 0, 0, 0, ..] => (1, 3),
        [0x2001, 0, ..] => (5, 5),
        [0x2002, ..] => (30, 2),
        [0x3ffe, ..] => (1, 12),
        [first, ..] if first & 0xfe00 == 0xfc00 => (3, 13),
        [first, ..] if first & 0xffc0 == 0xfec0 => (1, 11),
        _ => (40, 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sorts pairs of a destination and its source, `-` if there is none, into destinations.
    fn sorted(pairs: &[(&str, &str)]) -> Vec<String> {
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        let mut addresses: Vec<_> = pairs.iter().filter_map(|(to, _)| ip(to)).collect();
        sort(&mut addresses, |to| {
            let pair = pairs.iter().find(|(other, _)| ip(other) == Some(to));
            pair.and_then(|(_, from)| ip(from))
        });
        addresses.iter().map(IpAddr::to_string).collect()
    }

    /// The examples of RFC 6724, section 10.2, that are about these rules.
    #[test]
    fn the_examples_of_the_standard_come_out_as_it_says() {
        for [first, second] in [
            [
                ("2001:db8:1::1", "2001:db8:1::2"),
                ("198.51.100.121", "169.254.13.78"),
            ],
            [("198.51.100.121", "198.51.100.117"), ("2001:db8:1::1", "fe80::1")],
            [("2001:db8:1::1", "2001:db8:1::2"), ("10.1.2.3", "10.1.2.4")],
            [
                ("2002:c633:6401::1", "2002:c633:6401::2"),
                ("2001:db8:1::1", "2002:c633:6401::2"),
            ],
            [("fe80::1", "fe80::2"), ("2001:db8:1::1", "2001:db8:1::2")],
            [
                ("2001:db8:1::1", "2001:db8:1::2"),
                ("2002:c633:6401::1", "2002:c633:6401::2"),
            ],
        ] {
            let expected = [first.0, second.0];
            assert_eq!(sorted(&[first, second]), expected);
            assert_eq!(sorted(&[second, first]), expected);
        }
    }

    #[test]
    fn what_can_not_be_reached_comes_last() {
        assert_eq!(
            sorted(&[("2001:db8::1", "-"), ("10.0.0.1", "10.0.0.2"), ("::1", "-")]),
            ["10.0.0.1", "2001:db8::1", "::1"]
        );
        assert_eq!(
            sorted(&[("::1", "::1"), ("127.0.0.1", "127.0.0.1")]),
            ["::1", "127.0.0.1"]
        );
    }

    #[test]
    fn private_ipv6_comes_after_ipv4_and_equals_stay_as_they_are() {
        assert_eq!(
            sorted(&[
                ("fd00::1", "fd00::2"),
                ("10.0.0.9", "10.0.0.1"),
                ("10.0.0.3", "10.0.0.1")
            ]),
            ["10.0.0.9", "10.0.0.3", "fd00::1"]
        );
    }
}
