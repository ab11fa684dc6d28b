//! JWT: what one server signs, the other believes, and neither believes anything else.

#![allow(clippy::disallowed_methods, reason = "it writes keys")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use conformance::harness::{self, Work};
use conformance::identities::{Gate, Outcome};
use conformance::server::{Place, Ports, Server};
use conformance::tools::Tools;
use prost::Message;
use proto::etcdserverpb::{AuthRoleAddRequest, RangeRequest};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};
use tonic::Code;

/// The methods that the real etcd knows, but for some of the many that only differ in a number; EdDSA is new in 3.6.
const METHODS: [(&str, Option<&SignatureAlgorithm>); 6] = [
    ("RS256", Some(&PKCS_RSA_SHA256)),
    ("PS384", Some(&PKCS_RSA_SHA256)),
    ("ES256", Some(&PKCS_ECDSA_P256_SHA256)),
    ("ES384", Some(&PKCS_ECDSA_P384_SHA384)),
    ("ES512", Some(&PKCS_ECDSA_P521_SHA512)),
    ("HS512", None),
];

fn main() -> ExitCode {
    let mut trials: Vec<(String, Work)> = Vec::new();
    for (method, algorithm) in METHODS {
        trials.push((
            format!("tokens_signed_by_{method}_are_good_at_either_server"),
            Box::new(move |tools| Ok(good_at_either(tools, method, algorithm)?)),
        ));
    }
    let trial = |name: &str, work: fn(&Tools) -> Result<(), String>| -> (String, Work) {
        (name.to_owned(), Box::new(move |tools| Ok(work(tools)?)))
    };
    trials.push(trial(
        "a_public_key_alone_checks_tokens_and_makes_none",
        public_key_alone,
    ));
    trials.push(trial("bad_tokens_are_refused_alike", bad_tokens));
    trials.push(trial("options_that_make_no_sense_are_refused", bad_options));
    harness::run(trials)
}

/// Files of keys.
struct Keys {
    method: &'static str,
    public: Option<PathBuf>,
    private: PathBuf,
}

impl Keys {
    fn new(
        dir: &Path,
        method: &'static str,
        algorithm: Option<&'static SignatureAlgorithm>,
    ) -> Result<Self, String> {
        let private = dir.join(format!("{method}.key"));
        let Some(algorithm) = algorithm else {
            write(&private, SECRET)?;
            let public = None;
            return Ok(Self {
                method,
                public,
                private,
            });
        };
        let pair = KeyPair::generate_for(algorithm).map_err(text)?;
        let public = dir.join(format!("{method}.pub"));
        write(&public, &pair.public_key_pem())?;
        write(&private, &pair.serialize_pem())?;
        let public = Some(public);
        Ok(Self {
            method,
            public,
            private,
        })
    }

    /// The flag for a server that signs.
    fn both(&self) -> String {
        let public = self
            .public
            .iter()
            .map(|file| format!(",pub-key={}", file.display()));
        let public: String = public.collect();
        format!(
            "--auth-token=jwt,sign-method={}{public},priv-key={},ttl=10m",
            self.method,
            self.private.display()
        )
    }

    /// The flag for a server that only checks.
    fn public(&self) -> String {
        let public = self.public.as_deref().unwrap_or(Path::new(""));
        format!(
            "--auth-token=jwt,sign-method={},pub-key={}",
            self.method,
            public.display()
        )
    }
}

const SECRET: &str = "a secret that both servers share";

/// Two servers of different kinds with the same users.
struct Pair {
    ours: Gate,
    reference: Gate,
}

impl Pair {
    async fn open(tools: &Tools, dir: &Path, flag: &str) -> Result<Self, String> {
        let own = |name: &str| {
            let dir = dir.join(name);
            std::fs::create_dir(&dir).map_err(text).map(|()| dir)
        };
        let (ours, reference) = (own("ours")?, own("reference")?);
        Ok(Self {
            ours: Gate::open(&tools.ours, &ours, &[flag]).await?,
            reference: Gate::open(&tools.reference, &reference, &[flag]).await?,
        })
    }

    /// What comes of reading a key with a token, which is the same at both.
    async fn read(&mut self, key: &'static str, token: &str) -> Result<Outcome, String> {
        let ours = read(&mut self.ours, key, token).await?;
        let reference = read(&mut self.reference, key, token).await?;
        match ours == reference {
            true => Ok(ours),
            false => Err(format!(
                "{key} with {token}: {ours:?}, and by the real etcd {reference:?}"
            )),
        }
    }

    async fn expect(&mut self, key: &'static str, token: &str, letter: char) -> Result<(), String> {
        let outcome = self.read(key, token).await?;
        match outcome.letter() == letter {
            true => Ok(()),
            false => Err(format!("{key} with {token}: {outcome:?}")),
        }
    }
}

async fn read(gate: &mut Gate, key: &'static str, token: &str) -> Result<Outcome, String> {
    let request = RangeRequest {
        key: key.into(),
        ..Default::default()
    };
    gate.call(
        "etcdserverpb.KV/Range",
        request.encode_to_vec(),
        &[("token", token)],
        None,
    )
    .await
}

fn good_at_either(
    tools: &Tools,
    method: &'static str,
    algorithm: Option<&'static SignatureAlgorithm>,
) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let keys = Keys::new(dir.path(), method, algorithm)?;
    harness::runtime()?.block_on(async {
        let mut pair = Pair::open(tools, dir.path(), &keys.both()).await?;
        let tokens = [
            pair.ours.sign_in("keyed").await?,
            pair.reference.sign_in("keyed").await?,
        ];
        for token in &tokens {
            pair.expect("k", token, '.').await?;
            pair.expect("f", token, 'd').await?;
        }
        // Members forget nothing, since they keep nothing.
        for gate in [&mut pair.ours, &mut pair.reference] {
            gate.server.stop().await?;
            gate.server.resume().await?;
        }
        for token in &tokens {
            pair.expect("k", token, '.').await?;
        }
        // Any change of roles makes them old.
        for gate in [&mut pair.ours, &mut pair.reference] {
            let role = AuthRoleAddRequest { name: "more".into() };
            gate.call_as("root", "etcdserverpb.Auth/RoleAdd", role.encode_to_vec())
                .await?;
        }
        let old = Outcome::Refused(
            Code::InvalidArgument,
            "etcdserver: revision of auth store is old".to_owned(),
        );
        for token in &tokens {
            let outcome = pair.read("k", token).await?;
            if outcome != old {
                return Err(format!("an old token: {outcome:?}"));
            }
        }
        // As of 3.7 there may be a word in front.
        let bearer = format!("Bearer {}", pair.ours.sign_in("keyed").await?);
        if read(&mut pair.ours, "k", &bearer).await? != Outcome::Answered {
            return Err("a token behind the word Bearer is refused".into());
        }
        for told in tokens.iter().map(String::as_str).chain([&bearer[7..], SECRET]) {
            if pair.ours.server.has_logged(told) {
                return Err(format!("{told} is in the log"));
            }
        }
        Ok(())
    })
}

fn public_key_alone(tools: &Tools) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let keys = Keys::new(dir.path(), "ES256", Some(&PKCS_ECDSA_P256_SHA256))?;
    harness::runtime()?.block_on(async {
        let mut pair = Pair::open(tools, dir.path(), &keys.public()).await?;
        let signs = dir.path().join("signs");
        std::fs::create_dir(&signs).map_err(text)?;
        let signs = Gate::open(&tools.ours, &signs, &[&keys.both()]).await?;
        let token = signs.sign_in("keyed").await?;
        pair.expect("k", &token, '.').await?;
        pair.expect("f", &token, 'd').await?;
        for gate in [&pair.ours, &pair.reference] {
            let status = gate.try_to_sign_in("keyed").await?.err();
            let status = status.ok_or("a public key signs")?;
            let expected = "auth: token signing attempted with verify-only key";
            if (status.code(), status.message()) != (Code::Unknown, expected) {
                return Err(format!("signing in: {status:?}"));
            }
        }
        Ok(())
    })
}

/// CVE-2025-30204 and etcd's PRs 15676, 21929, 21993.
fn bad_tokens(tools: &Tools) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let rsa = Keys::new(dir.path(), "RS256", Some(&PKCS_RSA_SHA256))?;
    let hs = Keys::new(dir.path(), "HS512", None)?;
    let public = rsa.public.as_deref().unwrap_or(Path::new(""));
    let public = std::fs::read(public).map_err(text)?;
    let far = r#""exp":9999999999"#;
    let claims = |rest: &str| format!("{{{far}{rest}}}");
    let good = claims(r#","revision":14,"username":"keyed""#);
    let hmac512 = |header: &str, claims: &str| signed(hmac::HMAC_SHA512, SECRET.as_bytes(), header, claims);
    let header = r#"{"alg":"HS512","typ":"JWT"}"#;
    let forged = signed(
        hmac::HMAC_SHA256,
        &public,
        r#"{"alg":"HS256","typ":"JWT"}"#,
        &good,
    );
    let secret = [
        hmac512(header, &claims(r#","revision":14"#)),
        hmac512(header, &claims(r#","username":"keyed""#)),
        hmac512(header, &claims(r#","revision":"14","username":"keyed""#)),
        hmac512(header, &claims(r#","revision":14,"username":14"#)),
        hmac512(header, r#"{"exp":1,"revision":14,"username":"keyed"}"#),
        hmac512(header, r#"{"exp":"later","revision":14,"username":"keyed"}"#),
        hmac512(header, "[]"),
        hmac512(header, "{"),
        hmac512(r#"{"alg":"none"}"#, &good),
        hmac512(r#"{"alg":"HS256"}"#, &good),
        hmac512("{}", &good),
        signed(hmac::HMAC_SHA512, b"another secret", header, &good),
        format!("{}.{}.", encoded(r#"{"alg":"none"}"#), encoded(&good)),
        format!("{}.{}", encoded(header), encoded(&good)),
        format!("{}.", hmac512(header, &good)),
        ".".into(),
        "..".into(),
        "a.b.c".into(),
        ".".repeat(10_000),
        "Bearer".into(),
        "Bearer Bearer a.b.c".into(),
    ];
    harness::runtime()?.block_on(async {
        let mut pair = Pair::open(tools, dir.path(), &hs.both()).await?;
        pair.expect("k", &hmac512(header, &good), '.').await?;
        for token in &secret {
            pair.expect("k", token, 't').await?;
        }
        for token in &secret[..12] {
            if pair.ours.server.has_logged(token) {
                return Err(format!("{token} is in the log"));
            }
        }
        // The real server takes larger headers; either goes on as if nothing had happened.
        let large = "a.".repeat(1 << 19);
        let outcome = read(&mut pair.ours, "k", &large).await?;
        if outcome == Outcome::Answered {
            return Err("a megabyte is taken for a token".into());
        }
        pair.expect("k", &hmac512(header, &good), '.').await?;

        let more = dir.path().join("more");
        std::fs::create_dir(&more).map_err(text)?;
        let mut pair = Pair::open(tools, &more, &rsa.both()).await?;
        pair.expect("k", &forged, 't').await
    })
}

fn signed(algorithm: hmac::Algorithm, secret: &[u8], header: &str, claims: &str) -> String {
    let signed = format!("{}.{}", encoded(header), encoded(claims));
    let signature = hmac::sign(&hmac::Key::new(algorithm, secret), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn encoded(part: &str) -> String {
    URL_SAFE_NO_PAD.encode(part)
}

fn bad_options(tools: &Tools) -> Result<(), String> {
    let dir = tempfile::tempdir().map_err(text)?;
    let one = Keys::new(dir.path(), "ES256", Some(&PKCS_ECDSA_P256_SHA256))?;
    let rsa = Keys::new(dir.path(), "RS256", Some(&PKCS_RSA_SHA256))?;
    let (public, private) = (one.public.clone().unwrap_or_default(), one.private.display());
    let (public, other) = (public.display(), rsa.private.display());
    let options = [
        "nonsense".to_owned(),
        "jwt".into(),
        "jwt,sign-method".into(),
        "jwt,sign-method=RS257".into(),
        format!("jwt,sign-method=none,priv-key={private}"),
        "jwt,sign-method=RS256".into(),
        "jwt,sign-method=RS256,priv-key=/nowhere/key".into(),
        format!("jwt,sign-method=HS256,pub-key={public}"),
        format!("jwt,sign-method=RS256,pub-key={public}"),
        format!("jwt,sign-method=ES256,pub-key={public},priv-key={other}"),
        format!("jwt,sign-method=ES256,priv-key={private},ttl=x"),
        format!("jwt,sign-method=ES256,priv-key={private},sign-method=ES256"),
    ];
    harness::runtime()?.block_on(async {
        for option in options {
            for program in [&tools.ours, &tools.reference] {
                let ports = Ports::free();
                let place = Place {
                    name: ports.name().to_owned(),
                    advertised: ports.peer,
                    cluster: ports.initial_cluster(),
                    joins: false,
                };
                let flag = format!("--auth-token={option}");
                let mut server = Server::prepared(program, &[flag], ports, place)?;
                server.spawn()?;
                if server.gone().await?.success() {
                    return Err(format!("{} starts with {option}", program.display()));
                }
            }
        }
        Ok(())
    })
}

fn write(file: &Path, content: &str) -> Result<(), String> {
    std::fs::write(file, content).map_err(|e| format!("{}: {e}", file.display()))
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
