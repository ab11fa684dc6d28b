//! `ETCD_ROOT_PASSWORD`: a cluster that has a user from its first start, on platforms that can set variables but run no
//! commands afterwards. `ETCD_ROOT_PASSWORD_FILE` names a file with the password in it, as secrets are mounted.
//!
//! Once the member serves, it makes the user `root`, gives it the role `root`, and switches authentication on, by the same
//! calls as anybody would. Each of them may already have been made by another member, or at an earlier start: that is no
//! failure, so members need not agree who does it. Once authentication is on nothing is done, so the variable changes no
//! password later. A variable rather than a flag, since flags are seen by everybody on the machine; it is never logged.

use std::env::{self, VarError};
use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use server::config::Config;
use thiserror::Error;
use tracing::{info, warn};

use crate::plain_http::{self, Answer};

/// The variable with the password.
pub const PASSWORD: &str = "ETCD_ROOT_PASSWORD";

/// The variable with the name of a file that has it.
pub const PASSWORD_FILE: &str = "ETCD_ROOT_PASSWORD_FILE";

/// How often it is tried: members may lose their leader just then.
const ATTEMPTS: u32 = 30;

/// The pause after an attempt that failed.
const PAUSE: Duration = Duration::from_secs(2);

/// The calls, in their order. The password goes into the first.
const CALLS: [&str; 4] = [
    "/v3/auth/user/add",
    "/v3/auth/role/add",
    "/v3/auth/user/grant",
    "/v3/auth/enable",
];

/// Why a server does not start with the password it was given.
#[derive(Debug, Error)]
pub enum Unusable {
    /// Two passwords.
    #[error("{PASSWORD} and {PASSWORD_FILE} are both set; leave one of them out")]
    Twice,
    /// No text.
    #[error("{0} is not valid UTF-8")]
    NotText(&'static str),
    /// No file.
    #[error("{PASSWORD_FILE}: {path}: {error}")]
    File {
        /// Its name.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// Nowhere to make the calls.
    #[error(
        "{PASSWORD} needs a plain listener of this machine to make the user by; add http://127.0.0.1:2378 to --listen-client-urls"
    )]
    NoPlainListener,
}

/// A user to be made, and where to ask for it.
#[derive(Debug)]
pub struct FirstUser {
    address: String,
    password: String,
}

/// What became of a call.
enum Outcome {
    Done,
    AlreadyOn,
    Failed(String),
}

impl FirstUser {
    /// What the environment asks for, if it does.
    pub fn wanted(config: &Config) -> Result<Option<Self>, Unusable> {
        let Some(password) = password()? else {
            return Ok(None);
        };
        let listeners = config.listen_client_http.iter().chain(&config.listen_client);
        let address = listeners
            .filter_map(|url| plain_http::address(&url.to_string()))
            .next()
            .ok_or(Unusable::NoPlainListener)?;
        Ok(Some(Self { address, password }))
    }

    /// Makes the user, on a thread of its own, as the calls wait for the cluster.
    pub fn settle(self) {
        thread::spawn(move || {
            for _ in 0..ATTEMPTS {
                match self.attempt() {
                    Outcome::Done => return info!("user root is there and authentication is on"),
                    Outcome::AlreadyOn => return,
                    Outcome::Failed(error) => warn!(error, "user root is not there yet"),
                }
                thread::sleep(PAUSE);
            }
            warn!("authentication is still off; make user root by hand, or restart this member");
        });
    }

    fn attempt(&self) -> Outcome {
        let body =
            json!({ "name": "root", "password": self.password, "user": "root", "role": "root" }).to_string();
        for call in CALLS {
            let answer = plain_http::request(&self.address, &format!("POST {call}"), &body);
            match answer.map(|answer| outcome(call, &answer)) {
                Ok(Outcome::Done) => {}
                Ok(other) => return other,
                Err(error) => return Outcome::Failed(format!("{call}: {error}")),
            }
        }
        Outcome::Done
    }
}

fn outcome(call: &str, answer: &Answer) -> Outcome {
    if answer.is_ok() {
        return Outcome::Done;
    }
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match body["message"].as_str() {
        Some("etcdserver: user name already exists" | "etcdserver: role name already exists") => {
            Outcome::Done
        }
        // With authentication on, nobody is a user without a name.
        Some("etcdserver: user name is empty") => Outcome::AlreadyOn,
        Some(message) => Outcome::Failed(format!("{call}: {message}")),
        None => Outcome::Failed(format!("{call}: {}", answer.status)),
    }
}

fn password() -> Result<Option<String>, Unusable> {
    match (variable(PASSWORD)?, variable(PASSWORD_FILE)?) {
        (Some(_), Some(_)) => Err(Unusable::Twice),
        (None, Some(path)) => match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(Unusable::File { path, error }),
        },
        (password, None) => Ok(password),
    }
}

/// A variable, unless it is empty, as etcd has it.
fn variable(name: &'static str) -> Result<Option<String>, Unusable> {
    match env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Unusable::NotText(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: &str, message: &str) -> Answer {
        Answer {
            status: format!("HTTP/1.0 {status}"),
            body: json!({ "code": 9, "message": message }).to_string(),
        }
    }

    #[test]
    fn what_another_member_has_made_already_is_no_failure() {
        let made = ["user name already exists", "role name already exists"];
        for message in made {
            let answer = answer("412 Precondition Failed", &format!("etcdserver: {message}"));
            assert!(matches!(outcome(CALLS[0], &answer), Outcome::Done), "{message}");
        }
    }

    #[test]
    fn once_authentication_is_on_nothing_is_changed() {
        let answer = answer("400 Bad Request", "etcdserver: user name is empty");
        assert!(matches!(outcome(CALLS[0], &answer), Outcome::AlreadyOn));
    }

    #[test]
    fn a_failure_names_the_call_and_never_the_password() {
        let no_leader = answer("503 Service Unavailable", "etcdserver: no leader");
        let Outcome::Failed(text) = outcome(CALLS[3], &no_leader) else {
            panic!("no leader is a failure");
        };
        assert_eq!(text, "/v3/auth/enable: etcdserver: no leader");
        let no_gateway = Answer {
            status: "HTTP/1.0 404 Not Found".into(),
            body: "404 page not found".into(),
        };
        assert!(
            matches!(outcome(CALLS[0], &no_gateway), Outcome::Failed(text) if text.ends_with("404 Not Found"))
        );
    }
}
