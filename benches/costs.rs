//! What a request costs in instructions, allocations and system calls, on its whole way: through
//! the listener, the commit and the delivery, or out of the read cache.
//!
//! `cargo bench --bench costs` needs `valgrind` for the instructions and `strace` for the calls; the
//! allocations are counted by glibc's `libmemusage.so`, at nearly the speed of service, so that as many
//! requests share a commit (it does not see those aligned to more than 16 bytes: a connection's task,
//! sled's buffers; no request has one of its own). Each case runs twice under each tool, with some requests and with twice as
//! many, so that the difference is theirs and not the start's. Times are noisy and these counts hardly:
//! where one is over its limit, this ends with status 1, which is how CI notices that a path became
//! longer. The callers and GMFY, threads of the same process that read and write with buffers of their
//! own, cost little and are counted too.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its figures, and has no caller to tell of an error"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use gmfy_sidecar::clock::Clock;
use gmfy_sidecar::config::Settings;
use gmfy_sidecar::sidecar::Sidecar;
use tokio_util::sync::CancellationToken;

/// What is sent, and what one of its units may cost.
struct Case {
    name: &'static str,
    sends: Sends,
    /// Who sends at the same time.
    callers: usize,
    /// Requests of each, of the shorter of two runs.
    requests: usize,
    limits: Limits,
}

/// The requests of a case; what they cost is told by event, or read.
#[derive(Clone, Copy)]
enum Sends {
    Event,
    /// So many events.
    Batch(usize),
    Read,
}

impl Sends {
    fn units(self) -> usize {
        match self {
            Self::Event | Self::Read => 1,
            Self::Batch(events) => events,
        }
    }
}

#[derive(Clone, Copy)]
struct Limits {
    instructions: f64,
    allocations: f64,
}

/// So many more requests are sent where no tool slows them down.
const UNSLOWED: usize = 10;
/// How often it is counted at most.
const TIMES: usize = 3;
/// Callers wait while more events than this are to be delivered: else it were a matter of time how
/// many of them the lanes find no longer in memory.
const BEHIND: u64 = 2048;

/// The limits on allocations of events are the budgets of their paths; the others leave what was
/// measured a sixth: how many requests share a commit, and its cost, is a matter of time.
const CASES: [Case; 4] = [
    Case {
        name: "a single event alone",
        sends: Sends::Event,
        callers: 1,
        requests: 500,
        limits: Limits { instructions: 76_000.0, allocations: 43.0 },
    },
    Case {
        name: "single events of 64 callers",
        sends: Sends::Event,
        callers: 64,
        requests: 30,
        limits: Limits { instructions: 43_000.0, allocations: 12.0 },
    },
    Case {
        name: "an event of a batch of 100, of 8 callers",
        sends: Sends::Batch(100),
        callers: 8,
        requests: 30,
        limits: Limits { instructions: 7_000.0, allocations: 1.0 },
    },
    Case {
        name: "a read from the cache",
        sends: Sends::Read,
        callers: 1,
        requests: 1000,
        limits: Limits { instructions: 28_000.0, allocations: 13.0 },
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [child, case, requests] = arguments.as_slice()
        && child == "child"
    {
        let case: usize = case.parse().expect("a number");
        run(&CASES[case], requests.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    // `cargo test --benches` only wants to know that it builds and starts.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let mut is_within = true;
    for (number, case) in CASES.iter().enumerate() {
        let per_unit = |requests: usize, count: fn(usize, usize) -> Option<f64>| {
            let (once, twice) = (count(number, requests)?, count(number, 2 * requests)?);
            Some((twice - once) / (case.callers * requests * case.sends.units()) as f64)
        };
        let limits = &case.limits;
        let instructions = fewest(limits.instructions, || per_unit(case.requests, instructions));
        let allocations =
            fewest(limits.allocations, || per_unit(UNSLOWED * case.requests, allocations));
        let calls = per_unit(case.requests, system_calls);
        let told = |count: Option<f64>| count.map_or("?".to_owned(), |count| format!("{count:.2}"));
        println!(
            "{}: {} instructions, {} allocations, {} system calls",
            case.name,
            instructions.map_or("?".to_owned(), |count| format!("{count:.0}")),
            told(allocations),
            told(calls)
        );
        for (what, count, limit) in [
            ("instructions", instructions, limits.instructions),
            ("allocations", allocations, limits.allocations),
        ] {
            if count.is_some_and(|count| count > limit) {
                eprintln!("{}: more {what} than the {limit} it may take", case.name);
                is_within = false;
            }
        }
        if instructions.is_none() || allocations.is_none() {
            eprintln!("valgrind or libmemusage.so is missing: not all is counted");
            is_within = false;
        }
    }
    if is_within { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a run counts that keeps the limit, or else the fewest: what else the machine does makes
/// some of them more.
fn fewest(limit: f64, mut count: impl FnMut() -> Option<f64>) -> Option<f64> {
    let mut fewest = count()?;
    for _ in 1..TIMES {
        if fewest <= limit {
            break;
        }
        fewest = fewest.min(count()?);
    }
    Some(fewest)
}

/// Runs the case in a process of its own, under a tool that says on stderr what it counted.
fn counted(tool: &[&str], case: usize, requests: usize) -> Option<String> {
    let (program, options) = tool.split_first()?;
    let output = Command::new(program)
        .args(options)
        .arg(std::env::current_exe().ok()?)
        .args(["child", &case.to_string(), &requests.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    Some(text)
}

fn instructions(case: usize, requests: usize) -> Option<f64> {
    let tool =
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--fair-sched=yes"];
    let text = counted(&tool, case, requests)?;
    number_after(&text, "Collected : ")
}

fn allocations(case: usize, requests: usize) -> Option<f64> {
    let text = counted(&["env", "LD_PRELOAD=libmemusage.so"], case, requests)?;
    let summary = text.get(text.find("Memory usage summary")?..)?;
    // In colours.
    let calls = |kind: &str| number_after(summary, &format!("{kind}|\u{1b}[0m"));
    Some(calls("malloc")? + calls("realloc")? + calls("calloc")?)
}

fn system_calls(case: usize, requests: usize) -> Option<f64> {
    let text = counted(&["strace", "-f", "-c", "-U", "calls,name"], case, requests)?;
    let total = text.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    total.split_whitespace().next()?.parse().ok()
}

/// The number behind `mark`, its thousands perhaps set apart.
fn number_after(text: &str, mark: &str) -> Option<f64> {
    let (_, rest) = text.split_once(mark)?;
    let digits: String =
        rest.trim_start().chars().filter(|c| *c != ',').take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// A sidecar in this process, as many requests as asked for, and all of it delivered.
fn run(case: &Case, requests: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(16)
        .enable_all()
        .build()
        .expect("a runtime");
    let settings = settings(folder.path(), gmfy());
    let sidecar = runtime.block_on(Sidecar::build(settings, Clock::system())).expect("a sidecar");
    let (api, metrics) = (sidecar.addresses().api.expect("an address"), sidecar.metrics());
    let stop = CancellationToken::new();
    let running = runtime.spawn(sidecar.run(stop.clone()));
    let request = request(case.sends);
    let mut callers: Vec<_> = (0..case.callers).map(|_| Caller::new(api)).collect();
    let await_delivery = |left: u64| {
        while metrics.ledger.snapshot().queued() > left {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    for _ in 0..requests {
        for caller in &mut callers {
            caller.stream.write_all(&request).expect("sent");
        }
        callers.iter_mut().for_each(Caller::read_answer);
        await_delivery(BEHIND);
    }
    await_delivery(0);
    drop(callers);
    stop.cancel();
    runtime.block_on(running).expect("no panic").expect("an orderly stop");
}

fn settings(folder: &Path, gmfy: SocketAddr) -> Settings {
    let mut settings = Settings::with_upstream(&format!("http://{gmfy}/"), "k");
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    settings.api.listen = anywhere;
    settings.ops.listen = anywhere;
    settings.admin.listen = anywhere;
    settings.queue.dir = folder.to_owned();
    settings.shutdown.quiet = Duration::ZERO;
    // Under these tools all is slower, but for time.
    settings.reads.ttl.users = Duration::from_secs(3600);
    settings
}

const EVENT: &str = r#"{"userId":"000042","type":"create_subscription","source":"load test","plan":"monthly","amount":1000.50}"#;

fn request(sends: Sends) -> Vec<u8> {
    let (path, body) = match sends {
        Sends::Read => return b"GET /v1/users/42/ HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
        Sends::Event => ("/v1/events/", EVENT.to_owned()),
        Sends::Batch(events) => {
            ("/v1/events/batch/", format!("[{}]", [EVENT].repeat(events).join(",")))
        }
    };
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A kept-alive connection.
struct Caller {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Caller {
    fn new(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).expect("connected"), buffer: vec![0; 8192] }
    }

    /// Reads one answer, which is all that can come.
    fn read_answer(&mut self) {
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).expect("an answer");
            assert!(read > 0, "hung up on");
            filled += read;
            let answer = &self.buffer[..filled];
            let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
            assert!(answer.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(answer));
            let head_text = std::str::from_utf8(&answer[..head]).expect("ASCII");
            let (_, length) = head_text.split_once("content-length: ").expect("a length");
            let length = length.split("\r\n").next().expect("a value");
            if filled == head + 4 + length.parse::<usize>().expect("a number") {
                return;
            }
        }
    }
}

/// Takes every batch, and knows every user.
fn gmfy() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("accepted");
            std::thread::spawn(move || answer(&stream));
        }
    });
    address
}

fn answer(stream: &TcpStream) {
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let (mut line, mut body) = (String::new(), Vec::new());
    loop {
        let mut length = 0;
        let mut is_read = false;
        line.clear();
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            is_read |= line.starts_with("GET ");
            if let Some((_, value)) = line.split_once("content-length: ") {
                length = value.trim_end().parse().expect("a number");
            }
            line.clear();
        }
        if line.is_empty() && length == 0 && !is_read {
            return;
        }
        body.resize(length, 0);
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        let mut writer = stream;
        let answer: &[u8] = if is_read {
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"id\":\"42\"}"
        } else {
            b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n[]"
        };
        if writer.write_all(answer).is_err() {
            return;
        }
    }
}
