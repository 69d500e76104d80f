use std::fs;
use std::path::Path;
use std::time::Duration;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::config::{Durability, effective_json, effective_table, environment_of};

const SECRET: &str = "s3cret-k3y";

/// What is needed, and these.
fn sources(environment: &[(&str, &str)], sets: &[&str]) -> Sources {
    let needed = [("GMFY_URL", "http://gmfy.test/"), ("GMFY_API_KEY", SECRET)];
    let environment = needed.iter().chain(environment);
    Sources {
        environment: environment.map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        sets: sets.iter().map(|set| (*set).to_owned()).collect(),
        ..Sources::default()
    }
}

fn from_environment(environment: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    Settings::load(&sources(environment, &[]))
}

fn from_sets(sets: &[&str]) -> Result<Loaded, ConfigErrors> {
    Settings::load(&sources(&[], sets))
}

/// Loads a file of this text; the errors' texts name it `settings.toml`.
fn from_file(text: &str) -> Result<Loaded, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    fs::write(&path, text).unwrap();
    let sources = Sources { file: Some(path), ..sources(&[], &[]) };
    let folder = format!("{}/", folder.path().display());
    Settings::load(&sources).map_err(|errors| errors.to_string().replace(&folder, ""))
}

fn effective<'a>(loaded: &'a Loaded, key: &str) -> &'a Effective {
    loaded.effective.iter().find(|one| one.key == key).unwrap()
}

#[test]
fn later_layers_win_and_every_value_knows_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("settings.toml");
    fs::write(&path, "[delivery]\nlanes = 2\nlinger = '1s'\n\nbatch_events = 7\n").unwrap();
    let loaded = Settings::load(&Sources {
        file: Some(path.clone()),
        defaults: vec![("delivery.lanes", "1".into()), ("queue.dir", "/tmp/fresh".into())],
        ..sources(
            &[("GMFY_DELIVERY__LANES", "3"), ("GMFY_DELIVERY__LINGER", "2s")],
            &["delivery.lanes=4", " delivery.lanes =5"],
        )
    })
    .unwrap();
    let origin = |key| effective(&loaded, key).origin.clone();
    assert_eq!(loaded.settings.delivery.lanes, 5);
    assert_eq!(origin("delivery.lanes"), Origin::Flag);
    assert_eq!(loaded.settings.delivery.linger, Duration::from_secs(2));
    assert_eq!(origin("delivery.linger"), Origin::Environment("GMFY_DELIVERY__LINGER".into()));
    assert_eq!(loaded.settings.delivery.batch_events, 7);
    assert_eq!(origin("delivery.batch_events"), Origin::File { path, line: 5 });
    assert_eq!(loaded.settings.queue.dir, Path::new("/tmp/fresh"));
    assert_eq!(origin("queue.dir"), Origin::Default);
}

#[test]
fn a_file_may_use_tomls_own_types() {
    let loaded = from_file(
        "api.unix_socket_mode = 0o600\napi.max_body = 1_048_576\napi.keys = ['a', 'b']\n\
         delivery.linger = 0\nupstream.verify = false\ntracing.sample_ratio = 1\n\
         queue.durability = 'interval'\n[reads.ttl]\nusers = '9s'",
    )
    .unwrap()
    .settings;
    assert_eq!(loaded.api.unix_socket_mode, 0o600);
    assert_eq!(loaded.api.max_body, 1 << 20);
    assert_eq!(loaded.api.keys.len(), 2);
    assert_eq!(loaded.delivery.linger, Duration::ZERO);
    assert!(!loaded.upstream.verify);
    assert_eq!(loaded.queue.durability, Durability::Interval);
    assert_eq!(loaded.reads.ttl.users, Duration::from_secs(9));
}

#[test]
fn lists_in_variables_are_comma_separated() {
    let loaded = from_environment(&[
        ("GMFY_API__KEYS", " one,two "),
        ("GMFY_API__ALLOWED_HOSTS", "Sidecar:7460,[::1]"),
        ("GMFY_READS__TTL__USERS", "0"),
    ])
    .unwrap();
    let keys: Vec<_> = loaded.settings.api.keys.iter().map(Secret::expose).collect();
    assert_eq!(keys, ["one", "two"]);
    assert_eq!(loaded.settings.api.allowed_hosts, ["sidecar", "[::1]"]);
    assert_eq!(loaded.settings.reads.ttl.users, Duration::ZERO);
    assert_eq!(from_environment(&[("GMFY_API__KEYS", "")]).unwrap().settings.api.keys, []);
}

#[test]
fn variables_of_others_are_ignored() {
    let loaded = from_environment(&[
        ("GMFY_SIDECAR_SERVICE_HOST", "10.0.0.1"),
        ("GMFY_SIDECAR_PORT_7460_TCP", "tcp://10.0.0.1:7460"),
        ("GMFY_REVISION", "abc"),
        ("gmfy_queue__dir", "x"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(loaded.unwrap().settings, from_sets(&[]).unwrap().settings);
}

#[test]
fn a_settings_own_variable_wins_over_its_short_name() {
    for swapped in [false, true] {
        let mut sources = sources(&[("GMFY_UPSTREAM__URL", "http://own.test/")], &[]);
        if swapped {
            sources.environment.reverse();
        }
        assert_eq!(Settings::load(&sources).unwrap().settings.upstream.url, "http://own.test/");
    }
}

#[test]
fn unknown_names_are_refused_with_the_nearest_known_one() {
    let nearest = |result: Result<Loaded, ConfigErrors>| {
        let ConfigErrors(errors) = result.unwrap_err();
        assert_eq!(errors.len(), 1);
        errors[0].nearest.clone().unwrap()
    };
    for (written, meant) in [
        ("quue.dir", "queue.dir"),
        ("queue.durabilty", "queue.durability"),
        ("linger", "delivery.linger"),
        ("Queue.Dir", "queue.dir"),
        ("reads.ttl.user", "reads.ttl.users"),
        ("upstream.apikey", "upstream.api_key"),
        ("", "log.level"),
    ] {
        let known = nearest(from_sets(&[&format!("{written}=x")]));
        if written.is_empty() {
            assert!(Setting::named(&known).is_some());
        } else {
            assert_eq!(known, meant);
        }
    }
    for (written, meant) in [
        ("GMFY_QUUE__DIR", "GMFY_QUEUE__DIR"),
        ("GMFY__QUEUE__DIR", "GMFY_QUEUE__DIR"),
        ("GMFY_Queue__Dir", "GMFY_QUEUE__DIR"),
        ("GMFY_READS__TTL_USERS", "GMFY_READS__TTL__USERS"),
    ] {
        assert_eq!(nearest(from_environment(&[(written, "x")])), meant);
    }
    assert_snapshot!(
        from_file("[quue]\ndir = 'x'\n[queue]\ndurabilty = 'sync'\n[quee]\n[reads.tll]\nusers = '1s'")
            .unwrap_err(),
        @r#"
        quee (file settings.toml:5): unknown setting; the nearest known one is queue
        queue.durabilty (file settings.toml:4): unknown setting; the nearest known one is queue.durability
        quue.dir (file settings.toml:2): unknown setting; the nearest known one is queue.dir
        reads.tll (file settings.toml:6): unknown setting; the nearest known one is reads.ttl
        "#
    );
}

#[test]
fn every_mistake_is_reported_at_once() {
    assert_snapshot!(
        from_file(
            "log = 5\n[api]\nlisten = ':7460'\nmax_body = '8M'\nkeys = [['a']]\n\
             [delivery]\nlanes = 0\nlinger = 200\n[api.head_timeout]\nx = 1\n\
             [upstream]\nverify = 'yes'\nurl = 'http://u:p@gmfy.test'\n"
        )
        .unwrap_err(),
        @r#"
        log (file settings.toml:1): expected a table
        api.head_timeout (file settings.toml:9): expected a duration such as `200ms`, `5s`, `10m` or `1h`; not a table
        api.keys (file settings.toml:5): expected a list, each a text that an HTTP header can carry, or `none`; not a list of lists or tables
        api.listen = ":7460" (file settings.toml:3): expected an address and a port, such as `127.0.0.1:7460`, `[::1]:7460` or `localhost:7460`; `0.0.0.0:7460` listens on all addresses
        api.max_body = "8M" (file settings.toml:4): expected a size such as `64KiB`, `8MiB` or `1GiB`, from 1 to 1GiB; the units are `KiB`, `MiB`, `GiB`, `TiB`, and `KB`, `MB`, `GB`, `TB` of 1000
        delivery.lanes = "0" (file settings.toml:7): expected a whole number from 1 to 64
        delivery.linger = "200" (file settings.toml:8): expected a duration such as `200ms`, `5s`, `10m` or `1h`, or `0`; a number needs its unit, as in `200s`
        upstream.url (file settings.toml:13): expected an http or https URL such as `https://gmfy.example.com/`; it has credentials, which don't belong in a URL
        upstream.verify = "yes" (file settings.toml:12): expected `true` or `false`
        "#
    );
    let sets = ["queue.durability=async", "events.types.a=x", "oops", "log.level=inof"];
    let errors = Settings::load(&sources(&[("GMFY_EVENTS__TYPES", "x")], &sets)).unwrap_err();
    assert_snapshot!(errors, @r#"
        events.types (environment GMFY_EVENTS__TYPES): event types are set in the settings file only
        queue.durability = "async" (flag): expected `sync` or `interval`
        events.types.a (flag): event types are set in the settings file only
        flag: --set number 3 has no `=`: expected KEY=VALUE
        log.level = "inof" (flag): expected `error`, `warn`, `info`, `debug`, `trace` or `off`, or directives such as `info,gmfy_sidecar::delivery=debug`; "inof" is no level; a target needs one: TARGET=LEVEL
        "#);
}

#[test]
fn a_value_that_a_later_layer_replaces_is_checked_too() {
    let sources = sources(&[("GMFY_DELIVERY__LANES", "0")], &["delivery.lanes=2"]);
    assert_eq!(Settings::load(&sources).unwrap_err().0.len(), 1);
}

#[test]
fn what_is_required_is_said_with_all_ways_to_set_it() {
    assert_snapshot!(Settings::load(&Sources::default()).unwrap_err(), @r#"
        upstream.url: required: set `url` under [upstream] in the settings file, the environment variable GMFY_URL, or --set upstream.url=URL
        upstream.api_key: required: set `api_key` or `api_key_file` under [upstream] in the settings file, the environment variable GMFY_API_KEY, or --set upstream.api_key=KEY (or upstream.api_key_file=FILE)
        "#);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "k\n").unwrap();
    let key = key.display();
    let both = Settings::load(&sources(&[], &[&format!("upstream.api_key_file={key}")]));
    assert_eq!(both.unwrap_err().0[0].key, "upstream.api_key");
    for (sets, refused) in [
        (&["api.listen=0.0.0.0:1"][..], Some("api.keys")),
        (&["api.listen=0.0.0.0:1", "api.keys=k"], None),
        (&["api.listen=[::1]:1"], None),
        (&["admin.listen=[::]:1"], Some("admin.token")),
        (&["admin.listen=[::]:1", "admin.token=t"], None),
        (&["ops.listen=0.0.0.0:1"], None),
        (&["queue.max_bytes=67108863"], Some("queue.max_bytes")),
        (&["queue.max_bytes=64MiB"], None),
        (&["api.max_body=1GiB"], Some("queue.max_bytes")),
        (&[&*format!("upstream.client_cert_file={key}")], Some("upstream.client_key_file")),
        (&[&*format!("upstream.client_key_file={key}")], Some("upstream.client_cert_file")),
    ] {
        let errors = from_sets(sets).err().map(|errors| errors.0);
        let keys: Option<Vec<_>> = errors.map(|e| e.into_iter().map(|e| e.key).collect());
        assert_eq!(keys, refused.map(|key| vec![key.to_owned()]), "{sets:?}");
    }
}

#[test]
fn a_refused_setting_is_not_asked_about_again() {
    let errors = from_sets(&["queue.max_bytes=x", "api.keys=a,,b", "api.listen=0.0.0.0:1"]);
    assert_eq!(errors.unwrap_err().0.len(), 2);
}

#[test]
fn a_file_that_cannot_be_used_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let good = file("good", b" k3y\n");
    let missing = folder.path().join("missing").display().to_string();
    let directory = folder.path().display().to_string();
    let empty = file("empty", b"");
    let long = file("long", &[b'k'; 70_000]);
    let cases = [
        (good, true, true),
        (missing, false, false),
        (directory, false, false),
        (empty, false, false),
        (file("blank", b" \n"), false, true),
        (file("lines", b"a\nb"), false, true),
        (file("binary", b"\xff\xfe"), false, true),
        (long, false, true),
    ];
    for (path, a_key, a_pem) in cases {
        for (name, fine) in [("upstream.api_key_file", a_key), ("upstream.ca_file", a_pem)] {
            let mut sources = sources(&[], &[&format!("{name}={path}")]);
            if name == "upstream.api_key_file" {
                sources.environment.retain(|(name, _)| name != "GMFY_API_KEY");
            }
            match Settings::load(&sources) {
                Ok(_) => assert!(fine, "{name} {path}"),
                Err(errors) => {
                    assert!(!fine, "{errors}");
                    assert_eq!(errors.0[0].key, name);
                    assert!(errors.to_string().contains(&path), "{errors}");
                }
            }
        }
    }
    let gone = Sources { file: Some("/nowhere/gmfy.toml".into()), ..sources(&[], &[]) };
    assert_snapshot!(Settings::load(&gone).unwrap_err(), @r#"--config /nowhere/gmfy.toml: the file can't be read: No such file or directory (os error 2)"#);
}

#[test]
fn a_key_that_a_command_brings_gives_way_to_a_key_file() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "k\n").unwrap();
    let loaded = Settings::load(&Sources {
        defaults: vec![
            ("upstream.url", "http://dev.test/".into()),
            ("upstream.api_key", "dev".into()),
        ],
        sets: vec![format!("upstream.api_key_file={}", key.display())],
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(loaded.settings.upstream.api_key, None);
    assert_eq!(loaded.settings.upstream.api_key_file, Some(key));
}

#[test]
fn event_types_come_from_the_file() {
    let loaded = from_file(
        "[events.types]\nregister = { kind = 'classic' }\n\
         subscription = { kind = 'action', actions = ['create'] }\n",
    )
    .unwrap();
    assert_eq!(loaded.settings.events.types.len(), 2);
    let one = effective(&loaded, "events.types.subscription");
    assert_eq!(one.value_text, r#"{ kind = "action", actions = ["create"] }"#);
    assert!(one.origin.to_string().ends_with("settings.toml:3"));
    assert_snapshot!(
        from_file(
            "[events.types]\na = 'classic'\nb = { kind = 'clasic' }\nc = { knd = 'unique' }\n\
             d = { kind = 'action' }"
        )
        .unwrap_err(),
        @r#"
        events.types.a (file settings.toml:2): expected `{ kind = "classic" or "action" or "unique", actions = ["create", …] }`
        events.types.b (file settings.toml:3): expected a kind of `classic`, `action` or `unique`
        events.types.c (file settings.toml:4): unknown field "knd"; the nearest known one is kind
        events.types.d (file settings.toml:5): an action type needs its actions
        "#
    );
}

#[test]
fn the_effective_settings_are_a_table_for_people_and_an_object_for_programs() {
    let loaded = from_sets(&["delivery.lanes=2", "api.keys=a,b"]).unwrap();
    let table = effective_table(&loaded.effective);
    let line = |key: &str| {
        let line = table.lines().find(|line| line.starts_with(key)).unwrap();
        line.split("  ").filter(|part| !part.is_empty()).map(str::trim).collect::<Vec<_>>()
    };
    assert_eq!(line("delivery.lanes"), ["delivery.lanes", "2", "flag"]);
    assert_eq!(line("api.unix_socket "), ["api.unix_socket", "none", "default"]);
    assert_eq!(line("upstream.api_key "), ["upstream.api_key", "***", "environment GMFY_API_KEY"]);
    assert_eq!(line("api.keys"), ["api.keys", "***, ***", "flag"]);
    assert_eq!(table.lines().count(), SCHEMA.len() + 1);
    let json = effective_json(&loaded.effective);
    assert_eq!(json["delivery.lanes"]["value"], "2");
    assert_eq!(json["delivery.lanes"]["origin"], "flag");
    assert_eq!(json["admin.token"]["value"], "none");
}

#[test]
fn settings_that_need_a_restart_are_named() {
    let old = from_sets(&[]).unwrap().settings;
    assert_eq!(reload_differences(&old, &old), Vec::<&str>::new());
    let sets = ["queue.dir=/x", "delivery.lanes=1", "runtime.threads=3", "ops.listen=[::1]:1"];
    let new = from_sets(&sets).unwrap().settings;
    assert_eq!(reload_differences(&old, &new), ["ops.listen", "queue.dir", "runtime.threads"]);
}

#[test]
fn of_the_processes_variables_only_ours_are_kept() {
    let process = [("GMFY_URL", "u"), ("PATH", "p"), ("GMFYX", "x")];
    let kept = environment_of(process.map(|(name, value)| (name.into(), value.into())));
    assert_eq!(kept, [("GMFY_URL".to_owned(), "u".to_owned())]);
}

#[test]
fn no_secret_is_shown_anywhere() {
    let token = format!("admin.token={SECRET}");
    let keys = format!("api.keys={SECRET},{SECRET}");
    let good = sources(&[], &[&token, &keys]);
    let loaded = Settings::load(&good).unwrap();
    let mut shown = vec![
        format!("{good:?}"),
        format!("{loaded:?}"),
        effective_table(&loaded.effective),
        effective_json(&loaded.effective).to_string(),
    ];
    let spoiled = format!("{SECRET}\u{e9}\n");
    for set in [
        format!("admin.token={spoiled}"),
        format!("api.keys={spoiled}"),
        format!("upstream.api_key={spoiled}"),
        format!("upstream.apikey={SECRET}"),
        format!("upstream.url=http://user:{SECRET}@gmfy.test/"),
        format!("upstream.url=http:// user:{SECRET}@gmfy.test/"),
        format!("upstream.url=http://gmfy.test/?key={SECRET}"),
        format!("tracing.otlp_endpoint=http://user:{SECRET}@otel.test/"),
        SECRET.to_owned(),
    ] {
        let errors = from_sets(&[&set]).unwrap_err();
        shown.push(format!("{errors} {errors:?}"));
    }
    for file in [
        format!("[upstream]\napi_key = \"{SECRET}"),
        format!("[upstream]\napi_key = {SECRET}"),
        format!("[upstream]\napi_key = '{SECRET}' x"),
        format!("[upstream]\napi_key = [['{SECRET}']]"),
        format!("[upstream.api_key]\n'x' = '{SECRET}'"),
        format!("[admin]\ntoken = {{ a = '{SECRET}' }}"),
        format!("[events.types]\na = '{SECRET}'"),
    ] {
        shown.push(from_file(&file).unwrap_err());
    }
    for text in shown {
        assert!(!text.contains(SECRET), "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_text_for_any_setting_is_taken_or_refused_with_its_name(
        index in 0..SCHEMA.len(),
        text in prop_oneof![
            any::<String>(),
            "[0-9]{0,24} ?(ms|s|m|h|d|KiB|GB|B)?",
            "(http://|https://)?[a-z:@/?#.\\[\\]0-9%]{0,20}",
        ],
    ) {
        let setting = &SCHEMA[index];
        let by_flag = from_sets(&[&format!("{}={text}", setting.name)]);
        let by_variable = from_environment(&[(&setting.variable(), &text)]);
        prop_assert_eq!(by_flag.is_ok(), by_variable.is_ok());
        if let Ok(loaded) = &by_flag {
            prop_assert_eq!(&loaded.settings, &by_variable.unwrap().settings);
        } else if let Err(errors) = by_flag {
            prop_assert!(!errors.0.is_empty());
            prop_assert!(errors.0.iter().all(|error| Setting::named(&error.key).is_some()));
        }
    }

    #[test]
    fn any_file_any_argument_and_any_variable_are_taken_or_refused(text in any::<String>()) {
        let of_file = [text.clone(), format!("[upstream]\n{text}")].map(|text| from_file(&text).err());
        let others = [from_sets(&[&text]), from_environment(&[(&format!("GMFY_{text}"), "x")])];
        let of_others = others.map(|loaded| loaded.err().map(|errors| errors.to_string()));
        for told in of_file.into_iter().chain(of_others).flatten() {
            prop_assert!(!told.is_empty());
        }
    }
}
