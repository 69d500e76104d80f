//! What all connections share, behind one lock that is never held across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::faults::{Faults, Scripted};
use super::journal::{Counts, Journal};
use super::limiter::Bucket;
use super::world::World;
use super::{Options, gate::Refusal};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    core: Mutex<Core>,
}

#[derive(Debug)]
pub(super) struct Core {
    faults: Faults,
    bucket: Bucket,
    rng: StdRng,
    /// Cancelled while the simulator is down.
    outage: CancellationToken,
    pub(super) world: World,
    pub(super) journal: Journal,
}

/// What is to become of a request.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) latency: Duration,
    pub(super) stalls: bool,
    pub(super) fate: Fate,
}

#[derive(Debug)]
pub(super) enum Fate {
    Handle,
    /// Answer without effect.
    Refuse(Refusal),
    /// Let it take effect, then answer so.
    HandleThenAnswer(Scripted),
    Cut,
    HandleThenCut,
}

impl Shared {
    pub(super) fn new(options: Options) -> Self {
        let core = Mutex::new(Core::new(&options));
        Self { options, core }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn outage(&self) -> CancellationToken {
        self.lock().outage.clone()
    }

    pub(super) fn reset(&self) {
        let mut fresh = Core::new(&self.options);
        let mut core = self.lock();
        // The outage goes on or ends by the rules of any other change.
        std::mem::swap(&mut fresh.outage, &mut core.outage);
        let faults = std::mem::take(&mut fresh.faults);
        fresh.faults.down = core.faults.down;
        *core = fresh;
        core.set_faults(faults);
    }

    /// Decides about a request that has been received.
    pub(super) fn judge(&self, method: &Method, path: &str, headers: &HeaderMap) -> Verdict {
        let mut core = self.lock();
        // All dice are cast for each request, so that changing one fault doesn't move the others.
        let [stall, error, drop_before, drop_after]: [f64; 4] =
            std::array::from_fn(|_| core.rng.random());
        if !core.faults.concern(path) {
            let fate = self.let_in(method, headers).map_or_else(Fate::Refuse, |()| Fate::Handle);
            return Verdict { latency: Duration::ZERO, stalls: false, fate };
        }
        let latency = core.faults.latency;
        let stalls = stall < core.faults.stall;
        let fate = match core.forced() {
            Some(fate) => fate,
            None => match self.let_in(method, headers).and_then(|()| core.within_rate()) {
                Err(refusal) => Fate::Refuse(refusal),
                Ok(()) if error < core.faults.error_rate => Fate::Refuse(Refusal::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "a simulated error",
                )),
                Ok(()) if drop_before < core.faults.drop_before_applying => Fate::Cut,
                Ok(()) if drop_after < core.faults.drop_after_applying => Fate::HandleThenCut,
                Ok(()) => Fate::Handle,
            },
        };
        Verdict { latency, stalls, fate }
    }

    fn let_in(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        let key = headers.get("x-api-key").map_or(&b""[..], HeaderValue::as_bytes);
        let known = match &self.options.api_key {
            Some(expected) => key == expected.as_bytes(),
            None => !key.is_empty(),
        };
        if !known {
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "x-api-key is missing or wrong"));
        }
        if method == Method::POST && !is_json(headers) {
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Content-Type is not application/json",
            ));
        }
        Ok(())
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next());
    media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
}

impl Core {
    fn new(options: &Options) -> Self {
        let outage = CancellationToken::new();
        if options.faults.down {
            outage.cancel();
        }
        Self {
            faults: options.faults.clone(),
            bucket: Bucket::default(),
            rng: StdRng::seed_from_u64(options.seed),
            outage,
            world: World::new(options.seed, options.max_users),
            journal: Journal::new(options.record),
        }
    }

    pub(super) const fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(super) fn set_faults(&mut self, faults: Faults) {
        match (self.faults.down, faults.down) {
            (false, true) => self.outage.cancel(),
            (true, false) => self.outage = CancellationToken::new(),
            (false, false) | (true, true) => {}
        }
        if self.faults.rate_limit != faults.rate_limit {
            self.bucket = Bucket::default();
        }
        self.faults = faults;
    }

    pub(super) fn extend_script(&mut self, answers: impl IntoIterator<Item = Scripted>) {
        self.faults.script.extend(answers);
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { users: self.world.user_count(), ..self.journal.counts() }
    }

    /// What the script or the fault `status` says, whatever the request is.
    fn forced(&mut self) -> Option<Fate> {
        if let Some(next) = self.faults.script.pop_front() {
            return Some(if next.status.is_success() {
                // A status of its own only for what would have succeeded.
                Fate::HandleThenAnswer(Scripted { applies: false, ..next })
            } else if next.applies {
                Fate::HandleThenAnswer(next)
            } else {
                Fate::Refuse(Refusal::scripted(next))
            });
        }
        let status = self.faults.status?;
        let retry_after = self.faults.retry_after.clone();
        Some(Fate::Refuse(Refusal { retry_after, ..Refusal::new(status, "a simulated status") }))
    }

    fn within_rate(&mut self) -> Result<(), Refusal> {
        let Some(rate) = self.faults.rate_limit else { return Ok(()) };
        self.bucket.take(rate, Instant::now()).map_err(|wait| {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let computed = HeaderValue::from(seconds.max(1));
            let retry_after = Some(self.faults.retry_after.clone().unwrap_or(computed));
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "the rate limit is reached");
            Refusal { retry_after, ..refusal }
        })
    }
}

/// Notes the end of a request, also when its future is dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    shared: Arc<Shared>,
    order: u64,
    /// Taken when the end has been noted.
    route: Option<String>,
}

impl Exchange {
    pub(super) const fn new(shared: Arc<Shared>, order: u64, route: String) -> Self {
        Self { shared, order, route: Some(route) }
    }

    pub(super) const fn order(&self) -> u64 {
        self.order
    }

    pub(super) fn end(&mut self, outcome: super::Outcome) {
        if let Some(route) = self.route.take() {
            self.shared.lock().journal.ended(self.order, &route, outcome);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end(super::Outcome::Unanswered);
    }
}
