//! Deciding about dead letters.

use gmfy_sidecar::simulator::Faults;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_requeued_by_click_and_arrives() {
    let stage = Stage::start(&[]).await;
    let Some(page) = stage.page().await else { return };
    stage.refuse_poison();
    let seq = stage.accept("ada", "poison").await;
    stage.accept("bob", "poison").await;
    let text = page.sees("#letters", |text| text.matches("rejected 422").count() == 2).await;
    assert!(text.contains("user ada") && text.contains("type poison"), "{text}");
    // GMFY's words.
    assert!(!page.text("#letters blockquote").await.is_empty());
    page.click(&format!("#letters [data-seq='{seq}'] summary")).await;
    // As it was spelled.
    page.sees("#letters details[open] pre", |text| text.contains("12.5")).await;

    stage.gmfy.handle.set_faults(Faults::default());
    page.click(&format!("#letters [aria-label='Requeue event {seq}']")).await;
    page.sees("#letters", |text| !text.contains("user ada") && text.contains("user bob")).await;
    page.sees("#delivered", |text| text == "1").await;
    let said = page.run("return document.querySelector('#said').textContent").await;
    let said = said.as_str().unwrap();
    assert!(said.starts_with(&format!("Event {seq} is in the queue again")), "{said}");
    // The row is gone, and the focus is not lost with it.
    page.until("return document.activeElement.matches('#letters button')").await;

    page.click("#requeue-all").await;
    page.sees("#letters-none", |text| text.starts_with("None.")).await;
    page.sees("#delivered", |text| text == "2").await;
    assert_eq!(stage.gmfy.handle.counts().events, 2);
    page.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discarding_is_asked_twice_and_can_be_left_at_either() {
    let stage = Stage::start(&[]).await;
    let Some(page) = stage.page().await else { return };
    stage.refuse_poison();
    let seq = stage.accept("ada", "poison").await;
    for user in ["bob", "carol"] {
        stage.accept(user, "poison").await;
    }
    page.sees("#letters-count", |text| text == "3").await;
    // The list is asked for anew once the count is another one.
    page.until("return document.querySelectorAll('#letters li').length === 3").await;
    let discard = format!("#letters [aria-label='Discard event {seq}']");
    page.until(&format!("return document.querySelector(\"{discard}\") !== null")).await;

    // Escape at the first question, then Keep at the second: nothing is lost.
    page.click(&discard).await;
    page.sees("#ask-title", |text| text == format!("Discard event {seq}?")).await;
    // Keep has the focus: a hasty Enter keeps.
    page.until("return document.activeElement.id === 'ask-no'").await;
    page.keys("\u{e00c}").await;
    page.until("return !document.querySelector('#ask').open").await;
    page.until("return document.activeElement.matches('#letters .danger')").await;
    page.click(&discard).await;
    page.click("#ask-yes").await;
    page.sees("#ask-title", |text| text == format!("Discard event {seq} for good?")).await;
    page.click("#ask-no").await;
    page.until("return !document.querySelector('#ask').open").await;
    assert_eq!(page.count("#letters li").await, 3);

    // By keyboard alone: Enter on the button, then Tab to yes, twice.
    page.focus(&discard).await;
    page.keys("\u{e007}").await;
    page.sees("#ask-title", |text| text == format!("Discard event {seq}?")).await;
    page.keys("\u{e004}\u{e007}").await;
    page.sees("#ask-title", |text| text == format!("Discard event {seq} for good?")).await;
    page.keys("\u{e004}\u{e007}").await;
    page.sees("#letters", |text| !text.contains("user ada") && text.contains("user bob")).await;
    page.sees("#letters-count", |text| text == "2").await;

    page.click("#discard-all").await;
    page.sees("#ask-title", |text| text == "Discard all 2 dead letters?").await;
    page.click("#ask-yes").await;
    page.sees("#ask-title", |text| text == "Discard all 2 dead letters for good?").await;
    page.click("#ask-yes").await;
    page.sees("#letters-none", |text| text.starts_with("None.")).await;
    page.sees("#dead", |text| text == "0").await;
    page.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_dead_letters_come_in_pages() {
    let stage = Stage::start(&["delivery.batch_events=8"]).await;
    let Some(page) = stage.page().await else { return };
    stage.refuse_poison();
    // Some go through in between, or all would seem to be refused.
    for n in 0..25 {
        stage.accept(&format!("user-{n}"), "poison").await;
        stage.accept(&format!("user-{n}"), "visit").await;
    }
    page.sees("#dead", |text| text == "25").await;
    page.until("return document.querySelectorAll('#letters li').length === 20").await;
    page.click("#next-page").await;
    page.until("return document.querySelectorAll('#letters li').length === 5").await;
    page.until("return document.querySelector('#next-page').ariaDisabled === 'true'").await;
    page.click("#first").await;
    page.until("return document.querySelectorAll('#letters li').length === 20").await;
    page.end().await;
}
