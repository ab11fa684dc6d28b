//! `--debug`: what the flags are, and what the client does, on standard error.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::arguments::Global;

/// Says both from now on.
pub fn begin(global: &Global) {
    for (name, value) in flags(global) {
        eprintln!("{name}={value}");
    }
    // Only the first one counts, and there is no other.
    let _ = tracing::subscriber::set_global_default(Lines);
}

/// Flags as variables; secrets are not shown.
fn flags(global: &Global) -> Vec<(&'static str, String)> {
    let secret = |value: &str| match value {
        "" => String::new(),
        _ => "(not shown)".to_owned(),
    };
    let user = global.user.split(':').next().unwrap_or_default();
    let time = |time| types::go::duration(time).to_string();
    vec![
        ("ETCDCTL_AUTH_JWT_TOKEN", secret(&global.auth_jwt_token)),
        ("ETCDCTL_CACERT", global.cacert.clone()),
        ("ETCDCTL_CERT", global.cert.clone()),
        ("ETCDCTL_COMMAND_TIMEOUT", time(global.command_timeout)),
        ("ETCDCTL_DIAL_TIMEOUT", time(global.dial_timeout)),
        ("ETCDCTL_DISCOVERY_SRV", global.discovery_srv.clone()),
        ("ETCDCTL_DISCOVERY_SRV_NAME", global.discovery_srv_name.clone()),
        ("ETCDCTL_ENDPOINTS", format!("[{}]", global.endpoints.join(","))),
        ("ETCDCTL_HEX", global.hex.to_string()),
        (
            "ETCDCTL_INSECURE_DISCOVERY",
            global.insecure_discovery.to_string(),
        ),
        (
            "ETCDCTL_INSECURE_SKIP_TLS_VERIFY",
            global.insecure_skip_tls_verify.to_string(),
        ),
        (
            "ETCDCTL_INSECURE_TRANSPORT",
            global.insecure_transport.to_string(),
        ),
        ("ETCDCTL_KEEPALIVE_TIME", time(global.keepalive_time)),
        ("ETCDCTL_KEEPALIVE_TIMEOUT", time(global.keepalive_timeout)),
        ("ETCDCTL_KEY", global.key.clone()),
        ("ETCDCTL_MAX_RECV_BYTES", global.max_recv_bytes.to_string()),
        ("ETCDCTL_MAX_REQUEST_BYTES", global.max_request_bytes.to_string()),
        ("ETCDCTL_PASSWORD", secret(&global.password)),
        ("ETCDCTL_USER", user.to_owned()),
        ("ETCDCTL_WRITE_OUT", global.write_out.clone()),
    ]
}

/// A line for each event of this program's own crates.
struct Lines;

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event()
            && (metadata.target().starts_with("client") || metadata.target().starts_with("tls"))
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let level = event.metadata().level().as_str().to_lowercase();
        eprintln!("etcdctl: {level}:{}", line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message first, then the fields.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // A string takes what is written.
        let _ = match field.name() {
            "message" => {
                let rest = std::mem::take(&mut self.0);
                write!(self.0, " {value:?}{rest}")
            }
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::OnlyGlobal;

    #[test]
    fn every_flag_is_shown_and_no_secret() {
        let words = [
            "--user=root:s3cret",
            "--password=s3cret",
            "--auth-jwt-token=s3cret",
        ];
        let line: OnlyGlobal = crate::parse::line(["etcdctl"].iter().chain(&words).map(Into::into)).unwrap();
        let shown = flags(&line.global);
        assert!(shown.iter().all(|(_, value)| !value.contains("s3cret")));
        assert!(shown.contains(&("ETCDCTL_USER", "root".to_owned())));
        // All but --debug itself.
        let count = <OnlyGlobal as clap::CommandFactory>::command()
            .get_arguments()
            .count();
        assert_eq!(shown.len(), count - 1);
    }
}
