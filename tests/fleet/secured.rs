//! TLS with an authority of one's own, and users by credentials files: an operator, an account and
//! users made for the test.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::client::event;
use crate::replicas::{Gmfy, Replica, post, sets};
use crate::server::{Server, is_there};
use crate::start::refusal;

/// What `issuer` says of `subject`, signed, as nsc writes it.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, claims: &Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name,
        "sub": subject, "nats": claims,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&body));
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A credentials file of a user whom the account knows.
fn credentials(account: &KeyPair) -> String {
    let user = KeyPair::new_user();
    let claims = json!({
        "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
    });
    let jwt = jwt(account, &user.public_key(), "gmfy-sidecar", &claims);
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    )
}

#[tokio::test]
async fn a_credentials_file_is_used_and_one_that_the_servers_do_not_know_is_refused() {
    if !is_there() {
        return;
    }
    let (operator, account, system) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let own = jwt(
        &operator,
        &operator.public_key(),
        "O",
        &json!({ "type": "operator", "version": 2, "system_account": system.public_key() }),
    );
    let limits = |jetstream: i64| {
        json!({
            "type": "account", "version": 2,
            "limits": {
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
                "wildcards": true, "conn": -1, "leaf": -1, "mem_storage": jetstream,
                "disk_storage": jetstream, "streams": jetstream, "consumer": jetstream,
            },
        })
    };
    let of = |key: &KeyPair, name: &str, jetstream| {
        let signed = jwt(&operator, &key.public_key(), name, &limits(jetstream));
        format!("  {}: {signed}\n", key.public_key())
    };
    let server = Server::configured(&format!(
        "jetstream {{ store_dir: \"STORE\" }}\noperator: {own}\nresolver: MEMORY\n\
         resolver_preload: {{\n{}{}}}\n",
        of(&account, "A", -1),
        of(&system, "SYS", 0),
    ))
    .await;
    let gmfy = Gmfy::start().await;
    let wanted = sets(&[server.url()], 1);
    let with = |name: &str, text: &str| {
        let file = server.file(name, text);
        [wanted.clone(), vec![format!("queue.nats.credentials_file={file}")]].concat()
    };

    let replica = Replica::start(&gmfy, &with("good.creds", &credentials(&account))).await;
    let (status, answer) = post(replica.api, "a", &[event("visit", "1", 0)]).await.unwrap();
    assert_eq!(status, 202, "{answer}");

    let another = KeyPair::new_account();
    let unknown = credentials(&another);
    for sets in [&wanted, &with("unknown.creds", &unknown)] {
        let said = refusal(&gmfy, sets).await;
        assert!(said.contains("refuse the user"), "{said}");
        assert!(said.contains("Set queue.nats.credentials_file"), "{said}");
        assert!(!said.contains(unknown.lines().nth(5).unwrap()), "the seed is shown: {said}");
    }
    let said = refusal(&gmfy, &with("no.creds", "nothing")).await;
    assert!(said.contains("queue.nats.credentials_file: "), "{said}");
    assert!(said.contains("can't be used"), "{said}");
}

#[tokio::test]
async fn tls_is_by_the_authority_of_the_settings_and_refused_without() {
    if !is_there() {
        return;
    }
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = file("cert.pem", made.cert.pem());
    let key = file("key.pem", made.signing_key.serialize_pem());
    let server = Server::configured(&format!(
        "jetstream {{ store_dir: \"STORE\" }}\n\
         tls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}"
    ))
    .await;
    let gmfy = Gmfy::start().await;
    let wanted = sets(&[server.url().replace("nats://", "tls://")], 1);

    let trusting = [wanted.clone(), vec![format!("queue.nats.ca_file={certificate}")]].concat();
    let replica = Replica::start(&gmfy, &trusting).await;
    let (status, answer) = post(replica.api, "a", &[event("visit", "1", 0)]).await.unwrap();
    assert_eq!(status, 202, "{answer}");

    let said = refusal(&gmfy, &wanted).await;
    assert!(said.contains("Set queue.nats.ca_file"), "{said}");
}
