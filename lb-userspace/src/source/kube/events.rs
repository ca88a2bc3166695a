//! Kubernetes Events: what an object's owner should know, where `kubectl describe` shows it.
//!
//! Decides how many are written: each thing once an hour, a burst, then one now and then. Must not
//! decide what is worth one. Invariant: whoever has something to say never waits for the API server,
//! and a server that is away costs the Event, nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::PartialObjectMeta;
use kube::core::NamespaceResourceScope;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, sleep_until};

use super::Timing;
use crate::model::{ObjectKey, ObjectName};

/// Notices that wait to be written; more are dropped.
const WAITING: usize = 256;
/// The same thing is not said again for so long.
const AGAIN_AFTER: Duration = Duration::from_secs(3600);
/// Things that are remembered, to be said once.
const REMEMBERED: usize = 4096;
/// How often a notice is tried.
const TRIES: u32 = 3;

/// Something that an object's owner should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    /// The object.
    pub object: ObjectKey,
    /// What kind of trouble, in CamelCase, as `UnusableField`.
    pub reason: &'static str,
    /// What is wrong, what became of it, what to do.
    pub message: String,
}

/// Takes notices, from whoever has some.
#[derive(Clone, Debug)]
pub struct Notices {
    queue: Sender<Notice>,
}

impl Notices {
    /// Writes Events as this node's agent. Must be called in a runtime; ends with the last clone.
    pub(super) fn start(client: Client, node: &str, timing: Timing) -> Self {
        let (queue, notices) = channel(WAITING);
        let reporter = Reporter { controller: "switchboard".to_owned(), instance: Some(node.to_owned()) };
        let writer = Writer {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            timing,
            left: timing.events_at_once,
            next: Instant::now(),
            said: BTreeMap::new(),
        };
        tokio::spawn(writer.write(notices));
        Self { queue }
    }

    /// Tells the owner of an object: each thing once an hour, and not too many in all. Does not wait; what finds
    /// the queue full is dropped.
    pub fn tell(&self, notice: Notice) {
        if let Err(error) = self.queue.try_send(notice) {
            tracing::debug!(%error, "no Event written");
        }
    }
}

struct Writer {
    client: Client,
    recorder: Recorder,
    timing: Timing,
    /// Events that may be written at once.
    left: u32,
    /// When there is one more.
    next: Instant,
    /// When each was last taken.
    said: BTreeMap<Notice, Instant>,
}

impl Writer {
    async fn write(mut self, mut notices: Receiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            if !self.is_news(&notice) {
                continue;
            }
            self.wait_for_a_turn().await;
            let mut delay = self.timing.retry;
            for attempt in 1..=TRIES {
                match self.publish(&notice).await {
                    Ok(()) => break,
                    Err(kube::Error::Api(status))
                        if (400..500).contains(&status.code) && status.code != 429 =>
                    {
                        tracing::debug!(object = %notice.object, reason = status.message, "no Event written");
                        break;
                    }
                    Err(error) if attempt == TRIES => {
                        tracing::debug!(object = %notice.object, %error, "no Event written");
                    }
                    Err(_) => {
                        tokio::time::sleep(delay).await;
                        delay = (delay * 4).min(self.timing.retry_at_most);
                    }
                }
            }
        }
    }

    fn is_news(&mut self, notice: &Notice) -> bool {
        let now = Instant::now();
        self.said.retain(|_, at| now.duration_since(*at) < AGAIN_AFTER);
        if self.said.len() >= REMEMBERED || self.said.contains_key(notice) {
            return false;
        }
        self.said.insert(notice.clone(), now);
        true
    }

    async fn wait_for_a_turn(&mut self) {
        let now = Instant::now();
        while self.next <= now && self.left < self.timing.events_at_once {
            self.left += 1;
            self.next += self.timing.event_every;
        }
        if self.left == self.timing.events_at_once {
            self.next = now + self.timing.event_every;
        }
        if self.left == 0 {
            sleep_until(self.next).await;
            self.next += self.timing.event_every;
        } else {
            self.left -= 1;
        }
    }

    async fn publish(&self, notice: &Notice) -> kube::Result<()> {
        let regarding = match &notice.object {
            ObjectKey::Service(name) => self.of_namespace::<Service>(name).await?,
            ObjectKey::EndpointSlice(name) => self.of_namespace::<EndpointSlice>(name).await?,
            ObjectKey::Node(name) => reference(&self.cluster::<Node>().get_metadata(name).await?),
            ObjectKey::ServiceCidr(name) => {
                reference(&self.cluster::<ServiceCIDR>().get_metadata(name).await?)
            }
        };
        let event = Event {
            type_: EventType::Warning,
            reason: notice.reason.to_owned(),
            note: Some(notice.message.chars().take(1000).collect()),
            action: "Program".to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, &regarding).await
    }

    /// Its uid, by which `kubectl describe` finds Events, is not kept of every object.
    async fn of_namespace<K>(
        &self,
        name: &ObjectName,
    ) -> kube::Result<k8s_openapi::api::core::v1::ObjectReference>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + serde::de::DeserializeOwned,
        K: std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), name.namespace());
        Ok(reference(&api.get_metadata(name.name()).await?))
    }

    fn cluster<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }
}

fn reference<K: Resource<DynamicType = ()>>(
    object: &PartialObjectMeta<K>,
) -> k8s_openapi::api::core::v1::ObjectReference {
    object.object_ref(&())
}
