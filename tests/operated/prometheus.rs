//! A real Prometheus scrapes the real binary: the rules load, an outage and a wrong key make the
//! right alerts, recovery clears them, healthy load makes none, and every query of the dashboard
//! has an answer. It takes some 20 s: rules need a few scrapes before and after each change.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use http::StatusCode;
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::client;
use crate::gmfy::Gmfy;
use crate::load::Load;
use crate::process::{Process, sidecar};

const PATIENCE: Duration = Duration::from_secs(60);
const SCRAPE_EVERY: Duration = Duration::from_millis(500);
/// What the rules' ranges become, and their `for`.
const RANGE: &str = "4s";
const FOR: &str = "1s";

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The rules with short ranges and waits.
fn shortened(rules: &str) -> String {
    let mut text = String::new();
    for line in rules.lines() {
        let trimmed = line.trim_start();
        if trimmed.starts_with("for: ") {
            let indent = line.len() - trimmed.len();
            writeln!(text, "{:indent$}for: {FOR}", "").unwrap();
        } else {
            writeln!(text, "{}", with_range(line)).unwrap();
        }
    }
    text
}

/// Every range of a query made short.
fn with_range(query: &str) -> String {
    let mut parts = query.split('[');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(']') {
            Some((range, rest)) if !range.contains(['"', '-']) => {
                write!(text, "[{RANGE}]{rest}").unwrap();
            }
            _ => write!(text, "[{part}").unwrap(),
        }
    }
    text
}

/// A Prometheus that scrapes this process, killed when dropped.
struct Prometheus {
    address: SocketAddr,
    _child: Child,
}

impl Prometheus {
    /// None where there is none on this machine.
    async fn start(folder: &Path, ops: SocketAddr) -> Option<Self> {
        let rules = shortened(&file("deploy/prometheus/gmfy-sidecar.rules.yaml"));
        std::fs::write(folder.join("rules.yaml"), rules).unwrap();
        let every = format!("{}ms", SCRAPE_EVERY.as_millis());
        let settings = format!(
            "global: {{scrape_interval: {every}, scrape_timeout: {every}, \
             evaluation_interval: {every}}}\nrule_files: [rules.yaml]\nscrape_configs:\n  \
             - job_name: gmfy-sidecar\n    static_configs: [{{targets: ['{ops}']}}]\n"
        );
        std::fs::write(folder.join("prometheus.yaml"), settings).unwrap();
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        crate::eventually("Prometheus is ready", PATIENCE, || async move {
            match client::Connection::open(address).await {
                Ok(mut connection) => {
                    connection.get("/-/ready").await.is_ok_and(|answer| answer.status == 200)
                }
                Err(_) => false,
            }
        })
        .await;
        Some(Self { address, _child: child })
    }

    async fn get(&self, path: &str) -> Value {
        let answer = client::get(self.address, path).await;
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    async fn query(&self, query: &str) -> Vec<Value> {
        let encoded =
            percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        let data = self.get(&format!("/api/v1/query?query={encoded}")).await;
        data["result"].as_array().unwrap().clone()
    }

    /// The names of the alerts that are pending or firing.
    async fn alerts(&self) -> Vec<String> {
        let data = self.get("/api/v1/alerts").await;
        let alerts = data["alerts"].as_array().unwrap().iter();
        alerts.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    async fn alert_comes(&self, name: &str) {
        crate::eventually(name, PATIENCE, || async {
            self.alerts().await.iter().any(|alert| alert == name)
        })
        .await;
    }

    async fn alerts_clear(&self) {
        crate::eventually("no alert is left", PATIENCE, || async {
            self.alerts().await.is_empty()
        })
        .await;
    }
}

/// Every query of the dashboard, with its variables filled in.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries = targets.map(|target| target["expr"].as_str().unwrap());
    let filled = queries.map(|query| query.replace("$job", ".*").replace("$instance", ".*"));
    filled.map(|query| with_range(&query)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_come_with_their_cause_and_go_with_it_and_the_dashboard_has_its_data() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let sets = ["delivery.retry_max=200ms", "delivery.linger=5ms"];
    let mut process = Process::spawn(sidecar(&folder.path().join("data"), &gmfy.url, &sets));
    let addresses = process.ready().await;
    let Some(prometheus) = Prometheus::start(folder.path(), addresses.ops).await else {
        println!("SKIPPED: alerts and dashboard, prometheus is not on this machine");
        return;
    };
    let load = Load::start(addresses.api, 4);
    assert_eq!(client::get(addresses.api, "/v1/users/u1/").await.status, 200);

    // Healthy: once the ranges are filled, nothing is pending in any evaluation.
    crate::eventually("enough is scraped", PATIENCE, || async {
        let up = prometheus.query("count_over_time(up[1m])").await;
        up.first().is_some_and(|up| up["value"][1].as_str().unwrap().parse::<u32>().unwrap() > 12)
    })
    .await;
    prometheus.alerts_clear().await;
    let quiet = tokio::time::Instant::now() + SCRAPE_EVERY * 6;
    while tokio::time::Instant::now() < quiet {
        assert_eq!(prometheus.alerts().await, Vec::<String>::new(), "a false alert");
        tokio::time::sleep(SCRAPE_EVERY / 2).await;
    }
    let dashboard = serde_json::from_str(&file("deploy/grafana/gmfy-sidecar.json")).unwrap();
    let queries = queries(&dashboard);
    assert!(queries.len() > 20);
    for query in queries {
        assert!(!prometheus.query(&query).await.is_empty(), "no data: {query}");
    }

    gmfy.handle.set_faults(Faults { down: true, ..Faults::default() });
    prometheus.alert_comes("GmfyNotDelivering").await;
    let alerts = prometheus.alerts().await;
    assert!(!alerts.iter().any(|alert| alert == "GmfyCredentialsRefused"), "{alerts:?}");
    gmfy.handle.set_faults(Faults::default());
    prometheus.alerts_clear().await;

    let status = Some(StatusCode::UNAUTHORIZED);
    gmfy.handle.set_faults(Faults { status, ..Faults::default() });
    prometheus.alert_comes("GmfyCredentialsRefused").await;
    gmfy.handle.set_faults(Faults::default());
    let resume = client::post(addresses.admin, "/api/delivery/resume", "{}").await;
    assert!(resume.status < 300, "{}", resume.text());
    prometheus.alerts_clear().await;
    load.stop().await;
}
