//! The etcd server program: flags and environment in, one configuration out, start, stop.
//!
//! Exit codes are etcd's: 2 for a command line that can't be read, and for a panic; 1 for settings
//! that make no sense and for a start that fails. After a signal the process stops gracefully and then
//! dies by that signal, as supervisors expect; as process 1 of a container it exits with 0.

// The rim: this crate has clocks and files.
#![allow(clippy::disallowed_methods)]

mod check;
mod config;
mod demo;
mod first_user;
mod flags;
mod healthcheck;
mod logging;
mod plain_http;
mod proxies;
mod systemd;

use std::io::{Write, stderr, stdout};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::ExitCode;

use insight::secrets::command_line;
use rustix::process::{Signal, set_parent_process_death_signal};
use server::RunError;
use server::config::{BootstrapError, Discovery, GIT_SHA, JoinError, RUNTIME, VERSION, go_arch};
use server::fields::json;
use signal_hook::low_level::emulate_default_handler;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use check::Shape;
use config::Invalid;
use first_user::FirstUser;
use flags::{Invocation, Note, Refusal, Settings, USAGE};
use logging::{Log, Plan};
use systemd::Systemd;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The word in front of a member's flags in a demonstration, whose members end with it.
const MEMBER_COMMAND: &str = "demo-member";

fn main() -> ExitCode {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let args: Vec<_> = std::env::args_os().map(lossy).collect();
    let env: Vec<_> = std::env::vars_os()
        .map(|(name, value)| (lossy(name), lossy(value)))
        .collect();
    let mut args = args;
    match args.get(1).map(String::as_str) {
        Some("healthcheck") => return healthcheck::run(&args[2..], &env),
        Some("demo") => return demo::run(&args[2..]),
        Some(MEMBER_COMMAND) => {
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            args.remove(1);
        }
        _ => {}
    }
    if proxies::are_meant(&args) {
        return proxies::run(&args);
    }
    match flags::parse(args.get(1..).unwrap_or_default(), &env, flags::read_file) {
        Ok(Invocation::Help) => {
            let _ = stderr().write_all(USAGE.as_bytes());
            let _ = stdout().write_all(flags::help().as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Version) => {
            let _ = stdout().write_all(version().as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Invocation::Serve(settings)) => serve(&settings, &args),
        Ok(Invocation::Check(settings, shape)) => check_config(&settings, shape),
        Err(refusal) => refuse(refusal, &args),
    }
}

fn version() -> String {
    let (os, arch) = (std::env::consts::OS, go_arch());
    format!("etcd Version: {VERSION}\nGit SHA: {GIT_SHA}\nGo Version: {RUNTIME}\nGo OS/Arch: {os}/{arch}\n")
}

fn refuse(refusal: Refusal, args: &[String]) -> ExitCode {
    match refusal {
        Refusal::Usage(problem) => {
            let _ = write!(stderr(), "{problem}\n{USAGE}");
            ExitCode::from(2)
        }
        Refusal::Invalid { problem, notes } => {
            Log::fallback().start();
            log_call(&notes, args);
            failed_to_verify(&problem)
        }
        Refusal::Conflict { ref flag, ref env } => {
            Log::fallback().start();
            let cure = format!("{env} and --{flag} both set this; unset {env}, or leave --{flag} out");
            error!(level = "fatal", "environment-variable" = %env, flag = format!("--{flag}"), cure, "{refusal}");
            ExitCode::FAILURE
        }
    }
}

fn log_call(notes: &[Note], args: &[String]) {
    for note in notes {
        note.log();
    }
    info!(args = json(&command_line(args.iter().cloned())), "Running: ");
}

fn failed_to_verify(problem: &str) -> ExitCode {
    warn!(error = problem, "failed to verify flags");
    ExitCode::FAILURE
}

/// Tells what a server would be. The log goes to stderr: that of the server is not touched.
fn check_config(settings: &Settings, shape: Shape) -> ExitCode {
    Log::fallback().start();
    settings.notes.iter().for_each(Note::log);
    if let Err(problem) = Plan::new(&settings.flags) {
        return failed_to_verify(&problem);
    }
    let config = match config::build(settings, default_host) {
        Ok(config) => config,
        Err(invalid) => return failed_to_verify(&invalid.explain(settings)),
    };
    config::advise(settings, &config);
    let _ = stdout().write_all(check::show(settings, &config, shape).as_bytes());
    match server::check(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed_to_verify(&config::locate(settings, &error)),
    }
}

fn serve(settings: &Settings, args: &[String]) -> ExitCode {
    let plan = Plan::new(&settings.flags);
    let opened = plan.and_then(|plan| Ok((plan.open()?, plan.exchanged())));
    let (log, log_problem, exchanged_logs) = match opened {
        Ok((log, exchanged)) => (log, None, exchanged),
        Err(problem) => (Log::fallback(), Some(problem), Vec::new()),
    };
    log.start();
    log_call(&settings.notes, args);
    if let Some(problem) = log_problem {
        return failed_to_verify(&problem);
    }
    let mut config = match config::build(settings, default_host) {
        Ok(config) => config,
        Err(invalid) => {
            let code = failed_to_verify(&invalid.explain(settings));
            if invalid == Invalid::AdvertiseClientMissing {
                warn!(error = %invalid, "advertise client URLs are not set");
            }
            return code;
        }
    };
    config.exchanged_logs = exchanged_logs;
    let first_user = match FirstUser::wanted(&config) {
        Ok(first_user) => first_user,
        Err(problem) => return failed_to_verify(&problem.to_string()),
    };
    config::advise(settings, &config);
    let discovery = config.discovery.clone();
    let ended = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Lanes)
        .and_then(|runtime| runtime.block_on(run(config, first_user)));
    match ended {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(signal)) => die_by(signal),
        Err(error) => failed(&error, settings, discovery.as_ref()),
    }
}

fn failed(error: &RunError, settings: &Settings, discovery: Option<&Discovery>) -> ExitCode {
    match (error, discovery) {
        (
            RunError::Bootstrap(BootstrapError::Register(JoinError::Full)),
            Some(Discovery::Register(register)),
        ) => {
            warn!(
                "discovery-token" = register.token,
                "discovery-endpoints" = json(&register.endpoints),
                %error,
                "failed to bootstrap; discovery token was already used"
            );
            warn!("do not reuse discovery token; generate a new one to bootstrap a cluster");
        }
        (RunError::Listen(_) | RunError::Tokens(_) | RunError::Bootstrap(_), _) => {
            let error = config::locate(settings, error);
            error!(level = "fatal", error, "failed to start etcd");
        }
        _ => error!(level = "fatal", %error, "failed to start etcd"),
    }
    ExitCode::FAILURE
}

/// Runs the server until it ends by itself or a signal asks it to; tells which.
async fn run(
    config: server::config::Config,
    first_user: Option<FirstUser>,
) -> Result<Option<SignalKind>, RunError> {
    let systemd = Systemd::new(|name| std::env::var(name).ok(), std::process::id());
    tokio::spawn(systemd.clone().live());
    let mut caught = None;
    let stop = async {
        let (kind, name) = asked_to_stop().await;
        info!(signal = name, "received signal; shutting down");
        systemd.stopping();
        caught = Some(kind);
        // Who asks twice is in a hurry.
        tokio::spawn(async {
            let (kind, _) = asked_to_stop().await;
            die_by(kind);
        });
    };
    let ready = || {
        systemd.ready();
        if let Some(first_user) = first_user {
            first_user.settle();
        }
    };
    server::run(config, ready, stop).await?;
    Ok(caught)
}

/// Waits for SIGTERM or SIGINT.
async fn asked_to_stop() -> (SignalKind, &'static str) {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => signal.recv().await,
            // Without a handler the signal does what it always does.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = wait(SignalKind::terminate()) => (SignalKind::terminate(), "terminated"),
        _ = wait(SignalKind::interrupt()) => (SignalKind::interrupt(), "interrupt"),
    }
}

/// Lets a signal do what it would have done without a handler. Process 1 is immune to it.
fn die_by(signal: SignalKind) -> ExitCode {
    if std::process::id() != 1 {
        let _ = emulate_default_handler(signal.as_raw_value());
    }
    ExitCode::SUCCESS
}

/// The address that this machine's packets to the world come from. Nothing is sent: connecting a
/// datagram socket only looks the route up, here to an address reserved for documentation.
fn default_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
