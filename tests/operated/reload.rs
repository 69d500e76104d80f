//! SIGHUP, rotated keys and certificates, and another log level under load: nothing is lost, and
//! the process is the same.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use rustix::process::Signal;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::client;
use crate::gmfy::Gmfy;
use crate::load::{Load, Repeats, assert_arrived};
use crate::process::{KEY, Process, sidecar};

const PATIENCE: Duration = Duration::from_secs(30);

/// A certificate for localhost, as PEM, and what answers with it.
fn certificate() -> (String, TlsAcceptor) {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    (issued.cert.pem(), TlsAcceptor::from(Arc::new(tls)))
}

/// TLS in front of GMFY, with the certificate of the moment.
async fn front(listener: TcpListener, gmfy: SocketAddr, acceptor: watch::Receiver<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let mut changed = acceptor.clone();
        changed.mark_unchanged();
        let acceptor = acceptor.borrow().clone();
        connections.spawn(async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let mut upstream = TcpStream::connect(gmfy).await.unwrap();
            // Connections of an old certificate end with it.
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream) => {}
                _ = changed.changed() => {}
            }
        });
    }
}

async fn state(ops: SocketAddr, state: &str) -> bool {
    let scrape = client::get(ops, "/metrics").await.text();
    scrape.lines().any(|line| line == format!("gmfy_upstream_state{{state=\"{state}\"}} 1"))
}

async fn reloads(ops: SocketAddr, result: &str) -> u64 {
    let scrape = client::get(ops, "/metrics").await.text();
    let series = format!("gmfy_config_reloads_total{{result=\"{result}\"}} ");
    let value = scrape.lines().find_map(|line| line.strip_prefix(series.as_str()));
    value.unwrap().parse().unwrap()
}

async fn reload(process: &Process, ops: SocketAddr, result: &str) {
    let before = reloads(ops, result).await;
    process.signal(Signal::HUP);
    crate::eventually("it is reloaded", PATIENCE, || async {
        reloads(ops, result).await == before + 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_rotates_does_so_under_load() {
    let gmfy = Gmfy::start(Faults { latency: Duration::from_millis(2), ..Faults::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();

    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let (pem, acceptor) = certificate();
    let (rotate, current) = watch::channel(acceptor);
    let mut fronts = JoinSet::new();
    fronts.spawn(front(listener, gmfy.address, current));

    let (settings, ca, key) = (file("settings.toml"), file("ca.pem"), file("key"));
    write(&ca, &pem);
    write(&key, KEY);
    let common = format!(
        "[upstream]\nca_file = {ca:?}\napi_key_file = {key:?}\n\
         [delivery]\nlinger = \"5ms\"\nretry_initial = \"10ms\"\nretry_max = \"100ms\"\n"
    );
    write(&settings, &common);
    let mut command = sidecar(&file("data"), &url, &[]);
    command.env_remove("GMFY_API_KEY").arg("--config").arg(&settings);
    let mut process = Process::spawn(command);
    let addresses = process.ready().await;
    let (ops, id) = (addresses.ops, process.id());
    let load = Load::start(addresses.api, 16);
    let up = async |what: &str| {
        crate::eventually(what, PATIENCE, || state(ops, "up")).await;
    };
    up("the first certificate and key are good").await;

    // The key.
    write(&key, "a wrong one");
    reload(&process, ops, "applied").await;
    crate::eventually("the key is refused", PATIENCE, || state(ops, "misconfigured")).await;
    write(&key, &format!("{KEY}\n"));
    reload(&process, ops, "applied").await;
    up("the key is good again").await;

    // The certificate.
    let (pem, acceptor) = certificate();
    rotate.send_replace(acceptor);
    crate::eventually("the new one is unknown", PATIENCE, || state(ops, "misconfigured")).await;
    write(&ca, &pem);
    reload(&process, ops, "applied").await;
    up("the new certificate is known").await;

    // The log's level, and lanes with it, there and back.
    write(
        &settings,
        &format!("{common}lanes = 2\n[log]\nlevel = \"info,gmfy_sidecar::http=debug\"\n"),
    );
    reload(&process, ops, "applied").await;
    process
        .in_log("a line for a request", |line| line.contains("\"answered\"").then_some(()))
        .await;
    write(&settings, &format!("{common}lanes = 8\n"));
    reload(&process, ops, "applied").await;

    // By an operator's call, until the next reload.
    let level = |level: &str| format!(r#"{{"level":"{level}"}}"#);
    let set =
        async |text: &str| client::post(addresses.admin, "/api/log-level", &level(text)).await;
    assert_eq!(set("gmfy_sidecar=nonsense").await.status, 422);
    let debug = "warn,gmfy_sidecar::http=debug";
    assert_eq!(set(debug).await.json()["level"], debug);
    let told = client::get(addresses.admin, "/api/log-level").await;
    assert_eq!(told.json()["level"], debug);

    // What is invalid, or needs a restart.
    write(&settings, &format!("{common}lane = 2\n"));
    reload(&process, ops, "refused").await;
    write(&settings, &format!("{common}lanes = 8\n[runtime]\nthreads = 3\n"));
    reload(&process, ops, "applied").await;
    let named =
        |line: &str| (line.contains("\"WARN\"") && line.contains("runtime.threads")).then_some(());
    process.in_log("what needs a restart", named).await;

    let posted = load.stop().await;
    crate::eventually("all is delivered", PATIENCE, || async {
        client::assert_account(ops).await == 0
    })
    .await;
    assert_eq!(process.id(), id);
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
    // The certificate's rotation cuts what is on its way.
    assert_arrived(&posted, &gmfy.handle, Repeats::CutBatches);
}
