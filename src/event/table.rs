//! Every rule, as what goes in and what comes out.

use super::test_rules::rules;
use super::{BodyError, EventError, EventKind, Rules};
use crate::config::UnknownEvents;

fn accept() -> Rules {
    rules(UnknownEvents::Accept)
}

fn reject() -> Rules {
    rules(UnknownEvents::Reject)
}

fn faults(rules: &Rules, body: &str) -> Vec<EventError> {
    match rules.parse_one(body.as_bytes()) {
        Err(BodyError::Invalid(errors)) => errors,
        other => panic!("{body}: {other:?}"),
    }
}

fn not_json<T: std::fmt::Debug>(parsed: Result<T, BodyError>) -> String {
    match parsed {
        Err(BodyError::NotJson(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn wire_form_goes_on_byte_for_byte() {
    use EventKind::{Action, Classic, Unique};
    for (body, kind) in [
        (r#"{"userId":"1","type":"register"}"#, Classic),
        (r#"{"type":"anything","userId":"1"}"#, Classic),
        (r#"{"userId":"1","type":"create_subscription"}"#, Action),
        (r#"{"userId":"1","type":"cr\u0065ate_subscription"}"#, Action),
        (r#"{"userId":"1","type":"remove_subscription"}"#, Classic),
        (r#"{"userId":"1","idempotenceKey":"k","type":"visit_user"}"#, Unique),
        (r#"{"userId":"1","idempotenceKey":"k","type":"anything"}"#, Unique),
        (r#"{"userId":"1","idempotenceKey":"k","type":"register"}"#, Classic),
        (r#"{"userId":"1","idempotenceKey":null,"type":"anything"}"#, Classic),
        (r#"{"userId":"1","idempotenceKey":"","type":"register"}"#, Classic),
        (r#"{ "userId" : "1" ,	"type"   :"register"  }"#, Classic),
        ("{\n\"userId\":\r\n\"1\",\"type\":\"x\"\n}", Classic),
        (r#"{"\u0075serId":"\u0031","t\u0079pe":"a\/b"}"#, Classic),
        (r#"{"userId":"1","type":"x","a":1.0e+10,"b":-0,"c":[1E400,{"userId":1}]}"#, Classic),
        (r#"{"userId":"1","type":"x","UserId":2,"user-id":3,"":null}"#, Classic),
        (r#"{"userId":"ÿ 🎈\ud83c\udf88","type":"\u0000","z":"\ud800","\udc00":0}"#, Classic),
    ] {
        let around = format!(" \r\n{body}\t\n ");
        let event = accept().parse_one(around.as_bytes()).unwrap();
        assert_eq!((event.wire.as_ref(), event.kind), (body, kind));
        assert!(matches!(event.wire, std::borrow::Cow::Borrowed(_)), "{body} was rebuilt");
    }
}

#[test]
fn other_forms_become_the_wire_form() {
    use EventKind::{Action, Classic, Unique};
    for (body, wire, kind) in [
        (
            r#"{"event_type":"subscription","user_id":"1","event_action":"create","idempotence_key":null}"#,
            r#"{"userId":"1","type":"create_subscription"}"#,
            Action,
        ),
        (
            r#"{"eventType":"subscription","userId":"1","eventAction":"create","idempotenceKey":null}"#,
            r#"{"userId":"1","type":"create_subscription"}"#,
            Action,
        ),
        (
            r#"{"event_type":"visit_user","user_id":"1","event_action":null,"idempotence_key":"k"}"#,
            r#"{"userId":"1","idempotenceKey":"k","type":"visit_user"}"#,
            Unique,
        ),
        (
            r#"{"event_type":"register","userId":"1","idempotenceKey":""}"#,
            r#"{"userId":"1","type":"register"}"#,
            Classic,
        ),
        // A key on a type that isn't unique is passed on.
        (
            r#"{"event_type":"register","user_id":"1","idempotence_key":"k"}"#,
            r#"{"userId":"1","idempotenceKey":"k","type":"register"}"#,
            Classic,
        ),
        // Outside the catalogue the event itself shows its kind.
        (
            r#"{"event_type":"lamp","user_id":"1","event_action":"lit"}"#,
            r#"{"userId":"1","type":"lit_lamp"}"#,
            Action,
        ),
        (
            r#"{"event_type":"lamp","user_id":"1","event_action":"lit","idempotence_key":"k"}"#,
            r#"{"userId":"1","idempotenceKey":"k","type":"lit_lamp"}"#,
            Unique,
        ),
        (r#"{"event_type":"lamp","user_id":"1"}"#, r#"{"userId":"1","type":"lamp"}"#, Classic),
        // A composed type in the input form is what it is in wire form.
        (
            r#"{"event_type":"create_subscription","user_id":"1"}"#,
            r#"{"userId":"1","type":"create_subscription"}"#,
            Action,
        ),
        // What the input form names decides, though `remove_subscription` is a type as well.
        (
            r#"{"event_type":"subscription","user_id":"1","event_action":"remove"}"#,
            r#"{"userId":"1","type":"remove_subscription"}"#,
            Action,
        ),
        // Mixed spellings.
        (r#"{"type":"x","user_id":"1"}"#, r#"{"userId":"1","type":"x"}"#, Classic),
        (
            r#"{"type":"x","userId":"1","idempotence_key":"k","b":1,"a":2}"#,
            r#"{"userId":"1","idempotenceKey":"k","type":"x","b":1,"a":2}"#,
            Unique,
        ),
        (
            r#"{"type":"x","userId":"1","idempotence_key":null}"#,
            r#"{"userId":"1","type":"x"}"#,
            Classic,
        ),
        // Raw texts stay as they are, ours too; so do other names and their order.
        (
            r#"{"z_z": 1.50 ,"event_type":"l\u0061mp","zZ":{"user_id" : -0},"user_id":"\u0031","event_action":"l\"it","\u0061":"\ud800"}"#,
            r#"{"userId":"\u0031","type":"l\"it_l\u0061mp","z_z":1.50,"zZ":{"user_id" : -0},"\u0061":"\ud800"}"#,
            Action,
        ),
        (
            r#"{"event_type":"subscription","user_id":"1","event_action":"cr\u00e9er"}"#,
            r#"{"userId":"1","type":"cr\u00e9er_subscription"}"#,
            Action,
        ),
    ] {
        let event = accept().parse_one(body.as_bytes()).unwrap();
        assert_eq!((event.wire.as_ref(), event.kind), (wire, kind), "{body}");
    }
}

#[test]
fn our_fields_come_out_decoded() {
    let body = r#"{"event_type":"l\u0061mp","user_id":"\ud83c\udf88\u0000","event_action":"l\"it","idempotence_key":"\n"}"#;
    let event = accept().parse_one(body.as_bytes()).unwrap();
    assert_eq!(event.user_id, "🎈\0");
    assert_eq!(event.event_type, "l\"it_lamp");
    assert_eq!(event.idempotence_key.as_deref(), Some("\n"));
    let event = accept().parse_one(br#"{"userId":"1","type":"x","idempotenceKey":""}"#).unwrap();
    assert_eq!(event.idempotence_key, None);
}

/// Of each event all faults: where, a part of what is said, and the suggestion.
#[test]
fn a_bad_event_is_told_all_that_is_wrong() {
    type Expected = &'static [(&'static str, &'static str, Option<&'static str>)];
    let table: &[(&str, Expected)] = &[
        // userId
        (r#"{"type":"x"}"#, &[("", "userId is missing", None)]),
        (r#"{"type":"x","userID":"1"}"#, &[("", "userId is missing", Some("userId"))]),
        (r#"{"type":"x","user-id":"1"}"#, &[("", "userId is missing", Some("user_id"))]),
        (r#"{"type":"x","userId":null}"#, &[("/userId", "not null", None)]),
        (
            r#"{"type":"x","user_id":17}"#,
            &[(
                "/user_id",
                "user_id must be a string that isn't empty, not a number: put it",
                Some("\"17\""),
            )],
        ),
        (r#"{"type":"x","userId":-1E400}"#, &[("/userId", "a number", Some("\"-1E400\""))]),
        (r#"{"type":"x","userId":""}"#, &[("/userId", "must not be empty", None)]),
        (r#"{"type":"x","userId":true}"#, &[("/userId", "not a boolean", None)]),
        (r#"{"type":"x","userId":["1"]}"#, &[("/userId", "not an array", None)]),
        (r#"{"type":"x","userId":{}}"#, &[("/userId", "not an object", None)]),
        (r#"{"type":"x","userId":"\ud800"}"#, &[("/userId", "surrogate", None)]),
        (r#"{"type":"x","userId":"a\udc00b"}"#, &[("/userId", "surrogate", None)]),
        // type
        (r#"{"userId":"1"}"#, &[("", "type is missing: send type, or event_type", None)]),
        (r#"{"userId":"1","event_typ":"x"}"#, &[("", "type is missing", Some("event_type"))]),
        (r#"{"userId":"1","typ":"x"}"#, &[("", "type is missing", Some("type"))]),
        (r#"{"userId":"1","event_action":null}"#, &[("", "type is missing", None)]),
        (r#"{"userId":"1","type":null}"#, &[("/type", "not null", None)]),
        (r#"{"userId":"1","type":""}"#, &[("/type", "must not be empty", None)]),
        (r#"{"userId":"1","type":5}"#, &[("/type", "not a number", Some("\"5\""))]),
        (r#"{"userId":"1","type":"\ud800"}"#, &[("/type", "surrogate", None)]),
        (r#"{"userId":"1","event_type":""}"#, &[("/event_type", "must not be empty", None)]),
        (r#"{"userId":"1","eventType":[]}"#, &[("/eventType", "not an array", None)]),
        (r#"{"userId":"1","event_type":null}"#, &[("/event_type", "not null", None)]),
        // event_action
        (
            r#"{"userId":"1","event_action":"create"}"#,
            &[("/event_action", "stands without event_type", None)],
        ),
        (
            r#"{"userId":"1","event_type":"x","event_action":""}"#,
            &[("/event_action", "must not be empty", None)],
        ),
        (
            r#"{"userId":"1","event_type":"x","eventAction":7}"#,
            &[("/eventAction", "not a number", Some("\"7\""))],
        ),
        (
            r#"{"userId":"1","event_type":"x","event_action":"\udfff"}"#,
            &[("/event_action", "surrogate", None)],
        ),
        // idempotenceKey
        (
            r#"{"userId":"1","type":"x","idempotenceKey":1}"#,
            &[("/idempotenceKey", "a string, or absent, not a number", Some("\"1\""))],
        ),
        (
            r#"{"userId":"1","type":"x","idempotence_key":false}"#,
            &[("/idempotence_key", "not a boolean", None)],
        ),
        (
            r#"{"userId":"1","type":"x","idempotenceKey":"\ud800 "}"#,
            &[("/idempotenceKey", "surrogate", None)],
        ),
        // Repeated names, both spellings, both forms
        (
            r#"{"userId":"1","type":"x","a/b~":1,"a\/b~":1,"a/b\u007e":2}"#,
            &[("/a~1b~0", "more than once", None)],
        ),
        (r#"{"userId":"1","type":"x","us\u0065rId":"1"}"#, &[("/userId", "more than once", None)]),
        (r#"{"userId":"1","type":"x","":1,"":1}"#, &[("/", "more than once", None)]),
        (
            r#"{"userId":"1","type":"x","\ud800":1,"\ud800":1}"#,
            &[("/\u{fffd}\u{fffd}\u{fffd}", "more than once", None)],
        ),
        (
            r#"{"userId":"1","type":"x","user_id":null}"#,
            &[("/user_id", "user_id and userId are two spellings", None)],
        ),
        (
            r#"{"userId":"1","event_type":"x","eventType":"x"}"#,
            &[("/eventType", "two spellings", None)],
        ),
        (
            r#"{"userId":"1","event_type":"x","event_action":"a","eventAction":"a"}"#,
            &[("/eventAction", "two spellings", None)],
        ),
        (
            r#"{"userId":"1","type":"x","idempotence_key":"k","idempotenceKey":"k"}"#,
            &[("/idempotenceKey", "two spellings", None)],
        ),
        (
            r#"{"userId":"1","type":"x","event_type":"x","eventAction":null}"#,
            &[("/event_type", "stands beside type", None), ("/eventAction", "beside type", None)],
        ),
        // The catalogue
        (
            r#"{"userId":"1","event_type":"subscription"}"#,
            &[("", r#"needs event_action, one of "create", "remove", "créer""#, None)],
        ),
        (
            r#"{"userId":"1","event_type":"trial","event_action":null}"#,
            &[("", r#"needs event_action, "start""#, Some("start"))],
        ),
        (
            r#"{"userId":"1","event_type":"subscription","event_action":"craete"}"#,
            &[("/event_action", r#""craete" is not an action of "subscription""#, Some("create"))],
        ),
        (
            r#"{"userId":"1","event_type":"subscription","event_action":"zzzzzz"}"#,
            &[("/event_action", "is not an action of", None)],
        ),
        (
            r#"{"userId":"1","event_type":"register","event_action":"create"}"#,
            &[("/event_action", "a classic type and takes no event_action", None)],
        ),
        (
            r#"{"userId":"1","event_type":"visit_user","eventAction":"a","idempotence_key":"k"}"#,
            &[("/eventAction", "a unique type and takes no event_action", None)],
        ),
        (r#"{"userId":"1","event_type":"visit_user"}"#, &[("", "needs an idempotenceKey", None)]),
        (r#"{"userId":"1","type":"visit_user"}"#, &[("", "needs an idempotenceKey", None)]),
        (
            r#"{"userId":"1","type":"visit_user","idempotenceKey":""}"#,
            &[("/idempotenceKey", "needs an idempotenceKey", None)],
        ),
        // More than one
        (
            r#"{"userId":1,"type":"","idempotenceKey":[],"z":1,"z":1}"#,
            &[
                ("/z", "more than once", None),
                ("/userId", "not a number", Some("\"1\"")),
                ("/type", "must not be empty", None),
                ("/idempotenceKey", "not an array", None),
            ],
        ),
        ("{}", &[("", "userId is missing", None), ("", "type is missing", None)]),
    ];
    for (body, expected) in table {
        let found = faults(&accept(), body);
        assert_eq!(found.len(), expected.len(), "{body}: {found:?}");
        for (error, (pointer, part, suggestion)) in found.iter().zip(*expected) {
            assert_eq!(error.index, 0, "{body}");
            assert_eq!(error.pointer, *pointer, "{body}");
            assert!(error.message.contains(part), "{body}: {}", error.message);
            assert_eq!(error.suggestion.as_deref(), *suggestion, "{body}");
        }
    }
}

#[test]
fn a_closed_catalogue_refuses_what_it_does_not_hold() {
    for (body, pointer, suggestion) in [
        (r#"{"userId":"1","type":"regster"}"#, "/type", Some("register")),
        (r#"{"userId":"1","type":"crate_subscription"}"#, "/type", Some("create_subscription")),
        (r#"{"userId":"1","type":"purchase"}"#, "/type", None),
        (r#"{"user_id":"1","event_type":"subscripton"}"#, "/event_type", Some("subscription")),
        (
            r#"{"user_id":"1","eventType":"subscripton","event_action":"create"}"#,
            "/eventType",
            Some("subscription"),
        ),
    ] {
        let found = faults(&reject(), body);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].pointer, pointer);
        assert_eq!(found[0].suggestion.as_deref(), suggestion, "{body}");
        assert!(found[0].message.contains("not in the catalogue"), "{}", found[0].message);
    }
    for body in [
        r#"{"userId":"1","type":"register"}"#,
        r#"{"userId":"1","type":"re_open_ticket"}"#,
        r#"{"user_id":"1","event_type":"subscription","event_action":"create"}"#,
    ] {
        assert!(reject().parse_one(body.as_bytes()).is_ok(), "{body}");
    }
}

#[test]
fn what_is_not_json_says_where() {
    for (body, part) in [
        (&b""[..], "the body is empty"),
        (b" \r\n", "the body is empty"),
        (b"{", "EOF while parsing an object at line 1 column 1"),
        (b"{\"a\":1,\n}", "key must be a string at line 2 column 1"),
        (b"{}\n {}", "trailing characters at line 2 column 2"),
        (b"{\"a\":01}", "invalid number at line 1 column 7"),
        (b"{\"a\":\"\n\"}", "control character"),
        (b"{\"a\":\"\xff\"}", "UTF-8, and isn't at byte 6"),
        (b"{'a':1}", "at line 1 column 2"),
        (b"nul", "at line 1 column 3"),
    ] {
        let text = not_json(accept().parse_one(body));
        assert!(text.contains(part), "{text}");
    }
    let text = not_json(accept().parse_array(b"[{\"userId\":\"1\",\"type\":\"x\"},\n{]"));
    assert!(text.contains("at line 2 column 2"), "{text}");
    let text = not_json(accept().parse_array(b"[] []"));
    assert!(text.contains("trailing characters at line 1 column 4"), "{text}");
    let text = not_json(accept().parse_array(b"{}\n{}\n"));
    assert!(text.contains("application/x-ndjson"), "{text}");
    let text =
        not_json(accept().parse_lines(b"\n{\"userId\":\"1\",\"type\":\"x\"}\r\n\n{\"a\"\n}"));
    assert!(text.contains("at line 4 column 4"), "{text}");
}

#[test]
fn the_wrong_shape_names_the_route_that_takes_it() {
    for (parsed, part) in [
        (accept().parse_one(b"[{}]").map(drop), "POST /v1/events/batch/"),
        (accept().parse_one(b"\"x\"").map(drop), "this is a string"),
        (accept().parse_array(b"{}").map(drop), "send a single event to POST /v1/events/,"),
        (accept().parse_array(b"null").map(drop), "this is null"),
    ] {
        let Err(BodyError::Invalid(errors)) = parsed else { panic!("{parsed:?}") };
        let [error] = &errors[..] else { panic!("{errors:?}") };
        assert_eq!((error.index, error.pointer.as_str()), (0, ""));
        assert!(error.message.contains(part), "{}", error.message);
    }
}

#[test]
fn a_batch_lists_every_bad_element_and_keeps_the_good() {
    let good = r#"{"userId":"1","type":"x"}"#;
    let elements = [good, "7", r#"{"userId":1}"#, r#"{"user_id":"2","event_type":"y"}"#];
    let array = format!(" [ {} ] ", elements.join(" ,\n"));
    let lines = format!("\n \t\r\n{}\r\n\n", elements.join("\r\n\n"));
    for batch in [accept().parse_array(array.as_bytes()), accept().parse_lines(lines.as_bytes())] {
        let batch = batch.unwrap();
        assert_eq!(batch.len, 4);
        let wires: Vec<_> = batch.events.iter().map(|event| event.wire.as_ref()).collect();
        assert_eq!(wires, [good, r#"{"userId":"2","type":"y"}"#]);
        let errors: Vec<_> =
            batch.errors.iter().map(|error| (error.index, error.pointer.as_str())).collect();
        assert_eq!(errors, [(1, ""), (2, "/userId"), (2, "")]);
        assert!(batch.errors[0].message.contains("must be a JSON object"));
    }
    for batch in
        [accept().parse_array(b"[ ]"), accept().parse_lines(b""), accept().parse_lines(b"\n\n")]
    {
        assert_eq!(batch.unwrap(), super::Batch::default());
    }
}

#[test]
fn limits_hold_at_the_byte_and_at_the_event() {
    let of_len = |len: usize| {
        let bare = r#"{"userId":"1","type":"x","a":""}"#;
        bare.replace(r#""""#, &format!("\"{}\"", "a".repeat(len - bare.len())))
    };
    let (fits, over) = (of_len(4096), of_len(4097));
    assert!(accept().parse_one(format!(" {fits} ").as_bytes()).is_ok());
    assert_eq!(accept().parse_one(over.as_bytes()), Err(BodyError::EventTooLarge(4097)));
    let array = format!("[{fits},{over}]");
    let batch = accept().parse_array(array.as_bytes()).unwrap();
    assert_eq!((batch.len, batch.events.len(), batch.errors.len()), (2, 1, 1));
    assert_eq!((batch.errors[0].index, batch.errors[0].pointer.as_str()), (1, ""));
    assert!(batch.errors[0].message.contains("4097 bytes as sent, over the limit of 4096"));

    // What comes after one too many isn't looked at.
    let five = [r#"{"userId":"1","type":"x"}"#; 5];
    let (array, lines) = (format!("[{}]", five.join(",")), five.join("\n"));
    assert_eq!(accept().parse_array(array.as_bytes()).unwrap().events.len(), 5);
    assert_eq!(accept().parse_lines(lines.as_bytes()).unwrap().events.len(), 5);
    let (array, lines) = (format!("[{},1,oops", five.join(",")), five.join("\n") + "\n1\noops");
    assert_eq!(accept().parse_array(array.as_bytes()), Err(BodyError::TooManyEvents));
    assert_eq!(accept().parse_lines(lines.as_bytes()), Err(BodyError::TooManyEvents));
}

#[test]
fn depth_is_bounded_and_no_depth_exhausts_the_stack() {
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!("{{\"userId\":\"1\",\"type\":\"x\",\"[\\\"[\":\"[\",\n\"a\":{open}{close}}}")
    };
    let (fits, over) = (nested(126), nested(127));
    assert!(accept().parse_one(fits.as_bytes()).is_ok());
    // A batch of it can still be read by a parser with serde_json's limit.
    let batch = format!("[{fits}]");
    assert!(accept().parse_array(batch.as_bytes()).is_ok());
    assert!(serde_json::from_str::<serde_json::Value>(&batch).is_ok());
    let text = not_json(accept().parse_one(over.as_bytes()));
    assert!(text.contains("126 levels") && text.contains("line 2 column 130"), "{text}");
    let text = not_json(accept().parse_array(format!("[\n{over}]").as_bytes()));
    assert!(text.contains("line 3 column 130"), "{text}");
    let line = over.replace('\n', "");
    let text = not_json(accept().parse_lines(format!("\n{line}").as_bytes()));
    assert!(text.contains("line 2 column "), "{text}");
    let hostile = "[".repeat(4 << 20);
    not_json(accept().parse_one(hostile.as_bytes()));
    not_json(accept().parse_array(hostile.as_bytes()));
    let closed = format!("{hostile}{}", "]".repeat(4 << 20));
    not_json(accept().parse_one(closed.as_bytes()));
}

#[test]
fn thousands_of_fields_are_compared_in_good_time() {
    let rules = Rules::new(&super::test_rules::events(UnknownEvents::Accept), usize::MAX, 1);
    let fields: String = (0..100_000).map(|n| format!(",\"k{n}\":0")).collect();
    let body = format!("{{\"userId\":\"1\",\"type\":\"x\"{fields}}}");
    assert!(rules.parse_one(body.as_bytes()).is_ok());
    let body = format!("{{\"userId\":\"1\",\"type\":\"x\"{fields},\"k7\":1}}");
    assert_eq!(faults(&rules, &body)[0].pointer, "/k7");
}

#[test]
fn near_names_are_looked_for_only_so_often_in_a_request() {
    let rules = Rules::new(&super::test_rules::events(UnknownEvents::Reject), 4096, 1000);
    let lines = "{\"userId\":\"1\",\"type\":\"regster\"}\n".repeat(1000);
    let batch = rules.parse_lines(lines.as_bytes()).unwrap();
    assert_eq!(batch.errors.len(), 1000);
    assert_eq!(batch.errors.iter().filter(|error| error.suggestion.is_some()).count(), 100);
}
