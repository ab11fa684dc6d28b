//! A certificate that nobody vouches for (`--auto-tls`, `--peer-auto-tls`): two files, kept for the next start.
//!
//! The folder may be one that Go has made. Ours has a P-256 key instead of its P-521 one, which not every
//! TLS library knows; either end takes either.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::Identity;

/// A year of etcd's.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Longer than anybody needs, and within what a certificate can say.
const YEARS_MAX: u64 = 1000;

/// Why there is no such certificate.
#[derive(Debug, thiserror::Error)]
pub enum SelfSignedError {
    /// It would never be valid.
    #[error("selfSignedCertValidity is invalid,it should be greater than 0")]
    Validity,
    /// A host name that can't be in a certificate.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The files can't be written.
    #[error("cannot write {}: {cause}", file.display())]
    Write {
        /// Which file or folder.
        file: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

/// The certificate in `dir`, which is made for `hosts` and some years if it is not there.
pub fn self_signed(dir: &Path, hosts: &[String], years: u64) -> Result<Identity, SelfSignedError> {
    if years == 0 {
        return Err(SelfSignedError::Validity);
    }
    let identity = Identity {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
    };
    if identity.cert.exists() && identity.key.exists() {
        return Ok(identity);
    }
    let write_error = |file: &Path| {
        let file = file.to_owned();
        move |cause| SelfSignedError::Write { file, cause }
    };
    let mut builder = DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(write_error(dir))?;
    let key = KeyPair::generate()?;
    let certificate = params(hosts, years.min(YEARS_MAX))?.self_signed(&key)?;
    for (file, content) in [
        (&identity.key, key.serialize_pem()),
        (&identity.cert, certificate.pem()),
    ] {
        write(file, &content).map_err(write_error(file))?;
    }
    tracing::info!(path = %identity.cert.display(), "created cert file");
    tracing::info!(path = %identity.key.display(), "created key file");
    Ok(identity)
}

fn params(hosts: &[String], years: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    for host in hosts {
        let host = host.trim_matches(['[', ']']);
        params.subject_alt_names.push(match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into()?),
        });
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + now;
    params.not_after = params.not_before + YEAR * years as u32;
    tracing::warn!(
        "certificate-validity-bound-not-after" = %params.not_after,
        "automatically generate certificates"
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::CrlSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

/// Writes a file that only its owner can read; whole, or not at all.
fn write(file: &Path, content: &str) -> io::Result<()> {
    let whole = file.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(&whole)?.write_all(content.as_bytes())?;
    std::fs::rename(whole, file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use x509_parser::pem::parse_x509_pem;

    use super::*;
    use crate::{HTTP, Server, Settings};

    #[test]
    fn it_is_made_once_kept_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("fixtures/client");
        let hosts = ["127.0.0.1", "[::1]", "localhost"].map(str::to_owned);
        let identity = self_signed(&folder, &hosts, 1).unwrap();
        let read = || [&identity.cert, &identity.key].map(|file| std::fs::read(file).unwrap());
        let first = read();
        assert_eq!(self_signed(&folder, &[], 2).unwrap(), identity);
        assert_eq!(read(), first);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&identity.key)), (0o700, 0o600));
        assert!(Server::new(&Settings::default(), &identity, HTTP).is_ok());
    }

    #[test]
    fn it_is_valid_for_as_many_years_as_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let identity = self_signed(dir.path(), &["127.0.0.1".into()], 3).unwrap();
        let content = std::fs::read(&identity.cert).unwrap();
        let (_, pem) = parse_x509_pem(&content).unwrap();
        let validity = pem.parse_x509().unwrap().validity().clone();
        let years = validity.not_after.timestamp() - validity.not_before.timestamp();
        assert_eq!(years, 3 * 365 * 24 * 3600);
        assert!(validity.is_valid(), "it is valid from now on");
    }

    #[test]
    fn a_certificate_that_is_never_valid_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = self_signed(dir.path(), &[], 0).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "selfSignedCertValidity is invalid,it should be greater than 0"
        );
        assert!(self_signed(dir.path(), &[], u64::MAX).is_ok());
    }
}
