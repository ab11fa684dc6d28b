//! An authority of a test's own, and the certificates it signs.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Signs certificates for the host 127.0.0.1.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority; its own certificate is the file `ca.pem` in a folder.
    pub fn new(dir: &Path) -> Result<Self, String> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(text)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(text)?;
        write(dir.join("ca.pem"), &issuer.pem())?;
        let dir = dir.to_owned();
        Ok(Self { dir, issuer })
    }

    /// Signs a certificate of this common name. It and its key are the files `NAME.pem` and `NAME.key`.
    pub fn sign(&self, name: &str) -> Result<(), String> {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).map_err(text)?;
        params.distinguished_name.push(DnType::CommonName, name);
        self.finish(name, &params)
    }

    /// The same without any name in it; the files have this one.
    pub fn sign_nameless(&self, file: &str) -> Result<(), String> {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).map_err(text)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        self.finish(file, &params)
    }

    fn finish(&self, file: &str, params: &CertificateParams) -> Result<(), String> {
        let key = KeyPair::generate().map_err(text)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(text)?;
        write(self.file(file, "pem"), &certificate.pem())?;
        write(self.file(file, "key"), &key.serialize_pem())
    }

    /// The file of a certificate (`pem`) or its key (`key`).
    pub fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.dir.join(format!("{name}.{ending}"))
    }
}

fn write(file: PathBuf, content: &str) -> Result<(), String> {
    std::fs::write(&file, content).map_err(|e| format!("{}: {e}", file.display()))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
