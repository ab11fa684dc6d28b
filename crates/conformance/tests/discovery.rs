//! Members of ours and of the real etcd find each other.

use std::process::ExitCode;

use conformance::discovery;
use conformance::harness::{self, Work};

fn main() -> ExitCode {
    let register: Work = Box::new(|tools| harness::runtime()?.block_on(discovery::on_a_register(tools)));
    let mut trials = vec![(
        "ours_and_a_real_member_found_a_cluster_on_a_real_members_register".to_owned(),
        register,
    )];
    let mut srv = |name: &str, ours: [bool; 3]| {
        let work: Work = Box::new(move |tools| {
            let programs = ours.map(|ours| if ours { &*tools.ours } else { &*tools.reference });
            harness::runtime()?.block_on(discovery::by_srv_records(programs))
        });
        trials.push((name.to_owned(), work));
    };
    match discovery::srv_is_possible() {
        Ok(()) => {
            srv(
                "a_real_member_finds_two_of_ours_by_srv_records",
                [true, false, true],
            );
            srv(
                "one_of_ours_finds_two_real_members_by_srv_records",
                [false, true, false],
            );
        }
        Err(reason) => eprintln!("left out, all about SRV records: {reason}"),
    }
    harness::run(trials)
}
