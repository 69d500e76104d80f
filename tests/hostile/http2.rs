//! HTTP/2, frame by frame: what a peer must not do, and what a flood of it costs.

use std::time::Duration;

use gmfy_sidecar::simulator::Faults;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client;
use crate::gmfy::Gmfy;
use crate::process::{PATIENCE, Process, sidecar};
use crate::table::resident;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types of frames (RFC 9113 §6), and flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

// Error codes (RFC 9113 §7).
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET /v1/nothing/` of localhost, with more of the same block behind it.
fn request(more: &[u8]) -> Vec<u8> {
    // Indexed :method GET and :scheme http; literal :path and :authority (RFC 7541).
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(0x04, "/v1/nothing/"), (0x01, "localhost")] {
        block.push(index);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.bytes());
    }
    block.extend(more);
    block
}

/// A header as a literal.
fn header(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        // Lengths up to 126 take one byte, longer ones a continuation.
        match u8::try_from(text.len()) {
            Ok(length) if length < 127 => block.push(length),
            _ => {
                block.push(127);
                let mut rest = text.len() - 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128).unwrap() | 128);
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap());
            }
        }
        block.extend(text.bytes());
    }
    block
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &request(&[]))
}

fn repeated(count: u32, one: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(one).collect()
}

/// How a connection ended, or a stream.
#[derive(Debug, PartialEq, Eq)]
enum End {
    GoAway(u32),
    Reset(u32),
    /// Headers came.
    Answered,
    /// Closed without a word, or reset by the system.
    Closed,
    Nothing,
}

/// The first GOAWAY with an error, else the first of the others.
fn end_of(mut bytes: &[u8], closed: bool) -> End {
    let mut end = if closed { End::Closed } else { End::Nothing };
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let Some((payload, after)) = rest.split_at_checked(length) else { break };
        let number = |at: usize| {
            payload.get(at..at + 4).map_or(0, |four| u32::from_be_bytes(four.try_into().unwrap()))
        };
        match *kind {
            GOAWAY if number(4) != 0 => return End::GoAway(number(4)),
            RST_STREAM if !matches!(end, End::Reset(_)) => end = End::Reset(number(0)),
            HEADERS if matches!(end, End::Nothing | End::Closed) => end = End::Answered,
            _ => {}
        }
        bytes = after;
    }
    end
}

/// Sends these frames after the preface, and reads until the end or a second of silence.
async fn exchange(address: std::net::SocketAddr, frames: &[u8]) -> End {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let bytes = [PREFACE, frames].concat();
    let write = async {
        // It may be hung up on in the middle.
        drop(writer.write_all(&bytes).await);
        writer
    };
    let read = async {
        let mut came = Vec::new();
        loop {
            let wait = Duration::from_secs(1);
            match tokio::time::timeout(wait, reader.read_buf(&mut came)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return end_of(&came, true),
                Err(_) => return end_of(&came, false),
            }
        }
    };
    tokio::join!(write, read).1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_http_2_forbids_ends_the_stream_or_the_connection_and_nothing_else() {
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &[]));
    let addresses = process.ready().await;
    let settings = frame(SETTINGS, 0, 0, &[]);
    let open = |block: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, block);
    let s = |frames: &[Vec<u8>]| [std::slice::from_ref(&settings), frames].concat().concat();
    let long = "x".repeat(16_000);
    let continued: Vec<Vec<u8>> = std::iter::once(frame(HEADERS, END_STREAM, 1, &request(&[])))
        .chain((0..9).map(|n| {
            let flags = if n == 8 { END_HEADERS } else { 0 };
            frame(CONTINUATION, flags, 1, &header("x", &long))
        }))
        .collect();
    let table: Vec<(&str, Vec<u8>, &[End])> = vec![
        ("a good request", s(&[get(1)]), &[End::Answered]),
        ("no SETTINGS first, which h2 forgives", get(1), &[End::Answered]),
        ("half a preface's rest", b"\0\0".to_vec(), &[End::Nothing]),
        ("HEADERS on stream 0", s(&[get(0)]), &[End::GoAway(PROTOCOL_ERROR)]),
        ("HEADERS on a server's stream", s(&[get(2)]), &[End::GoAway(PROTOCOL_ERROR)]),
        (
            "a stream's number going back",
            s(&[get(5), get(3)]),
            &[End::GoAway(PROTOCOL_ERROR), End::GoAway(STREAM_CLOSED)],
        ),
        ("DATA on stream 0", s(&[frame(DATA, 0, 0, b"x")]), &[End::GoAway(PROTOCOL_ERROR)]),
        ("DATA on an idle stream", s(&[frame(DATA, 0, 7, b"x")]), &[End::GoAway(PROTOCOL_ERROR)]),
        (
            "RST_STREAM on an idle stream",
            s(&[frame(RST_STREAM, 0, 9, &[0; 4])]),
            &[End::GoAway(PROTOCOL_ERROR)],
        ),
        (
            "RST_STREAM of a wrong length",
            s(&[get(1), frame(RST_STREAM, 0, 1, &[0; 3])]),
            &[End::GoAway(PROTOCOL_ERROR)],
        ),
        ("PING of a wrong length", s(&[frame(PING, 0, 0, b"x")]), &[End::GoAway(PROTOCOL_ERROR)]),
        ("SETTINGS of a wrong length", frame(SETTINGS, 0, 0, b"x"), &[End::GoAway(PROTOCOL_ERROR)]),
        (
            "SETTINGS with a window that is none",
            frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
            &[End::GoAway(FLOW_CONTROL_ERROR), End::GoAway(PROTOCOL_ERROR)],
        ),
        (
            "a window that overflows",
            s(&[
                frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
                frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
            ]),
            &[End::GoAway(FLOW_CONTROL_ERROR)],
        ),
        (
            "a window that grows by nothing",
            s(&[frame(WINDOW_UPDATE, 0, 0, &[0; 4])]),
            &[End::GoAway(PROTOCOL_ERROR)],
        ),
        (
            "a frame over the limit",
            s(&[frame(DATA, 0, 1, &vec![0; 20_000])]),
            &[End::GoAway(FRAME_SIZE_ERROR)],
        ),
        (
            "a PUSH_PROMISE of a client",
            s(&[frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])]),
            &[End::GoAway(PROTOCOL_ERROR)],
        ),
        (
            "a CONTINUATION of nothing",
            s(&[frame(CONTINUATION, END_HEADERS, 1, &request(&[]))]),
            &[End::GoAway(PROTOCOL_ERROR)],
        ),
        (
            "another frame within a head",
            s(&[frame(HEADERS, 0, 1, &request(&[])), frame(PING, 0, 0, &[0; 8])]),
            &[End::GoAway(PROTOCOL_ERROR)],
        ),
        (
            "a head that is no HPACK",
            s(&[open(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])]),
            &[End::GoAway(PROTOCOL_ERROR)],
        ),
        ("an index beyond the table", s(&[open(&[0xfe])]), &[End::GoAway(PROTOCOL_ERROR)]),
        (
            "a stream that depends on itself",
            s(&[frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])]),
            &[End::GoAway(PROTOCOL_ERROR), End::Reset(PROTOCOL_ERROR), End::Nothing],
        ),
        ("no pseudo-header at all", s(&[open(&header("x", "y"))]), &[End::Reset(PROTOCOL_ERROR)]),
        (
            "a name in capitals",
            s(&[open(&request(&header("X", "y")))]),
            &[End::Reset(PROTOCOL_ERROR), End::GoAway(PROTOCOL_ERROR)],
        ),
        (
            "a header of the connection",
            s(&[open(&request(&header("connection", "close")))]),
            &[End::Reset(PROTOCOL_ERROR)],
        ),
        (
            "a transfer coding",
            s(&[open(&request(&header("transfer-encoding", "chunked")))]),
            &[End::Reset(PROTOCOL_ERROR)],
        ),
        (
            "a line end in a value",
            s(&[open(&request(&header("x", "a\r\nb: c")))]),
            &[End::Reset(PROTOCOL_ERROR), End::GoAway(PROTOCOL_ERROR)],
        ),
        ("two paths", s(&[open(&request(&[0x04, 1, b'/']))]), &[End::Reset(PROTOCOL_ERROR)]),
        (
            "a pseudo-header behind a header",
            s(&[open(&request(&[&header("x", "y")[..], &[0x82]].concat()))]),
            &[End::Reset(PROTOCOL_ERROR)],
        ),
        // Answered by 431, or hung up on.
        (
            "headers that are too long",
            s(&continued),
            &[End::Answered, End::GoAway(ENHANCE_YOUR_CALM), End::Reset(PROTOCOL_ERROR)],
        ),
    ];
    let mut wrong = Vec::new();
    for (name, frames, expected) in table {
        let end = exchange(addresses.api, &frames).await;
        if !expected.contains(&end) {
            wrong.push(format!("{name}: expected one of {expected:?}, found {end:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(client::get(addresses.api, "/v1/version/").await.status, 200);
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_are_cut_off_and_cost_no_memory() {
    const MANY: u32 = 20_000;
    let gmfy = Gmfy::start(Faults::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::spawn(sidecar(folder.path(), &gmfy.url, &[]));
    let addresses = process.ready().await;
    let settings = frame(SETTINGS, 0, 0, &[]);
    let with = |flood: Vec<u8>| [settings.clone(), flood].concat();
    // Warm: what a connection of each kind needs at first is no growth.
    exchange(addresses.api, &with(get(1))).await;
    let before = resident(&process);
    let table: [(&str, Vec<u8>, bool); 5] = [
        (
            "rapid reset",
            with(repeated(MANY, |n| {
                [get(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes())].concat()
            })),
            true,
        ),
        (
            "streams that err",
            with(repeated(MANY, |n| {
                let block = request(&header("connection", "close"));
                frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &block)
            })),
            true,
        ),
        (
            "continuations without an end",
            with(
                [
                    frame(HEADERS, END_STREAM, 1, &request(&[])),
                    repeated(MANY, |_| frame(CONTINUATION, 0, 1, &header("x", "y"))),
                ]
                .concat(),
            ),
            true,
        ),
        ("pings", with(repeated(MANY, |_| frame(PING, 0, 0, &[0; 8]))), false),
        ("settings", repeated(MANY, |_| settings.clone()), false),
    ];
    for (name, frames, is_cut_off) in table {
        let end = exchange(addresses.api, &frames).await;
        let cut_off = matches!(end, End::GoAway(_) | End::Closed);
        assert!(cut_off || !is_cut_off, "{name}: {end:?}");
        let answer = client::post(addresses.api, "/v1/events/", r#"{"userId":"u","type":"t"}"#);
        assert_eq!(answer.await.status, 202, "{name}");
    }
    let grown = resident(&process).saturating_sub(before);
    println!("the process grew by {} KiB", grown >> 10);
    assert!(grown < 40 << 20, "the process grew by {grown} bytes");
    crate::eventually("all is delivered", PATIENCE, || async {
        client::assert_account(addresses.ops).await == 0
    })
    .await;
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.ended().await.remaining(), 0);
}
