//! A TCP proxy that breaks connections at any byte of either direction.
//!
//! It knows one thing of HTTP/1.1: bytes from the caller after bytes to the caller begin another
//! exchange. For each exchange a seeded die decides what happens to it, and at which byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Shares of exchanges, from 0 to 1, and where their byte is sought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Breaks {
    pub(crate) cut: f64,
    pub(crate) stall: f64,
    pub(crate) delay: f64,
    /// A fault is at one of the first so many bytes sent up, or down.
    pub(crate) up: usize,
    pub(crate) down: usize,
}

/// How many exchanges met what.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Met {
    pub(crate) exchanges: u64,
    pub(crate) cut: u64,
    pub(crate) stalled: u64,
    pub(crate) delayed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Cut,
    Stall,
    Delay(Duration),
}

/// What is to happen to one exchange: none, or a fault before this byte of a direction.
#[derive(Clone, Copy, Debug)]
struct Plan {
    fault: Option<Fault>,
    upward: bool,
    at: usize,
}

struct Dice {
    rng: StdRng,
    breaks: Breaks,
    met: Met,
}

impl Dice {
    fn cast(&mut self) -> Plan {
        let Breaks { cut, stall, delay, up, down } = self.breaks;
        let drawn: f64 = self.rng.random();
        let fault = if drawn < cut {
            Some(Fault::Cut)
        } else if drawn < cut + stall {
            Some(Fault::Stall)
        } else if drawn < cut + stall + delay {
            Some(Fault::Delay(Duration::from_millis(self.rng.random_range(1..40))))
        } else {
            None
        };
        let upward = self.rng.random();
        let at = self.rng.random_range(0..if upward { up } else { down });
        self.met.exchanges += 1;
        Plan { fault, upward, at }
    }

    fn note(&mut self, fault: Fault) {
        match fault {
            Fault::Cut => self.met.cut += 1,
            Fault::Stall => self.met.stalled += 1,
            Fault::Delay(_) => self.met.delayed += 1,
        }
    }
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    dice: Arc<Mutex<Dice>>,
    _task: JoinSet<()>,
}

impl Proxy {
    pub(crate) async fn start(target: SocketAddr, breaks: Breaks, seed: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let dice = Dice { rng: StdRng::seed_from_u64(seed), breaks, met: Met::default() };
        let dice = Arc::new(Mutex::new(dice));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target, Arc::clone(&dice)));
        Self { address, dice, _task: tasks }
    }

    pub(crate) fn met(&self) -> Met {
        self.dice.lock().unwrap().met
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, dice: Arc<Mutex<Dice>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((caller, _)) = listener.accept() => {
                let dice = Arc::clone(&dice);
                connections.spawn(async move {
                    // Whatever ends it ends both sides of it.
                    let _ended: std::io::Result<()> = relay(caller, target, &dice).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn relay(
    mut caller: TcpStream,
    target: SocketAddr,
    dice: &Mutex<Dice>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    caller.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_caller, mut from_server) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let mut plan = dice.lock().unwrap().cast();
    let (mut sent_up, mut sent_down) = (0, 0);
    loop {
        let (bytes, upward) = tokio::select! {
            read = caller.read(&mut from_caller) => (&from_caller[..read?], true),
            read = server.read(&mut from_server) => (&from_server[..read?], false),
        };
        if bytes.is_empty() {
            return Ok(());
        }
        if upward && sent_down > 0 {
            plan = dice.lock().unwrap().cast();
            (sent_up, sent_down) = (0, 0);
        }
        let sent = if upward { &mut sent_up } else { &mut sent_down };
        let to = if upward { &mut server } else { &mut caller };
        let here = plan.upward == upward && (*sent..*sent + bytes.len()).contains(&plan.at);
        let (before, after) = bytes.split_at(if here { plan.at - *sent } else { 0 });
        *sent += bytes.len();
        to.write_all(before).await?;
        if let Some(fault) = plan.fault.filter(|_| here) {
            dice.lock().unwrap().note(fault);
            match fault {
                Fault::Cut => return Ok(()),
                // Held until the caller gives up; then the other side learns of it.
                Fault::Stall => {
                    while caller.read(&mut from_caller).await? > 0 {}
                    return Ok(());
                }
                Fault::Delay(delay) => tokio::time::sleep(delay).await,
            }
        }
        let to = if upward { &mut server } else { &mut caller };
        to.write_all(after).await?;
    }
}
