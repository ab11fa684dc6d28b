//! Certificates from files to what rustls works with.
//!
//! Both ends name no protocol (ALPN): peers speak HTTP/1.1 only, and Go members offer `h2` alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

/// A certificate, with those that vouch for it, and its key: two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The file of the certificates, one's own first.
    pub cert: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
}

/// Whom a client believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Who has a certificate for the name that was dialed, signed by one of those in the file.
    Authorities(PathBuf),
    /// The same, signed by one of those this machine trusts.
    System,
    /// Everybody: what is exchanged is encrypted, but nobody knows with whom (`--peer-auto-tls`).
    Anyone,
}

/// Why there is no TLS. Each names the file, if it is about one.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file can't be read.
    #[error("cannot read {}: {cause}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The file is not PEM, or has none of what is needed.
    #[error("no {what} in {}: {cause}", file.display())]
    Missing {
        /// What was looked for.
        what: &'static str,
        /// Which file.
        file: PathBuf,
        /// What was found instead.
        cause: pem::Error,
    },
    /// What is in the file can't be used.
    #[error("cannot use {}: {cause}", file.display())]
    Unusable {
        /// Which file.
        file: PathBuf,
        /// Why.
        cause: rustls::Error,
    },
    /// Certificates can't be checked with what is in the file.
    #[error("cannot verify certificates with {}: {cause}", file.display())]
    NoVerifier {
        /// Which file.
        file: PathBuf,
        /// Why.
        cause: VerifierBuilderError,
    },
    /// The machine trusts nobody.
    #[error("cannot verify certificates with those this machine trusts: {0}")]
    NoSystemVerifier(VerifierBuilderError),
}

/// How to connect: with a certificate if there is one, to those that are trusted.
pub fn client_config(identity: Option<&Identity>, trust: &Trust) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has what TLS 1.2 and 1.3 need");
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anyone => Arc::new(Anyone(provider())),
        Trust::Authorities(file) => {
            let roots = Arc::new(authorities(file)?);
            WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|cause| no_verifier(file, cause))?
        }
        Trust::System => {
            WebPkiServerVerifier::builder_with_provider(Arc::new(system_authorities()), provider())
                .build()
                .map_err(TlsError::NoSystemVerifier)?
        }
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => {
            let (certs, key) = identity.load()?;
            builder
                .with_client_auth_cert(certs, key)
                .map_err(|cause| unusable(&identity.cert, cause))
        }
    }
}

/// How to be connected to. With `clients`, only by those with a certificate signed by one of those in that
/// file.
pub fn server_config(identity: &Identity, clients: Option<&Path>) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has what TLS 1.2 and 1.3 need");
    let verifier = match clients {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(file) => {
            let roots = Arc::new(authorities(file)?);
            WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|cause| no_verifier(file, cause))?
        }
    };
    let (certs, key) = identity.load()?;
    builder
        .with_client_cert_verifier(verifier)
        .with_single_cert(certs, key)
        .map_err(|cause| unusable(&identity.cert, cause))
}

impl Identity {
    fn load(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?);
        let key = key.map_err(|cause| missing("key", &self.key, cause))?;
        Ok((certificates(&self.cert)?, key))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn authorities(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|cause| unusable(file, cause))?;
    }
    Ok(roots)
}

/// What this machine trusts. A certificate among them that can't be read is one that is not trusted.
fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    match found {
        Ok(found) if found.is_empty() => Err(missing("certificate", file, pem::Error::NoItemsFound)),
        Ok(found) => Ok(found),
        Err(cause) => Err(missing("certificate", file, cause)),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|cause| TlsError::Unreadable {
        file: file.to_owned(),
        cause,
    })
}

fn missing(what: &'static str, file: &Path, cause: pem::Error) -> TlsError {
    let file = file.to_owned();
    TlsError::Missing { what, file, cause }
}

fn unusable(file: &Path, cause: rustls::Error) -> TlsError {
    let file = file.to_owned();
    TlsError::Unusable { file, cause }
}

fn no_verifier(file: &Path, cause: VerifierBuilderError) -> TlsError {
    let file = file.to_owned();
    TlsError::NoVerifier { file, cause }
}

/// Believes every certificate, but wants its key to be there.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
