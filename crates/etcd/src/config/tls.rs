//! TLS as the flags ask for it. Files are not looked at here: whoever uses them reads them, again and again.

use std::path::PathBuf;

use server::config::{Allowed, Identity, Protocols, Suite, Tls, TlsSettings, Trust, Version};

use super::Invalid;
use crate::flags::Flags;

pub(super) fn check_tls(flags: &Flags) -> Result<(), Invalid> {
    let (min, max) = (&flags.tls_min_version, &flags.tls_max_version);
    for version in [min, max] {
        if !matches!(version.as_str(), "" | "TLS1.2" | "TLS1.3") {
            return Err(Invalid::TlsVersion(version.clone()));
        }
    }
    if !max.is_empty() && min > max {
        return Err(Invalid::TlsVersions(min.clone(), max.clone()));
    }
    if min == "TLS1.3" && !flags.cipher_suites.is_empty() {
        return Err(Invalid::TlsCiphers);
    }
    Ok(())
}

pub(super) fn client_tls(flags: &Flags) -> Result<Tls, Invalid> {
    let (names, hostnames) = (&flags.client_cert_allowed_cn, &flags.client_cert_allowed_hostname);
    Ok(Tls {
        settings: TlsSettings {
            identity: identity(&flags.cert_file, &flags.key_file),
            // Nobody is dialed.
            client_identity: None,
            trust: trust(&flags.trusted_ca_file),
            requires_certificate: flags.client_cert_auth || !flags.trusted_ca_file.is_empty(),
            revoked: file(&flags.client_crl_file),
            allowed: allowed(names, hostnames)?,
            protocols: protocols(flags)?,
        },
        auto: flags.auto_tls,
        asks_certificate: flags.client_cert_auth,
        checks_address: false,
    })
}

pub(super) fn peer_tls(flags: &Flags) -> Result<Tls, Invalid> {
    let (names, hostnames) = (&flags.peer_cert_allowed_cn, &flags.peer_cert_allowed_hostname);
    Ok(Tls {
        settings: TlsSettings {
            identity: identity(&flags.peer_cert_file, &flags.peer_key_file),
            client_identity: identity(&flags.peer_client_cert_file, &flags.peer_client_key_file),
            trust: trust(&flags.peer_trusted_ca_file),
            requires_certificate: flags.peer_client_cert_auth || !flags.peer_trusted_ca_file.is_empty(),
            revoked: file(&flags.peer_crl_file),
            allowed: allowed(names, hostnames)?,
            protocols: protocols(flags)?,
        },
        auto: flags.peer_auto_tls,
        asks_certificate: flags.peer_client_cert_auth,
        checks_address: !flags.peer_skip_client_san_verification,
    })
}

fn file(name: &str) -> Option<PathBuf> {
    (!name.is_empty()).then(|| name.into())
}

/// Half a pair is found out when it is used, as in etcd.
fn identity(cert: &str, key: &str) -> Option<Identity> {
    let is_given = !cert.is_empty() || !key.is_empty();
    is_given.then(|| Identity {
        cert: cert.into(),
        key: key.into(),
    })
}

fn trust(authorities: &str) -> Trust {
    file(authorities).map_or(Trust::System, Trust::Authorities)
}

fn allowed(names: &[String], hostnames: &[String]) -> Result<Allowed, Invalid> {
    match (names, hostnames) {
        ([], []) => Ok(Allowed::Any),
        (names, []) => Ok(Allowed::CommonNames(names.to_vec())),
        ([], hostnames) => Ok(Allowed::Hostnames(hostnames.to_vec())),
        (cns, hostnames) => Err(Invalid::TlsAllowed {
            cns: cns.to_vec(),
            hostnames: hostnames.to_vec(),
        }),
    }
}

/// What [`check_tls`] has left.
fn protocols(flags: &Flags) -> Result<Protocols, Invalid> {
    let version = |name: &str, otherwise| match name {
        "TLS1.2" => Version::Tls12,
        "TLS1.3" => Version::Tls13,
        _ => otherwise,
    };
    let suites = flags.cipher_suites.iter().map(|name| Suite::parse(name));
    let suites = suites.collect::<Result<_, _>>().map_err(Invalid::TlsSuite)?;
    Ok(Protocols {
        min: version(&flags.tls_min_version, Version::Tls12),
        max: version(&flags.tls_max_version, Version::Tls13),
        suites,
    })
}
