//! JSON Web Tokens: what a user may show instead of a simple token.
//!
//! A token says who its user is, under which auth revision that was found out, and until when it is good; a signature
//! vouches for it. Members keep nothing, so such tokens survive a restart; and any change of users or roles makes them
//! old, since they can't be called back one by one. All members need the same keys. One with a public key alone checks
//! tokens and makes none.
//!
//! Only the method that was configured is accepted, whatever a token says of itself: a token that names "none", or takes
//! the public key of one method for the secret of another, is no token.
//!
//! Signatures are the work of `aws-lc-rs`; what is left is a header and two base64 parts around them. (No crate for JWT
//! has all of etcd's methods: ES512 is missing.)

use std::path::PathBuf;
use std::time::Duration;

use auth::Identity;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, ParsedPublicKey, RsaEncoding,
    RsaKeyPair, VerificationAlgorithm,
};
use aws_lc_rs::{error::Unspecified, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use types::ErrorKind;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// What `--auth-token=jwt,…` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    /// How tokens are signed: `RS256` and the like.
    pub method: String,
    /// The file of the public key.
    pub public_key: Option<PathBuf>,
    /// The file of the private key, or of the secret of the methods `HS…`.
    pub private_key: Option<PathBuf>,
    /// How long a token is good.
    pub ttl: Duration,
}

/// Why there can be no tokens.
#[derive(Debug, Error)]
pub enum JwtError {
    /// There is no such method.
    #[error("auth: invalid auth signature method")]
    Method,
    /// The method needs a key.
    #[error("auth: missing key data")]
    NoKey,
    /// The two keys are not a pair.
    #[error("auth: public and private keys don't match")]
    Mismatch,
    /// A file can't be read.
    #[error("cannot read {}: {error}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file has no key for the method.
    #[error("no key for {method} in {}", file.display())]
    Unusable {
        /// The file.
        file: PathBuf,
        /// The method.
        method: String,
    },
}

/// Makes tokens and checks them.
pub struct Jwt {
    method: String,
    key: Key,
    ttl: Duration,
}

/// A way to sign, and to check signatures.
#[derive(Clone, Copy)]
enum Method {
    Hmac(hmac::Algorithm),
    Rsa(&'static dyn RsaEncoding, &'static dyn VerificationAlgorithm),
    Ecdsa(&'static EcdsaSigningAlgorithm, &'static dyn VerificationAlgorithm),
    Ed25519,
}

enum Key {
    Secret(Box<hmac::Key>),
    Pair {
        signer: Option<Signer>,
        verifier: ParsedPublicKey,
    },
}

enum Signer {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: String,
}

/// What a token says. Numbers may have a fraction, as JavaScript writes them.
#[derive(Serialize, Deserialize)]
struct Claims {
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<f64>,
    #[serde(skip_serializing)]
    nbf: Option<f64>,
    revision: f64,
    username: String,
}

impl Method {
    fn named(name: &str) -> Option<Self> {
        use Method::*;
        Some(match name {
            "HS256" => Hmac(hmac::HMAC_SHA256),
            "HS384" => Hmac(hmac::HMAC_SHA384),
            "HS512" => Hmac(hmac::HMAC_SHA512),
            "RS256" => Rsa(
                &signature::RSA_PKCS1_SHA256,
                &signature::RSA_PKCS1_2048_8192_SHA256,
            ),
            "RS384" => Rsa(
                &signature::RSA_PKCS1_SHA384,
                &signature::RSA_PKCS1_2048_8192_SHA384,
            ),
            "RS512" => Rsa(
                &signature::RSA_PKCS1_SHA512,
                &signature::RSA_PKCS1_2048_8192_SHA512,
            ),
            "PS256" => Rsa(&signature::RSA_PSS_SHA256, &signature::RSA_PSS_2048_8192_SHA256),
            "PS384" => Rsa(&signature::RSA_PSS_SHA384, &signature::RSA_PSS_2048_8192_SHA384),
            "PS512" => Rsa(&signature::RSA_PSS_SHA512, &signature::RSA_PSS_2048_8192_SHA512),
            "ES256" => Ecdsa(
                &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                &signature::ECDSA_P256_SHA256_FIXED,
            ),
            "ES384" => Ecdsa(
                &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                &signature::ECDSA_P384_SHA384_FIXED,
            ),
            "ES512" => Ecdsa(
                &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
                &signature::ECDSA_P521_SHA512_FIXED,
            ),
            "EdDSA" => Ed25519,
            _ => return None,
        })
    }

    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Method::Rsa(_, verification) | Method::Ecdsa(_, verification) => verification,
            Method::Hmac(_) | Method::Ed25519 => &signature::ED25519,
        }
    }

    /// The key in a PEM file's private half, with its public one.
    fn signer(self, pem: &[u8]) -> Option<(Signer, Vec<u8>)> {
        let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
        let der = key.secret_der();
        Some(match self {
            Method::Rsa(encoding, _) => {
                let pair = match &key {
                    PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(der),
                    _ => RsaKeyPair::from_pkcs8(der),
                };
                let pair = pair.ok()?;
                let public = pair.public_key().as_ref().to_vec();
                (Signer::Rsa(pair, encoding), public)
            }
            Method::Ecdsa(algorithm, _) => {
                let pair = EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?;
                let public = pair.public_key().as_ref().to_vec();
                (Signer::Ecdsa(pair), public)
            }
            Method::Ed25519 => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?;
                let public = pair.public_key().as_ref().to_vec();
                (Signer::Ed25519(pair), public)
            }
            Method::Hmac(_) => return None,
        })
    }
}

impl Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        match self {
            Signer::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature)?;
                Ok(signature)
            }
            Signer::Ecdsa(pair) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
            Signer::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl Key {
    /// Reads the keys that are there; both together have to be a pair.
    fn read(options: &JwtOptions, method: Method) -> Result<Self, JwtError> {
        let read = |file: &Option<PathBuf>| match file {
            None => Ok(None),
            Some(file) => match std::fs::read(file) {
                Ok(bytes) => Ok(Some((file.clone(), bytes))),
                Err(error) => Err(JwtError::Unreadable {
                    file: file.clone(),
                    error,
                }),
            },
        };
        let unusable = |file| JwtError::Unusable {
            file,
            method: options.method.clone(),
        };
        let (public, private) = (read(&options.public_key)?, read(&options.private_key)?);
        if let Method::Hmac(algorithm) = method {
            let (_, secret) = private.ok_or(JwtError::NoKey)?;
            return match secret.is_empty() {
                true => Err(JwtError::NoKey),
                false => Ok(Key::Secret(Box::new(hmac::Key::new(algorithm, &secret)))),
            };
        }
        let signer = private
            .map(|(file, pem)| method.signer(&pem).ok_or_else(|| unusable(file)))
            .transpose()?;
        let parse = |key: Vec<u8>| ParsedPublicKey::new(method.verification(), key).ok();
        let public = public
            .map(|(file, pem)| public_key(&pem).and_then(parse).ok_or_else(|| unusable(file)))
            .transpose()?;
        let (signer, derived) = signer.unzip();
        let is_pair = signer.is_some() && public.is_some();
        let verifier = public.or(derived.and_then(parse)).ok_or(JwtError::NoKey)?;
        let key = Key::Pair { signer, verifier };
        match is_pair && !key.fits_itself() {
            true => Err(JwtError::Mismatch),
            false => Ok(key),
        }
    }

    fn fits_itself(&self) -> bool {
        let message = b"a message to try the keys with";
        self.sign(message)
            .is_some_and(|signature| self.verify(message, &signature))
    }

    /// Nothing, with a key that only checks.
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Key::Secret(secret) => Some(hmac::sign(secret, message).as_ref().to_vec()),
            Key::Pair { signer, .. } => signer.as_ref()?.sign(message).ok(),
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Key::Secret(secret) => hmac::verify(secret, message, signature).is_ok(),
            Key::Pair { verifier, .. } => verifier.verify_sig(message, signature).is_ok(),
        }
    }
}

/// The public key in a PEM file, by itself or in a certificate.
fn public_key(pem: &[u8]) -> Option<Vec<u8>> {
    if let Ok(key) = SubjectPublicKeyInfoDer::from_pem_slice(pem) {
        return Some(key.to_vec());
    }
    let certificate = CertificateDer::from_pem_slice(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&certificate).ok()?;
    Some(certificate.public_key().raw.to_vec())
}

impl Jwt {
    /// Reads the keys.
    pub fn new(options: &JwtOptions) -> Result<Self, JwtError> {
        let method = Method::named(&options.method).ok_or(JwtError::Method)?;
        Ok(Jwt {
            method: options.method.clone(),
            key: Key::read(options, method)?,
            ttl: options.ttl,
        })
    }

    /// A token for a user, from `now` on; time is counted from 1970.
    ///
    /// # Errors
    /// `VerifyOnly` with a public key alone.
    pub fn sign(&self, who: &Identity, now: Duration) -> Result<String, ErrorKind> {
        let header = Header {
            alg: self.method.clone(),
            typ: "JWT".into(),
        };
        let claims = Claims {
            exp: Some((now + self.ttl).as_secs() as f64),
            nbf: None,
            revision: who.revision as f64,
            username: who.user.clone(),
        };
        let mut token = format!("{}.{}", part(&header)?, part(&claims)?);
        let signature = self.key.sign(token.as_bytes()).ok_or(ErrorKind::VerifyOnly)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// Whose token it is, if it is one and still good.
    pub fn verify(&self, token: &str, now: Duration) -> Option<Identity> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = read_part(header)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        if header.alg != self.method || !self.key.verify(signed.as_bytes(), &signature) {
            return None;
        }
        let claims: Claims = read_part(claims)?;
        let now = now.as_secs_f64();
        let is_good = claims.exp.is_none_or(|end| now < end) && claims.nbf.is_none_or(|start| start <= now);
        is_good.then_some(Identity {
            user: claims.username,
            revision: claims.revision as u64,
        })
    }
}

fn part(value: &impl Serialize) -> Result<String, ErrorKind> {
    let json = serde_json::to_vec(value).map_err(|_| ErrorKind::AuthFailed)?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

fn read_part<T: for<'a> Deserialize<'a>>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512,
        PKCS_ED25519, PKCS_RSA_SHA256,
    };

    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn alice() -> Identity {
        Identity {
            user: "alice".into(),
            revision: 7,
        }
    }

    /// The options with files of these contents in a folder that lives as long as its handle.
    fn options(method: &str, public: Option<&str>, private: Option<&str>) -> (JwtOptions, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = |name, content: Option<&str>| {
            content.map(|content| {
                let file = folder.path().join(name);
                std::fs::write(&file, content).unwrap();
                file
            })
        };
        let options = JwtOptions {
            method: method.into(),
            public_key: file("public", public),
            private_key: file("private", private),
            ttl: Duration::from_secs(300),
        };
        (options, folder)
    }

    fn jwt(method: &str, public: Option<&str>, private: Option<&str>) -> Result<Jwt, JwtError> {
        Jwt::new(&options(method, public, private).0)
    }

    const METHODS: [(&str, &rcgen::SignatureAlgorithm); 10] = [
        ("RS256", &PKCS_RSA_SHA256),
        ("RS384", &PKCS_RSA_SHA256),
        ("RS512", &PKCS_RSA_SHA256),
        ("PS256", &PKCS_RSA_SHA256),
        ("PS384", &PKCS_RSA_SHA256),
        ("PS512", &PKCS_RSA_SHA256),
        ("ES256", &PKCS_ECDSA_P256_SHA256),
        ("ES384", &PKCS_ECDSA_P384_SHA384),
        ("ES512", &PKCS_ECDSA_P521_SHA512),
        ("EdDSA", &PKCS_ED25519),
    ];

    /// It is good until its time is over, and not if a letter of it is another.
    fn is_good_for_its_time(jwt: &Jwt, token: &str) {
        let method = &jwt.method;
        assert_eq!(jwt.verify(token, NOW), Some(alice()), "{method}");
        let last = NOW + Duration::from_secs(299);
        assert_eq!(jwt.verify(token, last), Some(alice()), "{method}");
        let end = NOW + Duration::from_secs(300);
        assert_eq!(jwt.verify(token, end), None, "{method}");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        for bad in [
            format!("{signed}."),
            format!("{signed}.{}", &signature[4..]),
            format!("{signed}.{signature}AAAA"),
            format!("{signed}x.{signature}"),
            format!("x{token}"),
            format!("Bearer {token}"),
        ] {
            assert_eq!(jwt.verify(&bad, NOW), None, "{method}: {bad}");
        }
    }

    #[test]
    fn a_token_of_every_method_says_who_its_user_is_until_its_time_is_over() {
        let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        for (method, algorithm) in METHODS {
            let own = KeyPair::generate_for(algorithm).unwrap();
            let pair = if method.contains('S') && !method.starts_with('E') {
                &rsa
            } else {
                &own
            };
            let (public, private) = (pair.public_key_pem(), pair.serialize_pem());
            let alone = jwt(method, None, Some(&private)).unwrap();
            let both = jwt(method, Some(&public), Some(&private)).unwrap();
            let checks = jwt(method, Some(&public), None).unwrap();
            let token = alone.sign(&alice(), NOW).unwrap();
            for jwt in [&alone, &both, &checks] {
                is_good_for_its_time(jwt, &token);
            }
            assert_eq!(checks.sign(&alice(), NOW), Err(ErrorKind::VerifyOnly), "{method}");
        }
        for method in ["HS256", "HS384", "HS512"] {
            let jwt = jwt(method, None, Some("secret")).unwrap();
            is_good_for_its_time(&jwt, &jwt.sign(&alice(), NOW).unwrap());
        }
    }

    #[test]
    fn a_public_key_may_come_in_a_certificate() {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = CertificateParams::default().self_signed(&pair).unwrap();
        let both = jwt("ES256", Some(&certificate.pem()), Some(&pair.serialize_pem())).unwrap();
        is_good_for_its_time(&both, &both.sign(&alice(), NOW).unwrap());
    }

    #[test]
    fn a_token_made_by_others_is_read() {
        // The claims of a Go member's token, signed with the secret "secret".
        let jwt = jwt("HS256", None, Some("secret")).unwrap();
        let own = jwt.sign(&alice(), NOW).unwrap();
        assert_eq!(jwt.verify(&own, NOW), Some(alice()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let sign = |header: &str, claims: &str| {
            let signed = format!(
                "{}.{}",
                URL_SAFE_NO_PAD.encode(header),
                URL_SAFE_NO_PAD.encode(claims)
            );
            let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes()));
            format!("{signed}.{signature}")
        };
        let header = r#"{"alg":"HS256","typ":"JWT"}"#;
        let good = r#"{"exp":1800000001,"revision":7,"username":"alice"}"#;
        assert_eq!(jwt.verify(&sign(header, good), NOW), Some(alice()));
        for (header, claims) in [
            (header, r#"{"exp":1800000001,"revision":7}"#),
            (header, r#"{"exp":1800000001,"username":"alice"}"#),
            (header, r#"{"exp":1800000001,"revision":"7","username":"alice"}"#),
            (header, r#"{"exp":"never","revision":7,"username":"alice"}"#),
            (header, r#"{"exp":1800000000,"revision":7,"username":"alice"}"#),
            (header, r#"{"nbf":1800000001,"revision":7,"username":"alice"}"#),
            (header, "{"),
            (r#"{"alg":"none"}"#, good),
            (r#"{"alg":"HS512"}"#, good),
            ("{}", good),
        ] {
            assert_eq!(jwt.verify(&sign(header, claims), NOW), None, "{header} {claims}");
        }
        for token in ["", ".", "..", "a.b.c", &format!("{}.x", sign(header, good))] {
            assert_eq!(jwt.verify(token, NOW), None, "{token}");
        }
    }

    #[test]
    fn a_public_key_is_no_secret() {
        for (method, algorithm) in [("RS256", &PKCS_RSA_SHA256), ("ES256", &PKCS_ECDSA_P256_SHA256)] {
            let public = KeyPair::generate_for(algorithm).unwrap().public_key_pem();
            let checks = jwt(method, Some(&public), None).unwrap();
            let forger = jwt("HS256", None, Some(&public)).unwrap();
            assert_eq!(checks.verify(&forger.sign(&alice(), NOW).unwrap(), NOW), None);
        }
    }

    #[test]
    fn a_token_of_a_megabyte_is_none_whatever_fills_it() {
        let jwt = jwt("HS256", None, Some("secret")).unwrap();
        for piece in [".", "a", "a.", "Bearer "] {
            assert_eq!(
                jwt.verify(&piece.repeat((1 << 20) / piece.len()), NOW),
                None,
                "{piece}"
            );
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_refused_at_start() {
        let pair = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let (one, other) = (pair(), pair());
        let (public, private) = (one.public_key_pem(), other.serialize_pem());
        assert!(matches!(
            jwt("ES256", Some(&public), Some(&private)),
            Err(JwtError::Mismatch)
        ));
        assert!(matches!(jwt("ES256", None, None), Err(JwtError::NoKey)));
        assert!(matches!(jwt("HS256", Some(&public), None), Err(JwtError::NoKey)));
        assert!(matches!(jwt("HS256", None, Some("")), Err(JwtError::NoKey)));
        assert!(matches!(jwt("none", None, Some(&private)), Err(JwtError::Method)));
        assert!(matches!(
            jwt("RS256", None, Some(&private)),
            Err(JwtError::Unusable { .. })
        ));
        assert!(matches!(
            jwt("ES384", None, Some(&private)),
            Err(JwtError::Unusable { .. })
        ));
        let missing = JwtOptions {
            private_key: Some("/nowhere/key".into()),
            ..options("ES256", None, None).0
        };
        assert!(matches!(Jwt::new(&missing), Err(JwtError::Unreadable { .. })));
    }
}
