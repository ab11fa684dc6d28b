//! Whom to ask for the members of a new cluster, where `--initial-cluster` does not list them.

use std::time::Duration;

use server::config::{Credentials, Discovery, Identity, RegisterSettings, RegisterTls, Trust};

use super::Invalid;
use crate::flags::Flags;

/// What 0, for ever, means to the discovery service's timeouts.
pub(super) const DISCOVERY_TIME_MAX: Duration = Duration::from_secs(3600);

/// Whom to ask for the members, where they are not listed.
pub(super) fn discovery(flags: &Flags) -> Result<Option<Discovery>, Invalid> {
    if !flags.discovery_srv.is_empty() {
        return Ok(Some(Discovery::Srv {
            domain: flags.discovery_srv.clone(),
            service_name: flags.discovery_srv_name.clone(),
        }));
    }
    if flags.discovery_endpoints.is_empty() {
        return Ok(None);
    }
    let limit = |time: Duration| if time.is_zero() { DISCOVERY_TIME_MAX } else { time };
    Ok(Some(Discovery::Register(RegisterSettings {
        endpoints: endpoints(flags).map(str::to_owned).collect(),
        token: flags.discovery_token.clone(),
        dial_timeout: limit(flags.discovery_dial_timeout),
        request_timeout: limit(flags.discovery_request_timeout),
        keepalive_interval: (!flags.discovery_keepalive_time.is_zero())
            .then_some(flags.discovery_keepalive_time),
        keepalive_timeout: limit(flags.discovery_keepalive_timeout),
        tls: discovery_tls(flags)?,
        credentials: discovery_credentials(flags),
    })))
}

pub(super) fn endpoints(flags: &Flags) -> impl Iterator<Item = &str> {
    flags.discovery_endpoints.split(',').map(str::trim)
}

/// Any of the flags about certificates asks for TLS, whatever `--discovery-insecure-transport` says.
fn discovery_tls(flags: &Flags) -> Result<Option<RegisterTls>, Invalid> {
    let (cert, key, ca) = (
        &flags.discovery_cert,
        &flags.discovery_key,
        &flags.discovery_cacert,
    );
    if cert.is_empty() != key.is_empty() {
        return Err(Invalid::DiscoveryKeyPair {
            key: key.clone(),
            cert: cert.clone(),
        });
    }
    let trust = match (flags.discovery_insecure_skip_tls_verify, ca.as_str()) {
        (true, _) => Trust::Anyone,
        (false, "") => Trust::System,
        (false, ca) => Trust::Authorities(ca.into()),
    };
    let identity = (!cert.is_empty()).then(|| Identity {
        cert: cert.into(),
        key: key.into(),
    });
    let wanted = !flags.discovery_insecure_transport || identity.is_some() || trust != Trust::System;
    Ok(wanted.then_some(RegisterTls { identity, trust }))
}

/// A user with a password of its own, or as `user:password`.
fn discovery_credentials(flags: &Flags) -> Option<Credentials> {
    let (user, password) = match flags.discovery_password.as_str() {
        "" => flags
            .discovery_user
            .split_once(':')
            .unwrap_or((&flags.discovery_user, "")),
        password => (flags.discovery_user.as_str(), password),
    };
    (!user.is_empty()).then(|| Credentials {
        user: user.to_owned(),
        password: password.to_owned(),
    })
}
