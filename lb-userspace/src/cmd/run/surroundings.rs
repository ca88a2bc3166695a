//! The node around the agent: its addresses, and the networks of the cluster.
//!
//! Decides when they are looked at and what is said of them. Must not know maps. Invariant: nothing is planned
//! for addresses that the host has no longer.

use std::net::IpAddr;

use crate::cmd::node::{NodeArgs, is_of_api_servers};
use crate::model::{Change, Kind, ObjectKey, State};
use crate::plan::networks::{Networks, Unusable};
use crate::plan::owners::Owners;
use crate::source::file::host_addresses;
use crate::tables::Maps;

/// What was last seen of the node.
pub(super) struct Surroundings {
    args: NodeArgs,
    host: Vec<IpAddr>,
    networks: Option<Networks>,
    told: Vec<Unusable>,
    /// Could the host's addresses not be read?
    unknown: bool,
}

impl Surroundings {
    pub(super) fn new(args: NodeArgs) -> Self {
        Self { args, host: Vec::new(), networks: None, told: Vec::new(), unknown: false }
    }

    /// Is the node to be looked at because of these changes? What the host itself changes is told by the kernel.
    pub(super) fn concern(&self, changes: &[Change]) -> bool {
        let of_node = |change: &Change| match change {
            Change::Apply(object) => is_of_node(&object.key()),
            Change::Delete(key) => is_of_node(key),
            // A list of slices has those of API servers.
            Change::Relist(kind, _) => *kind != Kind::Service,
            Change::RelistAll(_) => true,
        };
        self.unknown || changes.iter().any(of_node)
    }

    /// Looks at the host and the Node; says whether anything is to be planned or written because of it.
    pub(super) fn look<M: Maps>(
        &mut self,
        state: &mut State,
        owners: &mut Owners,
        reconciler: &mut crate::reconcile::Reconciler<M>,
    ) -> bool {
        match host_addresses() {
            Ok(host) => (self.host, self.unknown) = (host, false),
            Err(error) => {
                self.unknown = true;
                tracing::error!(
                    error = format!("{error:#}"),
                    "the host's addresses are unknown, those last seen count; tried again with the next change"
                );
            }
        }
        let site = self.args.site(state, &self.host);
        let (networks, unusable) = self.args.networks(state);
        for flaw in unusable.iter().filter(|flaw| !self.told.contains(flaw)) {
            tracing::warn!("{flaw}");
        }
        self.told = unusable;
        let others = self.networks.as_ref() != Some(&networks);
        if others {
            reconciler.set_networks(&networks);
            self.networks = Some(networks);
        }
        reconciler.set_node_addresses(site.node_port_addresses.clone());
        let moved = owners.set_site(site);
        if moved {
            state.mark_all_dirty();
        }
        moved || others
    }
}

fn is_of_node(key: &ObjectKey) -> bool {
    match key {
        ObjectKey::Node(_) | ObjectKey::ServiceCidr(_) => true,
        ObjectKey::Service(_) => false,
        ObjectKey::EndpointSlice(name) => is_of_api_servers(name),
    }
}
