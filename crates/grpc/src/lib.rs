//! Client and server stubs of etcd's services, generated over the messages of crate `proto`.

#![allow(missing_docs, clippy::all, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/services.rs"));

/// Server stubs of KV and Watch for answers that are mostly encoded already.
///
/// Most of what these services send are `KeyValue`s, byte for byte as they are stored. Their answers
/// are here those of `proto::raw`, and [`watch::Frame`] for Watch, so that nothing is decoded only to
/// be encoded again. Clients see no difference. The stubs come out of the same generator, from the
/// same services:
///
/// ```text
/// grpc::hot::etcdserverpb::kv_server::{Kv, KvServer}
/// grpc::hot::etcdserverpb::watch_server::{Watch, WatchServer}
/// ```
pub mod hot {
    include!(concat!(env!("OUT_DIR"), "/hot/services.rs"));
}
