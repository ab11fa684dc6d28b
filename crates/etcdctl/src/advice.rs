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
            other => {
                let text = other.to_string();
                let failure = Failure::new(Status::Error, &text);
                match cure_of(&text) {
                    Some(cure) => failure.cure(cure),
                    None => failure,
                }
            }
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
        Cause::NotValidNow(why) => format!("{endpoint} shows a certificate that is not valid now ({why})"),
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
        Cause::NotValidNow(_) => "It has to be renewed; or a clock is wrong, there or here.",
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

/// What to do about some errors.
fn cure_of(message: &str) -> Option<&'static str> {
    match message.strip_prefix("etcdserver: ") {
        Some(refusal) => cure_of_refusal(refusal),
        None if message.ends_with(" is no endpoint") => {
            Some("An endpoint is host:port, http://host:port, https://host:port, or unix:path.")
        }
        None if message.starts_with("trying to send message larger than max") => {
            Some("--max-request-bytes says how large a request may be, here and for the server.")
        }
        None if message.starts_with("grpc: received message larger than max") => Some(
            "--max-recv-bytes says how large an answer may be; the server's --max-request-bytes, a request.",
        ),
        None if message.starts_with("unknown method ") => {
            Some("The server is of a release that does not have this yet.")
        }
        None => None,
    }
}

/// The same for what a server says.
fn cure_of_refusal(refusal: &str) -> Option<&'static str> {
    Some(match refusal {
        "mvcc: database space exceeded" => {
            "Compact old revisions (`etcdctl compaction`), give their space back (`etcdctl defrag`; not needed if the \
             server is Keelson), and clear the alarm with `etcdctl alarm disarm`; or raise the server's \
             --quota-backend-bytes."
        }
        "mvcc: required revision has been compacted" => {
            "What was before the last compaction is gone. Without --rev it is the newest revision that counts."
        }
        "mvcc: required revision is a future revision" => {
            "`etcdctl endpoint status -w fields` tells the newest revision."
        }
        "corrupt cluster" | "corrupt alarm" => {
            "A member's data differs from the others'. `etcdctl alarm list` names it: remove it with \
             `etcdctl member remove`, and add it again with an empty data folder."
        }
        "no leader" | "not leader" | "leader changed" => {
            "No majority of the members sees each other. `etcdctl endpoint status --cluster` shows who can be reached."
        }
        "user name is empty" => "Users are asked for: say who you are with --user=name:password.",
        "authentication failed, invalid user ID or password" => "Are --user and --password right?",
        "permission denied" => {
            "The user's roles do not permit this: `etcdctl user get <name> --detail`, called by root, shows what they do."
        }
        "request is too large" => "The server's --max-request-bytes says how large a request may be.",
        "too many requests" => "The server has more to do than it can; try again later.",
        "re-configuration failed due to not enough started members" | "unhealthy cluster" => {
            "`etcdctl endpoint status --cluster` shows which members can be reached."
        }
        "can only promote a learner member which is in sync with leader" => {
            "It is still catching up; try again later."
        }
        "invalid auth token" => "Show a token that has not expired, or sign in with --user.",
        _ => return None,
    })
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
        assert!(shown(server("unknown method RangeStream for service etcdserverpb.KV")).contains("release"));
        let larger = Error::TooLarge { size: 3, max: 2 };
        assert!(shown(larger).contains("--max-request-bytes"));
    }

    #[test]
    fn a_client_that_cannot_be_made_has_a_status_of_its_own() {
        let status = |error| connected::<()>(Err(error)).unwrap_err().status;
        assert_eq!(status(Error::Closed), 2);
        assert_eq!(status(Error::Config("no endpoints".into())), 128);
    }
}
