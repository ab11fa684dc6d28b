//! What is handed out in packages: built as their readers build them, looked at, installed and started.
//!
//! Each trial is a script in `tests/packages`. They take root and the tools of other platforms, so most machines lack
//! something; `cargo xtask deploy` installs the tools and builds the static programs (`KEELSON_STATIC` is their folder).

// A test of the rim: it has files and processes.
#![allow(clippy::disallowed_methods)]

use std::process::{Command, ExitCode};

use handbook::programs::Programs;
use handbook::{needs, repository, sandbox};
use libtest_mimic::{Arguments, Failed};

/// How long a script may take; the slowest compresses three programs and boots a machine.
const PATIENCE_SECS: &str = "600";

/// A script and what it needs of the machine.
struct Script {
    trial: &'static str,
    file: &'static str,
    tools: &'static [&'static str],
    static_programs: bool,
}

const SCRIPTS: [Script; 6] = [
    Script {
        trial: "static_programs_run_in_a_root_with_nothing_else",
        file: "root.sh",
        tools: &["dnsmasq", "openssl"],
        static_programs: true,
    },
    Script {
        trial: "the_image_is_built_without_a_registry_and_runs",
        file: "image.sh",
        tools: &["podman", "buildah", "runc"],
        static_programs: true,
    },
    Script {
        trial: "the_debian_package_is_installed_and_its_unit_runs",
        file: "deb.sh",
        tools: &["cargo-deb", "lintian", "systemd-nspawn"],
        static_programs: false,
    },
    Script {
        trial: "the_rpm_is_installed_and_its_unit_runs",
        file: "rpm.sh",
        tools: &["rpmbuild", "systemd-nspawn"],
        static_programs: false,
    },
    Script {
        trial: "the_book_is_rendered_without_dead_links",
        file: "book.sh",
        tools: &["mdbook", "python3"],
        static_programs: false,
    },
    Script {
        trial: "bash_zsh_and_fish_complete_command_lines_and_man_shows_the_pages",
        file: "shells.sh",
        tools: &["zsh", "fish", "groff"],
        static_programs: false,
    },
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let programs: &'static Result<Programs, String> = Box::leak(Box::new(Programs::find()));
    let lacks = sandbox::lacks()
        .or_else(not_root)
        .or_else(|| programs.as_ref().err().cloned());
    let trials = SCRIPTS.map(|script| {
        let no_static = || match script.static_programs {
            true => no_static_programs(),
            false => None,
        };
        let lacks = lacks
            .clone()
            .or_else(|| needs::programs(script.tools))
            .or_else(no_static);
        needs::trial(script.trial, lacks, move || {
            run(programs.as_ref().map_err(Failed::from)?, script.file)
        })
    });
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn not_root() -> Option<String> {
    let id = Command::new("id").arg("-u").output().ok()?;
    (id.stdout != b"0\n").then(|| "it takes root".to_owned())
}

fn no_static_programs() -> Option<String> {
    match std::env::var_os("KEELSON_STATIC") {
        Some(_) => None,
        None => Some("KEELSON_STATIC names no folder with static programs".to_owned()),
    }
}

/// Runs a script in the repository, with mounts of its own, an empty folder `$HERE`, and our programs in `$PROGRAMS`.
fn run(programs: &Programs, file: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut command = Command::new("timeout");
    command
        .args([
            "-k",
            "5",
            PATIENCE_SECS,
            "unshare",
            "--mount",
            "bash",
            "-eEuo",
            "pipefail",
            "-x",
        ])
        .arg(repository("crates/handbook/tests/packages").join(file))
        .current_dir(repository(""))
        .env("HERE", folder.path())
        .env("PROGRAMS", programs.path());
    let output = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{file}: {}\n{}\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        )
        .into()),
    }
}
