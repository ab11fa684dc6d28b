//! A member whose data differs is found and named, by each of the checks, be it ours or the real etcd.

use std::process::ExitCode;

use conformance::divergence::{self, Check};
use conformance::harness::{self, Work};
use conformance::tools::Tools;

fn main() -> ExitCode {
    harness::run(vec![
        trial(
            "a_member_that_acts_on_wrong_data_is_named_at_once",
            Check::Rolling,
            3,
        ),
        trial(
            "a_member_with_wrong_data_is_named_by_its_hash",
            Check::Periodic,
            3,
        ),
        trial(
            "a_real_member_with_wrong_data_is_named_by_its_hash",
            Check::Periodic,
            2,
        ),
        trial(
            "a_member_with_wrong_data_is_named_at_a_compaction",
            Check::Compactions,
            3,
        ),
        trial(
            "a_real_member_with_wrong_data_is_named_at_a_compaction",
            Check::Compactions,
            2,
        ),
        trial("a_member_with_wrong_data_refuses_to_serve", Check::Initial, 3),
    ])
}

/// Three members of which so many are ours, and the last one is wrong.
fn trial(name: &str, check: Check, ours: usize) -> (String, Work) {
    let work = move |tools: &Tools| {
        let found = divergence::found(tools, tools.programs(ours), check);
        Ok(harness::runtime()?.block_on(found)?)
    };
    (name.to_owned(), Box::new(work))
}
