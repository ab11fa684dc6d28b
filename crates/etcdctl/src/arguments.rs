//! The command line: every command with its arguments and flags. How flags are spelled is cobra's affair and told in
//! [`parse`](crate::parse); this is the tree.
//!
//! Positional arguments are all optional here, because a command that lacks one says so in etcd's words and with
//! etcd's exit status. They are bytes: keys and values need not be text.

// The comments of commands are what `--help` prints.
#![allow(rustdoc::invalid_html_tags, rustdoc::broken_intra_doc_links)]

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

/// A command line client for etcd.
#[derive(Debug, Parser)]
#[command(name = "etcdctl", disable_version_flag = true, arg_required_else_help = true)]
pub struct CommandLine {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What is said for every command: where the servers are, who calls, and how answers are written.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Endpoints to call, separated by commas.
    #[arg(long, global = true, value_delimiter = ',', default_value = "127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// Say what is done on standard error.
    #[arg(long, global = true)]
    pub debug: bool,
    /// Output format: simple, fields, json, table, protobuf, or yaml.
    #[arg(long, short, global = true, default_value = "simple")]
    pub write_out: String,
    /// Write keys, values and ids in hexadecimal.
    #[arg(long, global = true)]
    pub hex: bool,
    /// How long to wait for a connection.
    #[arg(long, global = true, default_value = "2s", value_parser = crate::parse::duration)]
    pub dial_timeout: std::time::Duration,
    /// How long a short command may take, the connection not counted.
    #[arg(long, global = true, default_value = "5s", value_parser = crate::parse::duration)]
    pub command_timeout: std::time::Duration,
    /// After how much silence to ask whether the server is still there.
    #[arg(long, global = true, default_value = "2s", value_parser = crate::parse::duration)]
    pub keepalive_time: std::time::Duration,
    /// How long to wait for its answer.
    #[arg(long, global = true, default_value = "6s", value_parser = crate::parse::duration)]
    pub keepalive_timeout: std::time::Duration,
    /// The largest request that is sent, in bytes; 0 is the default of 2 MiB.
    #[arg(long, global = true, default_value = "0", value_parser = crate::parse::integer)]
    pub max_request_bytes: i64,
    /// The largest answer that is taken, in bytes; 0 is no limit.
    #[arg(long, global = true, default_value = "0", value_parser = crate::parse::integer)]
    pub max_recv_bytes: i64,
    /// Call endpoints without a scheme in plain text, unless a certificate is given.
    #[arg(long, global = true, default_value = "true")]
    pub insecure_transport: bool,
    /// Take endpoints from SRV records also when they are in plain text.
    #[arg(long, global = true, default_value = "true")]
    pub insecure_discovery: bool,
    /// Take any certificate of the server's. For tests only.
    #[arg(long, global = true)]
    pub insecure_skip_tls_verify: bool,
    /// The certificate to show, a file.
    #[arg(long, global = true, default_value = "")]
    pub cert: String,
    /// Its private key, a file.
    #[arg(long, global = true, default_value = "")]
    pub key: String,
    /// The authorities that may have signed the server's certificate, a file.
    #[arg(long, global = true, default_value = "")]
    pub cacert: String,
    /// A token to call with, in place of a user and a password.
    #[arg(long, global = true, default_value = "", hide_default_value = true)]
    pub auth_jwt_token: String,
    /// Who calls: name, or name:password. Without a password it is asked for.
    #[arg(long, global = true, default_value = "")]
    pub user: String,
    /// The password of --user.
    #[arg(long, global = true, default_value = "", hide_default_value = true)]
    pub password: String,
    /// A domain whose SRV records name the endpoints.
    #[arg(long, short, global = true, default_value = "")]
    pub discovery_srv: String,
    /// The service's name in these records.
    #[arg(long, global = true, default_value = "")]
    pub discovery_srv_name: String,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads a key, or a range of keys
    Get(Get),
    /// Writes a key
    Put(Put),
    /// Deletes a key, or a range of keys
    Del(Delete),
    /// Carries out one transaction, read from standard input
    Txn(Txn),
    /// Shows changes of a key or a range of keys as they happen
    Watch(Watch),
    /// Forgets the history before a revision
    Compaction(Compaction),
    /// Leases: keys that go away unless somebody keeps them
    Lease(Group<Lease>),
    /// Lists the keys under a prefix, one a line
    Ls(Ls),
    /// Draws the keys under a prefix as a tree
    Tree(Tree),
    /// Sums up how many keys and bytes are under each prefix
    Du(Du),
    /// Shows every value a key has had
    History(History),
    /// The members of the cluster
    Member(Group<Member>),
    /// Endpoints: health, status, and hashes of what they store
    Endpoint(Group<Endpoint>),
    /// Hands the leadership to another member
    MoveLeader(Arguments),
    /// Alarms, which stop a cluster from being written
    Alarm(Group<Alarm>),
    /// Gives storage that is free inside the database back to the system
    Defrag(Defrag),
    /// Backups
    Snapshot(Group<Snapshot>),
    /// Lowers the version a cluster acts at
    Downgrade(Group<Downgrade>),
    /// Copies keys to another cluster, and goes on with their changes
    MakeMirror(MakeMirror),
    /// Takes a lock, and holds it while a command runs
    Lock(Lock),
    /// Takes part in an election, or watches one
    Elect(Elect),
    /// Switches users and permissions on and off
    Auth(Group<Auth>),
    /// Users
    User(Group<User>),
    /// Roles and what they permit
    Role(Group<Role>),
    /// Measures what a cluster can do
    Check(Group<Check>),
    /// Writes a script that completes command lines in a shell
    Completion(Group<Shell>),
    /// Writes the manual pages into a folder
    Man(Arguments),
    /// Lists the options that every command takes
    Options,
    /// Prints the version
    Version,
}

/// A command that only has others below it.
#[derive(Args, Debug)]
#[command(arg_required_else_help = true)]
pub struct Group<T: Subcommand> {
    #[command(subcommand)]
    pub command: T,
}

/// Positional arguments and nothing else.
#[derive(Args, Debug)]
pub struct Arguments {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl get [options] <key> [range_end]")]
pub struct Get {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// l asks a quorum (linearizable), s only the member that is called (serializable).
    #[arg(long, default_value = "l")]
    pub consistency: String,
    /// The order of the answer: ASCEND or DESCEND.
    #[arg(long, default_value = "")]
    pub order: String,
    /// Sort by CREATE, KEY, MODIFY, VALUE, or VERSION.
    #[arg(long, default_value = "")]
    pub sort_by: String,
    /// At most so many keys; 0 is all.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub limit: i64,
    /// All keys that begin with the key.
    #[arg(long)]
    pub prefix: bool,
    /// All keys from the key on.
    #[arg(long)]
    pub from_key: bool,
    /// As things were at a revision.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub rev: i64,
    /// Keys without their values.
    #[arg(long)]
    pub keys_only: bool,
    /// Only how many there are.
    #[arg(long)]
    pub count_only: bool,
    /// Values without their keys (format simple).
    #[arg(long)]
    pub print_value_only: bool,
    /// Keys created at this revision or later.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub min_create_rev: i64,
    /// Keys created at this revision or before.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub max_create_rev: i64,
    /// Keys written last at this revision or later.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub min_mod_rev: i64,
    /// Keys written last at this revision or before.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub max_mod_rev: i64,
    /// Ask for the answer in pieces; needs a server of 3.7.
    #[arg(long)]
    pub stream: bool,
}

#[derive(Args, Debug)]
#[command(
    override_usage = "etcdctl put [options] <key> <value>\n       command | etcdctl put [options] <key>",
    after_help = "Without <value> it is what standard input says. A value that begins with - goes behind --."
)]
pub struct Put {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// The lease to attach the key to.
    #[arg(long, default_value = "0")]
    pub lease: String,
    /// Show what was there before.
    #[arg(long)]
    pub prev_kv: bool,
    /// Keep the value.
    #[arg(long)]
    pub ignore_value: bool,
    /// Keep the lease.
    #[arg(long)]
    pub ignore_lease: bool,
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl del [options] <key> [range_end]")]
pub struct Delete {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// All keys that begin with the key.
    #[arg(long)]
    pub prefix: bool,
    /// Show what was deleted.
    #[arg(long)]
    pub prev_kv: bool,
    /// All keys from the key on.
    #[arg(long)]
    pub from_key: bool,
    /// A range is meant: no warning, no waiting.
    #[arg(long)]
    pub range: bool,
    /// Do not ask before many keys are deleted.
    #[arg(long, short)]
    pub yes: bool,
}

#[derive(Args, Debug)]
#[command(after_long_help = "\
Standard input has three paragraphs, each ended by an empty line: comparisons, what is done if all of them hold, and what
is done if not. Keys and values of comparisons are quoted.

  value(\"k\") = \"v\"        or version, create, mod, lease; and != < >
  mod(\"k\") > \"0\"

  put k \"new value\"
  get k

  del k")]
pub struct Txn {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// Say what is to be typed.
    #[arg(long, short)]
    pub interactive: bool,
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl watch [options] <key> [range_end] [-- command [arguments]]")]
pub struct Watch {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// A command to run for every event, which finds it in ETCD_WATCH_KEY and other variables.
    #[arg(last = true, hide = true)]
    pub exec: Vec<OsString>,
    /// Take watches from standard input, one a line.
    #[arg(long, short)]
    pub interactive: bool,
    /// All keys that begin with the key.
    #[arg(long)]
    pub prefix: bool,
    /// The first revision to show.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub rev: i64,
    /// Show what was there before each change.
    #[arg(long)]
    pub prev_kv: bool,
    /// Show from time to time how far the watch is.
    #[arg(long)]
    pub progress_notify: bool,
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl compaction [options] <revision>")]
pub struct Compaction {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// Return when the space is free.
    #[arg(long)]
    pub physical: bool,
}

#[derive(Debug, Subcommand)]
pub enum Lease {
    /// Grants a lease: grant <seconds>
    Grant(Arguments),
    /// Ends a lease and deletes its keys: revoke <lease>
    Revoke(Arguments),
    /// Tells how long a lease still has: timetolive <lease>
    Timetolive {
        #[arg(hide = true)]
        words: Vec<OsString>,
        /// Its keys too.
        #[arg(long)]
        keys: bool,
    },
    /// Lists all leases
    List,
    /// Keeps a lease alive, for as long as the command runs: keep-alive <lease>
    KeepAlive {
        #[arg(hide = true)]
        words: Vec<OsString>,
        /// Renew it once.
        #[arg(long)]
        once: bool,
    },
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl ls [options] [prefix]")]
pub struct Ls {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// With revisions, size and lease of each key.
    #[arg(long, short)]
    pub long: bool,
    /// As things were at a revision.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub rev: i64,
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl tree [options] [prefix]")]
pub struct Tree {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// What separates the parts of a key.
    #[arg(long, default_value = "/")]
    pub separator: String,
    /// How many parts deep; 0 is all.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub depth: i64,
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl du [options] [prefix]")]
pub struct Du {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// What separates the parts of a key.
    #[arg(long, default_value = "/")]
    pub separator: String,
    /// How many parts deep.
    #[arg(long, default_value = "1", value_parser = crate::parse::integer)]
    pub depth: i64,
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl history [options] <key>")]
pub struct History {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// At most so many values, the newest first; 0 is all that are not compacted.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub limit: i64,
}

#[derive(Debug, Subcommand)]
pub enum Member {
    /// Adds a member: add <name> --peer-urls=...
    Add {
        #[arg(hide = true)]
        words: Vec<OsString>,
        /// Where its peers will reach it, separated by commas.
        #[arg(long, default_value = "")]
        peer_urls: String,
        /// As a learner, which does not vote.
        #[arg(long)]
        learner: bool,
    },
    /// Removes a member: remove <id or name>
    Remove(Arguments),
    /// Changes where a member is reached: update <id or name> --peer-urls=...
    Update {
        #[arg(hide = true)]
        words: Vec<OsString>,
        /// Where its peers will reach it, separated by commas.
        #[arg(long, default_value = "")]
        peer_urls: String,
    },
    /// Lists the members
    List {
        /// l asks a quorum (linearizable), s only the member that is called (serializable).
        #[arg(long, default_value = "l")]
        consistency: String,
    },
    /// Makes a learner a voter: promote <id or name>
    Promote(Arguments),
}

#[derive(Debug, Subcommand)]
pub enum Endpoint {
    /// Asks whether endpoints answer, and whether a quorum does
    Health(Cluster),
    /// Shows what endpoints say about themselves
    Status(Cluster),
    /// Hashes what endpoints store, to be compared
    Hashkv {
        #[command(flatten)]
        cluster: Cluster,
        /// Up to this revision; 0 is the newest.
        #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
        rev: i64,
    },
}

#[derive(Args, Debug)]
pub struct Cluster {
    /// All endpoints of the cluster's members.
    #[arg(long)]
    pub cluster: bool,
}

#[derive(Debug, Subcommand)]
pub enum Alarm {
    /// Clears all alarms
    Disarm(Arguments),
    /// Lists alarms
    List(Arguments),
}

#[derive(Args, Debug)]
pub struct Defrag {
    #[command(flatten)]
    pub cluster: Cluster,
}

#[derive(Debug, Subcommand)]
pub enum Snapshot {
    /// Writes a backup of a member's database into a file: save <file>
    Save(Arguments),
    /// Moved: `etcdutl snapshot status`
    Status(Arguments),
    /// Moved: `etcdutl snapshot restore`
    Restore {
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Downgrade {
    /// Asks whether a downgrade is possible: validate <version>
    Validate(Arguments),
    /// Begins one: enable <version>
    Enable(Arguments),
    /// Calls it off
    Cancel,
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl make-mirror [options] <destination endpoint>")]
pub struct MakeMirror {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// Keys that begin with this.
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// The revision to begin with; the keys of before are taken to be there already.
    #[arg(long, default_value = "0", value_parser = crate::parse::integer)]
    pub rev: i64,
    /// How many changes go into one transaction at most.
    #[arg(long, default_value = "128", value_parser = crate::parse::integer)]
    pub max_txn_ops: i64,
    /// What --prefix becomes.
    #[arg(long, default_value = "")]
    pub dest_prefix: String,
    /// Take --prefix away.
    #[arg(long)]
    pub no_dest_prefix: bool,
    /// The certificate to show there, a file.
    #[arg(long, default_value = "")]
    pub dest_cert: String,
    /// Its private key, a file.
    #[arg(long, default_value = "")]
    pub dest_key: String,
    /// The authorities of certificates there, a file.
    #[arg(long, default_value = "")]
    pub dest_cacert: String,
    /// Call an endpoint without a scheme in plain text, unless a certificate is given.
    #[arg(long, default_value = "true")]
    pub dest_insecure_transport: bool,
    /// Who calls there: name, or name:password.
    #[arg(long, default_value = "")]
    pub dest_user: String,
    /// The password of --dest-user.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub dest_password: String,
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl lock [options] <name> [-- command [arguments]]")]
pub struct Lock {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// After how many seconds the lock goes if this process dies.
    #[arg(long, default_value = "10", value_parser = crate::parse::integer)]
    pub ttl: i64,
}

#[derive(Args, Debug)]
#[command(override_usage = "etcdctl elect [options] <election> [proposal]")]
pub struct Elect {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// Only watch who is elected.
    #[arg(long, short)]
    pub listen: bool,
}

#[derive(Debug, Subcommand)]
pub enum Auth {
    /// Asks for users and their permissions from now on
    Enable(Arguments),
    /// Lets everybody do everything
    Disable(Arguments),
    /// Tells whether users are asked for
    Status(Arguments),
}

#[derive(Debug, Subcommand)]
pub enum User {
    /// Adds a user: add <name or name:password>
    Add {
        #[arg(hide = true)]
        words: Vec<OsString>,
        /// Ask for the password at the terminal; false reads it from standard input.
        #[arg(long, default_value = "true")]
        interactive: bool,
        /// The password.
        #[arg(long, default_value = "", hide_default_value = true)]
        new_user_password: String,
        /// A user that only a certificate can be.
        #[arg(long)]
        no_password: bool,
    },
    /// Deletes a user: delete <name>
    Delete(Arguments),
    /// Shows the roles of a user: get <name>
    Get {
        #[arg(hide = true)]
        words: Vec<OsString>,
        /// And what they permit.
        #[arg(long)]
        detail: bool,
    },
    /// Lists all users
    List(Arguments),
    /// Sets a password: passwd <name>
    Passwd {
        #[arg(hide = true)]
        words: Vec<OsString>,
        /// Ask for the password at the terminal; false reads it from standard input.
        #[arg(long, default_value = "true")]
        interactive: bool,
    },
    /// Gives a user a role: grant-role <user> <role>
    GrantRole(Arguments),
    /// Takes a role from a user: revoke-role <user> <role>
    RevokeRole(Arguments),
}

#[derive(Debug, Subcommand)]
pub enum Role {
    /// Adds a role: add <name>
    Add(Arguments),
    /// Deletes a role: delete <name>
    Delete(Arguments),
    /// Shows what a role permits: get <name>
    Get(Arguments),
    /// Lists all roles
    List(Arguments),
    /// Permits: grant-permission <role> <read, write or readwrite> <key> [range_end]
    GrantPermission(Permission),
    /// Takes a permission back: revoke-permission <role> <key> [range_end]
    RevokePermission(Permission),
}

#[derive(Args, Debug)]
pub struct Permission {
    #[arg(hide = true)]
    pub words: Vec<OsString>,
    /// All keys that begin with the key.
    #[arg(long)]
    pub prefix: bool,
    /// All keys from the key on.
    #[arg(long)]
    pub from_key: bool,
}

#[derive(Debug, Subcommand)]
pub enum Check {
    /// Writes for a minute at a rate, and tells whether that went well
    Perf {
        #[command(flatten)]
        options: CheckOptions,
        /// Where the keys are written; none may be there.
        #[arg(long, default_value = "/etcdctl-check-perf/")]
        prefix: String,
    },
    /// Writes many keys, and tells how much memory the server takes for them
    Datascale {
        #[command(flatten)]
        options: CheckOptions,
        /// Where the keys are written; none may be there.
        #[arg(long, default_value = "/etcdctl-check-datascale/")]
        prefix: String,
    },
}

#[derive(Args, Debug)]
pub struct CheckOptions {
    /// How much: s, m, l, or xl.
    #[arg(long, default_value = "s")]
    pub load: String,
    /// Compact afterwards.
    #[arg(long)]
    pub auto_compact: bool,
    /// Defragment afterwards.
    #[arg(long)]
    pub auto_defrag: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Shell {
    /// For bash: source <(etcdctl completion bash)
    Bash,
    /// For zsh: etcdctl completion zsh > "${fpath[1]}/_etcdctl"
    Zsh,
    /// For fish: etcdctl completion fish | source
    Fish,
    /// For PowerShell: etcdctl completion powershell | Out-String | Invoke-Expression
    Powershell,
}

/// An operation of a transaction, as it is typed.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
pub enum Operation {
    Put(Put),
    Get(Get),
    Del(Delete),
}

/// A watch of an interactive session, as it is typed.
#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
pub enum Line {
    Watch(Watch),
    Progress,
}

/// Options that every command takes.
#[derive(Debug, Parser)]
#[command(name = "etcdctl options", override_usage = "etcdctl <command> [options]")]
pub struct OnlyGlobal {
    #[command(flatten)]
    pub global: Global,
}
