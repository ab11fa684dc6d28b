//! How many connections one address may have: a part of what a port has room for, so that others find room.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// The part of a port's room that one address may take: half. Behind one address may be a proxy with many clients.
const SHARE: usize = 2;

/// The connections of each address at one port.
#[derive(Clone)]
pub struct Shares {
    max: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Shares {
    /// Shares of room for so many.
    pub fn of(room: usize) -> Self {
        Shares {
            max: room.div_ceil(SHARE),
            taken: Arc::default(),
        }
    }

    /// A place for one connection more from there; none if the share is used up.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock();
        let count = taken.entry(address).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place {
            shares: self.clone(),
            address,
        })
    }
}

/// A place, until it is dropped.
pub struct Place {
    shares: Shares,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock();
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_half_of_the_room_and_gets_it_back() {
        let [one, other] = [[127, 0, 0, 1], [127, 0, 0, 2]].map(IpAddr::from);
        let shares = Shares::of(4);
        let places = [shares.take(one).unwrap(), shares.take(one).unwrap()];
        assert!(shares.take(one).is_none());
        assert!(shares.take(other).is_some());
        drop(places);
        assert!(shares.taken.lock().is_empty(), "who has left is forgotten");
        assert!(shares.take(one).is_some());
    }
}
