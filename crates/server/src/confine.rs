//! Which files this process reaches: its own, and no others.
//!
//! Linux has Landlock for that: a process gives up, for good and for all threads it starts from then on, what it
//! does not need. Whoever gets the better of this process then finds its data and its certificates, but nobody
//! else's, starts no program, and plants no file where another one would run it. The network is not confined.
//!
//! **Folders, not files.** A certificate is exchanged by renaming a new file into its place, or by turning a link
//! (`..data` of a Kubernetes secret) to another folder; a rule for the file itself would end with the file. So the
//! folder of each file is readable, and where a path has links in it, the folder around what each link leads to.
//! `/etc` as a whole is readable for the same reason: `resolv.conf` and `hosts` are replaced by renaming too.
//!
//! What is open already stays so: the log's files, and sockets. Log files that are exchanged are in folders of which
//! all is reached.
//!
//! It is done as far as the kernel can. A server that would lack one of its own folders is not confined at
//! all: that would look like a lost disk, or like certificates that are never exchanged.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, make_bitflags,
};
use thiserror::Error;
use tls::{Identity, Settings, Trust};

use crate::config::{Config, Discovery, Url};
use crate::storage::Storage;

/// What is given up where it is not allowed: all that concerns files in this version of Landlock.
const VERSION: ABI = ABI::V5;

/// What is done with certificates, and with the system's own files.
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});

/// What is done with data: plain files and folders.
const WRITE: BitFlags<AccessFs> = make_bitflags!(AccessFs::{
    ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
});

/// What names are looked up with, besides what links at [`RESOLVER_FILES`] lead to, and whom this machine trusts.
const SYSTEM: [&str; 6] = [
    "/etc",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
    "/var/lib/ca-certificates",
    "/dev/urandom",
];

/// The kernel's accounts of this process, for metrics. A rule for its own folder of `/proc` alone would be lost when
/// memory is short. What others keep there for themselves, such as their environment, takes a capability (`CAP_PERFMON`) to read.
const ACCOUNTS: [&str; 2] = ["/proc", "/sys/fs/cgroup"];

/// Where libraries are. They are loaded by now; crate `names` needs none to look a name up.
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"];

/// Often links to a folder of whoever manages the network.
const RESOLVER_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Where else the authorities are that this machine trusts.
const TRUST_VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Links in a path that are followed, as the kernel does.
const LINKS_MAX: usize = 40;

/// How far it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confined {
    /// Wholly.
    Wholly,
    /// As far as this kernel can.
    Partly,
    /// Not at all: this kernel has no Landlock, or it is switched off.
    NotAtAll,
}

/// Why it could not be done.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// One of the member's own folders can't be made.
    #[error("cannot make {}: {cause}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// One of the folders that are needed can't be named.
    #[error(transparent)]
    Path(#[from] PathFdError),
    /// The kernel does not take the rules.
    #[error(transparent)]
    Rules(#[from] RulesetError),
}

/// Confines this thread, and those that it starts from now on, to the files of a configuration. Makes the member's
/// folders, since what is not there can't be allowed. Must come when the ports are bound and before there are threads.
pub fn confine(config: &Config) -> Result<Confined, ConfineError> {
    make_folders(config)?;
    Reach::of(config).confine()
}

/// Confines, if that is wanted, and logs what came of it. Going on without is better than not going on.
pub fn confine_if_wanted(config: &Config) {
    if !config.confine_files {
        return tracing::info!("files are not confined; --confine-files is false");
    }
    match confine(config) {
        Ok(Confined::Wholly) => tracing::info!("files are confined to the member's own (--confine-files)"),
        Ok(Confined::Partly) => {
            tracing::info!(
                "files are confined to the member's own as far as this kernel can (--confine-files)"
            );
        }
        Ok(Confined::NotAtAll) => tracing::info!("files are not confined; this kernel has no Landlock"),
        Err(error) => tracing::warn!(%error, "files are not confined"),
    }
}

/// The folders of the configuration that are there once a member runs.
fn make_folders(config: &Config) -> Result<(), ConfineError> {
    let log_folder = env::parent(&config.wal_path()).to_owned();
    for folder in [config.member_dir(), log_folder] {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|cause| ConfineError::Folder { folder, cause })?;
    }
    Ok(())
}

/// What is reached, by what is done there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Reach {
    /// Data.
    write: BTreeSet<PathBuf>,
    /// Certificates.
    read: BTreeSet<PathBuf>,
    /// Folders of sockets, which go when the server stops.
    remove: BTreeSet<PathBuf>,
    /// What this machine may have. Who lacks some of it does without.
    system: BTreeSet<PathBuf>,
}

impl Reach {
    fn of(config: &Config) -> Self {
        let mut reach = Reach::default();
        reach.data(config);
        reach
            .write
            .extend(config.exchanged_logs.iter().map(|file| folder_of(file)));
        for settings in [&config.client_tls.settings, &config.peer_tls.settings] {
            reach.certificates(settings);
        }
        if let Some(Discovery::Register(register)) = &config.discovery
            && let Some(tls) = &register.tls
        {
            reach.pair(tls.identity.as_ref());
            reach.trust(&tls.trust);
        }
        let urls = [
            &config.listen_peer,
            &config.listen_client,
            &config.listen_client_http,
        ];
        let urls = urls.into_iter().flatten().chain(&config.listen_metrics);
        let sockets = urls.filter(|url| url.scheme().is_unix()).map(Url::address);
        reach
            .remove
            .extend(sockets.map(|path| folder_of(Path::new(path))));
        reach
            .system
            .extend(SYSTEM.iter().chain(&ACCOUNTS).map(PathBuf::from));
        for file in RESOLVER_FILES {
            reach.system.extend(folders(Path::new(file)));
        }
        if config.pprof {
            // The names of functions are in the program's file and its libraries'.
            reach.system.extend(LIBRARIES.iter().map(PathBuf::from));
            let program = std::env::current_exe();
            reach
                .system
                .extend(program.iter().map(|program| folder_of(program)));
        }
        reach
    }

    /// Each of the member's folders may be a link to another disk.
    fn data(&mut self, config: &Config) {
        let member = config.member_dir();
        let below = ["snap", "kv"].map(|name| member.join(name));
        self.write.extend([config.data_dir.clone(), member]);
        self.write
            .extend(below.into_iter().filter(|folder| folder.exists()));
        let log = config.wal_path();
        if !Storage::is_initialized(&env::RealDisk, config) {
            // A new log's folder is made beside its place and renamed; what is beside it is reached until the next start.
            self.write.insert(env::parent(&log).to_owned());
        }
        self.write.extend(log.exists().then_some(log));
    }

    fn certificates(&mut self, settings: &Settings) {
        self.pair(settings.identity.as_ref());
        self.pair(settings.client_identity.as_ref());
        self.trust(&settings.trust);
        self.file(settings.revoked.as_deref());
    }

    fn pair(&mut self, identity: Option<&Identity>) {
        self.file(identity.map(|identity| identity.cert.as_path()));
        self.file(identity.map(|identity| identity.key.as_path()));
    }

    fn trust(&mut self, trust: &Trust) {
        match trust {
            Trust::Authorities(file) => self.file(Some(file)),
            Trust::System => {
                let named = TRUST_VARIABLES.iter().filter_map(std::env::var_os);
                self.system.extend(named.flat_map(|name| {
                    let named = PathBuf::from(name);
                    [folder_of(&named), named]
                }));
            }
            Trust::Anyone => {}
        }
    }

    fn file(&mut self, file: Option<&Path>) {
        self.read.extend(file.into_iter().flat_map(folders));
    }

    fn confine(&self) -> Result<Confined, ConfineError> {
        let mut rules = Ruleset::default()
            .handle_access(AccessFs::from_all(VERSION))?
            .create()?;
        let needed = [
            (&self.write, WRITE),
            (&self.read, READ),
            (&self.remove, AccessFs::RemoveFile.into()),
        ];
        for (path, access) in needed
            .iter()
            .flat_map(|(paths, access)| paths.iter().map(move |path| (path, *access)))
        {
            rules = rules.add_rule(rule(PathFd::new(path)?, path, access))?;
        }
        for path in &self.system {
            if let Ok(open) = PathFd::new(path) {
                rules = rules.add_rule(rule(open, path, READ))?;
            }
        }
        Ok(match rules.restrict_self()?.ruleset {
            RulesetStatus::FullyEnforced => Confined::Wholly,
            RulesetStatus::PartiallyEnforced => Confined::Partly,
            RulesetStatus::NotEnforced => Confined::NotAtAll,
        })
    }
}

/// What is no folder has no files in it to make or to list.
fn rule(open: PathFd, path: &Path, access: BitFlags<AccessFs>) -> PathBeneath<PathFd> {
    let access = match path.is_dir() {
        true => access,
        false => access & AccessFs::from_file(VERSION),
    };
    PathBeneath::new(open, access)
}

/// The folders by which a file can be exchanged: its own, and those around what links on the way to it lead to.
fn folders(file: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::from([folder_of(file)]);
    let mut rest: Vec<_> = parts(file);
    let (mut at, mut links) = (PathBuf::new(), 0);
    while let Some(part) = rest.pop() {
        let next = at.join(&part);
        match fs::read_link(&next) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                found.insert(folder_of(&at.join(&target)));
                rest.extend(parts(&target));
            }
            _ => at = next,
        }
    }
    found
}

/// A path's parts, the last one first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let part = |part: Component<'_>| PathBuf::from(part.as_os_str());
    path.components().rev().map(part).collect()
}

/// The folder that `path` is in. The root is no such folder, or all would be reached: there it is the file itself.
fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => ".".into(),
        Some(folder)
            if folder
                .canonicalize()
                .is_ok_and(|folder| folder.parent().is_some()) =>
        {
            folder.into()
        }
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn made(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        path
    }

    #[test]
    fn a_file_is_exchanged_in_its_folder_and_wherever_links_lead() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let folders = |name: &str| {
            let found = folders(&root.join(name));
            let inside = found.iter().map(|folder| folder.strip_prefix(&root).unwrap());
            inside
                .map(|folder| folder.to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        made(&root, "plain/tls.crt");
        assert_eq!(folders("plain/tls.crt"), ["plain"]);
        assert_eq!(folders("plain/not-yet.crt"), ["plain"]);
        // As Kubernetes mounts a secret.
        made(&root, "secret/..1/tls.crt");
        symlink("..1", root.join("secret/..data")).unwrap();
        symlink("..data/tls.crt", root.join("secret/tls.crt")).unwrap();
        assert_eq!(folders("secret/tls.crt"), ["secret", "secret/..data"]);
        // As certbot keeps what it is given.
        made(&root, "archive/a/cert1.pem");
        fs::create_dir_all(root.join("live/a")).unwrap();
        symlink("../../archive/a/cert1.pem", root.join("live/a/cert.pem")).unwrap();
        assert_eq!(folders("live/a/cert.pem"), ["live/a", "live/a/../../archive/a"]);
        // Releases, with a link to the newest.
        made(&root, "releases/1/tls.crt");
        symlink(root.join("releases/1"), root.join("current")).unwrap();
        assert_eq!(folders("current/tls.crt"), ["current", "releases"]);
        // A link to itself ends.
        symlink("loop", root.join("loop")).unwrap();
        assert!(!folders("loop").is_empty());
    }

    #[test]
    fn the_root_is_never_reached() {
        assert_eq!(folder_of(Path::new("/tls.crt")), Path::new("/tls.crt"));
        assert_eq!(folder_of(Path::new("tls.crt")), Path::new("."));
        assert_eq!(
            folder_of(Path::new("/proc/self/../../tls.crt")),
            Path::new("/proc/self/../../tls.crt")
        );
    }

    /// Landlock confines threads, so this one is as good as a process.
    #[test]
    fn only_what_is_named_is_reached_and_only_as_it_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let [data, certs, other, sockets] = ["data", "certs", "other", "sockets"].map(|name| {
            made(dir.path(), &format!("{name}/file"));
            dir.path().join(name)
        });
        let reach = Reach {
            write: [data.clone()].into(),
            read: [certs.clone()].into(),
            remove: [sockets.clone()].into(),
            system: SYSTEM.iter().chain(&ACCOUNTS).map(PathBuf::from).collect(),
        };
        let told = std::thread::spawn(move || match reach.confine().unwrap() {
            Confined::NotAtAll => eprintln!("this kernel has no Landlock"),
            _ => std::thread::spawn(move || check(&data, &certs, &other, &sockets))
                .join()
                .unwrap(),
        });
        told.join().unwrap();
    }

    #[track_caller]
    fn denied(result: io::Result<()>) {
        let error = result.expect_err("it is allowed").kind();
        // A rename to where nothing may be made is told to be one to another disk.
        assert!(
            matches!(
                error,
                io::ErrorKind::PermissionDenied | io::ErrorKind::CrossesDevices
            ),
            "{error}"
        );
    }

    fn check(data: &Path, certs: &Path, other: &Path, sockets: &Path) {
        let read = |file: PathBuf| fs::read(file).map(|_| ());
        fs::create_dir(data.join("a")).unwrap();
        fs::write(data.join("a/file"), "1").unwrap();
        fs::rename(data.join("a/file"), data.join("b")).unwrap();
        fs::remove_dir(data.join("a")).unwrap();
        read(data.join("b")).unwrap();
        denied(std::os::unix::fs::symlink("/", data.join("link")));
        denied(fs::rename(data.join("b"), other.join("b")));

        read(certs.join("file")).unwrap();
        fs::read_dir(certs).unwrap();
        denied(fs::write(certs.join("file"), ""));
        denied(fs::remove_file(certs.join("file")));

        fs::remove_file(sockets.join("file")).unwrap();
        denied(fs::write(sockets.join("file"), ""));

        denied(read(other.join("file")));
        denied(fs::write(other.join("new"), ""));
        denied(fs::create_dir(other.join("a")));
        denied(fs::remove_file(other.join("file")));
        denied(fs::read_dir("/").map(|_| ()));
        denied(std::process::Command::new("/bin/true").status().map(|_| ()));

        read("/etc/hosts".into()).unwrap();
        read("/proc/self/stat".into()).unwrap();
    }
}
