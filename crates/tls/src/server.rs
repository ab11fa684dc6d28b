//! Being connected to.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::files::{Contents, system_authorities};
use crate::reload::Reloading;
use crate::verify::{Clients, common_name, serials};
use crate::{Alpn, Identity, Settings, TlsError, Trust};

/// Takes connections. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    rules: Arc<Reloading<Rules>>,
    /// Whether there is a list of revocations.
    lists_revoked: bool,
}

/// What holds for handshakes.
struct Rules {
    config: Arc<ServerConfig>,
    revoked: Arc<BTreeSet<Vec<u8>>>,
}

/// What a client has shown, and was found to be good.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Its certificate, if it has shown one.
    pub certificate: Option<CertificateDer<'static>>,
}

impl Shown {
    /// The common name in the certificate, if there is one with a name.
    pub fn common_name(&self) -> Option<String> {
        self.certificate.as_ref().and_then(common_name)
    }
}

/// How long what a client has shown is good.
#[derive(Clone)]
pub struct Validity {
    rules: watch::Receiver<Arc<Rules>>,
    /// The numbers of all certificates that were shown.
    serials: Arc<BTreeSet<Vec<u8>>>,
}

impl Validity {
    /// Waits until one of the certificates is found on the list of revocations; for ever if none ever is.
    pub async fn end(&mut self) {
        let is_over = |rules: &Arc<Rules>| !rules.revoked.is_disjoint(&self.serials);
        if self.rules.wait_for(is_over).await.is_err() {
            // The server is gone, and reads no list any more.
            std::future::pending::<()>().await;
        }
    }
}

impl Server {
    /// A server with `identity`, which speaks `alpn`.
    pub fn new(settings: &Settings, identity: &Identity, alpn: Alpn) -> Result<Self, TlsError> {
        settings.check(Some(identity))?;
        let mut files = BTreeSet::from([identity.cert.clone(), identity.key.clone()]);
        if settings.requires_certificate {
            files.extend(settings.trust.file().cloned());
            files.extend(settings.revoked.clone());
        }
        let lists_revoked = settings.requires_certificate && settings.revoked.is_some();
        let (settings, identity) = (settings.clone(), identity.clone());
        let make = move |contents: &Contents| rules(&settings, &identity, alpn, contents);
        let rules = Arc::new(Reloading::new(files, Box::new(make))?);
        Ok(Server { rules, lists_revoked })
    }

    /// Shakes hands. Has as much time as it takes.
    pub async fn accept<S>(&self, socket: S) -> io::Result<(TlsStream<S>, Shown)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let rules = self.rules.current().await;
        let stream = TlsAcceptor::from(rules.config.clone()).accept(socket).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(|shown| shown.first());
        let certificate = certificate.map(|certificate| certificate.clone().into_owned());
        Ok((stream, Shown { certificate }))
    }

    /// How long what the client of a connection has shown is good. It ends when files are read, by a handshake or by
    /// [`Server::keep_reading`].
    pub fn validity<S>(&self, stream: &TlsStream<S>) -> Validity {
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Validity {
            rules: self.rules.subscribe(),
            serials: Arc::new(serials(shown)),
        }
    }

    /// Reads the files each time `every` is over, for those who are connected already. Ends at once if no list of
    /// revocations is among them, else never.
    pub async fn keep_reading(&self, every: Duration) {
        if !self.lists_revoked {
            return;
        }
        loop {
            tokio::time::sleep(every).await;
            self.rules.current().await;
        }
    }
}

fn rules(
    settings: &Settings,
    identity: &Identity,
    alpn: Alpn,
    contents: &Contents,
) -> Result<Rules, TlsError> {
    let revoked = Arc::new(settings.revoked(contents)?);
    let config = Arc::new(config(settings, identity, alpn, contents, &revoked)?);
    Ok(Rules { config, revoked })
}

fn config(
    settings: &Settings,
    identity: &Identity,
    alpn: Alpn,
    contents: &Contents,
    revoked: &Arc<BTreeSet<Vec<u8>>>,
) -> Result<ServerConfig, TlsError> {
    let provider = settings.protocols.provider();
    let identity = contents.identity(identity, &provider)?;
    let clients: Arc<dyn ClientCertVerifier> = match settings.requires_certificate {
        false => WebPkiClientVerifier::no_client_auth(),
        true => {
            let roots = match &settings.trust {
                Trust::Authorities(file) => contents.authorities(file)?,
                Trust::System | Trust::Anyone => system_authorities(),
            };
            Arc::new(Clients {
                chain: WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build()?,
                allowed: settings.allowed.clone(),
                revoked: Arc::clone(revoked),
            })
        }
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&settings.protocols.versions())
        .map_err(TlsError::NoProtocol)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

impl Settings {
    fn revoked(&self, contents: &Contents) -> Result<BTreeSet<Vec<u8>>, TlsError> {
        match &self.revoked {
            Some(file) if self.requires_certificate => contents.revoked(file),
            _ => Ok(BTreeSet::new()),
        }
    }

    /// Whether all pairs of files are pairs.
    pub(crate) fn check(&self, identity: Option<&Identity>) -> Result<(), TlsError> {
        let half = |identity: &&Identity| {
            identity.cert.as_os_str().is_empty() || identity.key.as_os_str().is_empty()
        };
        if let Some(identity) = identity.filter(half) {
            return Err(TlsError::HalfIdentity(identity.clone()));
        }
        match self.client_identity.as_ref().filter(half) {
            Some(identity) => Err(TlsError::HalfClientIdentity(identity.clone())),
            None => Ok(()),
        }
    }
}

impl Trust {
    pub(crate) fn file(&self) -> Option<&PathBuf> {
        match self {
            Trust::Authorities(file) => Some(file),
            Trust::System | Trust::Anyone => None,
        }
    }
}
