//! The network: what it does to a message, decided when it is sent.

use std::collections::{BTreeMap, BTreeSet};

use crate::chance::Chance;
use crate::plan::Plan;

/// What becomes of a message: when each copy of it arrives. None does if it is lost.
pub type Arrivals = Vec<u64>;

/// The links between the members.
#[derive(Default)]
pub struct Network {
    /// Nothing goes from the first to the second.
    pub cuts: BTreeSet<(u64, u64)>,
    /// Everything from the first to the second takes that much longer, in microseconds.
    pub slow: BTreeMap<(u64, u64), u64>,
}

impl Network {
    /// Whether a message gets through now.
    pub fn is_open(&self, from: u64, to: u64) -> bool {
        !self.cuts.contains(&(from, to))
    }

    /// When copies of a message sent now arrive. `once`: it travels in a stream that does not repeat.
    pub fn carry(
        &self,
        chance: &mut Chance,
        plan: &Plan,
        now: u64,
        link: (u64, u64),
        once: bool,
    ) -> Arrivals {
        if self.cuts.contains(&link) || chance.permille(plan.loss) {
            return Vec::new();
        }
        let mut arrivals = vec![now + self.delay(chance, plan, link)];
        if !once && chance.permille(plan.duplicates) {
            arrivals.push(now + self.delay(chance, plan, link));
        }
        arrivals
    }

    fn delay(&self, chance: &mut Chance, plan: &Plan, link: (u64, u64)) -> u64 {
        let usual = chance.within(100, 900);
        let slow = self.slow.get(&link).map_or(0, |extra| chance.below(2 * extra));
        let straggler = match chance.permille(plan.stragglers) {
            true => chance.below(plan.tick_ms * 15_000),
            false => 0,
        };
        usual + slow + straggler
    }
}
