//! From the files' content to certificates, keys and lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::{Identity, TlsError, missing};

/// The content of some files at one time, or why it could not be read.
#[derive(Default, PartialEq, Eq)]
pub struct Contents(BTreeMap<PathBuf, Result<Vec<u8>, String>>);

impl Contents {
    /// Reads them.
    pub fn read(files: &BTreeSet<PathBuf>) -> Self {
        let content = |file: &PathBuf| std::fs::read(file).map_err(|error| error.to_string());
        Contents(files.iter().map(|file| (file.clone(), content(file))).collect())
    }

    fn of(&self, file: &Path) -> Result<&[u8], TlsError> {
        let unreadable = |cause: &str| TlsError::Unreadable {
            file: file.to_owned(),
            cause: cause.to_owned(),
        };
        match self.0.get(file) {
            Some(Ok(content)) => Ok(content),
            Some(Err(cause)) => Err(unreadable(cause)),
            None => Err(unreadable("it was not asked for")),
        }
    }

    /// A certificate with its key, which belong together.
    pub fn identity(&self, identity: &Identity, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(self.of(&identity.key)?)
            .map_err(|cause| missing("key", identity.key.clone(), &cause))?;
        let certificates = self.certificates(&identity.cert)?;
        CertifiedKey::from_der(certificates, key, provider).map_err(|cause| unusable(&identity.cert, cause))
    }

    /// Those who may sign.
    pub fn authorities(&self, file: &Path) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(file)? {
            roots.add(certificate).map_err(|cause| unusable(file, cause))?;
        }
        Ok(roots)
    }

    fn certificates(&self, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let none = |cause| missing("certificate", file.to_owned(), &cause);
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.of(file)?).collect();
        match found {
            Ok(found) if found.is_empty() => Err(none(pem::Error::NoItemsFound)),
            Ok(found) => Ok(found),
            Err(cause) => Err(none(cause)),
        }
    }

    /// The serial numbers that are revoked. The file is DER, as etcd has it, or PEM.
    pub fn revoked(&self, file: &Path) -> Result<BTreeSet<Vec<u8>>, TlsError> {
        let content = self.of(file)?;
        let pem = CertificateRevocationListDer::from_pem_slice(content).ok();
        let der = pem.as_ref().map_or(content, |list| list.as_ref());
        let no_list = |cause: String| TlsError::NoRevocations {
            file: file.to_owned(),
            cause,
        };
        let (rest, list) =
            CertificateRevocationList::from_der(der).map_err(|error| no_list(error.to_string()))?;
        if !rest.is_empty() {
            return Err(no_list(format!("{} bytes follow it", rest.len())));
        }
        let serials = list.iter_revoked_certificates();
        Ok(serials.map(|revoked| serial(revoked.raw_serial())).collect())
    }
}

/// A serial number without the zeros that make it positive.
pub fn serial(raw: &[u8]) -> Vec<u8> {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    raw[zeros..].to_vec()
}

/// What this machine trusts. A certificate among them that can't be read is one that is not trusted.
pub fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

fn unusable(file: &Path, cause: rustls::Error) -> TlsError {
    let file = file.to_owned();
    TlsError::Unusable { file, cause }
}
