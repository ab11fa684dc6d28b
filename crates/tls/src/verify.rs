//! Rules beyond the chain of signatures.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Allowed;
use crate::files::serial;

/// A certificate's common name; the last one, if it has several.
pub fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject().iter_common_name();
    let name = names.last()?.as_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// Refuses a certificate that does not say what it must. It is not valid for a name that is asked for:
/// that makes the alert `bad_certificate`, as Go's.
fn check_allowed(allowed: &Allowed, certificate: &CertificateDer<'_>) -> Result<(), Error> {
    let is_allowed = match allowed {
        Allowed::Any => true,
        Allowed::CommonNames(names) => common_name(certificate).is_some_and(|name| names.contains(&name)),
        Allowed::Hostnames(names) => {
            let certificate = ParsedCertificate::try_from(certificate)?;
            let names = names
                .iter()
                .filter_map(|name| ServerName::try_from(name.as_str()).ok());
            names
                .into_iter()
                .any(|name| verify_server_name(&certificate, &name).is_ok())
        }
    };
    match is_allowed {
        true => Ok(()),
        false => Err(CertificateError::NotValidForName.into()),
    }
}

/// The serial numbers of certificates.
pub fn serials(shown: &[CertificateDer<'_>]) -> BTreeSet<Vec<u8>> {
    shown.iter().filter_map(serial_of).collect()
}

fn serial_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(serial(certificate.raw_serial()))
}

/// Refuses revoked certificates, wherever they are in what was shown.
fn check_revoked<'a>(
    revoked: &BTreeSet<Vec<u8>>,
    mut shown: impl Iterator<Item = &'a CertificateDer<'a>>,
) -> Result<(), Error> {
    // Who can't be read can't be cleared.
    let is_revoked = |certificate: &CertificateDer<'_>| {
        serial_of(certificate).is_none_or(|serial| revoked.contains(&serial))
    };
    match !revoked.is_empty() && shown.any(is_revoked) {
        true => Err(CertificateError::Revoked.into()),
        false => Ok(()),
    }
}

/// Clients, with a chain and by the rules.
#[derive(Debug)]
pub struct Clients {
    pub chain: Arc<dyn ClientCertVerifier>,
    pub allowed: Allowed,
    pub revoked: Arc<BTreeSet<Vec<u8>>>,
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(certificate, others, now)?;
        check_allowed(&self.allowed, certificate)?;
        check_revoked(&self.revoked, std::iter::once(certificate).chain(others))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Whose certificates are believed.
#[derive(Debug)]
pub enum Believed {
    /// Everybody's, but the key must be there.
    Anyone,
    /// Nobody's: this machine trusts no authority, as an image without a file of them. It may still speak without TLS.
    Nobody,
    /// Whoever has a chain of signatures.
    Chain(Arc<dyn ServerCertVerifier>),
}

/// Servers, with a chain if one is asked for, and by the rules.
#[derive(Debug)]
pub struct Servers {
    pub believed: Believed,
    pub allowed: Allowed,
    pub provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match &self.believed {
            Believed::Anyone => Ok(ServerCertVerified::assertion()),
            Believed::Nobody => Err(CertificateError::UnknownIssuer.into()),
            Believed::Chain(chain) => {
                let verified = chain.verify_server_cert(certificate, others, name, ocsp, now)?;
                check_allowed(&self.allowed, certificate)?;
                Ok(verified)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
