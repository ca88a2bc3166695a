//! How soon the API server is asked again.
//!
//! Decides that a request waits where the server named a time (`Retry-After`), and where watches end
//! as soon as they begin. Must not know what is asked for. Invariant: however the server behaves, no
//! more requests go out than a client of good manners sends; a watch that lives long is resumed at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode, header::RETRY_AFTER};
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

/// What the server may ask for at most.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(120);

/// What a watch lasts at least that is not short, and how far apart short ones begin at most: so many
/// times the smallest spacing.
const SHORT: u32 = 20;

/// When the next request may go out.
#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    /// Between the beginnings of two watches, at least; twice as much each time that a watch was short.
    spacing: Duration,
}

#[derive(Debug)]
struct State {
    not_before: Instant,
    spacing: Duration,
    last_watch: Option<Instant>,
}

impl Pace {
    /// Watches begin `spacing` apart, and further while they keep ending soon.
    pub(super) fn new(spacing: Duration) -> Arc<Self> {
        let state = State { not_before: Instant::now(), spacing, last_watch: None };
        Arc::new(Self { state: Mutex::new(state), spacing })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_before(&self) -> Instant {
        self.lock().not_before
    }

    fn watch_begins(&self, now: Instant) {
        let mut state = self.lock();
        let longest = self.spacing * SHORT;
        let short = longest.max(state.spacing * 2);
        let soon = state.last_watch.is_some_and(|last| now.duration_since(last) < short);
        state.spacing = if soon { (state.spacing * 2).min(longest) } else { self.spacing };
        state.last_watch = Some(now);
        state.not_before = state.not_before.max(now + state.spacing);
    }

    fn told_to_wait(&self, now: Instant, wait: Duration) {
        let mut state = self.lock();
        state.not_before = state.not_before.max(now + wait.min(LONGEST_RETRY_AFTER));
    }
}

/// Puts a pace on a client's requests.
#[derive(Clone, Debug)]
pub(super) struct PaceLayer(pub(super) Arc<Pace>);

impl<S> Layer<S> for PaceLayer {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced { inner, pace: Arc::clone(&self.0), waiting: None }
    }
}

/// A client whose requests have a pace.
#[derive(Debug)]
pub(super) struct Paced<S> {
    inner: S,
    pace: Arc<Pace>,
    waiting: Option<Pin<Box<Sleep>>>,
}

type Answer<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

impl<S, Q, R> Service<Request<Q>> for Paced<S>
where
    S: Service<Request<Q>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        loop {
            let until = self.pace.not_before();
            if until <= Instant::now() {
                self.waiting = None;
                return self.inner.poll_ready(cx);
            }
            let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if waiting.deadline() != until {
                waiting.as_mut().reset(until);
            }
            if waiting.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        if is_watch {
            self.pace.watch_begins(Instant::now());
        }
        let (pace, answer) = (Arc::clone(&self.pace), self.inner.call(request));
        Box::pin(async move {
            let response = answer.await?;
            if let Some(wait) = retry_after(&response) {
                pace.told_to_wait(Instant::now(), wait);
            }
            Ok(response)
        })
    }
}

/// API servers send seconds (RFC 9110, 10.2.3 allows a date too, which none of them uses).
fn retry_after<R>(response: &Response<R>) -> Option<Duration> {
    let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE, StatusCode::GATEWAY_TIMEOUT];
    if !busy.contains(&response.status()) {
        return None;
    }
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACING: Duration = Duration::from_millis(500);

    #[test]
    fn watches_that_end_at_once_begin_ever_further_apart_and_a_long_one_makes_good() {
        let pace = Pace::new(SPACING);
        let mut waits = Vec::new();
        for _ in 0..7 {
            let now = pace.lock().not_before.max(Instant::now());
            pace.watch_begins(now);
            waits.push((pace.lock().not_before - now).as_millis());
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
        let later = pace.lock().not_before + Duration::from_secs(60);
        pace.watch_begins(later);
        assert_eq!(pace.lock().not_before - later, SPACING);
    }

    #[test]
    fn a_busy_server_says_how_long_to_wait_and_cannot_ask_for_ever() {
        let answer = |status, wait| Response::builder().status(status).header(RETRY_AFTER, wait).body(());
        let wait = |status, wait| retry_after(&answer(status, wait).unwrap());
        assert_eq!(wait(429, "7"), Some(Duration::from_secs(7)));
        assert_eq!(wait(200, "7"), None);
        assert_eq!(wait(429, "soon"), None);
        let pace = Pace::new(SPACING);
        let now = Instant::now();
        pace.told_to_wait(now, Duration::from_secs(1_000_000));
        assert_eq!(pace.lock().not_before, now + LONGEST_RETRY_AFTER);
    }
}
