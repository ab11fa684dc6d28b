//! Whether a client comes from where its certificate says.
//!
//! As in etcd: a certificate without host names and addresses is good everywhere. Else one of its addresses must be
//! the client's, or one of its names must lead there: the name's addresses are asked for, and the address's names, which
//! is what counts for `*.example.com`. A stolen certificate is of no use elsewhere, as far as the DNS can be trusted.

use std::net::IpAddr;

use names::Dns;
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Shown;

/// Why a client's certificate is not good where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// It has addresses only.
    #[error("x509: certificate is valid for {valid}, not {address}")]
    Elsewhere {
        /// Those in the certificate.
        valid: String,
        /// The client's.
        address: IpAddr,
    },
    /// It has names, and none leads to the client.
    #[error("tls: \"{address}\" does not match any of DNSNames {names:?}")]
    NoName {
        /// Those in the certificate.
        names: Vec<String>,
        /// The client's address.
        address: IpAddr,
    },
}

/// Checks what a client has shown that comes from `address`. Asks the DNS, and so takes as long as that takes.
pub async fn check_address(shown: &Shown, address: IpAddr) -> Result<(), AddressError> {
    let address = address.to_canonical();
    let Some(certificate) = &shown.certificate else {
        return Ok(());
    };
    let Places { addresses, names } = Places::of(certificate);
    if addresses.contains(&address) || addresses.is_empty() && names.is_empty() {
        return Ok(());
    }
    if names.is_empty() {
        let valid: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        return Err(AddressError::Elsewhere {
            valid: valid.join(", "),
            address,
        });
    }
    let dns = Dns::system();
    if lead_to(&dns, &names, address).await || fit(&names, &dns.names(address).await.unwrap_or_default()) {
        return Ok(());
    }
    Err(AddressError::NoName { names, address })
}

/// Where a certificate says that its owner is.
#[derive(Default)]
struct Places {
    addresses: Vec<IpAddr>,
    names: Vec<String>,
}

impl Places {
    fn of(certificate: &[u8]) -> Self {
        let mut places = Places::default();
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return places;
        };
        let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
            return places;
        };
        for name in &alternatives.value.general_names {
            match name {
                GeneralName::DNSName(name) => places.names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => places.addresses.extend(ip(bytes)),
                _ => {}
            }
        }
        places
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

async fn lead_to(dns: &Dns, names: &[String], address: IpAddr) -> bool {
    for name in names.iter().filter(|name| !name.starts_with("*.")) {
        // The port is of no interest.
        let found = dns.addresses(name, 0).await.unwrap_or_default();
        if found.iter().any(|found| found.ip().to_canonical() == address) {
            return true;
        }
    }
    false
}

/// Whether one of the certificate's names, which may begin with `*.`, is one of those found.
fn fit(names: &[String], found: &[String]) -> bool {
    let fits = |name: &String, found: &String| match name.strip_prefix('*') {
        Some(domain) if domain.starts_with('.') => found.ends_with(domain),
        _ => name == found,
    };
    names
        .iter()
        .any(|name| found.iter().any(|found| fits(name, found)))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn shown(names: &[&str]) -> Shown {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Shown {
            certificate: Some(certificate.der().clone()),
        }
    }

    #[tokio::test]
    async fn a_certificate_is_good_at_its_addresses_and_where_its_names_lead() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let check =
            |names: &'static [&str], address| async move { check_address(&shown(names), address).await };
        assert_eq!(check_address(&Shown::default(), here).await, Ok(()));
        assert_eq!(check(&[], here).await, Ok(()));
        assert_eq!(check(&["127.0.0.1", "::1"], here).await, Ok(()));
        assert_eq!(check(&["127.0.0.1"], mapped).await, Ok(()));
        assert_eq!(check(&["10.0.0.1", "localhost"], here).await, Ok(()));
        let elsewhere = check(&["10.0.0.1", "::1"], here).await.unwrap_err();
        assert_eq!(
            elsewhere.to_string(),
            "x509: certificate is valid for 10.0.0.1, ::1, not 127.0.0.1"
        );
        let no_name = check(&["10.0.0.1", "keelson.invalid"], here).await.unwrap_err();
        assert_eq!(
            no_name.to_string(),
            "tls: \"127.0.0.1\" does not match any of DNSNames [\"keelson.invalid\"]"
        );
    }

    #[test]
    fn a_star_stands_for_what_is_before_a_domain() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let found = names(&["a.example.com"]);
        for (name, fits) in [
            ("*.example.com", true),
            ("a.example.com", true),
            ("*.com", true),
            ("example.com", false),
            ("*", false),
            ("*example.com", false),
        ] {
            assert_eq!(fit(&names(&[name]), &found), fits, "{name}");
        }
    }
}
