//! A Chromium with one tab, driven by chromedriver (W3C WebDriver); both end with it.
//!
//! The few commands are sent by hand: the crate for it, thirtyfour, switches `preserve_order` of
//! serde_json on, for the binary under test too, which then writes other JSON than the one shipped.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(20);

/// How a page is looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) width: u32,
    pub(crate) dark: bool,
}

/// All of them: a telephone and a desk, by day and by night.
pub(crate) const LOOKS: [Look; 4] = [
    Look { width: 390, dark: false },
    Look { width: 390, dark: true },
    Look { width: 1280, dark: false },
    Look { width: 1280, dark: true },
];

impl Look {
    /// Such as `390-dark`.
    pub(crate) fn name(self) -> String {
        format!("{}-{}", self.width, if self.dark { "dark" } else { "light" })
    }
}

/// How often chromedriver is started until it serves. It takes a port that is free on IPv6 and then
/// wants the same one on IPv4, which may be another's: then it ends at once.
const STARTS: usize = 10;

/// A chromedriver that serves, and its port.
async fn driver(program: &str) -> (Child, String) {
    for _ in 0..STARTS {
        let mut child = Command::new(program)
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut last = String::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some((_, port)) = line.split_once("successfully on port ") {
                return (child, port.trim_end_matches('.').to_owned());
            }
            last = line;
        }
        crate::report(&format!("chromedriver ended: {last}"));
    }
    panic!("chromedriver ended each time before it served");
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Chromium {
    http: reqwest::Client,
    /// The URL of the session.
    session: String,
    origin: String,
    /// Chromium's process, which outlives a chromedriver that is killed.
    process: Option<rustix::process::Pid>,
    _profile: tempfile::TempDir,
    _chromedriver: Child,
}

impl Drop for Chromium {
    fn drop(&mut self) {
        if let Some(process) = self.process {
            // It may be gone already.
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
    }
}

impl Chromium {
    /// Opens the page of the admin listener at this address; none where there is no Chromium.
    pub(crate) async fn open(admin: std::net::SocketAddr) -> Option<Self> {
        let browser = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(found);
        let (Some(browser), Some(chromedriver)) = (browser, found("chromedriver")) else {
            crate::report("SKIPPED: the status page in a browser: no chromium with chromedriver");
            return None;
        };
        let (child, port) = driver(&chromedriver).await;
        crate::provide_tls();
        let profile = tempfile::tempdir().unwrap();
        let data = format!("--user-data-dir={}", profile.path().display());
        let arguments =
            ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", &data];
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": browser, "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let driver = format!("http://127.0.0.1:{port}/session");
        let session = json!({ "capabilities": { "alwaysMatch": wanted } });
        let session = post(&http, &driver, &session).await.unwrap();
        let process = session["capabilities"]["goog:processID"].as_i64();
        let process = process.and_then(|id| id.try_into().ok());
        let process = process.and_then(rustix::process::Pid::from_raw);
        assert!(process.is_some(), "{session}");
        let session = format!("{driver}/{}", session["sessionId"].as_str().unwrap());
        let origin = format!("http://{admin}/");
        let chromium =
            Self { http, session, origin, process, _profile: profile, _chromedriver: child };
        // The browser's own first page is none of ours.
        chromium.go("about:blank").await;
        chromium.requests().await;
        chromium.complaints().await;
        chromium.look(Look { width: 1280, dark: false }).await;
        chromium.reload().await;
        Some(chromium)
    }

    /// Opens the page anew.
    pub(crate) async fn reload(&self) {
        self.go(&self.origin).await;
    }

    async fn go(&self, url: &str) {
        self.command("url", json!({ "url": url })).await.unwrap();
    }

    /// A command of WebDriver; or its error in words.
    async fn command(&self, name: &str, parameters: Value) -> Result<Value, String> {
        post(&self.http, &format!("{}/{name}", self.session), &parameters).await
    }

    pub(crate) async fn look(&self, look: Look) {
        let size = json!({
            "width": look.width, "height": 900, "deviceScaleFactor": 1,
            "mobile": look.width < 600,
        });
        self.cdp("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = if look.dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.cdp("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    async fn cdp(&self, method: &str, parameters: Value) -> Value {
        let call = json!({ "cmd": method, "params": parameters });
        self.command("goog/cdp/execute", call).await.unwrap()
    }

    /// Runs a script as the driver does, whatever the page's policy is.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.command("execute/sync", json!({ "script": script, "args": [] })).await.unwrap()
    }

    /// The same with a script that calls `arguments[0]` with its result.
    pub(crate) async fn run_later(&self, script: &str) -> Value {
        self.command("execute/async", json!({ "script": script, "args": [] })).await.unwrap()
    }

    /// What is seen of the first element of this selector; empty where there is none.
    pub(crate) async fn text(&self, selector: &str) -> String {
        let script = format!(
            "const found = document.querySelector({}); \
             return found?.checkVisibility() ? found.innerText : ''",
            json!(selector)
        );
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    pub(crate) async fn count(&self, selector: &str) -> u64 {
        let script = format!("return document.querySelectorAll({}).length", json!(selector));
        self.run(&script).await.as_u64().unwrap()
    }

    /// Waits until what is seen there is as wanted.
    pub(crate) async fn sees(&self, selector: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.text(selector).await;
            if wanted(&text) {
                return text;
            }
            if Instant::now() > end {
                let page = self.text("body").await;
                panic!("{selector} never was as wanted: {text:?}; the page: {page}");
            }
            sleep(STEP).await;
        }
    }

    /// Waits until a script's result is true.
    pub(crate) async fn until(&self, script: &str) {
        let end = Instant::now() + PATIENCE;
        while self.run(script).await != true {
            assert!(Instant::now() < end, "never true: {script}; {}", self.text("body").await);
            sleep(STEP).await;
        }
    }

    /// Clicks as a mouse does: what covers the element, or is off the page, makes it fail.
    pub(crate) async fn click(&self, selector: &str) {
        let by = json!({ "using": "css selector", "value": selector });
        let element = self.command("element", by).await.unwrap();
        let element = element.as_object().unwrap().values().next().unwrap().as_str().unwrap();
        let clicked = self.command(&format!("element/{element}/click"), json!({})).await;
        clicked.unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Types into what has the focus.
    pub(crate) async fn keys(&self, keys: impl AsRef<str>) {
        let strokes = keys.as_ref().chars().flat_map(|key| {
            ["keyDown", "keyUp"].map(|stroke| json!({ "type": stroke, "value": key.to_string() }))
        });
        let strokes: Vec<_> = strokes.collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": strokes });
        self.command("actions", json!({ "actions": [keyboard] })).await.unwrap();
    }

    /// Sends the focus there, as a click into it does.
    pub(crate) async fn focus(&self, selector: &str) {
        self.run(&format!("document.querySelector({}).focus()", json!(selector))).await;
    }

    /// The upper part of the page as a PNG.
    pub(crate) async fn picture(&self, look: Look, height: u32) -> Vec<u8> {
        use base64::Engine as _;
        self.cdp("Emulation.setScrollbarsHidden", json!({ "hidden": true })).await;
        let page = "return document.documentElement.scrollHeight";
        let height = self.run(page).await.as_u64().unwrap().min(height.into());
        let clip = json!({ "x": 0, "y": 0, "width": look.width, "height": height, "scale": 1 });
        let part = json!({ "captureBeyondViewport": true, "format": "png", "clip": clip });
        let shot = self.cdp("Page.captureScreenshot", part).await;
        base64::engine::general_purpose::STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }

    /// What the browser's console has said as an error or warning since this was asked last.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let is_bad = |entry: &Value| entry["level"] == "SEVERE" || entry["level"] == "WARNING";
        let log = self.log("browser").await;
        log.iter().filter(|entry| is_bad(entry)).map(|entry| entry["message"].to_string()).collect()
    }

    /// Every URL that the page asked for since this was asked last.
    pub(crate) async fn requests(&self) -> Vec<String> {
        let url = |entry: &Value| {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let event = &message["message"];
            (event["method"] == "Network.requestWillBeSent")
                .then(|| event["params"]["request"]["url"].as_str().unwrap().to_owned())
        };
        self.log("performance").await.iter().filter_map(url).collect()
    }

    async fn log(&self, name: &str) -> Vec<Value> {
        let log = self.command("se/log", json!({ "type": name })).await.unwrap();
        log.as_array().unwrap().clone()
    }

    /// Ends it; the console said nothing bad, and nothing went to another host.
    pub(crate) async fn end(mut self) {
        let complaints = self.complaints().await;
        assert!(complaints.is_empty(), "{complaints:#?}");
        let requests = self.requests().await;
        assert!(!requests.is_empty(), "no request was seen");
        for url in requests {
            let is_own = url.starts_with(&self.origin) || url.starts_with("data:");
            assert!(is_own, "{url} is not {}", self.origin);
        }
        self.http.delete(&self.session).send().await.unwrap();
        self.process = None;
    }
}

/// What WebDriver answers to this, or its error in words.
async fn post(http: &reqwest::Client, url: &str, body: &Value) -> Result<Value, String> {
    let answer = http.post(url).body(body.to_string()).send().await.unwrap();
    let is_done = answer.status().is_success();
    let document: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    let value = document["value"].clone();
    if is_done { Ok(value) } else { Err(format!("{url}: {}", value["message"])) }
}

/// Where a program is on the PATH.
fn found(program: &str) -> Option<String> {
    let paths = std::env::var_os("PATH")?;
    let path = std::env::split_paths(&paths).map(|path| path.join(program));
    path.into_iter().find(|path| path.is_file()).map(|path| path.display().to_string())
}
