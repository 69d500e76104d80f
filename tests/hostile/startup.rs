//! Settings that would be unsafe, or can't be used: refused at start, with status 2 and the name.

use tokio::process::Command;

use crate::process::{output, sidecar};

/// The same settings for `check`.
fn as_check(run: Command) -> Command {
    let run = run.as_std();
    let mut check = Command::new(run.get_program());
    check.arg("check").args(run.get_args().skip(1));
    for (name, value) in run.get_envs() {
        match value {
            Some(value) => check.env(name, value),
            None => check.env_remove(name),
        };
    }
    check
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsafe_settings_are_refused_with_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let rubbish = file("rubbish.pem", "no certificate\n");
    let empty = file("empty.pem", "");
    let half = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let half = file("half.pem", half);
    let missing = folder.path().join("missing.pem").display().to_string();
    let table: Vec<(Vec<String>, &str)> = vec![
        (vec!["api.listen=0.0.0.0:0".to_owned()], "api.keys"),
        (vec!["api.listen=[::]:0".to_owned()], "api.keys"),
        (vec!["api.listen=192.0.2.1:0".to_owned()], "api.keys"),
        (vec!["api.listen=0.0.0.0:0".to_owned(), "api.keys=".to_owned()], "api.keys"),
        (vec!["admin.listen=0.0.0.0:0".to_owned()], "admin.token"),
        (vec!["admin.listen=[::]:0".to_owned()], "admin.token"),
        (vec!["admin.listen=0.0.0.0:0".to_owned(), "api.keys=k".to_owned()], "admin.token"),
        (vec!["admin.token=two\nlines".to_owned()], "admin.token"),
        (vec!["api.keys=schlüssel".to_owned()], "api.keys"),
        (vec!["api.unix_socket_mode=0888".to_owned()], "api.unix_socket_mode"),
        (vec!["upstream.url=http://user:password@127.0.0.1/".to_owned()], "upstream.url"),
        (vec!["upstream.url=ftp://127.0.0.1/".to_owned()], "upstream.url"),
        (vec!["upstream.unread_notifications_path=../x".to_owned()], "unread_notifications_path"),
        (vec![format!("upstream.ca_file={missing}")], "upstream.ca_file"),
        (vec![format!("upstream.ca_file={empty}")], "upstream.ca_file"),
        (vec![format!("upstream.ca_file={rubbish}")], "upstream.ca_file"),
        (vec![format!("upstream.client_cert_file={rubbish}")], "upstream.client_key_file"),
        (
            vec![
                format!("upstream.client_cert_file={half}"),
                format!("upstream.client_key_file={rubbish}"),
            ],
            "upstream.client_",
        ),
        (vec![format!("upstream.api_key_file={rubbish}")], "upstream.api_key"),
        (vec!["queue.max_bytes=1MiB".to_owned()], "queue.max_bytes"),
        (vec!["api.max_body=2GiB".to_owned()], "api.max_body"),
    ];
    for (sets, name) in table {
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let refused = output(sidecar(folder.path(), "https://127.0.0.1:9/", &sets)).await;
        let text = refused.stderr.join("\n");
        assert_eq!(refused.status.code(), Some(2), "{sets:?}: {refused:#?}");
        assert!(text.contains(name), "{sets:?}: {text}");
        assert!(!text.contains("password"), "{text}");
        let check = as_check(sidecar(folder.path(), "https://127.0.0.1:9/", &sets));
        assert_eq!(output(check).await.status.code(), Some(2), "check {sets:?}");
    }
}

#[tokio::test]
async fn what_others_can_reach_starts_with_a_key_and_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let sets = ["api.listen=0.0.0.0:0", "api.keys=k", "admin.listen=0.0.0.0:0", "admin.token=t"];
    let mut process =
        crate::process::Process::spawn(sidecar(folder.path(), "http://127.0.0.1:9/", &sets));
    let addresses = process.ready().await;
    assert!(addresses.api.ip().is_unspecified() && addresses.admin.ip().is_unspecified());
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.status.code(), Some(0));
}
