//! Names, contrast and structure, as axe-core sees them; and that nothing is wider than the screen.

use std::path::Path;

use serde_json::Value;

use crate::chromium::{Chromium, LOOKS};
use crate::stage::Stage;

/// axe-core, where it is installed.
fn axe() -> Option<String> {
    let path = "target/browser/node_modules/axe-core/axe.min.js";
    let script = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok();
    if script.is_none() {
        crate::report("SKIPPED: axe-core: npm install --prefix target/browser axe-core");
    }
    script
}

/// Looks at the page in every way.
async fn examine(page: &Chromium, axe: Option<&str>, what: &str) {
    for look in LOOKS {
        page.look(look).await;
        let wide =
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(page.run(wide).await, 0, "{what} at {} is wider than the screen", look.name());
        let Some(axe) = axe else { continue };
        let script = format!(
            "const done = arguments[0]; {axe};
             axe.run(document, {{ resultTypes: ['violations'] }})
                .then((found) => done({{ rules: found.passes.length, violations: found.violations }}),
                      (error) => done({{ error: String(error) }}));"
        );
        let found = page.run_later(&script).await;
        assert!(found["rules"].as_u64() > Some(10), "{what}: {found:#}");
        let violations = found["violations"].as_array().unwrap();
        let told: Vec<_> = violations.iter().map(told).collect();
        assert!(told.is_empty(), "{what} at {}: {told:#?}", look.name());
    }
}

fn told(violation: &Value) -> String {
    let nodes = violation["nodes"].as_array().unwrap();
    let nodes: Vec<_> =
        nodes.iter().map(|node| format!("{} {}", node["html"], node["failureSummary"])).collect();
    format!("{}: {nodes:#?}", violation["help"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_has_names_and_contrast_whatever_it_shows() {
    let stage = Stage::start(&["delivery.batch_events=4"]).await;
    let Some(page) = stage.page().await else { return };
    let axe = axe();
    let axe = axe.as_deref();
    page.sees("#link", |text| text == "live").await;
    examine(&page, axe, "an idle sidecar").await;

    stage.refuse_poison();
    for n in 0..6 {
        stage.accept(&format!("a-user-with-a-rather-long-identifier-{n}"), "poison").await;
        stage.accept(&format!("user-{n}"), "visit").await;
    }
    page.sees("#dead", |text| text == "6").await;
    stage.gmfy_is_down();
    stage.accept_many(200, "visit").await;
    page.sees("#upstream", |text| text == "down").await;
    page.until("return document.querySelectorAll('#letters li').length === 6").await;
    page.click("#letters summary").await;
    examine(&page, axe, "an outage").await;
    page.click("#letters .danger").await;
    examine(&page, axe, "a question").await;
    page.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_has_the_sign_in() {
    let stage = Stage::start(&["admin.token=t0ken"]).await;
    let Some(page) = stage.page().await else { return };
    page.sees("#sign-in", |text| text.contains("admin.token")).await;
    examine(&page, axe().as_deref(), "the sign-in").await;
    page.keys("wrong\u{e007}").await;
    page.sees("#sign-in-fault", |text| !text.is_empty()).await;
    examine(&page, axe().as_deref(), "a wrong token").await;
    page.complaints().await;
    page.end().await;
}
