//! etcd's wire messages, one module per proto package, generated from the files in `proto/`.
//!
//! Every `bytes` field is a [`bytes::Bytes`]: decoding slices the received buffer and copies
//! nothing. Services are not generated here but in crate `grpc`, so that the core can use the
//! messages without a network stack. [`RPCS`] names every call of every service, such as `etcdserverpb.KV/Range`, for
//! tests that must not miss one.

#![allow(missing_docs, clippy::all, rustdoc::all)]

include!(concat!(env!("OUT_DIR"), "/messages.rs"));
include!(concat!(env!("OUT_DIR"), "/rpcs.rs"));

/// The messages and services themselves, as an encoded `FileDescriptorSet`: for who works with fields by their names.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
