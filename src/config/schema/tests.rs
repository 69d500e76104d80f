use std::collections::BTreeSet;

use super::*;

/// The dotted paths of all fields, read off the pretty-printed settings.
fn fields(settings: &Settings) -> BTreeSet<String> {
    let mut path: Vec<String> = Vec::new();
    let mut fields = BTreeSet::new();
    for line in format!("{settings:#?}").lines().skip(1) {
        let depth = (line.len() - line.trim_start().len()) / 4;
        let Some((name, value)) = line.trim().split_once(": ") else { continue };
        path.truncate(depth - 1);
        path.push(name.to_owned());
        let nested = value.ends_with(" {") && value.starts_with(|c: char| c.is_ascii_uppercase());
        if !nested {
            fields.insert(path.join("."));
        }
    }
    fields
}

#[test]
fn every_field_of_the_settings_has_one_row() {
    let mut rows: BTreeSet<_> = SCHEMA.iter().map(|setting| setting.name.to_owned()).collect();
    assert_eq!(rows.len(), SCHEMA.len(), "a name stands twice");
    rows.insert("events.types".to_owned());
    assert_eq!(rows, fields(&blank()));
}

#[test]
fn every_row_stands_in_a_section_and_says_what_it_is() {
    for setting in SCHEMA {
        let section = setting.name.rsplit_once('.').map(|(section, _)| section);
        assert!(SECTIONS.iter().any(|(name, _)| Some(*name) == section), "{}", setting.name);
        assert!(setting.doc.ends_with('.') && !setting.doc.contains("  "), "{}", setting.name);
    }
}

#[test]
fn every_default_is_valid_and_shown_as_it_is_written() {
    let defaults = defaults();
    for setting in SCHEMA {
        let mut settings = blank();
        let default = Raw::Text(setting.default.to_owned());
        assert_eq!((setting.apply)(&mut settings, &default), Ok(()), "{}", setting.name);
        assert_eq!((setting.show)(&defaults), setting.default, "{}", setting.name);
    }
}

/// One accepted text for each setting that is not its default, and one or more refused ones.
const EXAMPLES: &[(&str, &str, &[&str])] = &[
    ("api.listen", "[::1]:80", &["", "7460", "example.com:80"]),
    ("api.unix_socket", "/run/gmfy.sock", &[""]),
    ("api.unix_socket_mode", "0600", &["0999", "rw"]),
    ("api.keys", "a, b", &["a,,b", "ä"]),
    ("api.allowed_hosts", "*", &["", "none", "http://a"]),
    ("api.max_body", "1MiB", &["0", "2GiB", "8M", "many"]),
    ("api.max_event", "1KiB", &["0", "17MiB"]),
    ("api.max_batch_events", "10", &["0", "ten"]),
    ("api.max_connections", "10", &["0", "-1"]),
    ("api.max_requests", "10", &["0", "x"]),
    ("api.body_memory", "16MiB", &["0", "big"]),
    ("api.head_timeout", "5s", &["0", "5"]),
    ("api.body_timeout", "5s", &["0", "5"]),
    ("ops.listen", "127.0.0.1:0", &["ops"]),
    ("admin.listen", "0.0.0.0:0", &["admin"]),
    ("admin.token", "t", &["", "a\nb"]),
    ("upstream.url", "http://a/", &["", "a", "ftp://a/", "http://u:p@a/", "http://a/?b"]),
    ("upstream.api_key", "k", &["", "a\nb"]),
    ("upstream.api_key_file", "key", &[""]),
    ("upstream.timeout", "1s", &["0", "1"]),
    ("upstream.connect_timeout", "1s", &["0", "1"]),
    ("upstream.verify", "false", &["no", "1", "False"]),
    ("upstream.ca_file", "ca.pem", &["", "a\0b"]),
    ("upstream.client_cert_file", "cert.pem", &[""]),
    ("upstream.client_key_file", "key.pem", &[""]),
    ("upstream.unread_notifications_path", "v1/unread/", &["", "../x", "a?b"]),
    ("events.unknown", "reject", &["refuse"]),
    ("events.dedupe_window", "0", &["600", "-1s"]),
    ("events.dedupe_entries", "0", &["-1", "67108865"]),
    ("queue.dir", "/var/lib/gmfy", &[""]),
    ("queue.durability", "interval", &["async"]),
    ("queue.interval", "1ms", &["0"]),
    ("queue.max_bytes", "1TiB", &["7", "1XB"]),
    ("queue.when_full", "drop_oldest", &["drop"]),
    ("queue.max_age", "7d", &["0", "7"]),
    ("queue.backend", "nats", &["kafka"]),
    (
        "queue.nats.servers",
        "tls://a.test, nats://b.test:4222",
        &["", "a.test", "http://a.test", "nats://u:p@a.test", "nats://a.test/x", "nats://a.test:x"],
    ),
    ("queue.nats.credentials_file", "user.creds", &[""]),
    ("queue.nats.ca_file", "ca.pem", &[""]),
    ("queue.nats.stream", "GMFY_2", &["", "a.b", "a b", ">", "123456789012345678901234567890123"]),
    ("queue.nats.replicas", "1", &["0", "6"]),
    ("queue.nats.lanes", "256", &["0", "257"]),
    ("queue.nats.max_bytes", "1TiB", &["7", "1XB"]),
    ("queue.nats.lease", "1s", &["0", "999ms", "10"]),
    ("queue.nats.spill", "true", &["on"]),
    ("dead_letters.max_bytes", "1MiB", &["1023"]),
    ("dead_letters.when_full", "drop", &["reject"]),
    ("delivery.batch_events", "1", &["0", "100001"]),
    ("delivery.batch_bytes", "1MiB", &["0", "65MiB"]),
    ("delivery.linger", "0", &["200"]),
    ("delivery.lanes", "64", &["0", "65"]),
    ("delivery.retry_initial", "1ms", &["0"]),
    ("delivery.retry_max", "1h", &["0"]),
    ("delivery.on_unknown", "park", &["drop"]),
    ("delivery.adaptive", "false", &["off"]),
    ("delivery.compress", "gzip", &["zstd"]),
    ("reads.max_bytes", "0", &["-1"]),
    ("reads.stale_while_revalidate", "0", &["10"]),
    ("reads.stale_if_error", "1h", &["1y"]),
    ("reads.prefetch", "false", &["off"]),
    ("reads.connections", "1", &["0", "1025"]),
    ("reads.ttl.users", "0", &["5"]),
    ("reads.ttl.badges", "1s", &["5"]),
    ("reads.ttl.ratings", "1s", &["5"]),
    ("reads.ttl.challenges", "1s", &["5"]),
    ("reads.ttl.payments", "2s", &["5"]),
    ("reads.ttl.notifications", "2s", &["5"]),
    ("reads.ttl.version", "1s", &["5"]),
    ("tracing.otlp_endpoint", "http://otel:4318/", &["otel:4318"]),
    ("tracing.sample_ratio", "0.5", &["2", "1%"]),
    ("runtime.threads", "2", &["0", "none"]),
    ("shutdown.quiet", "0", &["1"]),
    ("shutdown.deadline", "0", &["25"]),
    ("log.format", "json", &["pretty"]),
    ("log.level", "debug", &["loud", ""]),
];

#[test]
fn every_setting_takes_its_syntax_and_refuses_the_rest() {
    let names: Vec<_> = EXAMPLES.iter().map(|(name, ..)| *name).collect();
    assert_eq!(names, SCHEMA.iter().map(|setting| setting.name).collect::<Vec<_>>());
    for (name, accepted, refused) in EXAMPLES {
        let setting = Setting::named(name).unwrap();
        let mut settings = defaults();
        let accepted = Raw::Text((*accepted).to_owned());
        assert_eq!((setting.apply)(&mut settings, &accepted), Ok(()), "{name}");
        assert!((setting.differs)(&settings, &defaults()), "{name} changes its own field");
        let others = SCHEMA.iter().filter(|other| other.name != *name);
        for other in others {
            assert!(!(other.differs)(&settings, &defaults()), "{name} changes {}", other.name);
        }
        if !setting.secret {
            // What is shown parses back to the same.
            let mut again = defaults();
            let shown = Raw::Text((setting.show)(&settings));
            assert_eq!((setting.apply)(&mut again, &shown), Ok(()), "{name}");
            assert_eq!(again, settings, "{name}");
        }
        for text in *refused {
            let before = settings.clone();
            let raw = Raw::Text((*text).to_owned());
            assert!((setting.apply)(&mut settings, &raw).is_err(), "{name} = {text:?}");
            assert_eq!(settings, before, "a refused value changes nothing");
        }
        assert!((setting.apply)(&mut settings, &Raw::Other("a table")).is_err(), "{name}");
    }
}

#[test]
fn a_restart_is_needed_for_just_these() {
    let fixed = SCHEMA.iter().filter(|setting| setting.takes == Takes::Restart);
    let names: Vec<_> = fixed.map(|setting| setting.name).collect();
    assert_eq!(
        names,
        [
            "api.listen",
            "api.unix_socket",
            "api.unix_socket_mode",
            "ops.listen",
            "admin.listen",
            "queue.dir",
            "queue.max_bytes",
            "queue.backend",
            "queue.nats.servers",
            "queue.nats.credentials_file",
            "queue.nats.ca_file",
            "queue.nats.stream",
            "queue.nats.replicas",
            "queue.nats.lanes",
            "queue.nats.max_bytes",
            "queue.nats.lease",
            "queue.nats.spill",
            "tracing.otlp_endpoint",
            "tracing.sample_ratio",
            "runtime.threads",
        ]
    );
}
