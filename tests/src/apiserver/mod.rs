//! An API server of sorts, in this process, over real TCP.
//!
//! It decides nothing of what objects mean: it holds what a test, a recording or an invented cluster
//! puts there, and tells it by lists and watches as the API conventions say (pages, versions,
//! bookmarks, streamed lists, selectors), until it is told to fail: wrong answers, errors in mid
//! watch, broken connections, black holes, a restart with or without its history. Must not know the
//! agent. Invariant: without a fault on command, no client can tell it from one that is right.
//!
//! ```no_run
//! use lb_tests::apiserver::{ApiServer, WatchFault};
//!
//! # fn main() -> anyhow::Result<()> {
//! let server = ApiServer::start()?;
//! server.apply(serde_json::json!({
//!     "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
//! }))?;
//! // ... `switchboard run --source kube --apiserver {server.url()}` ...
//! server.fault(None, WatchFault::Error(410));
//! # Ok(())
//! # }
//! ```

mod churn;
mod connection;
mod faults;
mod http;
mod recording;
mod resources;
mod selector;
mod store;
mod watch;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::sync::oneshot;

pub use self::churn::Invented;
use self::faults::{Faults, Mode};
pub use self::faults::{Request, WatchFault, WrongAnswer};
pub use self::recording::{Recording, Speed, Step};
use self::store::{Name, Store};

/// What a server serves, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Does it stream lists (`sendInitialEvents`)? API servers do since 1.34.
    pub streams_lists: bool,
    /// How often a watch gets a bookmark; API servers send one a minute.
    pub bookmark_every: Duration,
    /// Kinds that it does not have, as `servicecidrs`.
    pub without: BTreeSet<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { streams_lists: true, bookmark_every: Duration::from_secs(60), without: BTreeSet::new() }
    }
}

impl Settings {
    fn serves(&self, plural: &str) -> bool {
        !self.without.contains(plural)
    }
}

/// What the server's thread and the test share.
struct Shared {
    store: Mutex<Store>,
    settings: Mutex<Settings>,
    faults: Faults,
    /// The store's version: wakes watches.
    changed: tokio::sync::watch::Sender<u64>,
    timed: Mutex<Timed>,
}

/// The object whose events are timed.
#[derive(Default)]
struct Timed {
    name: String,
    /// When its last event was handed to a watcher's connection.
    told: Option<Instant>,
}

impl Shared {
    fn put(&self, resource: &str, name: Name, object: Value, keep_version: bool) {
        let version = lock(&self.store).put(resource, name, object, keep_version);
        self.changed.send_replace(version);
    }

    fn remove(&self, resource: &str, name: &Name, last: Option<&Value>) -> bool {
        let mut store = lock(&self.store);
        let removed = store.remove(resource, name, last);
        let version = store.version();
        drop(store);
        self.changed.send_replace(version);
        removed
    }
}

/// A panic of another test thread must not hide what this one finds.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server. Stops when dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Kept while stopped too, so that nobody else gets the port; not listened on then.
    running: Option<Running>,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ApiServer {
    /// Starts it on a free port of the loopback address.
    pub fn start() -> Result<Self> {
        let listener =
            TcpListener::bind("127.0.0.1:0").context("listen on a port of the loopback address")?;
        Self::start_on(listener, Settings::default())
    }

    /// Starts it on a listener, which may be of another network namespace.
    pub fn start_on(listener: TcpListener, settings: Settings) -> Result<Self> {
        let address = listener.local_addr().context("ask for the listener's address")?;
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            settings: Mutex::new(settings),
            faults: Faults::new(),
            changed: tokio::sync::watch::channel(0).0,
            timed: Mutex::default(),
        });
        let running = Some(run(&shared, listener)?);
        Ok(Self { shared, address, running })
    }

    /// `http://ADDRESS:PORT`, for `--apiserver`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, [`Self::told`] says when events of the objects of this name go out.
    pub fn time_events_of(&self, name: &str) {
        *lock(&self.shared.timed) = Timed { name: name.to_owned(), told: None };
    }

    /// When the last event of the timed object was handed to a watcher's connection, ready to be written; `None` if
    /// none was since it was asked for last.
    pub fn told(&self) -> Option<Instant> {
        lock(&self.shared.timed).told.take()
    }

    /// Changes what is served from the next request on.
    pub fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut lock(&self.shared.settings));
    }

    /// Adds or replaces an object.
    pub fn apply(&self, object: Value) -> Result<()> {
        let (resource, name) = place(&object)?;
        self.shared.put(&resource, name, object, false);
        Ok(())
    }

    /// Adds or replaces an object; its own `resourceVersion` counts.
    pub fn apply_as_it_is(&self, object: Value) -> Result<()> {
        let (resource, name) = place(&object)?;
        self.shared.put(&resource, name, object, true);
        Ok(())
    }

    /// Removes an object that has this kind and name; says whether it was there.
    pub fn delete(&self, object: &Value) -> Result<bool> {
        let (resource, name) = place(object)?;
        Ok(self.shared.remove(&resource, &name, None))
    }

    /// All objects of a kind, as `v1/services`, by namespace and name.
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let store = lock(&self.shared.store);
        store
            .list(resource, &selector::Selector::default(), None)
            .map(|(_, stored)| stored.value.clone())
            .collect()
    }

    /// The next requests get a wrong answer.
    pub fn answer_wrongly(&self, answer: WrongAnswer) {
        self.shared.faults.add(answer);
    }

    /// Something happens to the watches of a kind (`services`), or to all.
    pub fn fault(&self, plural: Option<&str>, fault: WatchFault) {
        // Nobody watching is nobody concerned.
        let _ = self.shared.faults.watches.send((plural.map(str::to_owned), fault));
    }

    /// Resets every connection.
    pub fn reset_connections(&self) {
        self.shared.faults.mode.send_modify(|mode| mode.epoch += 1);
    }

    /// Becomes a black hole: connections stay, new ones are taken, nothing is read or written.
    pub fn freeze(&self) {
        self.shared.faults.mode.send_modify(|mode| mode.frozen = true);
    }

    /// Ends [`Self::freeze`]; connections go on where they were.
    pub fn thaw(&self) {
        self.shared.faults.mode.send_modify(|mode| mode.frozen = false);
    }

    /// Holds back every answer for so long.
    pub fn delay_answers(&self, delay: Duration) {
        self.shared.faults.set_delay(delay);
    }

    /// Forgets its history, as etcd's compaction does: watches of older versions get 410.
    pub fn compact(&self) {
        lock(&self.shared.store).compact();
    }

    /// All requests since the start or [`Self::forget_requests`].
    pub fn requests(&self) -> Vec<Request> {
        self.shared.faults.requests()
    }

    /// Forgets the requests so far.
    pub fn forget_requests(&self) {
        self.shared.faults.forget_requests();
    }

    /// Stops: no connection is left, none is taken. What it holds stays.
    pub fn stop(&mut self) {
        let Some(running) = self.running.take() else { return };
        // It may have ended by a panic, which the join shows.
        let _ = running.stop.send(());
        assert!(running.thread.join().is_ok(), "the API server's thread panicked");
    }

    /// Starts again on the same port.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let listener = connection::bind_again(self.address)?;
        self.restart_on(listener)
    }

    /// Starts again on a listener of the same address, made in another network namespace.
    pub fn restart_on(&mut self, listener: TcpListener) -> Result<()> {
        self.stop();
        self.shared.faults.mode.send_replace(Mode::default());
        self.running = Some(run(&self.shared, listener)?);
        Ok(())
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            let _ = running.stop.send(());
            // A panic of its own has been printed; another one here would end the process.
            let _ = running.thread.join();
        }
    }
}

fn run(shared: &Arc<Shared>, listener: TcpListener) -> Result<Running> {
    listener.set_nonblocking(true).context("make the listener asynchronous")?;
    let (stop, stopped) = oneshot::channel();
    let shared = Arc::clone(shared);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::Builder::new()
        .name("apiserver".to_owned())
        .spawn(move || runtime.block_on(connection::serve(shared, listener, stopped)))
        .context("start the API server's thread")?;
    Ok(Running { stop, thread })
}

fn place(object: &Value) -> Result<(store::Resource, Name)> {
    let meta = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api, kind, name) = (text(&object["apiVersion"]), text(&object["kind"]), text(&meta["name"]));
    if name.is_empty() {
        bail!("an object of kind {kind:?} has no name");
    }
    let namespace = meta["namespace"].as_str().unwrap_or("default");
    resources::place(&api, &kind, namespace, &name)
        .with_context(|| format!("the test server has no kind {api} {kind}"))
}
