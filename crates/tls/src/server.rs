//! Being connected to.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::files::{Contents, system_authorities};
use crate::reload::Reloading;
use crate::verify::{Clients, common_name};
use crate::{Alpn, Identity, Settings, TlsError, Trust};

/// Takes connections. Cheap to clone.
#[derive(Clone)]
pub struct Server(Arc<Reloading<ServerConfig>>);

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

impl Server {
    /// A server with `identity`, which speaks `alpn`.
    pub fn new(settings: &Settings, identity: &Identity, alpn: Alpn) -> Result<Self, TlsError> {
        settings.check(Some(identity))?;
        let mut files = BTreeSet::from([identity.cert.clone(), identity.key.clone()]);
        if settings.requires_certificate {
            files.extend(settings.trust.file().cloned());
            files.extend(settings.revoked.clone());
        }
        let (settings, identity) = (settings.clone(), identity.clone());
        let make = move |contents: &Contents| config(&settings, &identity, alpn, contents);
        Reloading::new(files, Box::new(make)).map(|config| Server(Arc::new(config)))
    }

    /// Shakes hands. Has as much time as it takes.
    pub async fn accept<S>(&self, socket: S) -> io::Result<(TlsStream<S>, Shown)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.0.current().await;
        let stream = TlsAcceptor::from(config).accept(socket).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(|shown| shown.first());
        let certificate = certificate.map(|certificate| certificate.clone().into_owned());
        Ok((stream, Shown { certificate }))
    }
}

fn config(
    settings: &Settings,
    identity: &Identity,
    alpn: Alpn,
    contents: &Contents,
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
                revoked: settings.revoked(contents)?,
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
        let revoked = self.revoked.as_ref().map(|file| contents.revoked(file));
        revoked.unwrap_or_else(|| Ok(BTreeSet::new()))
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
