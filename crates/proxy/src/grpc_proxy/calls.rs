//! Calls that go on to the cluster, one for one, on behalf of who makes them.

use client::{Client, Error};
use tonic::{Request, Response, Status};

/// The client for a call: with the caller's token, and with what it says about leaders.
pub fn for_call<T>(client: &Client, request: &Request<T>) -> Client {
    let metadata = request.metadata();
    let token = metadata.get("token").or_else(|| metadata.get("authorization"));
    let client = client.on_behalf_of(token.cloned());
    match metadata.get("hasleader").is_some_and(|value| value == "true") {
        true => client.requiring_leader(),
        false => client,
    }
}

/// An answer of the cluster as this proxy's.
pub fn answer<T>(answer: Result<T, Error>) -> Result<Response<T>, Status> {
    answer.map(Response::new).map_err(status)
}

/// An error as callers see it: the cluster's own in its words; all others mean that it is not reached.
pub fn status(error: Error) -> Status {
    match error {
        Error::Server { code, message } => Status::new(code, message),
        error @ Error::Compacted { .. } => Status::out_of_range(error.to_string()),
        error @ Error::TooLarge { .. } => Status::resource_exhausted(error.to_string()),
        error => Status::unavailable(error.to_string()),
    }
}
