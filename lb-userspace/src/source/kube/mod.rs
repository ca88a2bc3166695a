//! Objects from an API server.
//!
//! Decides what is asked of the server (contract C1, C5: by selectors, so that what does not count never
//! comes), when its first lists are complete (C4), and what a relist means. Must not know what objects
//! are used for. Invariants: nothing is said before each kind was listed once; a list replaces what was
//! said of its kind, in one change; while the server is away, what it last said stays.

mod access;
mod events;
mod held;
mod pace;
mod received;
mod trouble;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::stream::{BoxStream, SelectAll};
use futures_util::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};

use super::kubernetes::{HEADLESS, OTHER_PROXY, SERVICE_NAME};
use super::{Finding, Rejected, Severity, Update};
use crate::model::{Change, Kind, Object, ObjectKey};
use held::Held;
use pace::{Pace, PaceLayer};
use received::Watched;
use watch::{Answer, Heard, Wanted, listen};

pub use access::{Access, NoAccess};
pub use events::{Notice, Notices};
pub use trouble::Trouble;

/// How many changes are taken in one go at most, lest a flood holds up what was received first.
const AT_ONCE: usize = 4096;

/// How patient we are with the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// For a connection.
    pub connect: Duration,
    /// How long a server may say nothing while it is asked or watched; it sends a bookmark every minute.
    pub silence: Duration,
    /// How long a streamed list may stand still before it is asked for in the plain way.
    pub list_silence: Duration,
    /// Before a failed request is tried again, and how long at most; twice as long each time, with jitter.
    pub retry: Duration,
    /// See `retry`.
    pub retry_at_most: Duration,
    /// How far apart watches of one kind begin at least; further where they keep ending soon.
    pub spacing: Duration,
    /// Before a kind that the server does not have is asked for again.
    pub absent: Duration,
    /// How many Kubernetes Events may be written in a burst.
    pub events_at_once: u32,
    /// How often one more after it.
    pub event_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(100),
            list_silence: Duration::from_secs(15),
            retry: Duration::from_millis(400),
            retry_at_most: Duration::from_secs(30),
            spacing: Duration::from_millis(250),
            absent: Duration::from_secs(300),
            events_at_once: 25,
            event_every: Duration::from_secs(20),
        }
    }
}

/// An API server that is watched.
pub struct KubeSource {
    heard: SelectAll<BoxStream<'static, Heard>>,
    node: String,
    server: String,
    /// Kinds whose first list is still to come.
    awaited: BTreeSet<Kind>,
    /// Kinds that cannot be heard at present.
    troubled: BTreeSet<Kind>,
    held: Held,
    holding: bool,
    rejected: BTreeMap<ObjectKey, Vec<Rejected>>,
    notices: Notices,
    errors: BTreeMap<(Kind, String), u64>,
    next: Update,
    /// When it was first asked.
    began: Option<Instant>,
}

impl KubeSource {
    /// Sets up to watch the server for the node of this name. Connects when it is first asked.
    ///
    /// # Errors
    /// Where it cannot be told how to reach the server.
    pub async fn open(access: &Access, node: &str, timing: Timing) -> Result<Self, NoAccess> {
        let config = access.config(timing.silence, timing.connect).await?;
        let mut heard = SelectAll::new();
        let not_ours = format!("!{OTHER_PROXY}");
        let services = Wanted { labels: Some(not_ours.clone()), ..Wanted::default() };
        let slices = format!("{not_ours},!{HEADLESS},{SERVICE_NAME}");
        let slices = Wanted { labels: Some(slices), ..Wanted::default() };
        let own = Wanted { fields: Some(format!("metadata.name={node}")), ..Wanted::default() };
        let networks = Wanted { optional: true, ..Wanted::default() };
        heard.push(watch_kind::<Service>(&config, services, timing)?);
        heard.push(watch_kind::<EndpointSlice>(&config, slices, timing)?);
        heard.push(watch_kind::<Node>(&config, own, timing)?);
        heard.push(watch_kind::<ServiceCIDR>(&config, networks, timing)?);
        tracing::info!(server = %config.cluster_url, node, "watching the API server");
        Ok(Self {
            heard,
            node: node.to_owned(),
            server: config.cluster_url.to_string(),
            awaited: [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::ServiceCidr].into(),
            troubled: BTreeSet::new(),
            held: Held::default(),
            holding: false,
            rejected: BTreeMap::new(),
            notices: Notices::start(
                Client::try_from(config.clone()).map_err(|error| no_client(&error))?,
                node,
                timing,
            ),
            errors: BTreeMap::new(),
            next: nothing(),
            began: None,
        })
    }

    /// Waits until the server says something, and returns all of it that has arrived. The first time it
    /// waits until every kind was listed (C4). Cancel safe.
    pub async fn next(&mut self) -> Update {
        self.began.get_or_insert_with(Instant::now);
        loop {
            if let Some(heard) = self.heard.next().await {
                self.take(heard);
            }
            while self.next.changes.len() < AT_ONCE
                && let Some(Some(heard)) = self.heard.next().now_or_never()
            {
                self.take(heard);
            }
            let says = !self.next.changes.is_empty() || !self.next.findings.is_empty();
            if self.awaited.is_empty() && says {
                return std::mem::replace(&mut self.next, nothing());
            }
        }
    }

    /// Which kinds' first lists have not arrived yet.
    #[must_use]
    pub fn awaited(&self) -> &BTreeSet<Kind> {
        &self.awaited
    }

    /// How often requests failed, by kind and HTTP status, or `unreachable` or `unreadable`.
    #[must_use]
    pub fn errors(&self) -> &BTreeMap<(Kind, String), u64> {
        &self.errors
    }

    /// Where to tell the owners of objects what they should know, by Kubernetes Events.
    #[must_use]
    pub fn notices(&self) -> Notices {
        self.notices.clone()
    }

    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Listed(kind, answers) => self.listed(kind, answers),
            Heard::Applied(answer) => {
                self.recovered(answer.key.kind());
                self.judge(&answer);
                if let Some(object) = answer.converted.object {
                    self.change(Change::Apply(object));
                }
            }
            Heard::Deleted(key) => {
                self.recovered(key.kind());
                self.rejected.remove(&key);
                self.change(Change::Delete(key));
            }
            Heard::Troubled(trouble) => self.trouble(trouble),
        }
    }

    fn listed(&mut self, kind: Kind, answers: Vec<Answer>) {
        self.recovered(kind);
        if self.awaited.remove(&kind) && self.awaited.is_empty() {
            let took = self.began.map(|began| began.elapsed()).unwrap_or_default();
            let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            tracing::info!(milliseconds, "the first lists are complete");
        }
        let keys: BTreeSet<&ObjectKey> = answers.iter().map(|answer| &answer.key).collect();
        self.rejected.retain(|key, _| key.kind() != kind || keys.contains(key));
        if kind == Kind::Node && answers.is_empty() {
            let message = format!(
                "the API server has no Node {}, so there is no zone and no NodePort address; name the node with --node",
                self.node
            );
            let key = ObjectKey::Node(self.node.clone());
            self.next.findings.push(Finding::about_object(Severity::Problem, key, message));
        }
        answers.iter().for_each(|answer| self.judge(answer));
        let objects: Vec<Object> = answers.into_iter().filter_map(|answer| answer.converted.object).collect();
        tracing::debug!(%kind, objects = objects.len(), "listed");
        self.change(Change::Relist(kind, objects));
    }

    fn change(&mut self, change: Change) {
        if self.next.changes.is_empty() {
            self.next.received = Instant::now();
        }
        self.next.changes.extend(self.held.pass(change));
        if self.held.holds() != self.holding {
            self.holding = !self.holding;
            if self.holding {
                tracing::warn!("default/kubernetes has lost its last endpoint; the last known stay in force");
            } else {
                tracing::info!("default/kubernetes has endpoints again");
            }
        }
    }

    /// Says what cannot be used of an object, once.
    fn judge(&mut self, answer: &Answer) {
        let (key, rejected) = (&answer.key, &answer.converted.rejected);
        let known = self.rejected.get(key).map(Vec::as_slice).unwrap_or_default();
        for rejected in rejected.iter().filter(|rejected| !known.contains(rejected)) {
            self.next.findings.push(Finding::rejected(rejected));
            let message = format!("{}: {}", rejected.field, rejected.reason);
            self.notices.tell(Notice { object: key.clone(), reason: "UnusableField", message });
        }
        if rejected.is_empty() {
            self.rejected.remove(key);
        } else {
            self.rejected.insert(key.clone(), rejected.clone());
        }
    }

    fn trouble(&mut self, trouble: Trouble) {
        let Trouble { kind, class, reason } = trouble;
        *self.errors.entry((kind, class.clone())).or_default() += 1;
        let server = &self.server;
        if class == "410" {
            tracing::info!(%kind, "the watch fell behind what the API server keeps; listing anew");
        } else if self.troubled.insert(kind) {
            tracing::warn!(server, "{reason}; tried again, and what is known stays in force");
        } else {
            tracing::debug!(server, "{reason}; tried again");
        }
    }

    fn recovered(&mut self, kind: Kind) {
        if self.troubled.remove(&kind) {
            tracing::info!(%kind, server = self.server, "the API server is heard again");
        }
    }
}

fn nothing() -> Update {
    Update { changes: Vec::new(), findings: Vec::new(), received: Instant::now() }
}

/// Each kind has a client of its own, so that the server's wish to wait with one holds up no other.
fn watch_kind<K: Watched>(
    config: &Config,
    wanted: Wanted,
    timing: Timing,
) -> Result<BoxStream<'static, Heard>, NoAccess> {
    let pace = Pace::new(timing.spacing);
    let builder = ClientBuilder::try_from(config.clone()).map_err(|error| no_client(&error))?;
    let client: Client = builder.with_layer(&PaceLayer(pace)).build();
    Ok(listen::<K>(Api::all(client), wanted, timing))
}

fn no_client(error: &kube::Error) -> NoAccess {
    NoAccess::Client(error.to_string())
}
