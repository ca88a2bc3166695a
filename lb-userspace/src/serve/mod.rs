//! What the agent says of itself by HTTP: health, health check node ports, metrics.
//!
//! Decides addresses, paths, headers and bodies (contract C45 to C47). Must not know plans, maps or kernels: the agent
//! writes on the [`Board`], and what is read at a scrape comes through [`Observe`]. Invariant: it answers from a
//! thread of its own, also while the agent is busy or stuck, and no trouble of its own ends the agent.

mod address;
mod board;
mod health;
mod listen;
mod metrics;
mod node_ports;
mod pages;

use std::sync::Arc;
use std::thread;

use anyhow::Context as _;

pub use address::{HEALTHZ, METRICS, ServeAddress};
pub use board::{Board, HealthCheck};
pub use health::Health;
pub use metrics::carried::{BackendTraffic, Carried, ServiceTraffic};
pub use metrics::observe::{MapFill, Observe};
pub use metrics::{Metrics, Stage};
pub use node_ports::Notice;

/// What is served, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `/healthz`, `/livez` and `/readyz`.
    pub healthz: ServeAddress,
    /// `/metrics`.
    pub metrics: ServeAddress,
    /// Health check node ports of Services.
    pub health_check_node_ports: bool,
}

impl Options {
    /// The ports that are listened on for as long as the agent runs.
    pub fn ports(self) -> impl Iterator<Item = u16> {
        [self.healthz, self.metrics].into_iter().filter_map(|address| match address {
            ServeAddress::At(address) => Some(address.port()),
            ServeAddress::Off => None,
        })
    }
}

/// Starts to answer, on a thread of its own that ends with the process. A port that cannot be opened is said and tried
/// again. `observe` is asked at each scrape; `tell` hears what a Service's owner should know.
///
/// # Errors
/// Where the thread cannot be started.
pub fn start(
    options: Options,
    board: Arc<Board>,
    observe: impl Observe,
    tell: impl Fn(Notice) + Send + 'static,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime that answers health checks")?;
    let run = move || runtime.block_on(answer(options, board, observe, tell));
    thread::Builder::new()
        .name("serve".to_owned())
        .spawn(run)
        .context("starting the thread that answers health checks")?;
    Ok(())
}

async fn answer(
    options: Options,
    board: Arc<Board>,
    observe: impl Observe,
    tell: impl Fn(Notice) + Send + 'static,
) {
    let registry = Arc::new(board.metrics.registry(observe));
    let health =
        listen::keep_open("health", "--healthz-bind-address", options.healthz, pages::health(&board));
    let metrics =
        listen::keep_open("metrics", "--metrics-bind-address", options.metrics, pages::metrics(registry));
    let node_ports = async {
        if options.health_check_node_ports {
            node_ports::follow(board.clone(), tell).await;
        }
    };
    tokio::join!(health, metrics, node_ports);
}
