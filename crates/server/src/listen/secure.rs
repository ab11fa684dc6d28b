//! Which listener is secured how, and the certificates that a member makes for itself.

use std::path::Path;

use crate::config::{Config, Tls, Trust, Url};

use super::ListenError;

/// How the connections of a listener begin.
#[derive(Clone, Default)]
pub(super) struct Security {
    /// Without TLS.
    pub plain: bool,
    /// With TLS. If a port has both, the first byte tells.
    pub tls: Option<Secured>,
}

/// TLS on a listener.
#[derive(Clone)]
pub(super) struct Secured {
    pub server: tls::Server,
    /// Whether clients must come from where their certificates say.
    pub checks_address: bool,
}

impl Security {
    /// That of a URL, for which `secured` is at hand.
    pub fn of(url: &Url, secured: Option<&Secured>) -> Self {
        match url.scheme().is_tls() {
            true => Security {
                plain: false,
                tls: secured.cloned(),
            },
            false => Security {
                plain: true,
                tls: None,
            },
        }
    }

    /// Both.
    pub fn and(self, other: Security) -> Self {
        Security {
            plain: self.plain || other.plain,
            tls: self.tls.or(other.tls),
        }
    }
}

/// The TLS of some URLs; none if no URL asks for it. `missing` says what is wrong if it can't be had.
pub(super) fn secured<'a>(
    tls: &Tls,
    mut urls: impl Iterator<Item = &'a Url>,
    alpn: tls::Alpn,
    checks_address: bool,
    missing: fn(Url) -> ListenError,
) -> Result<Option<Secured>, ListenError> {
    let Some(url) = urls.find(|url| url.scheme().is_tls()) else {
        return Ok(None);
    };
    let identity = tls
        .settings
        .identity
        .as_ref()
        .ok_or_else(|| missing(url.clone()))?;
    let server = tls::Server::new(&tls.settings, identity, alpn)?;
    Ok(Some(Secured {
        server,
        checks_address,
    }))
}

/// Makes the certificates of `--auto-tls` and `--peer-auto-tls`, or finds those made before.
pub fn sign_own(config: &mut Config) -> Result<(), ListenError> {
    let fixtures = config.data_dir.join("fixtures");
    let years = config.self_signed_cert_validity;
    let clients = config.listen_client.iter().chain(&config.listen_client_http);
    let client_hosts = hosts(clients);
    sign(&mut config.client_tls, "client", &fixtures, &client_hosts, years)?;
    let peer_hosts = hosts(config.listen_peer.iter());
    sign(&mut config.peer_tls, "peer", &fixtures, &peer_hosts, years)
}

fn hosts<'a>(urls: impl Iterator<Item = &'a Url>) -> Vec<String> {
    let tcp = urls.filter(|url| !url.scheme().is_unix());
    let mut hosts: Vec<_> = tcp.map(|url| url.host().to_owned()).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn sign(
    tls: &mut Tls,
    whose: &str,
    fixtures: &Path,
    hosts: &[String],
    years: u64,
) -> Result<(), ListenError> {
    if !tls.auto {
        return Ok(());
    }
    if tls.settings.identity.is_some() {
        tracing::warn!("ignoring {whose} auto TLS since certs given");
        return Ok(());
    }
    let identity = tls::self_signed(&fixtures.join(whose), hosts, years)?;
    if tls.settings.requires_certificate {
        tracing::warn!(
            "auto TLS asks nobody for a certificate; the flags of the {whose} ports about authorities and \
             certificates of others are ignored"
        );
    }
    tls.settings = tls::Settings {
        identity: Some(identity),
        trust: Trust::Anyone,
        protocols: tls.settings.protocols.clone(),
        ..Default::default()
    };
    tls.asks_certificate = false;
    Ok(())
}

/// Logs what a URL leaves unused of the flags.
pub(super) fn warn_of_plain(url: &Url, tls: &Tls, is_peer: bool) {
    let given = tls.settings.identity.is_some();
    match (
        is_peer,
        url.scheme().is_tls() || is_peer && url.scheme().is_unix(),
    ) {
        (_, true) => {}
        (false, false) => {
            if given {
                tracing::warn!(
                    "client-url" = url.as_str(),
                    "scheme is http or unix while key and cert files are present; ignoring key and cert files"
                );
            }
            if tls.asks_certificate {
                tracing::warn!(
                    "client-url" = url.as_str(),
                    "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL"
                );
            }
        }
        (true, false) => {
            if given {
                tracing::warn!(
                    "peer-url" = url.as_str(),
                    "scheme is HTTP while key and cert files are present; ignoring key and cert files"
                );
            }
            if tls.asks_certificate {
                tracing::warn!(
                    "peer-url" = url.as_str(),
                    "scheme is HTTP while --peer-client-cert-auth is enabled; ignoring client cert auth for this URL"
                );
            }
        }
    }
}
