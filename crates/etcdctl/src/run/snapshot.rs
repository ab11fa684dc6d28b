//! Backups: a member's database as a file, with its SHA-256 at the end.

use std::fs::{File, OpenOptions, remove_file, rename};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use client::Client;
use sha2::{Digest, Sha256};

use super::context::{self, Context, only};
use super::progress::{Progress, Unit};
use crate::arguments::Snapshot;
use crate::failure::{Failure, Status};

/// Bytes of the sum that a backup ends with.
const SUM_BYTES: usize = 32;

pub async fn run(context: &Context, snapshot: Snapshot) -> Result<(), Failure> {
    match snapshot {
        Snapshot::Save(arguments) => {
            let path = only(&arguments.words, "snapshot save expects one argument <filename>")?;
            save(context, Path::new(path)).await
        }
        Snapshot::Status(_) => Err(moved("status <file>")),
        Snapshot::Restore { .. } => Err(moved("restore <file> --data-dir=...")),
    }
}

fn moved(command: &str) -> Failure {
    Failure::new(Status::Error, "this works on files, and has moved to etcdutl")
        .cure(format!("Use `etcdutl snapshot {command}`."))
}

async fn save(context: &Context, path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        return Err(interrupted(format!("{} is a folder", path.display())).cure("Name a file to be written."));
    }
    let client = context.connect_for_long().await?;
    let endpoints = client.endpoints();
    if endpoints.len() != 1 {
        let text = format!(
            "snapshot must be requested to one selected node, not multiple [{}]",
            endpoints.join(" ")
        );
        return Err(Failure::new(Status::Interrupted, text).cure("Name one with --endpoints."));
    }
    let limit = context.long_limit();
    let part = with_suffix(path, ".part");
    let saving = async {
        match limit {
            Some(limit) => tokio::time::timeout(limit, receive(&client, &part))
                .await
                .unwrap_or_else(|_| Err(interrupted("context deadline exceeded"))),
            None => receive(&client, &part).await,
        }
    };
    let version = match saving.await {
        Ok(version) => version,
        Err(failure) => {
            // Half a backup is none.
            let _ = remove_file(&part);
            return Err(failure);
        }
    };
    rename(&part, path).map_err(|error| unwritable(path, &error))?;
    let mut said = format!("Snapshot saved at {}\n", path.display());
    if !version.is_empty() {
        said += &format!("Server version {version}\n");
    }
    context::print(said.as_bytes())
}

fn interrupted(text: impl std::fmt::Display) -> Failure {
    Failure::new(Status::Interrupted, text)
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    let failure = interrupted(format!("cannot write {}: {error}", path.display()));
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            failure.cure("Nothing is kept of it. `etcdctl endpoint status` shows how large a backup becomes.")
        }
        _ => failure,
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Writes what comes, and looks whether it is what was sent. The answer is the version of the server.
async fn receive(client: &Client, part: &Path) -> Result<String, Failure> {
    let broken = |error: client::Error| Failure {
        status: Status::Interrupted as u8,
        ..error.into()
    };
    let mut file: Option<File> = None;
    let mut sum = Sum::default();
    let mut progress: Option<Progress> = None;
    let (mut received, mut version) = (0, String::new());
    let mut pieces = client.snapshot();
    let write = |error: std::io::Error| unwritable(part, &error);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(broken)?;
        if file.is_none() {
            let options = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(part);
            file = Some(options.map_err(write)?);
        }
        if let Some(file) = &mut file {
            file.write_all(&piece.blob).map_err(write)?;
        }
        received += piece.blob.len() as u64;
        let total = received + piece.remaining_bytes;
        progress
            .get_or_insert_with(|| Progress::new("saving", Unit::Bytes, total))
            .at(received);
        sum.add(&piece.blob);
        version = piece.version;
    }
    drop(progress);
    if received % 512 != SUM_BYTES as u64 || !sum.is_right() {
        return Err(interrupted(format!(
            "what was received ({received} bytes) is not what was sent: its sha256 is wrong"
        )));
    }
    file.iter().try_for_each(File::sync_all).map_err(write)?;
    Ok(version)
}

/// The sum over all but the last bytes, which are what it should be.
#[derive(Default)]
struct Sum {
    hash: Sha256,
    last: Vec<u8>,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.last.extend_from_slice(bytes);
        let certain = self.last.len().saturating_sub(SUM_BYTES);
        self.hash.update(&self.last[..certain]);
        self.last.drain(..certain);
    }

    fn is_right(&self) -> bool {
        self.hash.clone().finalize()[..] == self.last[..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_bytes_are_the_sum_of_those_before_however_they_come() {
        let body = b"a database, as it were".repeat(20);
        let mut whole = body.clone();
        whole.extend_from_slice(&Sha256::digest(&body));
        for step in [1, 31, 32, 33, 1000] {
            let mut sum = Sum::default();
            whole.chunks(step).for_each(|piece| sum.add(piece));
            assert!(sum.is_right(), "{step}");
        }
        whole[3] ^= 1;
        let mut sum = Sum::default();
        sum.add(&whole);
        assert!(!sum.is_right());
    }
}
