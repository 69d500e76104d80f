//! What a replica that can't begin says, and what `check --online` and the status tell before and after.

use async_nats::jetstream;
use serde_json::Value;
use tokio::process::Command;

use crate::process::{KEY, binary};
use crate::replicas::{Gmfy, Replica, get, sets};
use crate::server::{Server, is_there};
use crate::start::refusal;

const JETSTREAM: &str = "jetstream { store_dir: \"STORE\" }";

/// `check --online`: its status, and all that it printed.
async fn check(gmfy: &Gmfy, sets: &[String], arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command: Command = binary(["check", "--online"]);
    command.args(arguments).args(sets.iter().flat_map(|set| ["--set", set]));
    let output =
        command.env("GMFY_URL", &gmfy.url).env("GMFY_API_KEY", KEY).output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn context(server: &Server) -> jetstream::Context {
    jetstream::new(async_nats::connect(server.url()).await.unwrap())
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    if !is_there() {
        return;
    }
    let (server, gmfy) = (Server::alone().await, Gmfy::start().await);
    let sets = sets(&[server.url()], 1);
    drop(Replica::start(&gmfy, &sets).await);
    let bucket = context(&server).await.get_key_value("GMFY-STATE").await.unwrap();
    bucket.put("format", r#"{"version":2,"more":[]}"#.into()).await.unwrap();
    let said = refusal(&gmfy, &sets).await;
    assert!(
        said.contains("a newer version of gmfy-sidecar (format 2): run that version"),
        "{said}"
    );
    let (status, _, said) = check(&gmfy, &sets, &[]).await;
    assert_eq!(status, Some(1));
    assert!(said.contains("format 2"), "{said}");
}

#[tokio::test]
async fn a_stream_that_was_created_again_is_refused() {
    if !is_there() {
        return;
    }
    let (server, gmfy) = (Server::alone().await, Gmfy::start().await);
    let sets = sets(&[server.url()], 1);
    drop(Replica::start(&gmfy, &sets).await);
    context(&server).await.delete_stream("GMFY").await.unwrap();
    let said = refusal(&gmfy, &sets).await;
    assert!(said.contains("GMFY was deleted and created again"), "{said}");
    assert!(said.contains("`nats kv del GMFY-STATE`"), "{said}");
    let (status, _, said) = check(&gmfy, &sets, &[]).await;
    assert_eq!(status, Some(1));
    assert!(said.contains("GMFY was deleted and created again"), "{said}");
    // What it advises helps.
    context(&server).await.delete_key_value("GMFY-STATE").await.unwrap();
    drop(Replica::start(&gmfy, &sets).await);
}

#[tokio::test]
async fn servers_without_jetstream_are_refused() {
    if !is_there() {
        return;
    }
    let (server, gmfy) = (Server::configured("").await, Gmfy::start().await);
    let said = refusal(&gmfy, &sets(&[server.url()], 1)).await;
    assert!(said.contains("no JetStream for this user"), "{said}");
    assert!(said.contains("Start them with a `jetstream` block"), "{said}");
}

#[tokio::test]
async fn an_account_without_jetstream_is_refused() {
    if !is_there() {
        return;
    }
    let accounts = "accounts { A: { users: [{ user: a, password: a }] } }\nno_auth_user: a";
    let server = Server::configured(&format!("{JETSTREAM}\n{accounts}")).await;
    let said = refusal(&Gmfy::start().await, &sets(&[server.url()], 1)).await;
    assert!(said.contains("enable it for the user's account"), "{said}");
}

#[tokio::test]
async fn servers_that_take_too_short_messages_are_refused() {
    if !is_there() {
        return;
    }
    let server = Server::configured(&format!("{JETSTREAM}\nmax_payload: 32768")).await;
    let said = refusal(&Gmfy::start().await, &sets(&[server.url()], 1)).await;
    assert!(said.contains("take messages of 32768 bytes"), "{said}");
    assert!(said.contains("raise the servers' max_payload, or lower api.max_event"), "{said}");
}

#[tokio::test]
async fn check_creates_nothing_and_tells_what_is_there_and_what_an_acknowledgement_means() {
    if !is_there() {
        return;
    }
    let (server, gmfy) = (Server::alone().await, Gmfy::start().await);
    let wanted = sets(&[server.url()], 1);
    let (status, said, errors) = check(&gmfy, &wanted, &[]).await;
    assert_eq!(status, Some(0), "{errors}");
    assert!(said.contains("NATS answers: nats-server "), "{said}");
    for stream in ["GMFY", "GMFY-DEAD", "KV_GMFY-STATE"] {
        assert!(said.contains(&format!("stream {stream} would be created, replicas: 1")), "{said}");
        assert!(context(&server).await.get_stream(stream).await.is_err(), "{stream} was created");
    }
    assert!(said.contains("an acknowledgement means: 1 of 1 servers"), "{said}");
    assert!(said.contains("sync_interval: always"), "{said}");

    let replica = Replica::start(&gmfy, &wanted).await;
    let (status, said, errors) = check(&gmfy, &wanted, &["--json"]).await;
    assert_eq!(status, Some(0), "{errors}");
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["nats"]["streams"][0]["name"], "GMFY");
    assert_eq!(said["nats"]["streams"][0]["there"], true);
    assert_eq!(said["nats"]["streams"][0]["problem"], Value::Null);

    // The running one says the same.
    let (_, answer) = get(replica.admin, "/api/status").await.unwrap();
    let status: Value = serde_json::from_str(answer.split("\r\n\r\n").last().unwrap()).unwrap();
    let nats = &status["queue"]["nats"];
    assert_eq!(nats["acknowledgement"], said["nats"]["acknowledgement"]);
    assert_eq!(nats["server_version"], said["nats"]["server_version"]);
    assert_eq!((&nats["stream"], &nats["replicas"]), (&"GMFY".into(), &1.into()));
    let admin = format!("admin.listen={}", replica.admin);
    let shown = binary(["status", "--set", &admin]).env("GMFY_URL", &gmfy.url).output();
    let shown = shown.await.unwrap();
    let errors = String::from_utf8(shown.stderr).unwrap();
    assert_eq!(errors, "");
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("stream GMFY on 1 servers; an acknowledgement means:"), "{shown}");

    let other = [wanted, vec!["queue.nats.max_bytes=100MiB".to_owned()]].concat();
    let (status, said, errors) = check(&gmfy, &other, &[]).await;
    assert_eq!(status, Some(1));
    assert!(said.contains("stream GMFY is there, and would be refused"), "{said}");
    assert!(errors.contains("max_bytes is 134217728, expected 104857600"), "{errors}");
    assert!(errors.contains("nats stream edit GMFY"), "{errors}");
}

#[tokio::test]
async fn the_settings_of_the_gateway_s_manifest_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, KEY).unwrap();
    let file = |setting: &str| format!("{setting}={}", secret.display());
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kustomize/gateway/gmfy-sidecar.toml");
    let checking = binary(["check", "--config", config])
        .args(["--set", &file("upstream.api_key_file")])
        .args(["--set", &file("queue.nats.credentials_file")])
        .envs([("GMFY_API__KEYS", "one,another"), ("GMFY_ADMIN__TOKEN", "token")])
        .output();
    let output = checking.await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_replica_needs_no_folder() {
    if !is_there() {
        return;
    }
    let (server, gmfy) = (Server::alone().await, Gmfy::start().await);
    let mut sets = sets(&[server.url()], 1);
    sets.push("queue.dir=/proc/not-there".to_owned());
    drop(Replica::start(&gmfy, &sets).await);
}
