//! etcd's JSON gateway, without its sockets.
//!
//! etcd serves most of its calls as JSON over HTTP too: a `POST` to a route such as `/v3/kv/range`, with the request
//! message as JSON in the body. This crate is the mapping, and nothing else:
//!
//! ```text
//! path ──► Method ── body ──► Values ── JSON ──► Method::read ──► message ──► the service
//!                                                                                │
//!               a whole answer, or a line of a stream ◄── Method::write ◄── message
//! ```
//!
//! * [`Method::at`] finds the call of a route. The routes are one table, and a test holds it against the services: a
//!   call without a route has to be named as such.
//! * JSON is that of proto3: 64-bit numbers are strings, bytes are base64, enums have names, fields at their default
//!   are left out. Names in answers are those of the .proto files; requests may have them in lower camel case too.
//! * What is wrong with a request is said in the words of the real gateway ([`Refusal`]), which are those of Go's
//!   decoders: with line and column, and the piece of text that is at fault. Scripts print them.
//! * Whatever is read here comes from strangers. Sizes and depths have limits, and nothing is held twice.
//!
//! Sources: the proto3 JSON mapping of protobuf's documentation; what etcd 3.5.30 answers, which
//! `crates/conformance/scripts/gateway` has on record.

mod deadline;
mod read;
mod refusal;
mod routes;
mod values;
mod write;

pub use deadline::deadline;
pub use refusal::{Refusal, http_status};
pub use routes::Method;
pub use values::Values;
