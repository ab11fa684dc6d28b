//! Comparing short byte strings.
//!
//! A search in the index compares a handful of strings of some twenty bytes. Eight at a time in
//! place, that takes a fraction of what calls to `memcmp` do.

use std::cmp::Ordering;

/// Length of what both begin with.
pub fn common(a: &[u8], b: &[u8]) -> usize {
    let mut len = 0;
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return len + differ.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    len + a[len..].iter().zip(&b[len..]).take_while(|(a, b)| a == b).count()
}

/// Byte order.
pub fn order(a: &[u8], b: &[u8]) -> Ordering {
    let shared = common(a, b);
    a.get(shared).cmp(&b.get(shared))
}

/// What follows the prefix; without the prefix, on which side of all that begins with it the string
/// is.
pub fn strip<'a>(bytes: &'a [u8], prefix: &[u8]) -> Result<&'a [u8], Ordering> {
    let shared = common(bytes, prefix);
    if shared == prefix.len() {
        return Ok(&bytes[prefix.len()..]);
    }
    Err(bytes.get(shared).cmp(&prefix.get(shared)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn short() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![9 => Just(b'a'), 1 => any::<u8>()], 0..40)
    }

    proptest! {
        #[test]
        fn it_is_the_order_of_slices(a in short(), b in short()) {
            prop_assert_eq!(order(&a, &b), a.cmp(&b));
            let shared = common(&a, &b);
            prop_assert_eq!(&a[..shared], &b[..shared]);
            prop_assert!(a.get(shared) != b.get(shared) || a == b);
            match strip(&a, &b) {
                Ok(rest) => prop_assert_eq!(a.strip_prefix(b.as_slice()), Some(rest)),
                Err(side) => prop_assert_eq!((side, a.starts_with(&b)), (a.cmp(&b), false)),
            }
        }
    }
}
