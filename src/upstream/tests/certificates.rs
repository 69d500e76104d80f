//! Certificates on both sides, and their files being replaced under a running client.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for localhost and its key.
fn issued(by: &Authority) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.signed_by(&key, by).unwrap(), key)
}

/// A GMFY that wants clients to show a certificate of this authority, and its base URL.
async fn gmfy(authority: &Authority, tasks: &mut JoinSet<()>) -> String {
    let (certificate, key) = issued(authority);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    tasks.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(socket) = acceptor.accept(socket).await {
                serve(socket, &[Then::AnswerAndClose(CREATED)], Arc::default()).await;
            }
        }
    });
    url
}

/// Waits until the client tells that something was replaced.
async fn replaced(changes: &mut watch::Receiver<ApiKey>) {
    tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.unwrap().unwrap();
}

#[tokio::test]
async fn replaced_files_of_certificates_take_effect_without_a_restart() {
    let (right, wrong) = (authority("right"), authority("wrong"));
    let mut tasks = JoinSet::new();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let write = |path: &Path, text: String| std::fs::write(path, text).unwrap();
    let (ca, certificate, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let stranger = issued(&wrong);
    write(&ca, wrong.pem());
    write(&certificate, stranger.0.pem());
    write(&key, stranger.1.serialize_pem());
    let mut settings = settings(gmfy(&right, &mut tasks).await);
    settings.ca_file = Some(ca.clone());
    settings.client_cert_file = Some(certificate.clone());
    settings.client_key_file = Some(key.clone());
    let upstream = Upstream::new(&settings, 1, Arc::default()).unwrap();
    let mut changes = upstream.key_changes();
    let token = CancellationToken::new();
    let watched = upstream.clone().with_key_poll(Duration::from_millis(10));
    tasks.spawn(watched.watch_files(token.clone()));

    let result = send(&upstream).await;
    assert!(matches!(&result, Err(SendError::Tls(why)) if why.contains("issuer")), "{result:?}");

    write(&ca, right.pem());
    replaced(&mut changes).await;
    let result = send(&upstream).await;
    let refused = matches!(&result, Err(SendError::Tls(why)) if why.contains("client certificate"));
    assert!(refused, "{result:?}");

    // Half of a pair, and what is no certificate, can't be used: the client goes on as it was.
    let known = issued(&right);
    write(&certificate, "no certificate".to_owned());
    tokio::time::sleep(Duration::from_millis(100)).await;
    write(&certificate, known.0.pem());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!changes.has_changed().unwrap());
    assert!(matches!(send(&upstream).await, Err(SendError::Tls(_))));
    write(&key, known.1.serialize_pem());
    replaced(&mut changes).await;
    assert_eq!(send(&upstream).await.map(|answer| answer.status), Ok(201));
    token.cancel();
}

#[tokio::test]
async fn without_files_there_is_nothing_to_follow_but_the_stop() {
    let server = Server::start(&[Then::Answer(CREATED)]).await;
    let token = CancellationToken::new();
    token.cancel();
    server.upstream().watch_files(token).await;
}
