//! Simple tokens: names for "this user has shown its password", known to every member.
//!
//! A token is assigned by an entry of the log, so all members know it; a client may take it to any of them. How long
//! it lives is counted by each member on its own, from its last use there. None outlives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::TokenEffect;

/// Tokens kept at a time. Each costs its user a bcrypt, so only a very busy cluster comes near; then the one that
/// would end first goes, and its owner has to sign in again.
const TOKENS_MAX: usize = 1 << 20;

/// A use prolongs a token's life if that makes it longer by this: a busy client's token would
/// else be moved with every call.
const MOVE_MS: u64 = 1000;

/// The tokens of a member. Times are milliseconds of a monotonic clock, passed in.
#[derive(Clone, Debug)]
pub struct Tokens {
    ttl_ms: u64,
    tokens: BTreeMap<Arc<str>, Token>,
    /// Those tokens by the time of their end.
    ends: BTreeSet<(u64, Arc<str>)>,
}

#[derive(Clone, Debug)]
struct Token {
    user: String,
    ends_ms: u64,
}

impl Tokens {
    /// No tokens yet; they will end this long after their last use.
    pub fn new(ttl_ms: u64) -> Self {
        Tokens {
            ttl_ms,
            tokens: BTreeMap::new(),
            ends: BTreeSet::new(),
        }
    }

    /// Carries out what an entry of the log says about tokens.
    pub fn carry_out(&mut self, effect: TokenEffect, now_ms: u64) {
        match effect {
            TokenEffect::None => {}
            TokenEffect::Assign { token, user } => self.assign(token.into(), user, now_ms),
            TokenEffect::EndOf(user) => self.end_of(&user),
            TokenEffect::EndAll => *self = Tokens::new(self.ttl_ms),
        }
    }

    /// Whose token it is. It lives on from now.
    pub fn resolve(&mut self, token: &str, now_ms: u64) -> Option<&str> {
        self.expire(now_ms);
        let ends_ms = now_ms.saturating_add(self.ttl_ms);
        let (name, _) = self.tokens.get_key_value(token)?;
        let name = name.clone();
        let known = self.tokens.get_mut(token)?;
        if ends_ms >= known.ends_ms.saturating_add(MOVE_MS) {
            self.ends.remove(&(known.ends_ms, name.clone()));
            self.ends.insert((ends_ms, name));
            known.ends_ms = ends_ms;
        }
        Some(&known.user)
    }

    fn assign(&mut self, name: Arc<str>, user: String, now_ms: u64) {
        self.expire(now_ms);
        let ends_ms = now_ms.saturating_add(self.ttl_ms);
        if let Some(before) = self.tokens.insert(name.clone(), Token { user, ends_ms }) {
            self.ends.remove(&(before.ends_ms, name.clone()));
        }
        self.ends.insert((ends_ms, name));
        if self.tokens.len() > TOKENS_MAX {
            self.end_first();
        }
    }

    fn end_of(&mut self, user: &str) {
        let ends = &mut self.ends;
        self.tokens.retain(|name, token| {
            let stays = token.user != user;
            if !stays {
                ends.remove(&(token.ends_ms, name.clone()));
            }
            stays
        });
    }

    fn expire(&mut self, now_ms: u64) {
        while self.ends.first().is_some_and(|(ends_ms, _)| *ends_ms < now_ms) {
            self.end_first();
        }
    }

    fn end_first(&mut self) {
        if let Some((_, name)) = self.ends.pop_first() {
            self.tokens.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(tokens: &mut Tokens, token: &str, user: &str, now_ms: u64) {
        let (token, user) = (token.into(), user.into());
        tokens.carry_out(TokenEffect::Assign { token, user }, now_ms);
    }

    #[test]
    fn a_token_lives_on_while_it_is_used() {
        let mut tokens = Tokens::new(10_000);
        assign(&mut tokens, "a.1", "alice", 0);
        assign(&mut tokens, "b.2", "bob", 0);
        for now_ms in (0..60_000).step_by(9_000) {
            assert_eq!(tokens.resolve("a.1", now_ms), Some("alice"));
        }
        assert_eq!(tokens.resolve("b.2", 10_001), None);
        assert_eq!(tokens.resolve("a.1", 80_000), None);
        assert!(tokens.tokens.is_empty() && tokens.ends.is_empty());
    }

    #[test]
    fn a_users_tokens_end_together_and_others_stay() {
        let mut tokens = Tokens::new(10_000);
        assign(&mut tokens, "a.1", "alice", 0);
        assign(&mut tokens, "a.2", "alice", 5);
        assign(&mut tokens, "b.3", "bob", 5);
        tokens.carry_out(TokenEffect::EndOf("alice".into()), 6);
        assert_eq!(tokens.resolve("a.1", 7), None);
        assert_eq!(tokens.resolve("a.2", 7), None);
        assert_eq!(tokens.resolve("b.3", 7), Some("bob"));
        tokens.carry_out(TokenEffect::EndAll, 8);
        assert_eq!(tokens.resolve("b.3", 9), None);
        assert!(tokens.tokens.is_empty() && tokens.ends.is_empty());
    }
}
