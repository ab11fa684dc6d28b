//! What the writer emits, the reader finds; what nobody wrote, the reader refuses.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use bolt::{Plan, ReadError, Reader, Writer};
use env::{Disk, File, RealDisk};
use proptest::prelude::*;

type Entries = Vec<(Vec<u8>, Vec<u8>)>;
type Buckets = Vec<(&'static str, Entries)>;

fn write(buckets: &Buckets) -> Vec<u8> {
    let mut plan = Plan::new();
    for (name, entries) in buckets {
        plan.bucket(name, entries.iter().map(|(key, value)| (key.len(), value.len())));
    }
    let planned = plan.file_len();
    let mut writer = Writer::new(plan);
    let mut file = Vec::new();
    writer.begin(&mut file);
    for (name, entries) in buckets {
        writer.bucket(name, &mut file);
        for (key, value) in entries {
            writer.put(key, value, &mut file);
        }
    }
    writer.finish(&mut file);
    assert_eq!(
        file.len() as u64,
        planned,
        "the length is known before the first byte"
    );
    file
}

fn on_disk(bytes: &[u8]) -> (tempfile::TempDir, Arc<dyn File>) {
    let dir = tempfile::tempdir().unwrap();
    let file = RealDisk.create(&Path::new(dir.path()).join("db")).unwrap();
    file.write_at(&[IoSlice::new(bytes)], 0).unwrap();
    (dir, file)
}

fn read(file: Arc<dyn File>, names: &[&str]) -> Result<Vec<Entries>, ReadError> {
    let reader = Reader::open(file)?;
    reader.buckets()?;
    let entries = |name: &&str| {
        reader
            .bucket(name)?
            .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect()
    };
    names.iter().map(entries).collect()
}

fn check(buckets: &Buckets) {
    let (_dir, file) = on_disk(&write(buckets));
    let names: Vec<_> = buckets.iter().map(|(name, _)| *name).collect();
    let found = Reader::open(file.clone()).unwrap().buckets().unwrap();
    assert_eq!(found, names);
    let entries: Vec<_> = buckets.iter().map(|(_, entries)| entries.clone()).collect();
    assert_eq!(read(file, &names).unwrap(), entries);
}

/// `count` entries whose values have the given size.
fn entries(count: u32, value: usize) -> Entries {
    (0..count)
        .map(|number| (number.to_be_bytes().to_vec(), vec![number as u8; value]))
        .collect()
}

#[test]
fn empty_buckets_and_single_entries() {
    check(&vec![]);
    check(&vec![("alarm", vec![]), ("key", entries(1, 0)), ("meta", vec![])]);
}

#[test]
fn three_levels_of_branches() {
    // 113 leaf elements of 36 bytes fit a page, 204 branch elements: 30,000 entries need two levels
    // of branches above the leaves.
    check(&vec![("key", entries(30_000, 16)), ("lease", entries(300, 3))]);
}

#[test]
fn values_that_overflow_their_page() {
    check(&vec![("key", entries(5, 900_000))]);
    let exactly_one_page = 4096 - 16 - 16 - 4;
    check(&vec![("key", entries(3, exactly_one_page))]);
    check(&vec![("key", entries(3, exactly_one_page + 1))]);
}

#[test]
fn a_bucket_whose_only_leaf_overflows_has_its_root_at_the_leafs_first_page() {
    check(&vec![("key", entries(1, 5000)), ("meta", entries(1, 3))]);
}

#[test]
fn keys_longer_than_a_page_still_come_to_a_root() {
    let long = |number: u8| (vec![number; 9000], vec![number]);
    check(&vec![
        ("authUsers", (0..9).map(long).collect()),
        ("key", entries(300, 50)),
    ]);
}

#[test]
fn a_torn_meta_is_made_up_for_by_the_other() {
    let mut file = write(&vec![("key", entries(10, 10))]);
    for torn in [0..64, 4096..4160] {
        let saved = file[torn.clone()].to_vec();
        file[torn.clone()].fill(0xaa);
        let (_dir, handle) = on_disk(&file);
        assert_eq!(read(handle, &["key"]).unwrap()[0], entries(10, 10));
        file[torn].copy_from_slice(&saved);
    }
    file[..8192].fill(0);
    let (_dir, handle) = on_disk(&file);
    assert!(matches!(read(handle, &["key"]), Err(ReadError::NoMeta)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_entries_round_trip(sizes in prop::collection::vec((1usize..300, 0usize..6000), 0..200)) {
        let mut entries: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(number, (key, value))| {
                let mut name = (number as u32).to_be_bytes().to_vec();
                name.resize(4 + key, b'k');
                (name, vec![b'v'; *value])
            })
            .collect();
        entries.sort();
        check(&vec![("key", entries)]);
    }

    #[test]
    fn a_damaged_file_is_refused_or_read_but_never_panics(
        at in 0usize..40_000, bytes in prop::collection::vec(any::<u8>(), 1..24), cut in 0usize..60_000,
    ) {
        let mut file = write(&vec![("key", entries(1000, 20)), ("meta", entries(3, 5))]);
        for (offset, byte) in bytes.iter().enumerate() {
            if let Some(place) = file.get_mut(at + offset) {
                *place = *byte;
            }
        }
        file.truncate(cut.max(1));
        let (_dir, handle) = on_disk(&file);
        let _ = read(handle, &["key", "meta"]);
    }
}
