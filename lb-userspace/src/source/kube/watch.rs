//! One kind of objects, listed and watched for as long as the agent runs.
//!
//! Decides what follows a failure: try again later, list anew, list without streaming, or do without
//! the kind. Must not know what objects are used for. Invariant: a list is handed on once it is
//! complete, and only as a whole; what was handed on before stays until then.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use kube::Api;
use kube::core::Status;
use kube::runtime::watcher::{self, Event, InitialListStrategy, watcher};
use tokio::time::{sleep, timeout};

use super::Timing;
use super::received::{Received, Watched};
use super::trouble::Trouble;
use crate::model::{Kind, Known, Object, ObjectKey};
use crate::source::kubernetes::Converted;

/// What a watch hears.
#[derive(Debug)]
pub(super) enum Heard {
    /// All objects of the kind.
    Listed(Kind, Vec<Answer>),
    /// An object, new or changed.
    Applied(Box<Answer>),
    /// It is gone.
    Deleted(ObjectKey),
    /// The server cannot be heard; it is tried again.
    Troubled(Trouble),
}

/// An object as the server has it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) key: ObjectKey,
    pub(super) converted: Converted<Object>,
}

/// Which objects of a kind are asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
    /// May the server be without the kind, or not let us see it?
    pub(super) optional: bool,
}

/// Listens until the stream is dropped.
pub(super) fn listen<K: Watched>(
    api: Api<Received<K>>,
    wanted: Wanted,
    timing: Timing,
) -> BoxStream<'static, Heard> {
    let config = watcher::Config {
        label_selector: wanted.labels,
        field_selector: wanted.fields,
        initial_list_strategy: InitialListStrategy::StreamingList,
        ..watcher::Config::default()
    };
    let mut watch = Watch {
        api,
        config,
        timing,
        optional: wanted.optional,
        events: stream::pending().boxed(),
        list: None,
        known: Known::default(),
        was_listed: false,
        delay: None,
        backoff: backoff(timing),
    };
    watch.begin();
    stream::unfold(watch, |mut watch| async {
        let heard = watch.next().await;
        Some((heard, watch))
    })
    .boxed()
}

struct Watch<K> {
    api: Api<Received<K>>,
    config: watcher::Config,
    timing: Timing,
    optional: bool,
    events: BoxStream<'static, watcher::Result<Event<Received<K>>>>,
    /// As far as it has come.
    list: Option<Vec<Answer>>,
    /// Of the list's slices: each once, since the list may be long.
    known: Known,
    was_listed: bool,
    /// Before the server is asked again.
    delay: Option<Duration>,
    backoff: ExponentialBackoff,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// The watcher goes on where it was, after a while.
    GoOn,
    /// A new list, after a while.
    ListAnew,
    /// A list of the plain kind, at once: the server does not stream lists.
    ListPlainly,
    /// There is no such kind; asked again now and then.
    DoWithout,
}

impl<K: Watched> Watch<K> {
    fn begin(&mut self) {
        self.list = None;
        self.events = watcher(self.api.clone(), self.config.clone()).boxed();
    }

    async fn next(&mut self) -> Heard {
        loop {
            if let Some(delay) = self.delay {
                sleep(delay).await;
                self.delay = None;
            }
            let event = match self.list_may_be_silent_for() {
                None => self.events.next().await,
                Some(limit) => match timeout(limit, self.events.next()).await {
                    Ok(event) => event,
                    Err(_) => {
                        // A server from before streamed lists never says that its list is complete.
                        self.list_plainly("it began to stream a list and did not end it");
                        continue;
                    }
                },
            };
            match event {
                Some(Ok(event)) => {
                    if let Some(heard) = self.take(event) {
                        return heard;
                    }
                }
                Some(Err(error)) => {
                    if let Some(heard) = self.failed(&error) {
                        return heard;
                    }
                }
                None => self.begin(),
            }
        }
    }

    /// `Some` while a streamed list is on its way.
    fn list_may_be_silent_for(&self) -> Option<Duration> {
        (self.is_streaming() && self.list.is_some()).then_some(self.timing.list_silence)
    }

    fn is_streaming(&self) -> bool {
        self.config.initial_list_strategy == InitialListStrategy::StreamingList
    }

    fn take(&mut self, event: Event<Received<K>>) -> Option<Heard> {
        if !matches!(event, Event::Init) {
            self.backoff = backoff(self.timing);
        }
        match event {
            Event::Init => {
                self.list = Some(Vec::new());
                None
            }
            Event::InitApply(object) => {
                let mut answer = Answer::from(object);
                if let Some(object) = &mut answer.converted.object {
                    object.settle(&mut self.known);
                }
                self.list.get_or_insert_default().push(answer);
                None
            }
            Event::InitDone => {
                self.was_listed = true;
                self.known = Known::default();
                Some(Heard::Listed(K::WHICH, self.list.take().unwrap_or_default()))
            }
            Event::Apply(object) => Some(Heard::Applied(Box::new(object.into()))),
            Event::Delete(object) => Some(Heard::Deleted(object.key)),
        }
    }

    fn failed(&mut self, error: &watcher::Error) -> Option<Heard> {
        let trouble = Trouble::new(K::WHICH, error);
        match remedy(error, self.is_streaming(), self.optional && !self.was_listed) {
            Remedy::GoOn => self.delay = self.backoff.next(),
            Remedy::ListAnew => {
                self.delay = self.backoff.next();
                self.begin();
            }
            Remedy::ListPlainly => {
                self.list_plainly(&trouble.reason);
                return None;
            }
            Remedy::DoWithout => {
                tracing::debug!(kind = %K::WHICH, reason = trouble.reason, "done without");
                self.delay = Some(self.timing.absent);
                self.begin();
                return Some(Heard::Listed(K::WHICH, Vec::new()));
            }
        }
        Some(Heard::Troubled(trouble))
    }

    fn list_plainly(&mut self, reason: &str) {
        tracing::info!(kind = %K::WHICH, reason, "the API server does not stream lists; listing page by page");
        self.config.initial_list_strategy = InitialListStrategy::ListWatch;
        self.begin();
    }
}

fn backoff(timing: Timing) -> ExponentialBackoff {
    let delays =
        ExponentialBuilder::default().with_min_delay(timing.retry).with_max_delay(timing.retry_at_most);
    delays.with_factor(2.0).with_jitter().without_max_times().build()
}

/// Where the watcher goes on by itself, and where it would do so for ever in vain.
fn remedy(error: &watcher::Error, streaming: bool, optional: bool) -> Remedy {
    let status: Option<&Status> = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status),
        _ => None,
    };
    let code = status.map(|status| status.code);
    match (error, code) {
        (_, Some(403 | 404)) if optional => Remedy::DoWithout,
        // Invalid: how API servers refuse `sendInitialEvents`, where they know it but are told not to.
        (watcher::Error::WatchStartFailed(_), Some(400 | 405 | 422)) if streaming => Remedy::ListPlainly,
        // Too old to watch from, said as the answer itself; the watcher would ask for the same again.
        (watcher::Error::WatchStartFailed(_), Some(410)) => Remedy::ListAnew,
        // An event that cannot be read is an event that is missing.
        (watcher::Error::WatchFailed(kube::Error::SerdeError(_)), _) => Remedy::ListAnew,
        _ => Remedy::GoOn,
    }
}

impl<K> From<Received<K>> for Answer {
    fn from(received: Received<K>) -> Self {
        Self { key: received.key, converted: received.converted }
    }
}
