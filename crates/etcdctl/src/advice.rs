//! Errors of the client with their cause and what to do about it.
//!
//! What a server says is passed on in its words, as scripts look for them. That nobody is reached has many causes, and
//! etcd's own tool has one text for all of them; here each is named, and comes as soon as it is certain.

use client::{Cause, Client, Error, Unreachable};

use crate::failure::{Failure, Status};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Unreachable(why) | Error::Deadline(Some(why)) => unreachable(&why),
            Error::Deadline(None) => Failure::new(Status::Error, "context deadline exceeded").cure(
                "The endpoint is connected and does not answer in time: the cluster may have no leader, or is too \
                 busy. Ask it with `etcdctl endpoint status --cluster`, or wait longer with --command-timeout.",
            ),
            Error::Server { ref message, .. } => {
                let failure = Failure::new(Status::Error, message);
                match cure_of(message) {
                    Some(cure) => failure.cure(cure),
                    None => failure,
                }
            }
            other => Failure::new(Status::Error, other),
        }
    }
}

/// A client that could not be made ends the program with a status of its own.
pub fn connected<T>(made: Result<T, Error>) -> Result<T, Failure> {
    made.map_err(|error| {
        let status = match error {
            Error::Config(_) => Status::Arguments,
            _ => Status::Connection,
        };
        Failure {
            status: status as u8,
            ..error.into()
        }
    })
}

/// The client, as soon as one of its endpoints is connected; or why none of them can be.
pub async fn reached(client: Client) -> Result<Client, Failure> {
    match client.reached().await {
        Ok(()) => Ok(client),
        Err(why) => Err(unreachable(&why)),
    }
}

/// Why an endpoint is not reached, on one line.
pub fn cause(why: &Unreachable) -> String {
    let endpoint = &why.endpoint;
    match &why.cause {
        Cause::Refused => format!("{endpoint} refused the connection"),
        Cause::UnknownName { name, reason } => format!("{endpoint}: there is no host {name} ({reason})"),
        Cause::PlainServer => format!("{endpoint} speaks plain text, and was called with TLS"),
        Cause::TlsServer => format!("{endpoint} speaks TLS, and was called in plain text"),
        Cause::NotTrusted(why) => format!("{endpoint} shows a certificate that is not trusted ({why})"),
        Cause::WrongName(why) => format!("{endpoint} shows a certificate for another name ({why})"),
        Cause::CertificateRequired(_) => format!("{endpoint} asks for a client certificate"),
        Cause::CertificateRefused(why) => {
            format!("{endpoint} does not accept the client certificate ({why})")
        }
        Cause::Handshake(why) => format!("the TLS handshake with {endpoint} failed ({why})"),
        Cause::NotGrpc(why) => format!("{endpoint} is not an etcd server ({why})"),
        Cause::Timeout => format!("{endpoint} does not answer"),
        Cause::Io(why) => format!("{endpoint} cannot be reached ({why})"),
    }
}

fn unreachable(why: &Unreachable) -> Failure {
    let cure = match &why.cause {
        Cause::Refused => "Is etcd running there? --endpoints says where it is.",
        Cause::UnknownName { .. } => "Is the name in --endpoints spelled right?",
        Cause::PlainServer => "Use http:// in --endpoints, and leave --cacert, --cert and --key away.",
        Cause::TlsServer => {
            "Use https:// in --endpoints, and name the authority of its certificate with --cacert."
        }
        Cause::NotTrusted(_) => "Name the file of the authority that signed it with --cacert.",
        Cause::WrongName(_) => "Use a name in --endpoints that is in the certificate.",
        Cause::CertificateRequired(_) => "Show one with --cert and --key.",
        Cause::CertificateRefused(_) => {
            "Is it signed by an authority that the server trusts, and still valid?"
        }
        Cause::Handshake(_) => "Do --cacert, --cert and --key fit this cluster?",
        Cause::NotGrpc(_) => {
            "Is this the client port (2379), and not the peer port (2380) or one for metrics?"
        }
        Cause::Timeout => "Is the host up, and does a firewall let the port through?",
        Cause::Io(_) => "--endpoints says where etcd is.",
    };
    Failure::new(Status::Error, cause(why)).cure(cure)
}

/// What to do about some refusals of a server.
fn cure_of(message: &str) -> Option<&'static str> {
    match message.strip_prefix("etcdserver: ")? {
        "mvcc: database space exceeded" => Some(
            "Compact old revisions, defragment (`etcdctl defrag`), and clear the alarm with `etcdctl alarm disarm`; or \
             raise the server's --quota-backend-bytes.",
        ),
        "user name is empty" => Some("Users are asked for: say who you are with --user=name:password."),
        "request is too large" => Some("The server's --max-request-bytes says how large a request may be."),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(error: Error) -> String {
        Failure::from(error).to_string()
    }

    #[test]
    fn a_cause_is_named_with_its_cure() {
        let why = Unreachable {
            endpoint: "127.0.0.1:2379".into(),
            cause: Cause::Refused,
        };
        assert_eq!(
            shown(Error::Deadline(Some(why))),
            "Error: 127.0.0.1:2379 refused the connection\n  Is etcd running there? --endpoints says where it is.\n"
        );
    }

    #[test]
    fn what_the_server_says_stays_what_it_says() {
        let server = |message: &str| Error::Server {
            code: tonic::Code::NotFound,
            message: message.into(),
        };
        assert_eq!(
            shown(server("etcdserver: requested lease not found")),
            "Error: etcdserver: requested lease not found\n"
        );
        assert!(shown(server("etcdserver: user name is empty")).contains("--user="));
    }

    #[test]
    fn a_client_that_cannot_be_made_has_a_status_of_its_own() {
        let status = |error| connected::<()>(Err(error)).unwrap_err().status;
        assert_eq!(status(Error::Closed), 2);
        assert_eq!(status(Error::Config("no endpoints".into())), 128);
    }
}
