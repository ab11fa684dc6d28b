//! What every command works with: a client made as the flags say, and standard output in the wanted style.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use client::{Client, Config, User};

use crate::advice;
use crate::arguments::Global;
use crate::failure::{Failure, Status};
use crate::output::{Answer, Format, Style};
use crate::parse::Given;
use crate::run::{ask, srv};

/// What a command works with.
pub struct Context {
    pub global: Global,
    pub style: Style,
    given: Given,
}

/// TLS and the caller, as flags have them. There are two sets: `make-mirror` calls two clusters.
pub struct Credentials<'a> {
    pub cert: &'a str,
    pub key: &'a str,
    pub cacert: &'a str,
    pub insecure_transport: bool,
    pub skip_verify: bool,
    pub token: &'a str,
    pub user: &'a str,
    pub password: &'a str,
    /// How a password is asked for.
    pub prompt: &'static str,
}

impl Context {
    pub fn new(global: Global, given: Given) -> Result<Self, Failure> {
        let style = Style {
            format: Format::parse(&global.write_out).ok_or_else(|| {
                Failure::new(Status::Feature, "unsupported output format").cure(Format::ADVICE)
            })?,
            hex: global.hex,
            values_only: false,
        };
        for (flag, value) in [
            ("cert", &global.cert),
            ("key", &global.key),
            ("cacert", &global.cacert),
        ] {
            if given.has(flag) && value.is_empty() {
                return Err(Failure::arguments(format!(
                    "empty string is passed to --{flag} option"
                )));
            }
        }
        Ok(Self { global, style, given })
    }

    /// Writes an answer to standard output.
    pub fn show(&self, answer: &Answer) -> Result<(), Failure> {
        self.show_as(self.style, answer)
    }

    /// The same in another style.
    pub fn show_as(&self, style: Style, answer: &Answer) -> Result<(), Failure> {
        print(&style.render(answer)?)
    }

    /// Whether people read along: progress is drawn, and questions are asked.
    pub fn is_simple(&self) -> bool {
        self.style.format == Format::Simple
    }

    /// A client for short calls, each of which ends in time; while there is no leader, soon.
    pub async fn connect(&self) -> Result<Client, Failure> {
        Ok(self.connect_to_members().await?.requiring_leader())
    }

    /// A client for short calls that members answer without a leader, or that can wait for one.
    pub async fn connect_to_members(&self) -> Result<Client, Failure> {
        let endpoints = self.endpoints().await?;
        self.connect_to(endpoints, true).await
    }

    /// A client whose calls may take as long as they like, unless `--command-timeout` was given.
    pub async fn connect_for_long(&self) -> Result<Client, Failure> {
        let endpoints = self.endpoints().await?;
        self.connect_to(endpoints, self.given.has("command_timeout"))
            .await
    }

    /// How long a long job may take, if that was said.
    pub fn long_limit(&self) -> Option<Duration> {
        let is_said = self.given.has("command_timeout");
        is_said.then_some(self.global.command_timeout)
    }

    /// A client of some endpoints.
    pub async fn connect_to(&self, endpoints: Vec<String>, in_time: bool) -> Result<Client, Failure> {
        let config = self.config(endpoints, in_time, &self.credentials())?;
        advice::reached(advice::connected(Client::connect(config).await)?).await
    }

    /// Where the cluster is: what SRV records say, if they are asked, else `--endpoints`.
    pub async fn endpoints(&self) -> Result<Vec<String>, Failure> {
        let found = match self.global.discovery_srv.as_str() {
            "" => Vec::new(),
            domain => {
                let service = &self.global.discovery_srv_name;
                srv::endpoints(domain, service, self.global.insecure_discovery).await?
            }
        };
        if !found.is_empty() {
            return Ok(found);
        }
        // A comma too many, as templates leave it behind, is no endpoint.
        let given = self.global.endpoints.iter().map(|endpoint| endpoint.trim());
        let given: Vec<_> = given.filter(|endpoint| !endpoint.is_empty()).collect();
        match given.is_empty() {
            true => Err(Failure::new(
                Status::Connection,
                "etcdclient: no available endpoints",
            )),
            false => Ok(given.into_iter().map(str::to_owned).collect()),
        }
    }

    /// Whom certificates must be for: the domain that is asked for the members, since anybody can make up its records.
    fn discovered_name(&self) -> Option<String> {
        let domain = &self.global.discovery_srv;
        (!domain.is_empty() && !self.global.insecure_discovery).then(|| domain.clone())
    }

    /// TLS to this cluster, if it is spoken.
    pub fn tls(&self) -> Result<Option<tls::Settings>, Failure> {
        self.credentials().tls()
    }

    fn credentials(&self) -> Credentials<'_> {
        Credentials {
            cert: &self.global.cert,
            key: &self.global.key,
            cacert: &self.global.cacert,
            insecure_transport: self.global.insecure_transport,
            skip_verify: self.global.insecure_skip_tls_verify,
            token: &self.global.auth_jwt_token,
            user: &self.global.user,
            password: &self.global.password,
            prompt: "Password: ",
        }
    }

    /// What a client is told. A call ends in time if it is to.
    pub fn config(
        &self,
        endpoints: Vec<String>,
        in_time: bool,
        credentials: &Credentials<'_>,
    ) -> Result<Config, Failure> {
        let global = &self.global;
        let bytes = |flag: i64, default: usize| match usize::try_from(flag) {
            Ok(0) | Err(_) => default,
            Ok(bytes) => bytes,
        };
        let usual = Config::new(endpoints);
        Ok(Config {
            tls: credentials.tls()?,
            server_name: self.discovered_name(),
            user: credentials.user()?,
            dial_timeout: global.dial_timeout,
            call_timeout: in_time.then_some(global.command_timeout),
            keep_alive_interval: Some(global.keepalive_time).filter(|time| !time.is_zero()),
            keep_alive_timeout: global.keepalive_timeout,
            max_send_bytes: bytes(global.max_request_bytes, usual.max_send_bytes),
            max_receive_bytes: bytes(global.max_recv_bytes, usual.max_receive_bytes),
            ..usual
        })
    }
}

impl Credentials<'_> {
    fn tls(&self) -> Result<Option<tls::Settings>, Failure> {
        let is_said = !(self.cert.is_empty() && self.key.is_empty() && self.cacert.is_empty());
        if self.insecure_transport && !is_said && !self.skip_verify {
            return Ok(None);
        }
        let identity = match (self.cert, self.key) {
            ("", "") => None,
            (_, "") => return Err(Failure::arguments("--cert is given without --key")),
            ("", _) => return Err(Failure::arguments("--key is given without --cert")),
            (cert, key) => Some(tls::Identity {
                cert: cert.into(),
                key: key.into(),
            }),
        };
        let trust = match self.cacert {
            _ if self.skip_verify => tls::Trust::Anyone,
            "" => tls::Trust::System,
            file => tls::Trust::Authorities(file.into()),
        };
        Ok(Some(tls::Settings {
            identity,
            trust,
            ..Default::default()
        }))
    }

    fn user(&self) -> Result<Option<User>, Failure> {
        if !self.token.is_empty() {
            return Ok(Some(User::Token(self.token.to_owned())));
        }
        if self.user.is_empty() {
            return Ok(None);
        }
        let (name, password) = match self.user.split_once(':') {
            _ if !self.password.is_empty() => (self.user, self.password.to_owned()),
            Some((name, password)) => (name, password.to_owned()),
            None => (self.user, ask::secret(self.prompt).map_err(unasked)?),
        };
        // Nobody can sign in without one.
        Ok((!password.is_empty()).then(|| User::Password {
            name: name.to_owned(),
            password,
        }))
    }
}

fn unasked(error: io::Error) -> Failure {
    Failure::new(Status::Error, error)
        .cure("Give it with --password, as name:password, or by ETCDCTL_PASSWORD.")
}

/// Writes to standard output, at once. Who reads may have left: then there is nothing more to say.
pub fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silent(0)),
        written => Ok(written?),
    }
}

/// Whether there is somebody to be asked.
pub fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// A word of the command line as bytes.
pub fn bytes(word: &OsString) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    word.as_bytes().to_vec()
}

/// A word of the command line as text.
pub fn text(word: &OsString) -> Result<String, Failure> {
    word.clone()
        .into_string()
        .map_err(|word| Failure::arguments(format!("{} is not UTF-8", word.to_string_lossy())))
}

/// The only word there may be.
pub fn only<'a>(words: &'a [OsString], otherwise: &str) -> Result<&'a OsString, Failure> {
    match words {
        [word] => Ok(word),
        _ => Err(Failure::arguments(otherwise)),
    }
}

/// No word at all.
pub fn none(words: &[OsString], otherwise: &str) -> Result<(), Failure> {
    match words.is_empty() {
        true => Ok(()),
        false => Err(Failure::arguments(otherwise)),
    }
}
