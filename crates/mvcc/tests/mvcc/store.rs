//! A store in memory with its apply side, for the tests.

use std::sync::Arc;

use mvcc::{Cursor, Head, KeyIndex, KvFields, MemoryValues, Mvcc, Values};
use types::{KeyRange, LeaseId, Revision};

pub struct Store {
    pub values: Arc<MemoryValues>,
    pub mvcc: Arc<Mvcc>,
    pub head: Head,
}

impl Store {
    pub fn new() -> Self {
        let values = Arc::new(MemoryValues::default());
        Store::over(values.clone(), values)
    }

    /// A store whose readers go through something that may stand in their way.
    pub fn over(values: Arc<MemoryValues>, readers: Arc<dyn Values>) -> Self {
        let mvcc = Mvcc::new(KeyIndex::new(), readers, Revision::FIRST, -1);
        Store {
            values,
            head: Head::new(mvcc.clone()),
            mvcc,
        }
    }

    pub fn put(&mut self, key: &str, value: &str) -> i64 {
        self.put_leased(key, value, 0)
    }

    pub fn put_leased(&mut self, key: &str, value: &str, lease: i64) -> i64 {
        let mut txn = self.head.begin();
        txn.put(key.as_bytes(), value.as_bytes(), LeaseId(lease));
        txn.finish();
        self.publish()
    }

    pub fn delete(&mut self, key: &str) -> i64 {
        self.head
            .begin()
            .delete_range(&KeyRange::One(key.to_owned().into()));
        self.publish()
    }

    pub fn publish(&mut self) -> i64 {
        let batch = self.head.seal(1, 1, None);
        self.values.append(&batch);
        self.mvcc
            .publish(batch.commit.revision, batch.commit.compact_revision);
        batch.commit.revision
    }

    /// Compacts, and drops from the store what can be dropped.
    pub fn compact(&mut self, revision: i64) {
        self.head.compact(revision).unwrap();
        self.publish();
        let mut cursor = Cursor::default();
        while !cursor.is_done() {
            self.values
                .forget(&self.mvcc.compact_step(&mut cursor, 7).dropped);
        }
    }
}

/// Key and value of stored bytes, as text.
pub fn text(kvs: &[bytes::Bytes]) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields = |kv: &bytes::Bytes| KvFields::parse(kv).map(|kv| (text(kv.key), text(kv.value)));
    kvs.iter().map(|kv| fields(kv).unwrap()).collect()
}
