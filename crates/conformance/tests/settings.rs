//! Files of settings, read by a real etcd and by ours.

use std::process::ExitCode;

use conformance::harness::{self, Work};
use conformance::settings;

fn main() -> ExitCode {
    let server: Work = Box::new(|tools| Ok(harness::runtime()?.block_on(settings::the_same_server(tools))?));
    let refusals: Work = Box::new(|tools| Ok(settings::the_same_refusals(tools)?));
    harness::run(vec![
        (
            "a_file_makes_the_same_server_of_etcd_and_of_ours".to_owned(),
            server,
        ),
        (
            "a_file_that_etcd_refuses_is_refused_or_understood_on_purpose".to_owned(),
            refusals,
        ),
    ])
}
