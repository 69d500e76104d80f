//! The blocks of code in the pages are run, as far as they can be.
//!
//! `toml` is a settings file, and `check` takes it; `json` parses; `python` compiles; `sh` runs in a
//! folder of its own beside a `dev` sidecar, page by page, and each command succeeds (curl fails on
//! an answer of 400 and more), or ends with what `status=N` behind the language says. A block that can't be
//! run says why: `no-run=REASON`, one of [`EXCUSED`]. `text` is no code.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::pages::{Block, binary, clean, pages};

/// Why blocks aren't run, and how many: a new one is a decision.
const EXCUSED: [(&str, usize); 9] = [
    ("builds-optimised", 1),
    ("goes-on", 3),
    ("installs-a-tool", 2),
    ("is-this-run", 1),
    ("needs-a-collector", 1),
    ("needs-a-gmfy", 2),
    ("needs-kubectl", 1),
    ("needs-oha-and-wrk", 1),
    ("needs-the-reader's-project", 1),
];

fn is_excused(block: &Block) -> bool {
    block.words.iter().any(|word| word.starts_with("no-run="))
}

fn blocks(language: &str) -> Vec<Block> {
    let all = pages().into_iter().flat_map(|page| page.blocks());
    all.filter(|block| block.language == language && !is_excused(block)).collect()
}

#[test]
fn every_block_has_a_language_and_each_excuse_is_counted() {
    let mut excuses = BTreeMap::new();
    for block in pages().iter().flat_map(|page| page.blocks()) {
        let known = ["text", "toml", "json", "python", "sh"];
        assert!(
            known.contains(&block.language.as_str()) || is_excused(&block),
            "{}: what is {:?}?",
            block.place,
            block.language
        );
        for word in block.words {
            if let Some(reason) = word.strip_prefix("no-run=") {
                *excuses.entry(reason.to_owned()).or_insert(0) += 1;
            } else {
                assert!(word.starts_with("status="), "{}: what is {word:?}?", block.place);
            }
        }
    }
    let expected = EXCUSED.map(|(reason, count)| (reason.to_owned(), count));
    assert_eq!(excuses, BTreeMap::from(expected));
}

#[test]
fn settings_are_taken() {
    let blocks = blocks("toml");
    assert!(blocks.len() >= 2, "only {} blocks: were they found?", blocks.len());
    for block in blocks {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, "a-key").unwrap();
        // Files that are named have to be there.
        let line = |line: &str| match line.split_once(" = ") {
            Some((name @ "api_key_file", _)) => {
                format!("{name} = {:?}\n", key.display().to_string())
            }
            _ => format!("{line}\n"),
        };
        let text: String = block.text.lines().map(line).collect();
        let file = folder.path().join("sidecar.toml");
        std::fs::write(&file, &text).unwrap();
        let mut check = binary();
        check.args(["check", "--config"]).arg(&file);
        if !text.contains("url =") {
            check.env("GMFY_URL", "http://127.0.0.1:9/");
        }
        if !text.contains("api_key") {
            check.env("GMFY_API_KEY", "a-key");
        }
        let output = check.output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", block.place);
    }
}

#[test]
fn json_parses() {
    let blocks = blocks("json");
    assert!(blocks.len() > 10, "only {} blocks: were they found?", blocks.len());
    for block in blocks {
        for value in
            serde_json::Deserializer::from_str(&block.text).into_iter::<serde_json::Value>()
        {
            value.unwrap_or_else(|error| panic!("{}: {error}", block.place));
        }
    }
}

#[test]
fn python_compiles() {
    for block in blocks("python") {
        let mut python = Command::new("python3");
        python.args(["-c", "import ast, sys; ast.parse(sys.stdin.read())"]);
        let Ok(mut running) = python.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
            println!("SKIPPED: there is no python3 on this machine");
            return;
        };
        running.stdin.take().unwrap().write_all(block.text.as_bytes()).unwrap();
        let output = running.wait_with_output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", block.place);
    }
}

/// `gmfy-sidecar dev` on free ports; killed when dropped.
struct Dev {
    child: Child,
    api: SocketAddr,
    ops: SocketAddr,
    admin: SocketAddr,
}

impl Dev {
    fn start() -> Self {
        let mut command = binary();
        let listen = ["api", "ops", "admin"].map(|one| format!("{one}.listen=127.0.0.1:0"));
        command.arg("dev").args(listen.iter().flat_map(|set| ["--set", set]));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut address = |name: &str| {
            let line = lines.find(|line| line.trim_start().starts_with(name)).unwrap();
            let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
            url.trim_start_matches("http://").trim_end_matches('/').parse().unwrap()
        };
        let (api, ops, admin) = (address("api"), address("ops"), address("admin"));
        Self { child, api, ops, admin }
    }

    /// A block with the addresses that this one has.
    fn here(&self, text: &str) -> String {
        let ports = [("7460", self.api), ("7461", self.ops), ("7462", self.admin)];
        ports.iter().fold(text.to_owned(), |text, (port, address)| {
            text.replace(&format!("127.0.0.1:{port}"), &address.to_string())
        })
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let id = self.child.id().try_into().ok().and_then(rustix::process::Pid::from_raw);
        // It removes its folder when it is interrupted.
        let _ = rustix::process::kill_process(id.unwrap(), rustix::process::Signal::INT);
        let _ = self.child.wait();
    }
}

#[test]
fn commands_run() {
    let mut ran = 0;
    for page in pages() {
        let blocks: Vec<_> = page.blocks();
        let blocks: Vec<_> =
            blocks.iter().filter(|block| block.language == "sh" && !is_excused(block)).collect();
        if blocks.is_empty() {
            continue;
        }
        let dev = Dev::start();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(".curlrc"), "fail-with-body\nsilent\nmax-time = 30\n")
            .unwrap();
        let beside = Path::new(env!("CARGO_BIN_EXE_gmfy-sidecar")).parent().unwrap();
        let path = format!("{}:{}", beside.display(), std::env::var("PATH").unwrap());
        for block in blocks {
            let mut shell = Command::new("sh");
            clean(&mut shell);
            let output = shell
                .args(["-eu", "-c", &dev.here(&block.text)])
                .current_dir(folder.path())
                .env("HOME", folder.path())
                .env("PATH", &path)
                .env("GMFY_ADMIN__LISTEN", dev.admin.to_string())
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let status = block.words.iter().find_map(|word| word.strip_prefix("status="));
            let expected = status.map_or(0, |status| status.parse().unwrap());
            assert_eq!(output.status.code(), Some(expected), "{}: {output:?}", block.place);
            ran += 1;
        }
    }
    assert!(ran >= 5, "only {ran} blocks: were they found?");
}
