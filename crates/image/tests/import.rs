//! What went out comes in again, and nothing else does.

mod common;

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use common::*;
use env::{Disk, SimDisk, sim::crash_everywhere};
use image::{ImportError, Place, import, load};
use proto::raftpb::ConfState;

fn import_db(disk: &SimDisk, place: &Place) -> Result<proto::storepb::Commit, ImportError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    import(&disk, Path::new(DB), Path::new(KV), place)
}

/// The rows of every bucket.
type Buckets = BTreeMap<String, BTreeMap<Bytes, Bytes>>;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn file_of(buckets: &Buckets) -> Vec<u8> {
    let mut plan = bolt::Plan::new();
    for (name, rows) in buckets {
        plan.bucket(name, rows.iter().map(|(key, value)| (key.len(), value.len())));
    }
    let mut writer = bolt::Writer::new(plan);
    let mut file = Vec::new();
    writer.begin(&mut file);
    for (name, rows) in buckets {
        writer.bucket(name, &mut file);
        for (key, value) in rows {
            writer.put(key, value, &mut file);
        }
    }
    writer.finish(&mut file);
    file
}

fn buckets_of(disk: &SimDisk) -> Buckets {
    let reader = bolt::Reader::open(disk.open(Path::new(DB)).unwrap()).unwrap();
    let rows = |name: &str| reader.bucket(name).unwrap().map(Result::unwrap).collect();
    let names = reader.buckets().unwrap().into_iter();
    let names = names.map(|name| String::from_utf8(name.to_vec()).unwrap());
    names.map(|name| (name.clone(), rows(&name))).collect()
}

fn opened(disk: &SimDisk) -> Member {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (member, _) = Member::open(&disk);
    member.store.check();
    member
}

#[test]
fn a_store_is_the_same_after_a_trip_through_a_bbolt_file_at_every_revision() {
    for rounds in [0, 1, 40] {
        let (disk, expected) = exported(rounds);
        let commit = import_db(&disk, &Place::default()).unwrap();
        assert_eq!(commit, expected.commit);
        assert_eq!(seen(&opened(&disk)), expected);
    }
}

#[test]
fn who_knows_better_where_the_file_is_in_the_log_is_believed_unless_the_file_is_ahead() {
    let (disk, expected) = exported(5);
    let found = expected.commit.applied_index;
    let place = Place {
        index: Some(found + 4),
        term: Some(9),
        conf_state: Some(ConfState {
            voters: vec![5],
            ..ConfState::default()
        }),
        v2_members: Vec::new(),
    };
    let commit = import_db(&disk, &place).unwrap();
    assert_eq!((commit.applied_index, commit.term), (found + 4, 9));
    assert_eq!(commit.conf_state, place.conf_state);

    let (disk, _) = exported(5);
    let place = Place {
        index: Some(found - 1),
        ..Place::default()
    };
    assert!(matches!(import_db(&disk, &place), Err(ImportError::Ahead { .. })));
    assert!(!disk.exists(Path::new(KV)));
}

#[test]
fn a_crash_in_any_operation_leaves_no_folder_or_a_whole_one_and_the_next_try_succeeds() {
    let (_, expected) = exported(3);
    crash_everywhere(
        2,
        || exported(3).0.after_crash(env::sim::Keep::None),
        |disk| import_db(disk, &Place::default()).is_ok(),
        |done, disk| {
            assert!(!done || disk.exists(Path::new(KV)), "what is done is durable");
            if !disk.exists(Path::new(KV)) {
                import_db(&disk, &Place::default()).unwrap();
            }
            assert_eq!(seen(&opened(&disk)), expected);
        },
    );
}

#[test]
fn a_store_in_use_takes_the_new_content_whole_or_not_at_all_wherever_power_is_lost() {
    let (_, new) = exported(6);
    let setup = || {
        let (disk, _) = exported(6);
        let disk = disk.after_crash(env::sim::Keep::None);
        let mut member = opened(&disk);
        history(&mut member, 2);
        member.store.close().unwrap();
        drop(member);
        disk.after_crash(env::sim::Keep::None)
    };
    let old = seen(&opened(&setup()));
    let adopt = |disk: &SimDisk| {
        let arc: Arc<dyn Disk> = Arc::new(disk.clone());
        let Ok((member, _)) = Member::try_open(&arc) else {
            return false;
        };
        let loaded = load(&*arc, Path::new(DB), &Place::default(), &member.store);
        loaded.is_ok_and(|loaded| loaded.adopt(&member.mvcc).is_ok())
    };
    crash_everywhere(2, setup, adopt, |adopted, disk| {
        let found = seen(&opened(&disk));
        assert!(found == new || (!adopted && found == old), "adopted: {adopted}");
    });
}

#[test]
fn a_member_goes_on_writing_where_the_new_content_ends() {
    let (disk, expected) = exported(6);
    let arc: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut member = opened(&disk);
    history(&mut member, 2);
    // Taken before, read after: the files are held as long as somebody reads them.
    let before = member.store.snapshot().unwrap();
    let loaded = load(&*arc, Path::new(DB), &Place::default(), &member.store).unwrap();
    loaded.adopt(&member.mvcc).unwrap();
    assert!(before.changes().all(|change| change.is_ok()));
    assert_eq!(seen(&member), expected);
    member.head = mvcc::Head::new(member.mvcc.clone());
    member.index = expected.commit.applied_index;
    for round in 0..100 {
        member.put("key/1", &[round; 100], 0);
        member.store.sync_step().unwrap();
    }
    member.compact(member.head.revision());
    member.store.rewrite_all(|_, _| {}).unwrap();
    member.store.check();
    member.store.close().unwrap();
    let expected = seen(&member);
    drop(member);
    assert_eq!(seen(&opened(&disk)), expected);
}

#[test]
fn a_shorter_history_does_not_take_the_place_of_a_longer_one() {
    let (disk, _) = exported(2);
    let arc: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut member = opened(&disk);
    history(&mut member, 6);
    let before = seen(&member);
    let loaded = load(&*arc, Path::new(DB), &Place::default(), &member.store).unwrap();
    assert!(matches!(
        loaded.adopt(&member.mvcc),
        Err(store::LoadError::Older { .. })
    ));
    assert_eq!(seen(&member), before);
    member.store.check();
    let files = disk.list(Path::new(KV)).unwrap();
    assert_eq!(
        files.iter().filter(|name| name.ends_with(".seg")).count(),
        1,
        "{files:?}"
    );
}

/// Every so many bytes one is changed. bbolt's pages have no checksum, so not every change can
/// be noticed; none may end the process or leave anything behind.
#[test]
fn a_damaged_file_is_refused_or_read_and_leaves_nothing_behind() {
    let (disk, _) = exported(1);
    let file = disk.open(Path::new(DB)).unwrap();
    let mut refused = 0;
    for at in (0..file.len().unwrap()).step_by(13) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_at(&[IoSlice::new(&[byte[0] ^ 0x41])], at).unwrap();
        let arc: Arc<dyn Disk> = Arc::new(disk.clone());
        let member = opened(&disk);
        if let Err(error) = load(&*arc, Path::new(DB), &Place::default(), &member.store) {
            assert!(error.to_string().contains(DB), "{error}");
            refused += 1;
        }
        let files = disk.list(Path::new(KV)).unwrap();
        assert_eq!(files.len(), 3, "{files:?}");
        file.write_at(&[IoSlice::new(&byte)], at).unwrap();
    }
    assert!(refused > 50, "only {refused} noticed");
}

#[test]
fn what_is_not_etcds_or_newer_is_refused_by_name() {
    let refusal = |bytes: Vec<u8>| {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/member/snap")).unwrap();
        let file = disk.create(Path::new(DB)).unwrap();
        file.write_at(&[IoSlice::new(&bytes)], 0).unwrap();
        let error = import_db(&disk, &Place::default()).unwrap_err();
        assert!(!disk.exists(Path::new(KV)));
        error
    };
    assert!(matches!(refusal(vec![]), ImportError::Read { .. }));
    assert!(matches!(refusal(vec![7; 10_000]), ImportError::Read { .. }));
    let with = |buckets: &[(&str, &[(&str, &str)])]| {
        let rows = |rows: &[(&str, &str)]| {
            let row = |(key, value): &(&str, &str)| (bytes(key), bytes(value));
            rows.iter().map(row).collect()
        };
        let buckets = buckets
            .iter()
            .map(|(name, given)| ((*name).to_owned(), rows(given)));
        file_of(&buckets.collect())
    };
    let index = ("consistent_index", "\0\0\0\0\0\0\0\x09");
    assert!(matches!(
        refusal(with(&[("containers", &[("a", "b")])])),
        ImportError::UnknownBucket { .. }
    ));
    assert!(matches!(
        refusal(with(&[("meta", &[index])])),
        ImportError::Foreign(_)
    ));
    assert!(matches!(
        refusal(with(&[("key", &[]), ("meta", &[])])),
        ImportError::Nowhere(_)
    ));
    let newer = with(&[("key", &[]), ("meta", &[index, ("storageVersion", "3.8.0")])]);
    assert!(matches!(refusal(newer), ImportError::Newer { .. }));
    let strange = with(&[("key", &[]), ("meta", &[index, ("storageVersion", "new")])]);
    assert!(matches!(refusal(strange), ImportError::Damaged { .. }));
    let foreign = with(&[("key", &[("name", "value")]), ("meta", &[index])]);
    assert!(matches!(refusal(foreign), ImportError::Damaged { .. }));
}

/// Up to 3.5 removed members may have been left in the bucket, and added ones may be missing from it.
#[test]
fn the_members_of_an_old_file_are_those_of_the_raft_group() {
    let mut origin = opened(&SimDisk::new());
    history(&mut origin, 1);
    origin.head.table_delete(mvcc::Table::Meta, b"storageVersion");
    origin.commit();
    let (disk, _) = given_out(&origin);
    let member = |id: u64| machine::Member {
        id: types::MemberId(id),
        peer_urls: vec![format!("http://{id}")],
        ..machine::Member::default()
    };
    let mut place = Place {
        v2_members: vec![member(1), member(2), member(9)],
        ..Place::default()
    };
    let error = import_db(&disk, &place).unwrap_err();
    assert!(
        error.to_string().contains("key 7"),
        "the learner is nowhere: {error}"
    );
    place.v2_members.push(member(7));
    import_db(&disk, &place).unwrap();
    let snapshot = opened(&disk).store.snapshot().unwrap();
    let rows = &snapshot.tables()[&mvcc::Table::Members];
    let keys: Vec<_> = rows.keys().map(|key| &key[..]).collect();
    assert_eq!(
        keys,
        [b"1", b"2", b"7"],
        "neither the bucket's own row nor the stranger"
    );
}

/// A database as each release of etcd keeps it, made of one of ours. 3.4 does not say in which term and group
/// it is; 3.6 began to name the version of its storage, and to keep a downgrade that was called off.
fn as_written_by(minor: u64, ours: &Buckets) -> Buckets {
    let mut buckets = ours.clone();
    let version = bytes(&format!("3.{minor}.0"));
    let cluster = buckets.get_mut("cluster").unwrap();
    cluster.insert(bytes("clusterVersion"), version.clone());
    if minor >= 6 {
        cluster.insert(
            bytes("downgrade"),
            bytes(r#"{"target-version":"","enabled":false}"#),
        );
    }
    let meta = buckets.get_mut("meta").unwrap();
    match minor {
        6.. => drop(meta.insert(bytes("storageVersion"), version)),
        _ => drop(meta.remove(&b"storageVersion"[..])),
    }
    if minor < 5 {
        meta.remove(&b"term"[..]);
        meta.remove(&b"confState"[..]);
    }
    buckets
}

#[test]
fn the_database_of_every_release_comes_in_and_goes_out_as_that_release_wrote_it() {
    let mut origin = opened(&SimDisk::new());
    history(&mut origin, 5);
    for (table, row) in [
        (mvcc::Table::Members, "members"),
        (mvcc::Table::Cluster, "cluster"),
    ] {
        origin.head.table_delete(table, row.as_bytes());
    }
    for id in [1, 2, 7] {
        let member = format!(r#"{{"id":{id},"peerURLs":["http://{id}"],"name":"m{id}"}}"#);
        let key = id.to_string();
        origin
            .head
            .table_put(mvcc::Table::Members, key.as_bytes(), member.as_bytes());
    }
    origin.commit();
    let (disk, expected) = given_out(&origin);
    let ours = buckets_of(&disk);
    // What the log and the .snap file say where the database does not.
    let place = Place {
        term: Some(expected.commit.term),
        conf_state: expected.commit.conf_state.clone(),
        ..Place::default()
    };
    for minor in 4..=7 {
        let written = as_written_by(minor, &ours);
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/member/snap")).unwrap();
        let file = disk.create(Path::new(DB)).unwrap();
        file.write_at(&[IoSlice::new(&file_of(&written))], 0).unwrap();
        assert_eq!(import_db(&disk, &place).unwrap(), expected.commit, "3.{minor}");

        let member = opened(&disk);
        assert_eq!(seen(&member).hashes, expected.hashes, "3.{minor}");
        member.export(&disk, DB);
        let mut given_back = buckets_of(&disk);
        if minor == 4 {
            let meta = given_back.get_mut("meta").unwrap();
            assert!(meta.remove(&b"term"[..]).is_some() && meta.remove(&b"confState"[..]).is_some());
        }
        assert_eq!(given_back, written, "3.{minor}");
    }
}
