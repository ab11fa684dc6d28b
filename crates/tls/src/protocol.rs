//! Versions of TLS, and cipher suites by the names that Go has for them.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};
use thiserror::Error;

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Version {
    Tls12,
    Tls13,
}

/// What may be spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocols {
    /// The lowest version.
    pub min: Version,
    /// The highest version.
    pub max: Version,
    /// The cipher suites of TLS 1.2; none means all. Those of TLS 1.3 are not for choice.
    pub suites: Vec<Suite>,
}

impl Default for Protocols {
    fn default() -> Self {
        Protocols {
            min: Version::Tls12,
            max: Version::Tls13,
            suites: vec![],
        }
    }
}

/// A cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suite(CipherSuite);

/// Why a cipher suite can't be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SuiteError {
    /// There is none of that name.
    #[error("unexpected TLS cipher suite {0:?}")]
    Unknown(String),
    /// Go has it, for those who must.
    #[error(
        "TLS cipher suite {0:?} is not safe, and not served; leave it out of --cipher-suites (those with ECDHE and GCM or CHACHA20 are served)"
    )]
    Unsafe(String),
}

/// Names of TLS 1.3; choosing them changes nothing.
const TLS13_NAMES: [(&str, CipherSuite); 3] = [
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
];

/// Those that Go knows and nobody should use: RC4, CBC, and keys that are not forgotten.
const UNSAFE_NAMES: [&str; 16] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

impl Suite {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.0.as_str().unwrap_or_default()
    }

    /// The suite of a name, also of two that are shorter than they were standardized.
    pub fn parse(name: &str) -> Result<Self, SuiteError> {
        let whole = match name {
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => {
                format!("{name}_SHA256")
            }
            name => name.to_owned(),
        };
        if let Some((_, suite)) = TLS13_NAMES.iter().find(|(known, _)| *known == whole) {
            return Ok(Suite(*suite));
        }
        let older = aws_lc_rs::ALL_CIPHER_SUITES
            .iter()
            .filter(|suite| suite.tls13().is_none());
        let suites = older.map(SupportedCipherSuite::suite);
        let mut named = suites.filter(|suite| suite.as_str() == Some(&whole));
        match named.next() {
            Some(suite) => Ok(Suite(suite)),
            None if UNSAFE_NAMES.contains(&name) => Err(SuiteError::Unsafe(name.to_owned())),
            None => Err(SuiteError::Unknown(name.to_owned())),
        }
    }
}

impl Protocols {
    /// The cryptography, with the suites that are allowed.
    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        let allowed = |suite: &SupportedCipherSuite| {
            suite.tls13().is_some() || self.suites.is_empty() || self.suites.contains(&Suite(suite.suite()))
        };
        provider.cipher_suites.retain(allowed);
        Arc::new(provider)
    }

    /// The versions that have a suite.
    pub(crate) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let suites = self.provider().cipher_suites.clone();
        let mut versions = vec![];
        if self.max >= Version::Tls13 {
            versions.push(&TLS13);
        }
        if self.min <= Version::Tls12 && suites.iter().any(|suite| suite.tls13().is_none()) {
            versions.push(&TLS12);
        }
        versions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_have_gos_names_and_unsafe_ones_are_refused_as_such() {
        for name in [
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_AES_128_GCM_SHA256",
        ] {
            assert!(Suite::parse(name).is_ok(), "{name}");
        }
        for name in UNSAFE_NAMES {
            assert_eq!(Suite::parse(name), Err(SuiteError::Unsafe(name.into())));
        }
        let unknown = Suite::parse("TLS13_AES_128_GCM_SHA256").unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "unexpected TLS cipher suite \"TLS13_AES_128_GCM_SHA256\""
        );
    }

    #[test]
    fn a_version_is_spoken_if_it_is_allowed_and_has_a_suite() {
        let versions = |min, max, suites: &[&str]| {
            let suites = suites.iter().map(|name| Suite::parse(name).unwrap()).collect();
            let protocols = Protocols { min, max, suites };
            protocols.versions()
        };
        use Version::{Tls12, Tls13};
        assert_eq!(versions(Tls12, Tls13, &[]), [&TLS13, &TLS12]);
        assert_eq!(versions(Tls12, Tls12, &[]), [&TLS12]);
        assert_eq!(versions(Tls13, Tls13, &[]), [&TLS13]);
        assert_eq!(versions(Tls12, Tls13, &["TLS_AES_128_GCM_SHA256"]), [&TLS13]);
        let one = ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"];
        assert_eq!(versions(Tls12, Tls13, &one), [&TLS13, &TLS12]);
        let suites = one.map(|name| Suite::parse(name).unwrap()).to_vec();
        let provider = Protocols {
            suites,
            ..Protocols::default()
        }
        .provider();
        let of_tls12 = provider
            .cipher_suites
            .iter()
            .filter(|suite| suite.tls13().is_none());
        assert_eq!(of_tls12.count(), 1);
    }
}
