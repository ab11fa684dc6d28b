//! Members of ours and of the real etcd find each other.

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use conformance::harness::{self, Stop, Work};
use conformance::{discovery, records};

fn main() -> ExitCode {
    let register: Work = Box::new(|tools| Ok(harness::runtime()?.block_on(discovery::on_a_register(tools))?));
    let clients: Work = Box::new(|tools| {
        let _alone = DNS.lock().unwrap_or_else(PoisonError::into_inner);
        discovery::srv_is_possible().map_err(Stop::Impossible)?;
        Ok(harness::runtime()?.block_on(records::all_find_members(tools))?)
    });
    harness::run(vec![
        (
            "ours_and_a_real_member_found_a_cluster_on_a_real_members_register".to_owned(),
            register,
        ),
        (
            "gateways_proxies_and_etcdctl_find_members_by_srv_records".to_owned(),
            clients,
        ),
        srv(
            "a_real_member_finds_two_of_ours_by_srv_records",
            [true, false, true],
        ),
        srv(
            "one_of_ours_finds_two_real_members_by_srv_records",
            [false, true, false],
        ),
    ])
}

/// There is one port 53.
static DNS: Mutex<()> = Mutex::new(());

/// Three members, of which some are ours.
fn srv(name: &str, ours: [bool; 3]) -> (String, Work) {
    let work: Work = Box::new(move |tools| {
        let _alone = DNS.lock().unwrap_or_else(PoisonError::into_inner);
        discovery::srv_is_possible().map_err(Stop::Impossible)?;
        let programs = ours.map(|ours| if ours { &*tools.ours } else { &*tools.reference });
        Ok(harness::runtime()?.block_on(discovery::by_srv_records(programs))?)
    });
    (name.to_owned(), work)
}
