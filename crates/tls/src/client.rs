//! Connecting.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::files::{Contents, system_authorities};
use crate::reload::Reloading;
use crate::verify::{Believed, Servers};
use crate::{Alpn, Identity, Settings, TlsError, Trust};

/// Makes connections. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Reloading<ClientConfig>>);

impl Client {
    /// A client that speaks `alpn`, and shows a certificate if it has one.
    pub fn new(settings: &Settings, alpn: Alpn) -> Result<Self, TlsError> {
        settings.check(settings.identity.as_ref())?;
        let identity = settings
            .client_identity
            .as_ref()
            .or(settings.identity.as_ref())
            .cloned();
        let mut files = BTreeSet::new();
        if let Some(Identity { cert, key }) = &identity {
            files.extend([cert.clone(), key.clone()]);
        }
        files.extend(settings.trust.file().cloned());
        let settings = settings.clone();
        let make = move |contents: &Contents| config(&settings, identity.as_ref(), alpn, contents);
        Reloading::new(files, Box::new(make)).map(|config| Client(Arc::new(config)))
    }

    /// Shakes hands with the server of that name or address.
    pub async fn connect<S>(&self, host: &str, socket: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let no_name = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let name = ServerName::try_from(host.to_owned()).map_err(no_name)?;
        let config = self.0.current().await;
        TlsConnector::from(config).connect(name, socket).await
    }
}

fn config(
    settings: &Settings,
    identity: Option<&Identity>,
    alpn: Alpn,
    contents: &Contents,
) -> Result<ClientConfig, TlsError> {
    let provider = settings.protocols.provider();
    let chain = |roots: RootCertStore| -> Result<Believed, TlsError> {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
        Ok(Believed::Chain(verifier.build()?))
    };
    let servers = Servers {
        believed: match &settings.trust {
            Trust::Anyone => Believed::Anyone,
            Trust::Authorities(file) => chain(contents.authorities(file)?)?,
            Trust::System => match system_authorities() {
                roots if roots.is_empty() => Believed::Nobody,
                roots => chain(roots)?,
            },
        },
        allowed: settings.allowed.clone(),
        provider: provider.clone(),
    };
    let identity = identity.map(|identity| contents.identity(identity, &provider));
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&settings.protocols.versions())
        .map_err(TlsError::NoProtocol)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers));
    let mut config = match identity.transpose()? {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(config)
}
