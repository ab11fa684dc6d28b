//! The files of `deploy/`: each is read as its platform reads it, and what can be started here is started.

// A test of the rim: it has files and processes.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, ExitCode};

use handbook::members::{Member, documents, start, text, words, yaml};
use handbook::page::{Block, Kind};
use handbook::programs::Programs;
use handbook::{needs, read, repository, sandbox};
use libtest_mimic::{Arguments, Failed, Trial};
use regex::Regex;
use serde_json::Value;

type Told = Result<(), Failed>;

/// What is found out about files, by a program of the platform, and by starting ours.
type Read = (&'static str, fn() -> Told);
type Asked = (&'static str, &'static str, fn() -> Told);
type Started = (&'static str, &'static [&'static str], fn(&Programs) -> Told);

const FILES: [Read; 8] = [
    ("the_image_is_laid_out_as_etcds_is", the_image),
    ("compose_has_three_members_and_who_watches_them", compose),
    (
        "alerts_and_dashboard_ask_for_series_of_etcd",
        alerts_and_dashboard,
    ),
    ("templates_for_zeabur_have_what_its_schema_asks", zeabur),
    ("kubernetes_probes_the_port_for_metrics", kubernetes),
    ("the_unit_is_one_of_type_notify", unit),
    ("variables_of_packages_are_flags_of_the_server", variables),
    ("packages_name_files_that_are_there", packages),
];

const PLATFORMS: [Asked; 5] = [
    ("systemd_verifies_the_unit", "systemd-analyze", systemd),
    ("kustomize_takes_the_folder", "kubectl", kustomize),
    (
        "the_manifests_fit_the_schemas_of_kubernetes",
        "kubernetes-validate",
        schemas,
    ),
    ("compose_reads_its_file", "compose-spec", compose_reads),
    (
        "every_alert_is_raised_when_it_should",
        "promtool",
        alerts_are_raised,
    ),
];

const PROCESSES: [Started; 8] = [
    ("the_members_of_compose_make_a_cluster", &[], compose_runs),
    (
        "the_members_of_zeabur_make_a_cluster_with_a_password",
        &[],
        zeabur_runs,
    ),
    ("the_pods_of_kubernetes_make_a_cluster", &[], pods_run),
    ("a_fourth_pod_joins_as_the_manifest_says", &[], a_fourth_pod_joins),
    ("the_static_pod_serves_with_certificates", &[], static_pod_runs),
    ("the_procfile_makes_a_cluster", &[], procfile_runs),
    (
        "the_packages_settings_make_a_server_that_tells_systemd",
        &[],
        settings_run,
    ),
    (
        "prometheus_scrapes_every_member_and_answers_every_panel",
        &["prometheus", "promtool"],
        prometheus_runs,
    ),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let programs: &'static Result<Programs, String> = Box::leak(Box::new(Programs::find()));
    let lacks = sandbox::lacks().or_else(|| programs.as_ref().err().cloned());
    let files = FILES.map(|(name, check)| Trial::test(name, check));
    let platforms =
        PLATFORMS.map(|(name, program, check)| needs::trial(name, needs::program(program), check));
    let processes = PROCESSES.map(|(name, others, check)| {
        let lacks = lacks.clone().or_else(|| needs::programs(others));
        needs::trial(name, lacks, move || {
            check(programs.as_ref().map_err(Failed::from)?)
        })
    });
    let trials = files.into_iter().chain(platforms).chain(processes);
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// A program that has to end well; what it prints.
fn ends_well(command: &mut Command) -> Result<String, Failed> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(format!("{command:?}\n{}{}", text(&output.stdout), text(&output.stderr)).into()),
    }
}

/// The blocks of a trial that has no page.
fn commands(commands: &str) -> Vec<Block> {
    vec![Block {
        line: 0,
        kind: Kind::Run,
        commands: commands.to_owned(),
        output: None,
    }]
}

fn has(text: &str, parts: &[&str]) -> Told {
    match parts.iter().find(|part| !text.contains(**part)) {
        Some(part) => Err(format!("{part:?} is missing").into()),
        None => Ok(()),
    }
}

// ---- files ----

/// The instructions of a Dockerfile, lines that go on joined.
fn instructions(dockerfile: &str) -> Vec<(String, String)> {
    let lines = dockerfile
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let instruction = |line: &str| {
        let (word, rest) = line.trim().split_once(' ')?;
        Some((
            word.to_owned(),
            rest.split_whitespace().collect::<Vec<_>>().join(" "),
        ))
    };
    joined.lines().filter_map(instruction).collect()
}

fn the_image() -> Told {
    let dockerfile = read("deploy/docker/Dockerfile")?;
    let instructions = instructions(&dockerfile);
    let all = |word: &str| -> Vec<&str> {
        let found = instructions.iter().filter(|(found, _)| found == word);
        found.map(|(_, rest)| rest.as_str()).collect()
    };
    assert_eq!(
        all("FROM"),
        [
            "scratch AS base",
            "base AS prebuilt",
            "rust:1-bookworm AS build",
            "base AS built"
        ]
    );
    assert_eq!(all("EXPOSE"), ["2379 2380 2381"]);
    assert_eq!(all("CMD"), [r#"["/usr/local/bin/etcd"]"#]);
    assert_eq!(all("WORKDIR")[..2], ["/var/etcd/", "/var/lib/etcd/"]);
    assert!(
        all("ENTRYPOINT").is_empty() && all("USER").is_empty(),
        "upstream has neither"
    );
    has(
        all("HEALTHCHECK")[0],
        &[r#"CMD ["/usr/local/bin/etcd", "healthcheck"]"#],
    )?;
    has(&all("RUN").concat(), &["target-feature=+crt-static", "--locked"])?;
    for copy in all("COPY") {
        assert!(
            copy == ". ." || copy.contains("/usr/local/bin/") || copy.contains("ca-certificates"),
            "{copy}"
        );
    }
    // Whoever adds a program for users adds it to the image.
    for program in ["etcd", "etcdctl", "etcdutl"] {
        if repository(&format!("crates/{program}")).is_dir() {
            has(
                &dockerfile,
                &[&format!("--bin {program}"), &format!("bin/{program}")],
            )?;
            has(
                &read("deploy/docker/make-context")?,
                &[&format!("--bin {program}")],
            )?;
        }
    }
    Ok(())
}

fn compose() -> Told {
    let file = yaml(&read("deploy/compose/docker-compose.yml")?)?;
    let members = Member::of_compose(&file);
    assert_eq!(
        members.iter().map(|member| &*member.host).collect::<Vec<_>>(),
        ["etcd1", "etcd2", "etcd3"]
    );
    for (number, member) in (1..).zip(&members) {
        let service = &file["services"][&member.host];
        assert_eq!(member.env["ETCD_NAME"], member.host);
        assert_eq!(text(&service["restart"]), "unless-stopped");
        assert_eq!(
            words(&service["volumes"]),
            [format!("{}-data:{}", member.host, member.env["ETCD_DATA_DIR"])]
        );
        let published = |inside: u16| format!("127.0.0.1:{}:{inside}", inside + (number - 1) * 10);
        assert_eq!(words(&service["ports"]), [2379, 2381].map(published));
    }
    let scraped = yaml(&read("deploy/compose/prometheus.yml")?)?;
    let job = &scraped["scrape_configs"][0];
    assert_eq!(text(&job["job_name"]), "etcd");
    assert_eq!(
        words(&job["static_configs"][0]["targets"]),
        ["etcd1:2381", "etcd2:2381", "etcd3:2381"]
    );
    for service in ["prometheus", "grafana"] {
        for volume in words(&file["services"][service]["volumes"]) {
            let (from, _) = volume.split_once(':').ok_or("a volume without a place")?;
            let is_there = match from.strip_prefix("./") {
                Some(path) => repository("deploy/compose").join(path).exists(),
                None => file["volumes"].get(from).is_some(),
            };
            assert!(is_there, "{from}");
        }
    }
    for file in ["datasources/prometheus.yml", "dashboards/etcd.yml"] {
        yaml(&read(&format!("deploy/compose/grafana/provisioning/{file}"))?)?;
    }
    Ok(())
}

/// Names of series in an expression.
fn series(expression: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\b(?:etcd|grpc|process)_[a-z_]+[a-z]\b").expect("a pattern");
    let labels = Regex::new(r"\b(?:grpc_method|grpc_code|grpc_type|grpc_service)\b").expect("a pattern");
    let names = name.find_iter(expression).map(|found| found.as_str());
    names
        .filter(|name| !labels.is_match(name))
        .map(str::to_owned)
        .collect()
}

/// Where the server's metrics are declared, and those of its process.
fn declared() -> Result<String, String> {
    let mut folders = ["crates/server/src", "crates/insight/src"]
        .map(repository)
        .to_vec();
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| error.to_string())? {
            let path = entry.map_err(|error| error.to_string())?.path();
            match path.is_dir() {
                true => folders.push(path),
                false => text += &fs::read_to_string(&path).unwrap_or_default(),
            }
        }
    }
    Ok(text)
}

fn alerts_and_dashboard() -> Told {
    let alerts = yaml(&read("deploy/compose/alerts.yml")?)?;
    let dashboard: Value = serde_json::from_str(&read("deploy/compose/grafana/dashboards/etcd.json")?)
        .map_err(|error| error.to_string())?;
    let rules = alerts["groups"][0]["rules"].as_array().ok_or("no rules")?;
    assert!(rules.len() >= 13, "fewer rules than etcd's mixin has");
    let mut names = BTreeSet::new();
    let mut asked = BTreeSet::new();
    for rule in rules {
        assert!(names.insert(text(&rule["alert"])), "twice: {}", rule["alert"]);
        assert!(["warning", "critical"].contains(&&*text(&rule["labels"]["severity"])));
        assert!(!text(&rule["annotations"]["summary"]).is_empty() && !text(&rule["for"]).is_empty());
        asked.extend(series(&text(&rule["expr"])));
    }
    let panels = dashboard["panels"].as_array().ok_or("no panels")?;
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(text(&panel["id"])), "two panels with one id");
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked.extend(series(&text(&target["expr"])));
        }
    }
    assert!(panels.len() > 15 && asked.len() > 20);
    let declared = declared()?;
    for name in asked {
        let base = name.strip_suffix("_bucket").unwrap_or(&name);
        assert!(
            declared.contains(&format!("\"{base}\"")),
            "no such series: {name}"
        );
    }
    Ok(())
}

/// Fields of a template, as the platform's reference has them (docs/REFERENCE.md of zeabur-template-doc); `*` is any one
/// name, and a list's items are where the list is. A field that it does not know is dropped without a word.
const ZEABUR_FIELDS: [&str; 43] = [
    "apiVersion",
    "kind",
    "metadata.name",
    "spec.description",
    "spec.icon",
    "spec.coverImage",
    "spec.video",
    "spec.tags",
    "spec.readme",
    "spec.variables.key",
    "spec.variables.type",
    "spec.variables.name",
    "spec.variables.description",
    "spec.resourceRequirement.minConfig.cpu",
    "spec.resourceRequirement.minConfig.ram",
    "spec.resourceRequirement.recommendedConfig.cpu",
    "spec.resourceRequirement.recommendedConfig.ram",
    "spec.services.name",
    "spec.services.icon",
    "spec.services.template",
    "spec.services.domainKey",
    "spec.services.dependencies",
    "spec.services.spec.source.image",
    "spec.services.spec.ports.id",
    "spec.services.spec.ports.port",
    "spec.services.spec.ports.type",
    "spec.services.spec.volumes.id",
    "spec.services.spec.volumes.dir",
    "spec.services.spec.healthCheck.type",
    "spec.services.spec.healthCheck.port",
    "spec.services.spec.healthCheck.http.path",
    "spec.services.spec.instructions.type",
    "spec.services.spec.instructions.title",
    "spec.services.spec.instructions.content",
    "spec.services.spec.env.*.default",
    "spec.services.spec.env.*.expose",
    "spec.services.spec.env.*.readonly",
    "localization.*.description",
    "localization.*.readme",
    "localization.*.variables.key",
    "localization.*.variables.type",
    "localization.*.variables.name",
    "localization.*.variables.description",
];

/// Every way from the root to a scalar.
fn ways(value: &Value, way: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = match ["spec.services.spec.env", "localization"].contains(&way) {
                    true => "*",
                    false => name,
                };
                let longer = if way.is_empty() {
                    name.to_owned()
                } else {
                    format!("{way}.{name}")
                };
                ways(field, &longer, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| ways(item, way, found)),
        _ => drop(found.insert(way.to_owned())),
    }
}

fn zeabur() -> Told {
    for count in [1, 3, 5] {
        let path = format!("deploy/zeabur/keelson-{count}.yaml");
        let file = yaml(&read(&path)?)?;
        let mut found = BTreeSet::new();
        ways(&file, "", &mut found);
        for way in found {
            assert!(ZEABUR_FIELDS.contains(&&*way), "{path}: no such field: {way}");
        }
        assert_eq!(
            (text(&file["apiVersion"]), text(&file["kind"])),
            ("zeabur.com/v1".into(), "Template".into())
        );
        let services = file["spec"]["services"].as_array().ok_or("no services")?;
        assert_eq!(services.len(), count, "{path}");
        for service in services {
            assert_eq!(text(&service["template"]), "PREBUILT_V2");
            let spec = &service["spec"];
            let ports = spec["ports"].as_array().ok_or("no ports")?;
            let port = |port: &Value| [&port["id"], &port["port"], &port["type"]].map(text).join(" ");
            let ports: Vec<_> = ports.iter().map(port).collect();
            assert_eq!(ports, ["client 2379 TCP", "peer 2380 TCP", "metrics 2381 HTTP"]);
            let check = &spec["healthCheck"];
            assert_eq!(
                [&check["type"], &check["port"], &check["http"]["path"]].map(text),
                ["HTTP", "metrics", "/health"]
            );
            assert_eq!(
                text(&spec["volumes"][0]["dir"]),
                text(&spec["env"]["ETCD_DATA_DIR"]["default"])
            );
            assert!(spec["command"].is_null(), "settings are variables only");
            assert!(service["dependencies"].is_null(), "members start together");
            for (name, entry) in spec["env"].as_object().into_iter().flatten() {
                assert!(entry["default"].is_string(), "{name} of {path}");
            }
        }
        let chinese = &file["localization"]["zh-TW"];
        has(
            &text(&chinese["readme"]),
            &[
                "連接埠",
                "2379",
                "2380",
                "2381",
                "ETCD_INITIAL_CLUSTER_STATE=existing",
            ],
        )?;
        has(&text(&file["spec"]["readme"]), &["2379", "2380", "2381"])?;
        let keys = |variables: &Value| -> Vec<String> {
            variables
                .as_array()
                .into_iter()
                .flatten()
                .map(|variable| text(&variable["key"]))
                .collect()
        };
        assert_eq!(keys(&file["spec"]["variables"]), keys(&chinese["variables"]));
    }
    Ok(())
}

/// Path, port and failures of the three probes.
fn probes(container: &Value) -> Vec<(String, String)> {
    ["livenessProbe", "readinessProbe", "startupProbe"]
        .map(|probe| {
            let get = &container[probe]["httpGet"];
            let named = text(&get["port"]);
            let ports = container["ports"].as_array().into_iter().flatten();
            let number = ports
                .filter(|port| text(&port["name"]) == named)
                .map(|port| text(&port["containerPort"]));
            (text(&get["path"]), number.collect())
        })
        .into()
}

fn kubernetes() -> Told {
    let documents = documents(&read("deploy/kubernetes/statefulset.yaml")?)?;
    let kinds: Vec<_> = documents.iter().map(|document| text(&document["kind"])).collect();
    assert_eq!(
        kinds,
        ["Service", "Service", "PodDisruptionBudget", "StatefulSet"]
    );
    let set = &documents[3]["spec"];
    assert_eq!(text(&set["podManagementPolicy"]), "Parallel");
    // Its variables for a service of this name would be taken for settings.
    assert_eq!(text(&set["template"]["spec"]["enableServiceLinks"]), "false");
    assert_eq!(text(&documents[0]["spec"]["publishNotReadyAddresses"]), "true");
    assert_eq!(text(&set["serviceName"]), text(&documents[0]["metadata"]["name"]));
    let pod = yaml(&read("deploy/kubernetes/static-pod.yaml")?)?;
    for container in [
        &set["template"]["spec"]["containers"][0],
        &pod["spec"]["containers"][0],
    ] {
        let asked = [("/livez", "2381"), ("/readyz", "2381"), ("/readyz", "2381")];
        assert_eq!(
            probes(container),
            asked.map(|(path, port)| (path.to_owned(), port.to_owned()))
        );
    }
    assert_eq!(text(&pod["spec"]["hostNetwork"]), "true");
    has(
        &words(&pod["spec"]["containers"][0]["command"]).join(" "),
        &[
            "--client-cert-auth=true",
            "--peer-client-cert-auth=true",
            "--listen-metrics-urls=http://127.0.0.1:2381",
        ],
    )
}

fn kustomize() -> Told {
    let mut command = Command::new("kubectl");
    let printed = ends_well(command.arg("kustomize").arg(repository("deploy/kubernetes")))?;
    has(&printed, &["kind: StatefulSet", "kind: PodDisruptionBudget"])
}

fn schemas() -> Told {
    let mut command = Command::new("kubernetes-validate");
    let files = ["statefulset.yaml", "static-pod.yaml"];
    let files = files.map(|file| repository("deploy/kubernetes").join(file));
    ends_well(command.arg("--strict").args(files)).map(drop)
}

/// By the library that `docker compose` reads it with.
fn compose_reads() -> Told {
    let mut command = Command::new("compose-spec");
    let printed = ends_well(command.arg(repository("deploy/compose/docker-compose.yml")))?;
    has(&printed, &["ETCD_NAME: etcd3", "keelson:latest"])
}

/// The file says what members report, minute by minute, and which alerts there must be then.
fn alerts_are_raised() -> Told {
    let mut command = Command::new("promtool");
    let file = repository("crates/handbook/tests/alerts.test.yml");
    ends_well(command.args(["test", "rules"]).arg(&file))?;
    let (told, tried) = (
        read("deploy/compose/alerts.yml")?,
        read("crates/handbook/tests/alerts.test.yml")?,
    );
    let alert = Regex::new(r"- alert: (\w+)").expect("a pattern");
    for found in alert.captures_iter(&told) {
        has(&tried, &[&format!("alertname=\"{}\"", &found[1])])?;
    }
    Ok(())
}

fn unit() -> Told {
    let unit = read("deploy/systemd/etcd.service")?;
    has(
        &unit,
        &[
            "Type=notify",
            "User=etcd",
            "EnvironmentFile=-/etc/default/etcd",
            "ExecStart=/usr/bin/etcd\n",
            "Restart=always",
        ],
    )?;
    Ok(())
}

fn systemd() -> Told {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("etcd.service");
    // The program and its user are there once the package is installed.
    let stand_in = read("deploy/systemd/etcd.service")?
        .replace("/usr/bin/etcd", "/bin/true")
        .replace("User=etcd", "User=root")
        .replace("Group=etcd", "Group=root");
    fs::write(&path, stand_in).map_err(|error| error.to_string())?;
    let mut command = Command::new("systemd-analyze");
    let output = command.args(["verify", "--man=no"]).arg(&path).output();
    let said = output.map_err(|error| error.to_string())?.stderr;
    let said = String::from_utf8_lossy(&said);
    let ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("etcd.service"))
        .collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
    Ok(())
}

/// Variables that a file sets or suggests.
fn variables_of(text: &str) -> BTreeSet<String> {
    let variable = Regex::new(r"(?m)\bETCD_[A-Z_]+\b").expect("a pattern");
    variable
        .find_iter(text)
        .map(|found| found.as_str().to_owned())
        .collect()
}

fn variables() -> Told {
    let mut files = vec!["deploy/systemd/etcd.env", "deploy/systemd/etcd.service"];
    files.extend([
        "deploy/compose/docker-compose.yml",
        "deploy/kubernetes/statefulset.yaml",
    ]);
    files.extend([
        "deploy/zeabur/keelson-1.yaml",
        "deploy/zeabur/keelson-3.yaml",
        "deploy/zeabur/keelson-5.yaml",
    ]);
    let flags = read("crates/etcd/src/flags/table.rs")?;
    for file in files {
        for variable in variables_of(&read(file)?) {
            let flag = variable["ETCD_".len()..].to_ascii_lowercase();
            let is_known = Regex::new(&format!(r"\b{flag}\b"))
                .expect("a pattern")
                .is_match(&flags);
            assert!(
                is_known || variable == "ETCD_ROOT_PASSWORD",
                "{file}: {variable} is no flag's"
            );
        }
    }
    Ok(())
}

fn packages() -> Told {
    let manifest = read("crates/etcd/Cargo.toml")?;
    let (_, package) = manifest
        .split_once("[package.metadata.deb]")
        .ok_or("no package")?;
    has(
        package,
        &["name = \"etcd-server\"", "conf-files = [\"/etc/default/etcd\"]"],
    )?;
    // What is in target is made by the scripts.
    let path = Regex::new(r#""\.\./\.\./((?:crates|deploy)[^"]*)""#).expect("a pattern");
    let paths: Vec<_> = path
        .captures_iter(package)
        .map(|found| found[1].to_owned())
        .collect();
    assert!(paths.len() >= 6);
    let spec = read("deploy/rpm/etcd.spec")?;
    let sources = Regex::new(r"%\{_sourcedir\}/(deploy/[^\s}]+)").expect("a pattern");
    let sources = sources.captures_iter(&spec).map(|found| found[1].to_owned());
    for path in paths.into_iter().chain(sources) {
        assert!(repository(&path).exists(), "{path}");
    }
    for script in [
        "deploy/debian/make-package",
        "deploy/docker/make-context",
        "deploy/make-shared",
    ] {
        ends_well(Command::new("sh").arg("-n").arg(repository(script)))?;
    }
    Ok(())
}

// ---- processes ----

fn compose_runs(programs: &Programs) -> Told {
    let members = Member::of_compose(&yaml(&read("deploy/compose/docker-compose.yml")?)?);
    let prelude = start(&members);
    let healthy = commands(
        "for host in etcd1 etcd2 etcd3; do\n\
         \x20 etcd healthcheck http://$host:2381 | grep '\"health\":\"true\"'\n\
         \x20 env ETCD_LISTEN_METRICS_URLS=http://$host:2381 etcd healthcheck\n\
         \x20 curl -fsS http://$host:2381/metrics | grep '^etcd_server_has_leader 1'\n\
         done\n\
         etcdctl --endpoints=http://etcd1:2379,http://etcd2:2379,http://etcd3:2379 endpoint health\n\
         # The image has no authorities: that is no matter while no TLS is spoken.\n\
         env SSL_CERT_FILE=/dev/null SSL_CERT_DIR=/nowhere etcdctl --endpoints=http://etcd1:2379 put a 1\n\
         fails env SSL_CERT_FILE=/dev/null SSL_CERT_DIR=/nowhere etcdctl --endpoints=https://etcd1:2379 get a\n\
         test $(etcdctl --endpoints=http://etcd1:2379 member list | wc -l) = 3\n\
         # As the ports guide has it for `docker logs etcd1` and `kubectl logs etcd1`.\n\
         for port in 2379 2380 2381; do\n\
         \x20 grep -i 'port\\|listen\\|bind' $HERE/members | grep :$port\n\
         done\n",
    );
    Ok(sandbox::run(programs, &prelude, &healthy)?)
}

/// What the panels ask, with the variables of the dashboard filled in as Grafana does for one cluster and all members.
fn panels() -> Result<Vec<String>, String> {
    let dashboard: Value = serde_json::from_str(&read("deploy/compose/grafana/dashboards/etcd.json")?)
        .map_err(|error| error.to_string())?;
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let filled = |target: &Value| {
        text(&target["expr"])
            .replace("$job", "etcd")
            .replace("$instance", ".*")
            .replace("$__rate_interval", "1m")
    };
    Ok(targets.map(filled).collect())
}

/// With the very configuration of Compose: the names of the members lead to them here, too.
fn prometheus_runs(programs: &Programs) -> Told {
    let members = Member::of_compose(&yaml(&read("deploy/compose/docker-compose.yml")?)?);
    let folder = repository("deploy/compose").display().to_string();
    let alerts = yaml(&read("deploy/compose/alerts.yml")?)?;
    let rules = alerts["groups"][0]["rules"].as_array().map_or(0, Vec::len);
    let mut script = format!(
        "export ETCDCTL_ENDPOINTS=http://etcd1:2379,http://etcd2:2379,http://etcd3:2379\n\
         prometheus --config.file={folder}/prometheus.yml --storage.tsdb.path=tsdb >prometheus.log 2>&1 &\n\
         etcdctl watch a >watched &\n\
         answers() {{ until promtool query instant http://127.0.0.1:9090 \"$1\" 2>&1 | grep '=>'; do sleep 0.5; done; }}\n\
         answers 'count(up{{job=\"etcd\"}} == 1) == 3'\n\
         curl -fsS http://127.0.0.1:9090/api/v1/rules >rules\n\
         test $(grep -o '\"type\":\"alerting\"' rules | wc -l) = {rules}\n\
         etcdctl put a 1\n\
         fails etcdctl --command-timeout=1s lease revoke 1234\n"
    );
    for panel in panels()? {
        script += &format!("answers '{panel}'\n");
    }
    script += "curl -fsS http://127.0.0.1:9090/api/v1/rules >rules\n\
               test $(grep -o '\"health\":\"ok\"' rules | wc -l) = ";
    script += &format!("{rules}\nfails grep '\"state\":\"firing\"' rules\n");
    Ok(sandbox::run(programs, &start(&members), &commands(&script))?)
}

fn zeabur_runs(programs: &Programs) -> Told {
    for count in [1, 3, 5] {
        let file = yaml(&read(&format!("deploy/zeabur/keelson-{count}.yaml"))?)?;
        let members = Member::of_zeabur(&file, "open sesame");
        assert_eq!(members.len(), count);
        // Authentication is switched on once members serve; a call without a user tells when.
        let secured = format!(
            "until ! etcdctl --endpoints=http://etcd1:2379 get a 2>refused; do sleep 0.1; done\n\
             grep 'user name is empty' refused\n\
             export ETCDCTL_USER='root:open sesame'\n\
             etcdctl --endpoints=http://etcd1:2379 put a 1\n\
             etcdctl --endpoints=http://etcd{count}:2379 user list | grep '^root$'\n\
             test $(etcdctl --endpoints=http://etcd1:2379 member list | wc -l) = {count}\n\
             curl -fsS http://etcd{count}:2381/health\n\
             fails grep -F 'open sesame' $HERE/members\n"
        );
        sandbox::run(programs, &start(&members), &commands(&secured))?;
    }
    Ok(())
}

fn pods_run(programs: &Programs) -> Told {
    let documents = documents(&read("deploy/kubernetes/statefulset.yaml")?)?;
    let prelude = start(&Member::of_stateful_set(&documents[3]));
    let probed = commands(
        "for pod in 0 1 2; do\n\
         \x20 curl -fsS http://etcd-$pod.etcd-peers:2381/livez\n\
         \x20 curl -fsS http://etcd-$pod.etcd-peers:2381/readyz\n\
         done\n\
         etcdctl --endpoints=http://etcd-2.etcd-peers:2379 endpoint health --cluster\n",
    );
    Ok(sandbox::run(programs, &prelude, &probed)?)
}

/// What the manifest's first lines say about scaling.
fn a_fourth_pod_joins(programs: &Programs) -> Told {
    let manifest = read("deploy/kubernetes/statefulset.yaml")?;
    let scaled = manifest
        .replace("replicas: 3", "replicas: 4")
        .replace("STATE, value: new", "STATE, value: existing")
        .replace(
            "-2.etcd-peers:2380\n",
            "-2.etcd-peers:2380,etcd-3=http://etcd-3.etcd-peers:2380\n",
        );
    let three = Member::of_stateful_set(&documents(&manifest)?[3]);
    let four = Member::of_stateful_set(&documents(&scaled)?[3]);
    assert_eq!((three.len(), four.len()), (3, 4));
    let joins = format!(
        "export ETCDCTL_ENDPOINTS=http://etcd-0.etcd-peers:2379\n\
         until etcdctl member add etcd-3 --learner --peer-urls=http://etcd-3.etcd-peers:2380; do sleep 0.5; done\n\
         {}\n\
         id=$(etcdctl member list | grep etcd-3.etcd-peers:2380 | cut -d, -f1)\n\
         until etcdctl member promote $id; do sleep 0.2; done\n\
         until curl -fsS http://etcd-3.etcd-peers:2381/readyz; do sleep 0.2; done\n\
         test $(etcdctl endpoint health --cluster 2>&1 | grep -c 'is healthy') = 4\n",
        four[3].start()
    );
    Ok(sandbox::run(programs, &start(&three), &commands(&joins))?)
}

/// Makes an authority and the certificates a control-plane node has, in the folder `pki`.
const CERTIFICATES: &str = r#"
mkdir pki
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=etcd-ca \
    -keyout pki/ca.key -out pki/ca.crt 2>/dev/null
for name in server peer; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=cp1 \
        -keyout pki/$name.key -out pki/$name.csr 2>/dev/null
    openssl x509 -req -in pki/$name.csr -CA pki/ca.crt -CAkey pki/ca.key -CAcreateserial -days 1 -out pki/$name.crt \
        -extfile <(echo subjectAltName=IP:127.0.0.1,IP:192.0.2.11,DNS:localhost) 2>/dev/null
done
"#;

fn static_pod_runs(programs: &Programs) -> Told {
    let pod = yaml(&read("deploy/kubernetes/static-pod.yaml")?)?;
    let flags = words(&pod["spec"]["containers"][0]["command"]).join(" ");
    // The folders of the host, in a place of our own.
    let flags = flags
        .replace("/etc/kubernetes/pki/etcd", "pki")
        .replace("/var/lib/etcd", "data");
    let prelude = format!(
        "{CERTIFICATES}\n{{\n{flags} &\nwait\n}} >\"$HERE/members\" 2>&1 &\nready \"$HERE/members\" 1 $!\n"
    );
    let served = commands(
        "curl -fsS http://127.0.0.1:2381/livez\n\
         curl -fsS http://127.0.0.1:2381/readyz\n\
         certs='--cacert=pki/ca.crt --cert=pki/server.crt --key=pki/server.key'\n\
         etcdctl $certs --endpoints=https://192.0.2.11:2379 put a 1\n\
         fails curl -sS --max-time 5 --cacert pki/ca.crt https://192.0.2.11:2379/health\n",
    );
    Ok(sandbox::run(programs, &prelude, &served)?)
}

fn procfile_runs(programs: &Programs) -> Told {
    let procfile = read("deploy/Procfile")?;
    let lines = procfile.lines().filter(|line| !line.starts_with('#'));
    let lines: Vec<_> = lines.filter_map(|line| Some(line.split_once(": ")?.1)).collect();
    assert_eq!(lines.len(), 3);
    let prelude = format!(
        "{{\n{} &\nwait\n}} >\"$HERE/members\" 2>&1 &\nready \"$HERE/members\" 3 $!\n",
        lines.join(" &\n")
    );
    let served = commands(
        "etcdctl --endpoints=127.0.0.1:2379,127.0.0.1:22379,127.0.0.1:32379 endpoint health\n\
         etcdctl put a 1\n",
    );
    Ok(sandbox::run(programs, &prelude, &served)?)
}

/// Waits for the datagram a unit of `Type=notify` is started by.
const NOTIFIED: &str = r#"
import os, socket
at = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
at.bind(os.environ["NOTIFY_SOCKET"])
open("listening", "w").close()
assert b"READY=1" in at.recv(4096)
"#;

fn settings_run(programs: &Programs) -> Told {
    let env = read("deploy/systemd/etcd.env")?;
    let unit = read("deploy/systemd/etcd.service")?;
    let own = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    let set = env
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let set: Vec<_> = own
        .chain(set)
        .map(|line| line.replace("%H", "host").replace("/var/lib/etcd", "data"))
        .collect();
    let prelude = format!(
        "mkdir data\nexport NOTIFY_SOCKET=\"$HERE/notify\"\npython3 -c '{NOTIFIED}' & waits=$!\n\
         until test -e listening; do sleep 0.02; done\nenv {} etcd >\"$HERE/members\" 2>&1 &\nwait $waits\n",
        set.join(" ")
    );
    let served = commands(
        "etcdctl --endpoints=http://127.0.0.1:2379 put a 1\n\
         curl -fsS http://127.0.0.1:2381/readyz\n\
         test -d data/default/member\n\
         fails grep 'not recommended' $HERE/members\n",
    );
    Ok(sandbox::run(programs, &prelude, &served)?)
}
