//! Ids as they are typed: hexadecimal as etcd prints them, with `0x` or without; decimal as JSON has them; and members
//! by their names.

use std::ffi::OsString;

use client::Client;
use proto::etcdserverpb::{Member, MemberListRequest};

use super::context::text;
use crate::failure::Failure;

/// What is hexadecimal, or too long for that and decimal.
fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None if word.starts_with('+') => None,
        None => u64::from_str_radix(word, 16).ok().or_else(|| word.parse().ok()),
    }
}

/// A lease.
pub fn lease(word: &str) -> Result<i64, String> {
    let id = number(word).and_then(|id| i64::try_from(id).ok());
    id.ok_or_else(|| format!("{word:?} is not a lease"))
}

/// The lease that a command is about.
pub fn lease_argument(word: &OsString) -> Result<i64, Failure> {
    lease(&text(word)?)
        .map_err(|why| Failure::arguments(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}

/// The member that a command is about. What is the id of a member is taken for it; else its name counts.
pub async fn member_argument(client: &Client, word: &OsString) -> Result<u64, Failure> {
    let word = text(word)?;
    let request = MemberListRequest { linearizable: false };
    let listed = match client.member_list(request).await {
        Ok(listed) => listed.members,
        // The command itself will tell.
        Err(_) if number(&word).is_some() => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    member(&word, &listed).ok_or_else(|| {
        let failure = Failure::arguments(format!(
            "bad member ID arg ({word:?} is neither an id nor the name of a member), expecting ID in Hex"
        ));
        let names: Vec<_> = listed.iter().map(|member| member.name.as_str()).collect();
        failure.cure(format!("Members are {}.", names.join(", ")))
    })
}

fn member(word: &str, members: &[Member]) -> Option<u64> {
    let is_member = |id: &u64| members.iter().any(|member| member.id == *id);
    let as_id = number(word);
    let as_decimal = word.parse().ok().filter(is_member);
    let as_name = || {
        members
            .iter()
            .find(|member| member.name == word)
            .map(|member| member.id)
    };
    as_id.filter(is_member).or(as_decimal).or_else(as_name).or(as_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_hexadecimal_or_too_long_for_it() {
        assert_eq!(lease("10"), Ok(16));
        assert_eq!(lease("0x10"), Ok(16));
        assert_eq!(lease("4f9ea21d8f26cd11"), Ok(5_737_201_223_156_026_641));
        assert_eq!(lease("5737201223156026641"), Ok(5_737_201_223_156_026_641));
        for wrong in ["", "+1", "-1", "x", "ffffffffffffffff"] {
            assert!(lease(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_member_is_an_id_in_either_notation_or_a_name() {
        let named = |id, name: &str| Member {
            id,
            name: name.into(),
            ..Default::default()
        };
        let members = [named(0x8e9e05c52164694d, "one"), named(10, "beef")];
        assert_eq!(member("8e9e05c52164694d", &members), Some(0x8e9e05c52164694d));
        assert_eq!(member("10276657743932975437", &members), Some(0x8e9e05c52164694d));
        assert_eq!(member("one", &members), Some(0x8e9e05c52164694d));
        assert_eq!(member("10", &members), Some(10));
        assert_eq!(member("a", &members), Some(10));
        assert_eq!(member("beef", &members), Some(10));
        assert_eq!(member("dead", &members), Some(0xdead));
        assert_eq!(member("two", &members), None);
    }
}
