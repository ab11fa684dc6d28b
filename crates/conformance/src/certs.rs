//! Authorities, and what they sign, as files.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// One who signs.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The certificates between this one and a root, this one's first; none for a root.
    chain: String,
}

/// What a certificate says.
#[derive(Clone, Debug)]
pub struct Ask {
    /// The common name, if there is to be one.
    pub name: String,
    /// Host names and addresses.
    pub hosts: Vec<String>,
    /// By what it is revoked.
    pub serial: u64,
    /// From which year on it is valid, and up to which.
    pub years: (i32, i32),
    /// What it is good for; nothing said is everything.
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
}

impl Ask {
    /// A certificate for this machine, valid for long and for every purpose.
    pub fn new(name: &str, serial: u64) -> Self {
        Self {
            name: name.to_owned(),
            hosts: vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
            serial,
            years: (2020, 2120),
            purposes: vec![],
        }
    }

    fn params(&self) -> Result<CertificateParams, String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if !self.name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, &*self.name);
        }
        for host in &self.hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into().map_err(text)?),
            });
        }
        params.serial_number = Some(SerialNumber::from(self.serial));
        params.not_before = date_time_ymd(self.years.0, 1, 1);
        params.not_after = date_time_ymd(self.years.1, 1, 1);
        params.extended_key_usages.clone_from(&self.purposes);
        Ok(params)
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, with those that vouch for it.
    pub cert: String,
    /// The key.
    pub key: String,
}

impl Pair {
    /// Writes `<name>.pem` and `<name>.key`.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(), String> {
        write(&folder.join(format!("{name}.pem")), &self.cert)?;
        write(&folder.join(format!("{name}.key")), &self.key)
    }
}

impl Authority {
    /// A root.
    pub fn new(name: &str) -> Result<Self, String> {
        let key = KeyPair::generate().map_err(text)?;
        let issuer = CertifiedIssuer::self_signed(authority(name, 1), key).map_err(text)?;
        let chain = String::new();
        Ok(Self { issuer, chain })
    }

    /// One that this one vouches for.
    pub fn vouch(&self, name: &str, serial: u64) -> Result<Self, String> {
        let key = KeyPair::generate().map_err(text)?;
        let issuer = CertifiedIssuer::signed_by(authority(name, serial), key, &self.issuer).map_err(text)?;
        let chain = format!("{}{}", issuer.pem(), self.chain);
        Ok(Self { issuer, chain })
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Signs what is asked for.
    pub fn sign(&self, ask: &Ask) -> Result<Pair, String> {
        let key = KeyPair::generate().map_err(text)?;
        let issuer: &Issuer<'static, KeyPair> = &self.issuer;
        let cert = ask.params()?.signed_by(&key, issuer).map_err(text)?;
        Ok(Pair {
            cert: format!("{}{}", cert.pem(), self.chain),
            key: key.serialize_pem(),
        })
    }

    /// The list of what is revoked, in DER, as etcd wants it.
    pub fn revoke(&self, serials: &[u64]) -> Result<Vec<u8>, String> {
        let day = date_time_ymd(2020, 1, 1);
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: day,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: day,
            // Long ago: as with etcd, nobody looks.
            next_update: date_time_ymd(2020, 1, 2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer).map_err(text)?.der().to_vec())
    }
}

fn authority(name: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// One who signs for itself.
pub fn self_signed(ask: &Ask) -> Result<Pair, String> {
    let key = KeyPair::generate().map_err(text)?;
    let cert = ask.params()?.self_signed(&key).map_err(text)?;
    Ok(Pair {
        cert: cert.pem(),
        key: key.serialize_pem(),
    })
}

/// The first certificate of a text, in DER; nothing if there is none.
pub fn first(pem: &str) -> Vec<u8> {
    let first = CertificateDer::from_pem_slice(pem.as_bytes());
    first.map(|first| first.to_vec()).unwrap_or_default()
}

/// Writes a file.
pub fn write(file: &PathBuf, content: impl AsRef<[u8]>) -> Result<(), String> {
    fs::write(file, content).map_err(|error| format!("{}: {error}", file.display()))
}

/// Puts a file in the place of another, all at once.
pub fn replace(file: &PathBuf, content: impl AsRef<[u8]>) -> Result<(), String> {
    let new = file.with_extension("new");
    write(&new, content)?;
    fs::rename(&new, file).map_err(|error| format!("{}: {error}", file.display()))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
