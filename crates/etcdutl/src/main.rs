//! `etcdutl`: works on data folders while no server does.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use server::config::VERSION;
use server::convert::{Version, to_bolt, to_native};

/// Works on data folders while no server does.
#[derive(Parser)]
#[command(name = "etcdutl", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lays a data folder out for Go etcd, or for this one.
    Convert {
        /// The data folder.
        #[arg(long)]
        data_dir: PathBuf,
        /// The folder of the raft log, if it is not in the data folder.
        #[arg(long)]
        wal_dir: Option<PathBuf>,
        /// Whose layout.
        #[arg(long)]
        to: Layout,
        /// The release of Go etcd that is to start from it, such as 3.5; refused if the cluster's version is above.
        #[arg(long, value_parser = version)]
        target_version: Option<Version>,
    },
    /// Prints the version.
    Version,
}

#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// Go etcd's: a bbolt file.
    Bolt,
    /// This one's.
    Native,
}

fn version(text: &str) -> Result<Version, String> {
    Version::parse(text).ok_or_else(|| "a version is X.Y or X.Y.Z".into())
}

fn main() -> ExitCode {
    let (done, text) = match Arguments::parse().command {
        Command::Version => (true, format!("etcdutl version: {VERSION}\nAPI version: 3.7")),
        Command::Convert {
            data_dir,
            wal_dir,
            to,
            target_version,
        } => {
            let converted = match to {
                Layout::Bolt => to_bolt(&data_dir, wal_dir.as_deref(), target_version),
                Layout::Native => to_native(&data_dir, wal_dir.as_deref()),
            };
            match converted {
                Ok(report) => (true, report.to_string()),
                Err(error) => (false, format!("Error: {error}")),
            }
        }
    };
    if done {
        println!("{text}");
        ExitCode::SUCCESS
    } else {
        eprintln!("{text}");
        ExitCode::FAILURE
    }
}
