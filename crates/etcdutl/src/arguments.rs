//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use server::convert::Version;
use types::go;

/// Works on data folders and backups while no server does.
#[derive(Debug, Parser)]
#[command(
    name = "etcdutl",
    disable_version_flag = true,
    arg_required_else_help = true,
    infer_subcommands = true
)]
#[command(args_override_self = true)]
pub struct Arguments {
    /// Output format: simple, fields, json, table, or yaml.
    #[arg(long, short, global = true, default_value = "simple")]
    pub write_out: String,
    /// How long to wait for a folder that somebody else has open; 0 is for ever.
    #[arg(long, global = true, default_value = "10s", value_parser = go::parse_duration)]
    pub timeout: Duration,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Looks at a backup, or makes a data folder of one
    #[command(arg_required_else_help = true)]
    Snapshot {
        #[command(subcommand)]
        command: Snapshot,
    },
    /// Hashes the keys in a file as its member would
    Hashkv {
        #[arg(value_name = "FILE")]
        file: Vec<PathBuf>,
        /// Up to this revision; 0 is the newest.
        #[arg(long, default_value = "0", value_parser = go_int)]
        rev: i64,
    },
    /// Gives free pages of a Go member's database back to the system
    Defrag {
        /// The data folder.
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Changes the storage version of a Go member's folder, for another release
    Migrate {
        /// The data folder.
        #[arg(long)]
        data_dir: PathBuf,
        /// The release that is to start from it, X.Y.
        #[arg(long)]
        target_version: String,
        /// Although the log has entries that it does not know.
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
              action = clap::ArgAction::Set, value_parser = go_bool, hide_default_value = true)]
        force: bool,
    },
    /// Lays a data folder out for Go etcd, or for this one
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
    /// Writes a script that completes command lines in a shell
    Completion {
        /// Which shell.
        shell: Shell,
    },
    /// Writes the manual pages into a folder
    Man {
        /// The folder.
        folder: PathBuf,
    },
    /// Prints the version
    Version,
}

#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Tells hash, revision, keys and size of a backup
    Status {
        #[arg(value_name = "FILE")]
        file: Vec<PathBuf>,
    },
    /// Makes the data folder of a member of a new cluster
    Restore(Restore),
}

#[derive(Args, Debug)]
pub struct Restore {
    #[arg(value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// The folder to make; NAME.etcd if it is not said.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub data_dir: String,
    /// The folder of its raft log, if not in the data folder.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub wal_dir: String,
    /// All members of the new cluster.
    #[arg(long, default_value = "default=http://localhost:2380")]
    pub initial_cluster: String,
    /// What tells the new cluster from others.
    #[arg(long, default_value = "etcd-cluster")]
    pub initial_cluster_token: String,
    /// Where other members will reach this one.
    #[arg(long, default_value = "http://localhost:2380")]
    pub initial_advertise_peer_urls: String,
    /// The name of the member.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Take a file without a sum, such as one copied from a data folder.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          action = clap::ArgAction::Set, value_parser = go_bool, hide_default_value = true)]
    pub skip_hash_check: bool,
    /// Go's; the file is not mapped here.
    #[arg(long, default_value = "10737418240", hide = true)]
    pub initial_memory_map_size: u64,
    /// Skip so many revisions, so that none comes twice.
    #[arg(long, default_value = "0")]
    pub bump_revision: u64,
    /// Compact all before, so that watches of the old cluster end.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false",
          action = clap::ArgAction::Set, value_parser = go_bool, hide_default_value = true)]
    pub mark_compacted: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Layout {
    /// Go etcd's: a bbolt file.
    Bolt,
    /// This one's.
    Native,
}

fn version(text: &str) -> Result<Version, String> {
    Version::parse(text).ok_or_else(|| "a version is X.Y or X.Y.Z".into())
}

fn go_bool(text: &str) -> Result<bool, String> {
    go::parse_bool(text).ok_or_else(|| format!("{text:?} is neither true nor false"))
}

fn go_int(text: &str) -> Result<i64, String> {
    go::parse_int(text).map_err(|_| format!("{text:?} is not a number"))
}
