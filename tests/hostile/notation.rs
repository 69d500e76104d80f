//! The notation of the tables: what is sent byte for byte, and what must come back.
//!
//! A case is a block of lines, up to an empty one:
//!
//! - `name TEXT` begins it.
//! - `> TEXT` is a line that is sent with its CRLF, `>> TEXT` one without.
//! - `post PATH BODY` is a whole POST of JSON.
//! - `end`: the caller sends no more, and says so (half a close).
//! - `= STATUS PROBLEM STATE`, once for each answer: the status, or `none` where the connection is
//!   closed unanswered; the problem's name, or `-` for an answer that is no problem document;
//!   `keep` or `close`, which must hold once the last answer is read.
//! - `up PATH`: GMFY is asked for exactly this.
//!
//! In a TEXT: `\r \n \\ \xHH`; `\(N TEXT)` is TEXT N times; `\L` is the length of what follows the
//! head; `\{gzip}` and `\{zstd}` are some 40 KB that become 40 MB.

use std::io::Write as _;

/// One case of a table.
#[derive(Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) sent: Vec<u8>,
    pub(crate) ends: bool,
    pub(crate) expected: Vec<Expected>,
    pub(crate) upstream: Option<String>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// None where there is no answer.
    pub(crate) status: Option<u16>,
    pub(crate) problem: Option<String>,
    pub(crate) closes: bool,
}

pub(crate) fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word == "name" {
            cases.push(Case { name: rest.to_owned(), ..Case::default() });
            continue;
        }
        let Some(case) = cases.last_mut() else { continue };
        match word {
            ">" => {
                case.sent.extend(unescaped(rest));
                case.sent.extend(b"\r\n");
            }
            ">>" => case.sent.extend(unescaped(rest)),
            "post" => {
                let (path, body) = rest.split_once(' ').unwrap();
                let body = unescaped(body);
                let head = format!(
                    "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                     Content-Length: {}\r\n\r\n",
                    body.len()
                );
                case.sent.extend(head.bytes());
                case.sent.extend(body);
            }
            "end" => case.ends = true,
            "=" => case.expected.push(expected(rest)),
            "up" => case.upstream = Some(rest.to_owned()),
            "" => case.sent = with_length(&case.sent),
            other => panic!("{}: {other}?", case.name),
        }
    }
    if let Some(last) = cases.last_mut() {
        last.sent = with_length(&last.sent);
    }
    for case in &cases {
        assert!(!case.expected.is_empty(), "{}: what is expected?", case.name);
    }
    cases
}

fn expected(text: &str) -> Expected {
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("{text}"));
    let status = word();
    if status == "none" {
        return Expected { status: None, problem: None, closes: true };
    }
    let problem = word();
    Expected {
        status: Some(status.parse().unwrap()),
        problem: (problem != "-").then(|| problem.to_owned()),
        closes: match word() {
            "keep" => false,
            "close" => true,
            other => panic!("{text}: {other}?"),
        },
    }
}

const LENGTH: &[u8] = b"\\L";

fn with_length(sent: &[u8]) -> Vec<u8> {
    let find = |part: &[u8]| sent.windows(part.len()).position(|window| window == part);
    let (Some(at), Some(head)) = (find(LENGTH), find(b"\r\n\r\n")) else { return sent.to_vec() };
    let length = (sent.len() - head - 4).to_string();
    [&sent[..at], length.as_bytes(), &sent[at + LENGTH.len()..]].concat()
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend(rest[..at].bytes());
        rest = &rest[at + 1..];
        let kind = rest.chars().next().unwrap();
        rest = &rest[1..];
        match kind {
            'r' => bytes.push(b'\r'),
            'n' => bytes.push(b'\n'),
            '\\' => bytes.push(b'\\'),
            'L' => bytes.extend(LENGTH),
            'x' => {
                bytes.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                rest = &rest[2..];
            }
            '(' => {
                let (count, after) = rest.split_once(' ').unwrap();
                let (repeated, after) = after.split_once(')').unwrap();
                bytes.extend(unescaped(repeated).repeat(count.parse().unwrap()));
                rest = after;
            }
            '{' => {
                let (bomb, after) = rest.split_once('}').unwrap();
                bytes.extend(self::bomb(bomb));
                rest = after;
            }
            other => panic!("\\{other} in {text}"),
        }
    }
    bytes.extend(rest.bytes());
    bytes
}

/// A mebibyte of spaces, compressed, and that many times over: both formats allow it.
pub(crate) fn bomb(format: &str) -> Vec<u8> {
    let spaces = vec![b' '; 1 << 20];
    let one = match format {
        "gzip" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&spaces).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(&*spaces, 1).unwrap(),
        other => panic!("{other}?"),
    };
    one.repeat(10)
}

#[test]
fn the_notation_says_what_is_sent() {
    let cases = cases(
        "# About\n\nname a\n> A\\x00\\\\\n> \\L\n>\n>> \\(3 x\\r)\n= 400 not-json keep\n\nname b\nend\n= none close\n",
    );
    assert_eq!(cases[0].sent, b"A\x00\\\r\n6\r\n\r\nx\rx\rx\r");
    let (a, b) = (&cases[0].expected[0], &cases[1]);
    assert_eq!((a.status, a.problem.as_deref(), a.closes), (Some(400), Some("not-json"), false));
    assert!(b.ends && b.sent.is_empty() && b.expected[0].closes);
}
