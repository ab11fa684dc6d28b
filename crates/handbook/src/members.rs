//! The servers that a deployment file describes: Compose, Zeabur, Kubernetes, a Procfile.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::Value;

use crate::sandbox::address;

/// A file of YAML as one value; the later of two equal keys is an error.
pub fn yaml(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// Every document of a file of YAML.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    serde_saphyr::from_multiple(text).map_err(|error| error.to_string())
}

/// A server with its surroundings.
#[derive(Debug)]
pub struct Member {
    /// The name of its host.
    pub host: String,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Program and flags.
    pub command: Vec<String>,
}

impl Member {
    /// The members of a Compose file.
    pub fn of_compose(file: &Value) -> Vec<Self> {
        let services = file["services"].as_object().into_iter().flatten();
        let members = services.filter(|(name, _)| name.starts_with("etcd"));
        let member = |(_, service): (&String, &Value)| {
            let env = service["environment"].as_object().into_iter().flatten();
            let env = env.map(|(name, value)| (name.clone(), defaulted(&text(value))));
            Self::image(&text(&service["hostname"]), env.collect())
        };
        members.map(member).collect()
    }

    /// The members of a Zeabur template, each variable with its default, `passwords` in place of made-up ones.
    pub fn of_zeabur(file: &Value, password: &str) -> Vec<Self> {
        let services: Vec<_> = file["spec"]["services"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        let values = |service: &Value| -> BTreeMap<String, String> {
            let env = service["spec"]["env"].as_object().into_iter().flatten();
            let value = |value: &Value| text(&value["default"]).replace("${PASSWORD}", password);
            env.map(|(name, entry)| (name.clone(), value(entry))).collect()
        };
        let exposed: BTreeMap<_, _> = services.iter().flat_map(|service| values(service)).collect();
        let member = |service: &&Value| {
            let expand =
                |value: String| match value.strip_prefix("${").and_then(|name| name.strip_suffix('}')) {
                    Some(name) => exposed.get(name).cloned().unwrap_or(value),
                    None => value,
                };
            let env = values(service)
                .into_iter()
                .map(|(name, value)| (name, expand(value)));
            Self::image(&text(&service["name"]), env.collect())
        };
        services.iter().map(member).collect()
    }

    /// The pods of a StatefulSet.
    pub fn of_stateful_set(set: &Value) -> Vec<Self> {
        let (name, service) = (text(&set["metadata"]["name"]), text(&set["spec"]["serviceName"]));
        let container = &set["spec"]["template"]["spec"]["containers"][0];
        let pods = 0..set["spec"]["replicas"].as_u64().unwrap_or(0);
        let pod = |number| {
            let pod = format!("{name}-{number}");
            let mut env = BTreeMap::new();
            for entry in container["env"].as_array().into_iter().flatten() {
                let value = match &entry["valueFrom"]["fieldRef"]["fieldPath"] {
                    Value::String(path) if path == "metadata.name" => pod.clone(),
                    _ => text(&entry["value"]).replace("$(ETCD_NAME)", &pod),
                };
                env.insert(text(&entry["name"]), value);
            }
            Self {
                host: format!("{pod}.{service}"),
                env,
                command: words(&container["command"]),
            }
        };
        pods.map(pod).collect()
    }

    /// What an image does when only its environment is set.
    fn image(host: &str, env: BTreeMap<String, String>) -> Self {
        Self {
            host: host.to_owned(),
            env,
            command: vec!["etcd".to_owned()],
        }
    }

    /// The line of a shell that starts it in the background. On a machine that all members share, every address is the
    /// member's own, and so is every folder.
    pub fn start(&self) -> String {
        let own = |text: &str| match address(&self.host) {
            Some(address) => text.replace("0.0.0.0", address),
            None => text.to_owned(),
        };
        let mut line = String::from("env -i PATH=\"$PATH\"");
        for (name, value) in &self.env {
            let value = match name == "ETCD_DATA_DIR" {
                true => format!("{}{value}", self.host).replace('/', "-"),
                false => own(value),
            };
            let _ = write!(line, " '{name}={value}'");
        }
        let program = self.command[0].rsplit('/').next().unwrap_or_default();
        let flags = self.command[1..].iter().map(|flag| format!(" '{}'", own(flag)));
        let _ = write!(line, " {program}{} &", flags.collect::<String>());
        line
    }
}

/// Starts members and waits until all serve.
pub fn start(members: &[Member]) -> String {
    let lines: Vec<_> = members.iter().map(Member::start).collect();
    format!(
        "{{\n{}\nwait\n}} >\"$HERE/members\" 2>&1 &\nready \"$HERE/members\" {} $!\n",
        lines.join("\n"),
        members.len()
    )
}

/// `${NAME:-default}` as Compose reads it where `NAME` is not set.
fn defaulted(value: &str) -> String {
    match value.strip_prefix("${").and_then(|value| value.strip_suffix('}')) {
        Some(inner) => inner
            .split_once(":-")
            .map_or("", |(_, default)| default)
            .to_owned(),
        None => value.to_owned(),
    }
}

/// A scalar as text.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A list of scalars as text.
pub fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}
