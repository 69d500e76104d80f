//! What settings ask of each other, and of the files that they name.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::error::Origin;
use super::load::Draft;
use super::settings::{Backend, Durability, Settings, WhenFull};
use super::syntax::key_text;

/// A key file larger than this holds no key.
const KEY_FILE_BYTES: u64 = 64 * 1024;

/// How many of the largest bodies the queue must hold: with less room a single request could fill
/// it.
const BODIES_IN_QUEUE: u64 = 8;

/// Checks the draft as a whole. A setting that was refused already is not asked about again.
pub(crate) fn check(draft: &mut Draft) {
    upstream(draft);
    key(draft);
    files(draft);
    exposure(draft);
    backend(draft);
    room(draft);
}

fn upstream(draft: &mut Draft) {
    if draft.sound(&["upstream.url"]) && draft.settings.upstream.url.is_empty() {
        let how = "required: set `url` under [upstream] in the settings file, the environment \
                   variable GMFY_URL, or --set upstream.url=URL";
        draft.refuse("upstream.url", how.to_owned());
    }
    let pair = ["upstream.client_cert_file", "upstream.client_key_file"];
    let upstream = &draft.settings.upstream;
    if draft.sound(&pair)
        && upstream.client_cert_file.is_some() != upstream.client_key_file.is_some()
    {
        let (missing, given) = match upstream.client_cert_file {
            Some(_) => ("upstream.client_key_file", "upstream.client_cert_file"),
            None => ("upstream.client_cert_file", "upstream.client_key_file"),
        };
        draft.refuse(missing, format!("required together with {given}"));
    }
}

fn key(draft: &mut Draft) {
    const NAMES: [&str; 2] = ["upstream.api_key", "upstream.api_key_file"];
    if !draft.sound(&NAMES) {
        return;
    }
    let [key_origin, file_origin] = NAMES.map(|name| draft.origin(name));
    let upstream = &mut draft.settings.upstream;
    if upstream.api_key.is_some() && upstream.api_key_file.is_some() {
        // A key that a command brings as its default gives way to what the person set.
        match (&key_origin, &file_origin) {
            (Origin::Default, Origin::Default) => {}
            (Origin::Default, _) => upstream.api_key = None,
            (_, Origin::Default) => upstream.api_key_file = None,
            _ => {}
        }
    }
    match (&upstream.api_key, &upstream.api_key_file) {
        (Some(_), Some(_)) => {
            let why =
                format!("only one of it and upstream.api_key_file ({file_origin}) can be set");
            draft.refuse("upstream.api_key", why);
        }
        (None, None) => {
            let how = "required: set `api_key` or `api_key_file` under [upstream] in the settings \
                       file, the environment variable GMFY_API_KEY, or --set upstream.api_key=KEY \
                       (or upstream.api_key_file=FILE)";
            draft.refuse("upstream.api_key", how.to_owned());
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
}

fn files(draft: &mut Draft) {
    type Of = fn(&Settings) -> Option<&PathBuf>;
    type Check = fn(&Path) -> Result<(), String>;
    let files: [(&'static str, Of, Check); 6] = [
        ("upstream.api_key_file", |s| s.upstream.api_key_file.as_ref(), usable_key),
        ("upstream.ca_file", |s| s.upstream.ca_file.as_ref(), usable),
        ("upstream.client_cert_file", |s| s.upstream.client_cert_file.as_ref(), usable),
        ("upstream.client_key_file", |s| s.upstream.client_key_file.as_ref(), usable),
        ("queue.nats.credentials_file", |s| s.queue.nats.credentials_file.as_ref(), usable),
        ("queue.nats.ca_file", |s| s.queue.nats.ca_file.as_ref(), usable),
    ];
    for (name, of, check) in files {
        let Some(path) = of(&draft.settings).filter(|_| draft.sound(&[name])) else { continue };
        if let Err(problem) = check(path) {
            draft.refuse(name, format!("the file can't be used: {problem}"));
        }
    }
}

fn usable(path: &Path) -> Result<(), String> {
    open(path).map(drop)
}

/// Never waits: only regular files are opened, since opening a pipe would.
fn open(path: &Path) -> Result<File, String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if metadata.len() == 0 {
        return Err("it is empty".to_owned());
    }
    File::open(path).map_err(|error| error.to_string())
}

fn usable_key(path: &Path) -> Result<(), String> {
    let mut bytes = Vec::new();
    let read = open(path)?.take(KEY_FILE_BYTES + 1).read_to_end(&mut bytes);
    let length = read.map_err(|error| error.to_string())?;
    if u64::try_from(length).unwrap_or(u64::MAX) > KEY_FILE_BYTES {
        return Err("it is too large for a key".to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    key_text(&text).map(drop).map_err(str::to_owned)
}

/// A listener that others can reach must ask who they are.
fn exposure(draft: &mut Draft) {
    let settings = &draft.settings;
    let api = (!settings.api.listen.ip().is_loopback() && settings.api.keys.is_empty())
        .then(|| format!("required, since api.listen = {} is not loopback", settings.api.listen));
    let admin =
        (!settings.admin.listen.ip().is_loopback() && settings.admin.token.is_none()).then(|| {
            format!("required, since admin.listen = {} is not loopback", settings.admin.listen)
        });
    if let Some(problem) = api.filter(|_| draft.sound(&["api.listen", "api.keys"])) {
        draft.refuse("api.keys", problem);
    }
    if let Some(problem) = admin.filter(|_| draft.sound(&["admin.listen", "admin.token"])) {
        draft.refuse("admin.token", problem);
    }
}

/// What the queue on NATS asks for, and what it can't do.
fn backend(draft: &mut Draft) {
    if draft.settings.queue.backend == Backend::Sled || !draft.sound(&["queue.backend"]) {
        return;
    }
    if cfg!(not(feature = "nats")) {
        let why = "this program was built without the queue on NATS: build it with \
                   `cargo build --release --features nats`, or use `sled`";
        draft.refuse("queue.backend", why.to_owned());
        return;
    }
    let queue = &draft.settings.queue;
    let forgets = queue.nats.spill
        && draft.settings.events.dedupe_window.is_zero()
        && draft.sound(&["queue.nats.spill", "events.dedupe_window"]);
    let (drops, is_late) = (
        queue.when_full == WhenFull::DropOldest && draft.sound(&["queue.when_full"]),
        queue.durability == Durability::Interval && draft.sound(&["queue.durability"]),
    );
    if forgets {
        let why = "expected more than 0, since with queue.nats.spill = true events may reach NATS \
                   twice, and it has to know them again";
        draft.refuse("events.dedupe_window", why.to_owned());
    }
    if drops {
        let why = "expected `reject`, since queue.backend = nats drops no events of the fleet";
        draft.refuse("queue.when_full", why.to_owned());
    }
    if is_late {
        let why = "expected `sync`, since with queue.backend = nats the NATS servers decide it, by \
                   their setting `sync_interval`";
        draft.refuse("queue.durability", why.to_owned());
    }
}

fn room(draft: &mut Draft) {
    let queue = &draft.settings.queue;
    let (disk, nats) =
        (("queue.max_bytes", queue.max_bytes), ("queue.nats.max_bytes", queue.nats.max_bytes));
    match (queue.backend, queue.nats.spill) {
        (Backend::Sled, _) => has_room(draft, disk),
        (Backend::Nats, false) => has_room(draft, nats),
        (Backend::Nats, true) => {
            has_room(draft, disk);
            has_room(draft, nats);
        }
    }
}

fn has_room(draft: &mut Draft, (name, max_bytes): (&'static str, u64)) {
    if !draft.sound(&[name, "api.max_body"]) {
        return;
    }
    let max_body = u64::try_from(draft.settings.api.max_body).unwrap_or(u64::MAX);
    let needed = max_body.saturating_mul(BODIES_IN_QUEUE);
    if max_bytes < needed {
        let problem = format!(
            "expected room for at least {BODIES_IN_QUEUE} bodies of api.max_body, which is \
             {needed} bytes; raise this or lower api.max_body"
        );
        draft.refuse(name, problem);
    }
}
