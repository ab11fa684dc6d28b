//! Failed handshakes in the words that Go has for them, which operators and scripts look for.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What went wrong with a connection.
pub fn describe(error: &io::Error) -> String {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    match cause {
        Some(Error::AlertReceived(alert)) => format!("remote error: tls: {}", alert_text(*alert)),
        Some(Error::NoCertificatesPresented) => "tls: client didn't provide a certificate".into(),
        // Nobody but our own rules asks for a name without telling which.
        Some(Error::InvalidCertificate(CertificateError::NotValidForName)) => {
            "client certificate authentication failed".into()
        }
        Some(Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented })) => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            let (names, expected) = (names.join(", "), expected.to_str());
            format!("x509: certificate is valid for {names}, not {expected}")
        }
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "x509: certificate signed by unknown authority".into()
        }
        Some(Error::InvalidCertificate(CertificateError::Revoked)) => "transport: certificate revoked".into(),
        Some(Error::InvalidMessage(_)) => "tls: first record does not look like a TLS handshake".into(),
        Some(cause) => format!("tls: {cause}"),
        None => error.to_string(),
    }
}

/// A name as rustls shows it, such as `DnsName("a")`, without what is around it.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"')
}

/// Go's names of alerts: those of the standard with blanks, but for one.
fn alert_text(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => "unknown certificate authority".into(),
        AlertDescription::BadCertificate => "bad certificate".into(),
        AlertDescription::CertificateRequired => "certificate required".into(),
        AlertDescription::CertificateRevoked => "revoked certificate".into(),
        AlertDescription::CertificateExpired => "expired certificate".into(),
        AlertDescription::CertificateUnknown => "unknown certificate".into(),
        AlertDescription::HandshakeFailure => "handshake failure".into(),
        AlertDescription::ProtocolVersion => "protocol version not supported".into(),
        other => format!("{other:?}"),
    }
}
