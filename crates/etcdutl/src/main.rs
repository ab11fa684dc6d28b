//! `etcdutl`: works on data folders while no server does.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use server::config::VERSION;
use server::convert::{to_bolt, to_native};

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

fn main() -> ExitCode {
    let (done, text) = match Arguments::parse().command {
        Command::Version => (true, format!("etcdutl version: {VERSION}\nAPI version: 3.7")),
        Command::Convert {
            data_dir,
            wal_dir,
            to,
        } => {
            let converted = match to {
                Layout::Bolt => to_bolt(&data_dir, wal_dir.as_deref()),
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
