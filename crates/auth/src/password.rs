//! Passwords are stored as bcrypt hashes: `$2a$`, the cost in two digits, `$`, then salt and hash in 22 and 31
//! letters.
//!
//! Both functions take as long as the cost asks for, some 50 ms at the default. A server calls them where that delays
//! nobody. (The crate `bcrypt` can put hashes together itself, but only with a source of chance compiled in, which
//! has no place here.)

use base64::Engine;
use bcrypt::BASE_64;
use sha2::{Digest, Sha256};
use types::ErrorKind;

/// The cost when none is set: `--bcrypt-cost`.
pub const DEFAULT_COST: u32 = 10;

/// The costs there are.
pub const COSTS: std::ops::RangeInclusive<u32> = 4..=31;

/// bcrypt takes no more of a password, its end mark included.
const BYTES_MAX: usize = 72;

const SALT_LETTERS: usize = 22;
const HASH_LETTERS: usize = 31;

/// What makes equal passwords have different hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(pub [u8; 16]);

impl Salt {
    /// A salt that everybody derives alike.
    pub(crate) fn derived(from: &[&[u8]]) -> Self {
        let mut sha = Sha256::new();
        from.iter().for_each(|part| sha.update(part));
        let mut salt = [0; 16];
        salt.copy_from_slice(&sha.finalize()[..16]);
        Salt(salt)
    }
}

/// Hashes a password at one of the [`COSTS`].
///
/// # Errors
/// `PasswordTooLong`.
pub fn hash(password: &[u8], cost: u32, salt: Salt) -> Result<String, ErrorKind> {
    if password.len() > BYTES_MAX {
        return Err(ErrorKind::PasswordTooLong);
    }
    let hashed = raw(password, cost, salt.0);
    Ok(format!(
        "$2a${cost:02}${}{}",
        BASE_64.encode(salt.0),
        BASE_64.encode(hashed)
    ))
}

/// Whether this is the password of the hash. A hash that is none has no password.
pub fn verify(password: &[u8], hash: &[u8]) -> bool {
    let Some((cost, salt, hash)) = std::str::from_utf8(hash).ok().and_then(parse) else {
        return false;
    };
    // In the same time, wherever they begin to differ.
    let differ = raw(password, cost, salt)
        .iter()
        .zip(hash)
        .fold(0, |differ, (a, b)| differ | (a ^ b));
    differ == 0
}

/// Cost, salt and hash.
fn parse(hash: &str) -> Option<(u32, [u8; 16], [u8; 23])> {
    let (version, rest) = hash.strip_prefix('$')?.split_once('$')?;
    let (cost, letters) = rest.split_once('$')?;
    let cost = cost.parse().ok().filter(|cost| COSTS.contains(cost))?;
    let is_whole = letters.len() == SALT_LETTERS + HASH_LETTERS && letters.is_ascii();
    if !is_whole || !matches!(version, "2" | "2a" | "2b" | "2x" | "2y") {
        return None;
    }
    let (salt, hash) = letters.split_at(SALT_LETTERS);
    let salt = BASE_64.decode(salt).ok()?.try_into().ok()?;
    let hash = BASE_64.decode(hash).ok()?.try_into().ok()?;
    Some((cost, salt, hash))
}

/// The bytes of the hash that are kept: one less than there are.
fn raw(password: &[u8], cost: u32, salt: [u8; 16]) -> [u8; 23] {
    let mut ended = Vec::with_capacity(password.len() + 1);
    ended.extend_from_slice(password);
    ended.push(0);
    ended.truncate(BYTES_MAX);
    let hashed = bcrypt::bcrypt(cost, salt, &ended);
    let mut kept = [0; 23];
    kept.copy_from_slice(&hashed[..23]);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt(*b"sixteen of these");

    #[test]
    fn a_password_fits_its_own_hash_only() {
        for password in ["", "secret", "with\0zero", &"x".repeat(72)] {
            let hash = hash(password.as_bytes(), 4, SALT).unwrap();
            assert!(verify(password.as_bytes(), hash.as_bytes()), "{password:?}");
            assert!(!verify(format!("y{password}").as_bytes(), hash.as_bytes()));
        }
    }

    #[test]
    fn hashes_of_others_are_understood() {
        // The first example of crypt_blowfish's own tests.
        let known = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        assert!(verify(b"U*U", known.as_bytes()));
        assert!(!verify(b"U*", known.as_bytes()));
    }

    #[test]
    fn what_is_no_hash_has_no_password() {
        let good = hash(b"a", 4, SALT).unwrap();
        for bad in [
            "",
            "$",
            "a",
            &good[1..],
            &good[..59],
            &good.replace("$04$", "$03$"),
            &good.replace("2a", "3a"),
        ] {
            assert!(!verify(b"a", bad.as_bytes()), "{bad:?}");
        }
        assert!(!verify(b"a", b"$2a$04$\xff"));
    }

    #[test]
    fn a_password_too_long_to_count_in_whole_is_refused() {
        assert_eq!(hash(&[b'x'; 73], 4, SALT), Err(ErrorKind::PasswordTooLong));
    }
}
