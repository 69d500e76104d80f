//! What NATS does not take goes to the replica's own disk, and from there to NATS: once, in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt as _;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::client::event;
use crate::link::Link;
use crate::process::{KEY, Process, binary, sidecar};
use crate::replicas::{Applications, BATCH, Gmfy, LANES, all_in_order, ask, get, post, sets};
use crate::server::{Cluster, Server, is_there};

const PATIENCE: Duration = Duration::from_secs(60);

/// A replica with a spill, in a folder that outlives it.
struct Replica {
    process: Process,
    api: SocketAddr,
    ops: SocketAddr,
    admin: SocketAddr,
}

impl Replica {
    async fn start(gmfy: &Gmfy, folder: &Path, url: &str, more: &[&str]) -> Self {
        let mut sets = sets(&[url.to_owned()], 1);
        sets.push("queue.nats.spill=true".to_owned());
        sets.extend(more.iter().map(|set| (*set).to_owned()));
        let sets: Vec<_> = sets.iter().map(String::as_str).collect();
        let mut process = Process::spawn(sidecar(folder, &gmfy.url, &sets));
        let addresses = process.ready().await;
        let (api, ops, admin) = (addresses.api, addresses.ops, addresses.admin);
        Self { process, api, ops, admin }
    }

    /// Posts events that have to be accepted.
    async fn accepts(&self, key: &str, events: &[String]) -> Value {
        let (status, answer) = post(self.api, key, events).await.unwrap();
        assert_eq!(status, 202, "{answer}");
        serde_json::from_str(answer.rsplit("\r\n").next().unwrap()).unwrap()
    }

    /// How many events wait in the spill.
    async fn spilled(&self) -> u64 {
        let (_, answer) = get(self.admin, "/api/status").await.unwrap();
        let status: Value = serde_json::from_str(answer.split("\r\n\r\n").last().unwrap()).unwrap();
        status["queue"]["nats"]["spill"]["events"].as_u64().unwrap()
    }

    async fn until_spilled(&self, wanted: impl Fn(u64) -> bool) {
        let end = Instant::now() + PATIENCE;
        loop {
            let spilled = self.spilled().await;
            if wanted(spilled) {
                return;
            }
            if Instant::now() > end {
                self.process.print();
                panic!("{spilled} events are in the spill");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn delivery(&self, does: &str) {
        let request = format!(
            "POST /api/delivery/{does} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: 0\r\n\r\n"
        );
        let (status, answer) = ask(self.admin, request).await.unwrap();
        assert!((200..300).contains(&status), "{answer}");
    }
}

/// `check` with a spill: its status, and what it printed.
async fn check(server: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut sets = sets(&[server.to_owned()], 1);
    sets.push("queue.nats.spill=true".to_owned());
    let mut command = binary(["check"]);
    command.args(sets.iter().flat_map(|set| ["--set", set])).args(arguments);
    command.env("GMFY_URL", "http://127.0.0.1:1/").env("GMFY_API_KEY", KEY);
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn check_refuses_what_a_spill_can_t_work_with_and_says_what_one_is_worth() {
    if !is_there() {
        return;
    }
    let server = Server::alone().await;
    assert_eq!(check(&server.url(), &[]).await.0, Some(0));
    for (set, why) in [
        ("events.dedupe_window=0", "expected more than 0, since with queue.nats.spill = true"),
        ("queue.max_bytes=1MiB", "queue.max_bytes"),
    ] {
        let (status, said) = check(&server.url(), &["--set", set]).await;
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    }
    let (_, said) = check(&server.url(), &["--online"]).await;
    assert!(said.contains("it means: this replica's disk has the event, in ./data"), "{said}");
}

/// How many messages the stream of events has.
async fn messages(server: &Server) -> u64 {
    let client = async_nats::connect(server.url()).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("GMFY").await.unwrap();
    stream.cached_info().state.messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_taken_while_nats_is_away_and_arrive_once_and_in_order() {
    if !is_there() {
        return;
    }
    let (mut server, gmfy) = (Server::alone().await, Gmfy::start().await);
    let folder = tempfile::tempdir().unwrap();
    let replica = Replica::start(&gmfy, folder.path(), &server.url(), &[]).await;
    let addresses = Arc::new(Mutex::new(vec![replica.api]));
    // So many that there is hardly a moment in which none of them appends.
    let applications = Applications::start(32, 3, &addresses);
    let count = || applications.acknowledged.load(Ordering::Relaxed);
    let more_than = async |before: usize| {
        let end = Instant::now() + PATIENCE;
        while count() <= before {
            assert!(Instant::now() < end, "nothing is accepted");
            sleep(Duration::from_millis(20)).await;
        }
    };
    more_than(400).await;
    server.kill().await;
    more_than(count() + 400).await;
    assert!(replica.spilled().await > 0);
    assert_eq!(get(replica.ops, "/readyz").await.unwrap().0, 200);
    let taken_away = count();
    server.start_again().await;
    // New ones keep coming, and the way past the spill opens all the same.
    replica.until_spilled(|spilled| spilled == 0).await;
    more_than(taken_away + 400).await;
    let expected = applications.end().await;
    let again = all_in_order(&gmfy.handle, expected, PATIENCE).await;
    println!("{expected} events, {again} came again");
    // What was under way to GMFY when the lease ran out is sent once more.
    assert!(again <= LANES * BATCH, "{again} events came again");
    let (_, metrics) = get(replica.ops, "/metrics").await.unwrap();
    let forwarded = metrics.lines().find_map(|l| l.strip_prefix("gmfy_spill_forwarded_total "));
    let forwarded: usize = forwarded.unwrap().parse().unwrap();
    assert!((400..expected).contains(&forwarded), "{forwarded} of {expected} were forwarded");
    assert!(metrics.contains("\ngmfy_spill_events 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_killed_replica_passes_on_what_its_spill_has_before_anything_new() {
    if !is_there() {
        return;
    }
    let (mut server, gmfy) = (Server::alone().await, Gmfy::start().await);
    let folder = tempfile::tempdir().unwrap();
    let replica = Replica::start(&gmfy, folder.path(), &server.url(), &[]).await;
    replica.accepts("before", &[event("visit", "1", 0)]).await;
    assert_eq!(all_in_order(&gmfy.handle, 1, PATIENCE).await, 0);
    server.kill().await;
    // More than a window, and two of a user in a request.
    for number in 0..200 {
        let (a, b) = (2 * number + 1, 2 * number + 2);
        let events = [event("visit", "1", a), event("visit", "1", b)];
        let answer = replica.accepts(&number.to_string(), &events).await;
        assert_eq!(answer["accepted"], 2);
        assert_eq!(answer["first_sequence"], Value::Null);
    }
    // It was answered before, wherever its events are.
    let events = [event("visit", "1", 399), event("visit", "1", 400)];
    let (status, answer) = post(replica.api, "199", &events).await.unwrap();
    assert!(status == 202 && answer.contains("idempotency-replayed: true"), "{answer}");
    assert!(answer.contains(r#""accepted":2,"duplicates":0,"first_sequence":null"#), "{answer}");
    assert_eq!(replica.spilled().await, 400);
    replica.process.signal(Signal::KILL);
    drop(replica);

    server.start_again().await;
    let replica = Replica::start(&gmfy, folder.path(), &server.url(), &[]).await;
    replica.accepts("after", &[event("visit", "1", 401)]).await;
    assert_eq!(all_in_order(&gmfy.handle, 402, PATIENCE).await, 0);
    replica.until_spilled(|spilled| spilled == 0).await;
}

#[tokio::test]
async fn a_stop_leaves_what_nats_has_not_in_the_spill_and_says_so() {
    if !is_there() {
        return;
    }
    let (mut server, gmfy) = (Server::alone().await, Gmfy::start().await);
    let folder = tempfile::tempdir().unwrap();
    let replica = Replica::start(&gmfy, folder.path(), &server.url(), &[]).await;
    server.kill().await;
    replica.accepts("0", &[event("visit", "1", 0)]).await;
    let mut process = replica.process;
    process.signal(Signal::TERM);
    let ended = process.ended().await;
    assert_eq!(ended.status.code(), Some(0), "{:?}", ended.stderr);
    let left = ended.stderr.iter().find(|line| line.contains("stay in the spill"));
    assert!(left.is_some_and(|line| line.contains(r#""events":1"#)), "{:?}", ended.stderr);
    // It is a queue as any other: what can't be passed on can be got at.
    let exporting = binary(["queue", "export", "--data-dir"]).arg(folder.path()).output();
    let exported = String::from_utf8(exporting.await.unwrap().stdout).unwrap();
    assert!(exported.contains(r#""userId":"1""#), "{exported}");

    server.start_again().await;
    let _replica = Replica::start(&gmfy, folder.path(), &server.url(), &[]).await;
    assert_eq!(all_in_order(&gmfy.handle, 1, PATIENCE).await, 0);
}

#[tokio::test]
async fn a_full_spill_refuses_events_and_is_ready_again_when_nats_has_some() {
    if !is_there() {
        return;
    }
    let (mut server, gmfy) = (Server::alone().await, Gmfy::start().await);
    let folder = tempfile::tempdir().unwrap();
    let small = ["queue.max_bytes=4MiB", "api.max_body=128KiB"];
    let replica = Replica::start(&gmfy, folder.path(), &server.url(), &small).await;
    server.kill().await;
    let mut number = 0;
    let refused = loop {
        let events: Vec<_> = (0..1000).map(|index| event("visit", "1", number + index)).collect();
        match post(replica.api, &number.to_string(), &events).await.unwrap() {
            (202, _) => number += events.len(),
            (503, answer) => break answer,
            (status, answer) => panic!("{status}: {answer}"),
        }
        assert!(number < 1_000_000, "it is never full");
    };
    assert!(number > 0);
    assert!(refused.contains("queue-full") && refused.contains("retry-after"), "{refused}");
    let (status, answer) = get(replica.ops, "/readyz").await.unwrap();
    assert!(status == 503 && answer.contains("full"), "{answer}");
    server.start_again().await;
    let end = Instant::now() + PATIENCE;
    while get(replica.ops, "/readyz").await.unwrap().0 != 200 {
        assert!(Instant::now() < end, "it is not ready again");
        sleep(Duration::from_millis(50)).await;
    }
    replica.accepts("after", &[event("visit", "1", number)]).await;
    all_in_order(&gmfy.handle, number + 1, PATIENCE).await;
}

/// A replica, and the way by which it reaches NATS.
struct Reached {
    way: Link,
    server: Server,
    gmfy: Gmfy,
    replica: Replica,
    _folder: TempDir,
}

impl Reached {
    async fn start(more: &[&str]) -> Self {
        let (server, gmfy) = (Server::alone().await, Gmfy::start().await);
        let way = Link::to(server.port()).await;
        let folder = tempfile::tempdir().unwrap();
        let replica = Replica::start(&gmfy, folder.path(), &way.url(), more).await;
        Self { way, server, gmfy, replica, _folder: folder }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nats_took_without_saying_so_is_there_once_and_in_order() {
    if !is_there() {
        return;
    }
    let Reached { way, server, gmfy, replica, _folder } = Reached::start(&[]).await;
    // So that the stream keeps what it has.
    replica.delivery("pause").await;
    let mut number = 0;
    for round in 0..2 {
        let three = |number| [0, 1, 2].map(|more| event("visit", "1", number + more));
        replica.accepts(&format!("before {round}"), &three(number)).await;
        way.answers(false);
        let before = messages(&server).await;
        let mut requests = JoinSet::new();
        let (api, lost) = (replica.api, three(number + 3));
        // Without a key, in every other round.
        requests.spawn(async move {
            match round {
                0 => post(api, "lost", &lost).await.unwrap(),
                _ => post_unkeyed(api, &lost).await.unwrap(),
            }
        });
        let end = Instant::now() + PATIENCE;
        while messages(&server).await == before {
            assert!(Instant::now() < end, "the server has not the first event");
            sleep(Duration::from_millis(20)).await;
        }
        let (status, answer) = requests.join_next().await.unwrap().unwrap();
        assert_eq!(status, 202, "{answer}");
        replica.accepts(&format!("after {round}"), &three(number + 6)).await;
        assert_eq!(replica.spilled().await, 6);
        way.answers(true);
        replica.until_spilled(|spilled| spilled == 0).await;
        number += 9;
        assert_eq!(messages(&server).await, u64::try_from(number).unwrap());
    }
    replica.delivery("resume").await;
    assert_eq!(all_in_order(&gmfy.handle, number, PATIENCE).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_connection_breaks_in_its_middle_keeps_its_order() {
    if !is_there() {
        return;
    }
    let Reached { way, server: _server, gmfy, replica, _folder } = Reached::start(&[]).await;
    let mut number = 0;
    for _ in 0..5 {
        let events: Vec<_> = (0..500).map(|more| event("visit", "1", number + more)).collect();
        number += events.len();
        let key = number.to_string();
        let mut posting = Box::pin(post(replica.api, &key, &events));
        let (status, answer) = loop {
            tokio::select! {
                answer = &mut posting => break answer.unwrap(),
                () = sleep(Duration::from_millis(rand::rng().random_range(10..50))) => {
                    way.cut();
                }
            }
        };
        assert_eq!(status, 202, "{answer}");
    }
    let again = all_in_order(&gmfy.handle, number, PATIENCE).await;
    println!("{number} events, {again} came again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_sent_again_keeps_its_order_without_a_spill_too() {
    if !is_there() {
        return;
    }
    let no_spill = ["queue.nats.spill=false"];
    let Reached { way, server: _server, gmfy, replica, _folder } = Reached::start(&no_spill).await;
    let (mut number, mut repeated) = (0, 0);
    for _ in 0..20 {
        let events: Vec<_> = (0..100).map(|more| event("visit", "1", number + more)).collect();
        number += events.len();
        let key = number.to_string();
        let cutting = async {
            sleep(Duration::from_millis(rand::rng().random_range(0..30))).await;
            way.cut();
        };
        let posting = async {
            let end = Instant::now() + PATIENCE;
            loop {
                match post(replica.api, &key, &events).await.unwrap() {
                    (202, _) => return,
                    (500 | 503, answer) => assert!(Instant::now() < end, "{answer}"),
                    (status, answer) => panic!("{status}: {answer}"),
                }
                repeated += 1;
                sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::join!(cutting, posting);
    }
    let again = all_in_order(&gmfy.handle, number, PATIENCE).await;
    println!("{number} events, {repeated} requests were sent again, {again} events came again");
    assert!(repeated > 0, "no connection broke in the middle of a request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_more_events_than_may_be_under_way_is_taken_whole_and_holds_up_no_lease() {
    if !is_there() {
        return;
    }
    let gmfy = Gmfy::start().await;
    let server = Server::alone().await;
    let folder = tempfile::tempdir().unwrap();
    for spill in ["queue.nats.spill=false", "queue.nats.spill=true"] {
        let replica = Replica::start(&gmfy, folder.path(), &server.url(), &[spill]).await;
        let events: Vec<_> = (0..20_000).map(|user| event("visit", &user.to_string(), 0)).collect();
        let answer = replica.accepts(spill, &events).await;
        assert_eq!((&answer["accepted"], &answer["duplicates"]), (&20_000.into(), &0.into()));
        let mut process = replica.process;
        process.signal(Signal::TERM);
        let ended = process.ended().await;
        let lapsed = ended.stderr.iter().find(|line| line.contains("the lease ran out"));
        assert_eq!(lapsed, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_servers_of_a_cluster_die_in_turn_nothing_is_refused_and_order_holds() {
    if !is_there() {
        return;
    }
    let (mut cluster, gmfy) = (Cluster::start().await, Gmfy::start().await);
    let folder = tempfile::tempdir().unwrap();
    let servers = cluster.urls().join(",");
    let more = ["queue.nats.replicas=3"];
    let replica = Replica::start(&gmfy, folder.path(), &servers, &more).await;
    let (stop, api) = (CancellationToken::new(), replica.api);
    let mut applications = JoinSet::new();
    for application in 0..4 {
        let stop = stop.clone();
        applications.spawn(async move {
            let mut number = 0;
            while !stop.is_cancelled() {
                // Several of a user in a request.
                let user = format!("{application}");
                let events: Vec<_> = (0..5).map(|n| event("visit", &user, number + n)).collect();
                let key = format!("{application}-{number}");
                let (status, answer) = post(api, &key, &events).await.unwrap();
                assert_eq!(status, 202, "{answer}");
                number += events.len();
                // So that delivery keeps up.
                sleep(Duration::from_millis(40)).await;
            }
            number
        });
    }
    for at in 0..3 {
        sleep(Duration::from_secs(1)).await;
        cluster.servers[at].kill().await;
        sleep(Duration::from_millis(rand::rng().random_range(0..2000))).await;
        cluster.restart(at).await;
        cluster.settled().await;
    }
    stop.cancel();
    let expected: usize = applications.join_all().await.into_iter().sum();
    replica.until_spilled(|spilled| spilled == 0).await;
    let again = all_in_order(&gmfy.handle, expected, PATIENCE).await;
    println!("{expected} events, {again} came again");
    assert!(again <= 3 * LANES * BATCH, "{again} events came again");
}

async fn post_unkeyed(address: SocketAddr, events: &[String]) -> std::io::Result<(u16, String)> {
    let body = format!("[{}]", events.join(","));
    let head = format!(
        "POST /v1/events/batch/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    ask(address, head).await
}
