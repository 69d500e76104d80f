//! Getting in where a token is needed.

use crate::stage::Stage;

const TOKEN: &str = "a-token-of-operators";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_is_asked_for_kept_for_the_tab_and_forgotten_at_signing_out() {
    let set = format!("admin.token={TOKEN}");
    let stage = Stage::start(&[&set]).await;
    let Some(page) = stage.page().await else { return };
    page.sees("#sign-in", |text| text.contains("admin.token")).await;
    assert_eq!(page.text("#content").await, "");
    page.until("return document.activeElement.id === 'token'").await;
    page.keys("wröng ☂\u{e007}").await;
    page.sees("#sign-in-fault", |text| text == "That is not the token.").await;
    page.run("document.querySelector('#token').value = ''").await;
    page.focus("#token").await;
    page.keys(format!("{TOKEN}\u{e007}")).await;
    page.sees("#upstream", |text| text == "up").await;
    page.sees("#link", |text| text == "live").await;
    // 401 is what the browser tells of, for the page itself and for the wrong token.
    let complaints = page.complaints().await;
    assert!(complaints.iter().all(|line| line.contains("401 (Unauthorized)")), "{complaints:#?}");

    stage.refuse_poison();
    stage.accept("ada", "poison").await;
    page.sees("#letters", |text| text.contains("user ada")).await;
    page.click("#letters .buttons button").await;
    page.sees("#said", |_| true).await;

    page.reload().await;
    page.sees("#upstream", |text| text == "up").await;
    let address = page.run("return location.href").await;
    assert_eq!(address, format!("http://{}/", stage.addresses.admin));
    page.click("#sign-out").await;
    page.sees("#sign-in", |text| text.contains("admin.token")).await;
    let kept = page.run("return sessionStorage.length + localStorage.length").await;
    assert_eq!((kept, page.text("#content").await), (0.into(), String::new()));
    page.reload().await;
    page.sees("#sign-in", |text| text.contains("admin.token")).await;
    let complaints = page.complaints().await;
    assert!(complaints.iter().all(|line| line.contains("401 (Unauthorized)")), "{complaints:#?}");
    for url in page.requests().await {
        assert!(!url.contains("operators"), "{url}");
    }
    page.reload().await;
    page.sees("#sign-in", |text| text.contains("admin.token")).await;
    page.complaints().await;
    page.end().await;
}
