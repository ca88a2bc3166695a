//! The metrics.
//!
//! Decides names, labels and buckets (contract C47). Must not know maps: what is counted there comes through
//! [`observe::Observe`] at a scrape. Invariant: a name, once out, keeps its meaning, and every label value that can be
//! known beforehand is there from the start, so that rates see the first increment.

pub(super) mod carried;
mod kubeproxy;
pub(super) mod observe;
mod own;
mod process;

use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use kubeproxy::KubeProxy;
use own::Own;
pub use own::Stage;

use observe::{Observe, Observed};

/// What the agent counts itself.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Under kube-proxy's names.
    pub kubeproxy: KubeProxy,
    /// Under the agent's own.
    pub own: Own,
}

impl Metrics {
    /// Everything that a scrape shows.
    pub(super) fn registry(&self, observe: impl Observe) -> Registry {
        let mut registry = Registry::default();
        self.kubeproxy.register(registry.sub_registry_with_prefix("kubeproxy"));
        self.own.register(registry.sub_registry_with_prefix("switchboard"));
        registry.register_collector(Box::new(Observed(observe)));
        registry.register_collector(Box::new(process::Process));
        registry
    }
}

/// Buckets from `first` seconds on, each twice as wide as the one before.
fn doubling(first: f64, buckets: u16) -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(first, 2.0, buckets))
}

#[cfg(test)]
mod tests;
