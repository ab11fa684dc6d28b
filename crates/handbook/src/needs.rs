//! What a trial needs of the machine. Where that is lacking, the trial counts as ignored and says why; where
//! `KEELSON_DEPLOY=all` promises that everything is there (`cargo xtask deploy` does), it fails.

use std::env;

use libtest_mimic::{Failed, Trial};

/// A trial that runs unless something is lacking.
pub fn trial(
    name: &str,
    lacks: Option<String>,
    run: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let Some(lacks) = lacks else {
        return Trial::test(name, run);
    };
    let is_promised = env::var("KEELSON_DEPLOY").is_ok_and(|promise| promise == "all");
    eprintln!("{name}: not here: {lacks}");
    Trial::test(name, || Err(lacks.into())).with_ignored_flag(!is_promised)
}

/// Says that a program is not on this machine, if so.
pub fn program(name: &str) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    match env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
        true => None,
        false => Some(format!("there is no {name}")),
    }
}

/// Says which of these programs is not on this machine, if so.
pub fn programs(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| program(name))
}
