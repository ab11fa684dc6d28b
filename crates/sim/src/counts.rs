//! What a run has covered. A check that never had anything to look at proves nothing, so the numbers are
//! part of the result.

use std::collections::BTreeMap;

use crate::plan::Fault;

/// Acknowledged writes below which a run has not shown much.
pub const THIN: u64 = 20;

macro_rules! counts {
    ($($name:ident: $label:literal,)*) => {
        /// How often something happened.
        #[derive(Clone, Debug, Default)]
        pub struct Counts {
            $(#[doc = $label] pub $name: u64,)*
            /// Faults by kind.
            pub faults: BTreeMap<Fault, u64>,
        }

        impl Counts {
            /// Adds another run's.
            pub fn add(&mut self, other: &Counts) {
                $(self.$name += other.$name;)*
                for (fault, count) in &other.faults {
                    *self.faults.entry(*fault).or_default() += count;
                }
            }

            /// All but the faults, with their names.
            pub fn lines(&self) -> Vec<(&'static str, u64)> {
                vec![$(($label, self.$name)),*]
            }
        }
    };
}

counts! {
    virtual_ms: "milliseconds of virtual time",
    events: "events",
    messages: "messages",
    lost: "messages lost",
    lives: "processes started",
    power_losses: "machines that lost power",
    full_disks: "processes ended by a full disk",
    elections: "leaders elected",
    entries: "log entries committed",
    conf_changes: "configurations",
    raft_snapshots: "raft snapshots",
    sent: "whole states sent",
    installed: "whole states installed",
    compactions: "compactions",
    written: "writes acknowledged",
    read: "linearizable reads",
    read_locally: "other reads",
    renewed: "leases renewed",
    expired: "leases that ran out",
    failed: "requests refused",
    timeouts: "requests not answered in time",
    watch_events: "watch events",
    watched_across: "states installed under open watchers",
    rests: "times all members were compared",
    thin: "seeds with fewer than 20 acknowledged writes",
}
