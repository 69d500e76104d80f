//! What the page shows by itself.

use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use rustix::process::Signal;

use crate::process::{Process, sidecar};
use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_move_as_events_flow() {
    let stage = Stage::start(&[]).await;
    let Some(page) = stage.page().await else { return };
    page.sees("#verdict", |text| text == "GMFY is up, and nothing waits.").await;
    page.sees("#accepted", |text| text == "0").await;
    page.sees("#link", |text| text == "live").await;
    stage.accept_many(1_500, "visit").await;
    page.sees("#accepted", |text| text == "1,500").await;
    page.sees("#delivered", |text| text == "1,500").await;
    let chart = "document.querySelector('#delivered-chart')";
    let label = format!("{chart}.getAttribute('aria-label')");
    let named = "/^Delivered a second, last [0-9]+ s: now [0-9.,]+, at most [1-9]/";
    page.until(&format!("return {named}.test({label})")).await;
    page.until(&format!("return {chart}.querySelector('polyline').points.length > 1")).await;
    assert_eq!(page.count("#lanes tbody tr").await, 4);

    stage.gmfy_is_down();
    stage.accept_many(20, "visit").await;
    page.sees("#queued", |text| text == "20").await;
    page.sees("#verdict", |text| text.starts_with("GMFY is down. 20 events wait on disk.")).await;
    page.sees("#upstream", |text| text == "down").await;
    page.sees("#why", |text| !text.is_empty()).await;
    page.sees("#oldest", |text| text.starts_with("for ")).await;
    // Said once, to those who listen.
    page.until("return document.querySelector('#said').textContent === 'GMFY is down'").await;
    stage.gmfy.handle.set_faults(Faults::default());
    page.click("#resume").await;
    page.sees("#verdict", |text| text == "GMFY is up, and nothing waits.").await;
    page.sees("#delivered", |text| text == "1,520").await;
    page.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_is_paused_resumed_and_flushed_by_keyboard() {
    let stage = Stage::start(&[]).await;
    let Some(page) = stage.page().await else { return };
    page.sees("#upstream", |text| text == "up").await;
    page.focus("#pause").await;
    page.keys("\u{e007}").await;
    page.sees("#verdict", |text| text.starts_with("An operator paused delivery.")).await;
    page.sees("#operation", |text| text.starts_with("Delivery is paused")).await;
    page.until("return document.activeElement.id === 'pause'").await;
    stage.accept("ada", "visit").await;
    page.sees("#queued", |text| text == "1").await;
    // Tab goes on to the next button; space presses it.
    page.keys("\u{e004} ").await;
    page.sees("#verdict", |text| text == "GMFY is up, and nothing waits.").await;
    page.keys("\u{e004}\u{e007}").await;
    page.sees("#operation", |text| text == "Flushed: the queue is empty.").await;
    page.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_followed_and_chosen_by_user_and_outcome() {
    let stage = Stage::start(&[]).await;
    let Some(page) = stage.page().await else { return };
    page.sees("#link", |text| text == "live").await;
    let ada = accepting(&stage, &["ada"]);
    let seen = |text: &str| text.contains("ada") && text.contains("delivered");
    tokio::select! { _ = page.sees("#follow tbody", seen) => {}, () = ada => {} }
    let last = stage.accept("ada", "visit").await;
    page.run("document.querySelector('#user').value = 'bob'").await;
    page.focus("#user").await;
    page.keys("\u{e007}").await;
    page.sees("#follow-note", |text| text == "Waiting for events of user bob").await;
    let bob = |text: &str| text.contains("bob");
    let text = tokio::select! {
        text = page.sees("#follow tbody", bob) => text,
        () = accepting(&stage, &["ada", "bob"]) => unreachable!(),
    };
    assert!(!text.contains("ada"), "{text}");
    let accepted = "const o = document.querySelector('#outcome'); o.value = 'accepted'; \
                    o.dispatchEvent(new Event('change'))";
    page.run(accepted).await;
    let waits = "Waiting for events of user bob that are accepted";
    page.sees("#follow-note", |text| text == waits).await;
    // Each is accepted, then delivered: with some of them told, both would have been.
    let some = |text: &str| text.matches("bob").count() > 3;
    let text = tokio::select! {
        text = page.sees("#follow tbody", some) => text,
        () = accepting(&stage, &["ada", "bob"]) => unreachable!(),
    };
    assert!(text.contains("accepted") && !text.contains("delivered"), "{text}");
    page.click("#hold").await;
    page.until("return document.querySelector('#hold').ariaPressed === 'true'").await;
    page.focus("#sequence").await;
    page.keys(format!("{last}\u{e007}")).await;
    let found = format!("Event {last} is delivered, sent 1 time, answered 201.");
    page.sees("#found", |text| text == found).await;
    page.end().await;
}

/// Has events of these users accepted without an end: the page tells nobody since when it follows.
async fn accepting(stage: &Stage, users: &[&str]) {
    loop {
        for user in users {
            stage.accept(user, "visit").await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_events_and_gmfy_say_is_text_and_nothing_else() {
    const EVIL: &str = "</td><img src=x onerror=window.hacked=1><script>window.hacked=1</script>";
    let stage = Stage::start(&[]).await;
    let Some(page) = stage.page().await else { return };
    page.sees("#link", |text| text == "live").await;
    let body = serde_json::json!({ "detail": EVIL }).to_string();
    let script = gmfy_sidecar::simulator::Scripted::status(http::StatusCode::UNPROCESSABLE_ENTITY);
    let script = std::collections::VecDeque::from(vec![script.body(body); 2]);
    stage.gmfy.handle.set_faults(Faults { script, ..Faults::default() });
    stage.accept(EVIL, EVIL).await;
    page.sees("#letters", |text| text.contains("<script>window.hacked=1</script>")).await;
    page.until("return document.querySelectorAll('#letters img, #follow img').length === 0").await;
    page.until("return window.hacked === undefined").await;
    page.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_goes_away_is_told_and_found_again() {
    let stage = Stage::start(&[]).await;
    let Some(page) = stage.page().await else { return };
    page.sees("#link", |text| text == "live").await;
    stage.accept("ada", "visit").await;
    page.sees("#delivered", |text| text == "1").await;
    let Stage { gmfy, process, addresses, folder } = stage;
    process.kill().await;
    page.sees("#link", |text| text.starts_with("No answer since ")).await;
    // The browser itself tells of the connections that failed.
    let complaints = page.complaints().await;
    assert!(complaints.iter().all(|line| line.contains("net::ERR_")), "{complaints:#?}");
    let at = format!("admin.listen={}", addresses.admin);
    let mut again =
        Process::spawn(sidecar(folder.path(), &gmfy.url, &["shutdown.quiet=10ms", &at]));
    again.ready().await;
    page.sees("#link", |text| text == "live").await;
    page.sees("#accepted", |text| text == "0").await;
    page.complaints().await;
    page.end().await;
    again.signal(Signal::TERM);
    assert_eq!(again.ended().await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_is_small_and_allows_nothing_from_elsewhere() {
    let stage = Stage::start(&[]).await;
    crate::provide_tls();
    let url = format!("http://{}/", stage.addresses.admin);
    let answer = reqwest::get(&url).await.unwrap();
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    for part in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let page = answer.text().await.unwrap();
    assert!(page.len() < 48 * 1024, "{}", page.len());
}
