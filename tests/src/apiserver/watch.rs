//! Watches: what happened to the objects of a kind, line by line, as it happens.
//!
//! Decides where a watch begins (everything there is, or after a version), when bookmarks come and how it
//! ends. Must not know connections. Invariant: without a fault, whoever applies the events to what
//! they had at the beginning has what the server has.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::Response;
use hyper::body::{Bytes, Frame};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};

use super::faults::WatchFault;
use super::http::{Body, Query, status, status_object};
use super::resources::Target;
use super::selector::Selector;
use super::store::{Change, event};
use super::{Shared, lock};

/// How long a watch lasts where the client does not say.
const LASTS: u64 = 1800;

struct Watch {
    shared: Arc<Shared>,
    target: Target,
    selector: Selector,
    version: u64,
    changed: watch::Receiver<u64>,
    faults: broadcast::Receiver<(Option<String>, WatchFault)>,
    bookmarks: Option<Interval>,
    ends: Instant,
    lines: VecDeque<io::Result<Bytes>>,
    over: bool,
}

/// Answers a request to watch.
pub(super) fn answer(shared: &Arc<Shared>, target: Target, query: &Query) -> Response<Body> {
    let selector = match Selector::parse(query.get("labelSelector"), query.get("fieldSelector")) {
        Ok(selector) => selector,
        Err(error) => return status(400, "BadRequest", &error),
    };
    let settings = lock(&shared.settings).clone();
    let initial = query.get("sendInitialEvents").is_some();
    if initial && !settings.streams_lists {
        let message = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList \
                       feature gate is enabled";
        return status(422, "Invalid", message);
    }
    if initial && query.get("resourceVersionMatch") != Some("NotOlderThan") {
        return status(422, "Invalid", "resourceVersionMatch: Forbidden: it must be NotOlderThan");
    }
    let asked = query.get("resourceVersion").unwrap_or_default();
    let Ok(version) = (if asked.is_empty() { Ok(0) } else { asked.parse::<u64>() }) else {
        return status(400, "BadRequest", &format!("Invalid resource version: {asked:?}"));
    };
    let lasts = query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(LASTS);
    let mut every = interval_at(Instant::now() + settings.bookmark_every, settings.bookmark_every);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch {
        changed: shared.changed.subscribe(),
        faults: shared.faults.watches.subscribe(),
        shared: Arc::clone(shared),
        target,
        selector,
        version,
        bookmarks: query.is("allowWatchBookmarks").then_some(every),
        ends: Instant::now() + Duration::from_secs(lasts),
        lines: VecDeque::new(),
        over: false,
    };
    if version == 0 || query.is("sendInitialEvents") {
        watch.everything(query.is("sendInitialEvents"));
    }
    let lines = stream::unfold(watch, |mut watch| async {
        let line = watch.next().await?;
        Some((line.map(Frame::data), watch))
    });
    let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}

impl Watch {
    /// All that there is, as if it had just come.
    fn everything(&mut self, say_when_complete: bool) {
        let store = lock(&self.shared.store);
        let objects = store.list(&self.target.resource, &self.selector, None);
        self.lines.extend(objects.map(|(_, stored)| Ok(event("ADDED", &stored.text).into())));
        self.version = store.version();
        drop(store);
        if say_when_complete {
            let end = self.bookmark(&json!({"k8s.io/initial-events-end": "true"}));
            self.lines.push_back(Ok(end));
        }
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            self.changed.mark_unchanged();
            self.catch_up();
            if !self.lines.is_empty() {
                continue;
            }
            tokio::select! {
                changed = self.changed.changed() => self.over = changed.is_err(),
                fault = self.faults.recv() => self.fault(fault),
                () = tick(&mut self.bookmarks) => {
                    let bookmark = self.bookmark(&json!({}));
                    self.lines.push_back(Ok(bookmark));
                }
                () = sleep_until(self.ends) => self.over = true,
            }
        }
    }

    fn catch_up(&mut self) {
        let store = lock(&self.shared.store);
        let (changes, version) = (store.since(&self.target.resource, self.version), store.version());
        drop(store);
        match changes {
            Ok(changes) => {
                let events = changes.iter().filter_map(|change| change.event(&self.selector));
                self.lines.extend(events.map(|line| Ok(line.into())));
                self.version = version;
                self.note_the_time(&changes);
            }
            Err(old) => {
                let message = format!("too old resource version: {} ({})", old.asked, old.oldest);
                self.error(410, "Expired", &message);
            }
        }
    }

    /// Of the event that somebody wants to know it of.
    fn note_the_time(&self, changes: &[Change]) {
        let mut timed = lock(&self.shared.timed);
        let is_it = |change: &Change| {
            let object = change.after.as_ref().or(change.before.as_ref());
            object.is_some_and(|object| object.value["metadata"]["name"] == timed.name.as_str())
        };
        if !timed.name.is_empty() && changes.iter().any(is_it) {
            timed.told = Some(std::time::Instant::now());
        }
    }

    fn fault(&mut self, fault: Result<(Option<String>, WatchFault), RecvError>) {
        let Ok((of, fault)) = fault else { return };
        if of.is_some_and(|of| of != self.target.plural) {
            return;
        }
        match fault {
            WatchFault::Error(410) => self.error(410, "Expired", "a fault on command"),
            WatchFault::Error(code) => self.error(code, "InternalError", "a fault on command"),
            WatchFault::End => self.over = true,
            WatchFault::HalfALine => {
                self.lines
                    .push_back(Ok(Bytes::from_static(b"{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"na")));
                self.lines.push_back(Err(io::Error::from(io::ErrorKind::ConnectionReset)));
                self.over = true;
            }
            WatchFault::Garbage => {
                self.lines.push_back(Ok(Bytes::from_static(b"{\"type\":\"ADDED\",nonsense}\n")));
            }
        }
    }

    fn error(&mut self, code: u16, reason: &str, message: &str) {
        let object = status_object(code, reason, message).to_string();
        self.lines.push_back(Ok(event("ERROR", &object).into()));
        self.over = true;
    }

    fn bookmark(&self, annotations: &serde_json::Value) -> Bytes {
        let object = json!({
            "kind": self.target.kind,
            "apiVersion": self.target.api_version,
            "metadata": {"resourceVersion": self.version.to_string(), "annotations": annotations},
        });
        event("BOOKMARK", &object.to_string()).into()
    }
}

async fn tick(bookmarks: &mut Option<Interval>) {
    match bookmarks {
        Some(bookmarks) => {
            bookmarks.tick().await;
        }
        None => std::future::pending().await,
    }
}
