//! Pictures of the page for the documents, and to look at: `GMFY_SCREENSHOTS=FOLDER`.

use std::path::PathBuf;
use std::time::Duration;

use crate::chromium::{Chromium, LOOKS};
use crate::client;
use crate::stage::Stage;

/// What is below is more of the same.
const HEIGHT: u32 = 1400;

async fn take(page: &Chromium, folder: &std::path::Path, name: &str) {
    for look in LOOKS {
        page.look(look).await;
        let picture = page.picture(look, HEIGHT).await;
        std::fs::write(folder.join(format!("page-{name}-{}.png", look.name())), picture).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures_where_they_are_asked_for() {
    let Some(folder) = std::env::var_os("GMFY_SCREENSHOTS").map(PathBuf::from) else { return };
    let stage = Stage::start(&["delivery.batch_events=50"]).await;
    let Some(page) = stage.page().await else { return };
    page.sees("#link", |text| text == "live").await;
    take(&page, &folder, "empty").await;

    stage.refuse_poison();
    let began = std::time::Instant::now();
    let mut n = 0_usize;
    while began.elapsed() < Duration::from_secs(20) {
        n += 1;
        stage.accept_many(20 + 15 * (n % 7), "visit_page").await;
        if n.is_multiple_of(12) {
            let user = ["ada", "grace", "edsger", "barbara"][n / 12 % 4];
            stage.accept(user, "poison").await;
        }
        let path = ["/v1/users/ada/", "/v1/users/", "/v1/version/"][n % 3];
        client::get(stage.addresses.api, path).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    page.sees("#letters", |text| text.contains("poison")).await;
    take(&page, &folder, "flow").await;

    stage.gmfy_is_down();
    for _ in 0..60 {
        stage.accept_many(40, "visit_page").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    page.sees("#upstream", |text| text == "down").await;
    page.click("#letters summary").await;
    take(&page, &folder, "outage").await;
    page.click("#letters .danger").await;
    take(&page, &folder, "question").await;
    page.end().await;

    let stage = Stage::start(&["admin.token=t0ken"]).await;
    let Some(page) = stage.page().await else { return };
    page.sees("#sign-in", |text| text.contains("admin.token")).await;
    take(&page, &folder, "sign-in").await;
}
