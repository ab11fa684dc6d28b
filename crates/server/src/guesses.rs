//! Who guesses passwords has to wait; who knows one does not, unless somebody guesses it from the same address.
//!
//! Each wrong password puts its name and its sender in debt, and nobody in too much debt gets a password looked at. A
//! debt shrinks with time, and a right password clears that of its name and sender. There are two of them:
//!
//! | debt of | clears | guesses at once | later |
//! |---|---|---|---|
//! | a name at one address | one user's password | [`NAME_GUESSES`] | one in [`NAME_COST_MS`] |
//! | an address | anybody's password | [`ADDRESS_GUESSES`] | one in [`ADDRESS_COST_MS`] |
//!
//! Names count only together with the address they come from, so that nobody can lock others out from afar. A name
//! that no user has counts like any: whether it exists can't be told from when it is refused.
//!
//! Time is counted in milliseconds of any clock, passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

/// Wrong passwords of one name from one address that cost nothing but their hashing: typing errors, and a script that
/// was not told of a new password.
pub const NAME_GUESSES: u64 = 5;

/// How long one more has to wait: ten thousand a day, where hashing alone allows a million.
pub const NAME_COST_MS: u64 = 8_000;

/// The same for all names from one address, behind which there may be many users.
pub const ADDRESS_GUESSES: u64 = 50;

/// As above.
pub const ADDRESS_COST_MS: u64 = 500;

/// Debts that are remembered, some hundred bytes each. What is forgotten first when there are more is the debt that
/// would be over first: filling the table takes so many addresses that passwords can be guessed without.
const DEBTS_MAX: usize = 1 << 14;

/// Bits of an IPv6 address that its owner has been given; it chooses the rest at will.
const NETWORK_BITS: u32 = 64;

/// Whose password is tried, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guess {
    name: Debtor,
    address: Debtor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Debtor {
    /// Names are as long as their senders like; a hash is enough.
    Name(u64, Option<IpAddr>),
    Address(Option<IpAddr>),
}

impl Debtor {
    fn cost_ms(self) -> u64 {
        match self {
            Debtor::Name(..) => NAME_COST_MS,
            Debtor::Address(_) => ADDRESS_COST_MS,
        }
    }

    /// The debt with which somebody is still heard.
    fn credit_ms(self) -> u64 {
        match self {
            Debtor::Name(..) => (NAME_GUESSES - 1) * NAME_COST_MS,
            Debtor::Address(_) => (ADDRESS_GUESSES - 1) * ADDRESS_COST_MS,
        }
    }
}

impl Guess {
    /// At the password of `name`, from an address, or by a socket that has none.
    pub fn new(name: &str, from: Option<IpAddr>) -> Self {
        let from = from.map(network);
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Guess {
            name: Debtor::Name(hasher.finish(), from),
            address: Debtor::Address(from),
        }
    }
}

/// What addresses of one owner have in common.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX << (u128::BITS - NETWORK_BITS);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
        v4 => v4,
    }
}

/// The debts.
#[derive(Debug, Default)]
pub struct Guesses {
    /// When each is over.
    ends: BTreeMap<Debtor, u64>,
    /// Those debts by their end.
    by_end: BTreeSet<(u64, Debtor)>,
}

impl Guesses {
    /// Whether this password is to be looked at.
    pub fn may_try(&self, guess: Guess, now_ms: u64) -> bool {
        [guess.name, guess.address].iter().all(|debtor| {
            let debt_ms = self.ends.get(debtor).map_or(0, |end| end.saturating_sub(now_ms));
            debt_ms <= debtor.credit_ms()
        })
    }

    /// It was wrong.
    pub fn failed(&mut self, guess: Guess, now_ms: u64) {
        self.forget_what_is_over(now_ms);
        for debtor in [guess.name, guess.address] {
            let end = self.clear(debtor).unwrap_or(now_ms).max(now_ms);
            let end = end.saturating_add(debtor.cost_ms());
            self.ends.insert(debtor, end);
            self.by_end.insert((end, debtor));
        }
        while self.ends.len() > DEBTS_MAX {
            self.forget_first();
        }
    }

    /// It was right.
    pub fn succeeded(&mut self, guess: Guess) {
        self.clear(guess.name);
    }

    fn clear(&mut self, debtor: Debtor) -> Option<u64> {
        let end = self.ends.remove(&debtor)?;
        self.by_end.remove(&(end, debtor));
        Some(end)
    }

    fn forget_what_is_over(&mut self, now_ms: u64) {
        while self.by_end.first().is_some_and(|(end, _)| *end <= now_ms) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, debtor)) = self.by_end.pop_first() {
            self.ends.remove(&debtor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Option<IpAddr> {
        Some(address.parse().unwrap())
    }

    /// How many of these guesses are heard, all of them wrong, if one is made each millisecond.
    fn heard(guesses: &mut Guesses, times: std::ops::Range<u64>, guess: impl Fn(u64) -> Guess) -> u64 {
        let mut heard = 0;
        for now_ms in times {
            if guesses.may_try(guess(now_ms), now_ms) {
                heard += 1;
                guesses.failed(guess(now_ms), now_ms);
            }
        }
        heard
    }

    #[test]
    fn who_guesses_one_password_is_heard_now_and_then() {
        let mut guesses = Guesses::default();
        let alice = Guess::new("alice", from("192.0.2.1"));
        assert_eq!(heard(&mut guesses, 0..1_000, |_| alice), NAME_GUESSES);
        let minutes = 1_000..600_000;
        assert_eq!(
            heard(&mut guesses, minutes, |_| alice),
            600_000 / NAME_COST_MS - 1
        );
    }

    #[test]
    fn others_are_heard_meanwhile_and_so_is_the_same_user_elsewhere() {
        let mut guesses = Guesses::default();
        let alice = Guess::new("alice", from("192.0.2.1"));
        heard(&mut guesses, 0..60_000, |_| alice);
        assert!(!guesses.may_try(alice, 60_000));
        for other in [
            Guess::new("bob", from("192.0.2.1")),
            Guess::new("alice", from("192.0.2.2")),
            Guess::new("alice", None),
        ] {
            assert!(guesses.may_try(other, 60_000), "{other:?}");
        }
    }

    #[test]
    fn many_names_from_one_address_are_heard_now_and_then_too() {
        let mut guesses = Guesses::default();
        let any = |now_ms: u64| Guess::new(&format!("user{now_ms}"), from("192.0.2.1"));
        assert_eq!(heard(&mut guesses, 0..400, any), ADDRESS_GUESSES);
        let minute = 400..60_000;
        assert_eq!(heard(&mut guesses, minute, any), 60_000 / ADDRESS_COST_MS - 1);
        assert!(guesses.may_try(Guess::new("user1", from("192.0.2.2")), 60_000));
    }

    #[test]
    fn a_right_password_clears_the_debt_of_its_name_and_time_clears_any() {
        let mut guesses = Guesses::default();
        let alice = Guess::new("alice", from("2001:db8::1"));
        for now_ms in 0..NAME_GUESSES {
            guesses.failed(alice, now_ms);
        }
        assert!(!guesses.may_try(alice, 100));
        guesses.succeeded(alice);
        assert_eq!(heard(&mut guesses, 200..1_000, |_| alice), NAME_GUESSES);
        let later = 1_000 + NAME_GUESSES * NAME_COST_MS;
        assert_eq!(heard(&mut guesses, later..later + 1_000, |_| alice), NAME_GUESSES);
    }

    #[test]
    fn addresses_of_one_owner_are_one() {
        let alice = |address| Guess::new("alice", from(address));
        assert_eq!(alice("2001:db8::1"), alice("2001:db8::2:3:4:5"));
        assert_ne!(alice("2001:db8::1"), alice("2001:db8:0:1::1"));
        assert_eq!(alice("::ffff:192.0.2.1"), alice("192.0.2.1"));
        assert_ne!(alice("192.0.2.1"), alice("192.0.2.2"));
    }

    #[test]
    fn debts_are_as_many_as_there_is_room_for_and_the_largest_stay() {
        let mut guesses = Guesses::default();
        let alice = Guess::new("alice", from("192.0.2.1"));
        heard(&mut guesses, 0..1_000, |_| alice);
        for number in 0..2 * DEBTS_MAX as u32 {
            let address = IpAddr::V4(number.into());
            guesses.failed(Guess::new("alice", Some(address)), 1_000);
            assert!(guesses.ends.len() <= DEBTS_MAX && guesses.by_end.len() == guesses.ends.len());
        }
        assert!(!guesses.may_try(alice, 1_000));
    }
}
