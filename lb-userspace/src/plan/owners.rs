//! Who owns a frontend that several service ports claim (contract C22).
//!
//! Decides that the Service created first keeps it (the same second: by name), and which
//! Services must be planned anew when a claim comes or goes. Must not know endpoints. Invariant:
//! a function of the claims that stand and of the node, whatever the order in which they came.
//!
//! A NodePort is a claim to each chosen node address. Where another frontend names such an address, port and
//! protocol itself, the same rule decides between the two, for that address alone: the NodePort
//! goes on at the others.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::address::Protocol;
use thin_vec::ThinVec;

use super::decision::ServicePortName;
use super::site::Site;
use crate::model::ObjectName;
use crate::trees::pack;

/// What can be claimed: an address or all NodePort addresses of a family, a port, a protocol. Port and protocol 0:
/// what nobody claims of an address (C34).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendAddress {
    /// The address; `None` for a NodePort.
    pub addr: Option<IpAddr>,
    /// The family.
    pub ipv6: bool,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for FrontendAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.addr {
            Some(addr) if self.port == 0 => write!(f, "the other ports of {addr}"),
            Some(addr) => write!(f, "{}/{}", std::net::SocketAddr::new(addr, self.port), self.protocol),
            None => {
                write!(f, "NodePort {}/{} (IPv{})", self.port, self.protocol, if self.ipv6 { 6 } else { 4 })
            }
        }
    }
}

/// Who claims; sorts by right. The first of a frontend's claims owns it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// Seconds since 1970; the greatest where the object does not say.
    created: i64,
    name: Arc<ServicePortName>,
}

/// The claims to a frontend: sorted, and nearly always a single one, which then takes no room of its own.
#[derive(Clone, Debug)]
enum Rivals {
    One(Claim),
    More(ThinVec<Claim>),
}

/// The claims of all Services. Lists are sorted, and most have one item or two: they are as short as can be, since
/// there is one for each frontend and each Service.
#[derive(Clone, Debug, Default)]
pub struct Owners {
    site: Site,
    claims: BTreeMap<FrontendAddress, Rivals>,
    by_service: BTreeMap<ObjectName, Box<[FrontendAddress]>>,
}

impl FrontendAddress {
    /// An address, but for the ports that somebody claims (C34).
    #[must_use]
    pub fn whole(addr: IpAddr) -> Self {
        Self { addr: Some(addr), ipv6: addr.is_ipv6(), protocol: Protocol(0), port: 0 }
    }
}

impl Rivals {
    fn all(&self) -> &[Claim] {
        match self {
            Self::One(claim) => std::slice::from_ref(claim),
            Self::More(claims) => claims,
        }
    }

    /// `None`: there is none.
    fn of(mut claims: ThinVec<Claim>) -> Option<Self> {
        if claims.len() < 2 { claims.pop().map(Self::One) } else { Some(Self::More(claims)) }
    }
}

impl Owners {
    /// No claims yet, on a node.
    #[must_use]
    pub fn on(site: Site) -> Self {
        Self { site, ..Self::default() }
    }

    /// The node.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The node changed; says whether it did. Every Service is to be planned anew then.
    pub fn set_site(&mut self, site: Site) -> bool {
        let changed = self.site != site;
        self.site = site;
        changed
    }

    /// Replaces all claims of `service`; none of them: it lets go of everything. Returns the other
    /// Services that claim a frontend which has another owner now: they are to be planned anew.
    pub fn claim(
        &mut self,
        service: &ObjectName,
        created: Option<i64>,
        claims: impl IntoIterator<Item = (FrontendAddress, ServicePortName)>,
    ) -> BTreeSet<ObjectName> {
        let created = created.unwrap_or(i64::MAX);
        let mut names: Vec<Arc<ServicePortName>> = Vec::new();
        let mut shared = |name: ServicePortName| match names.iter().find(|known| ***known == name) {
            Some(known) => known.clone(),
            None => {
                names.push(Arc::new(name));
                names[names.len() - 1].clone()
            }
        };
        let new: BTreeSet<(FrontendAddress, Claim)> = claims
            .into_iter()
            .map(|(frontend, name)| (frontend, Claim { created, name: shared(name) }))
            .collect();
        let claimed = self.by_service.remove(service).unwrap_or_default();
        let old: BTreeSet<(FrontendAddress, Claim)> =
            claimed.iter().flat_map(|frontend| self.claims_of(service, *frontend)).collect();
        let mut concerned = BTreeSet::new();
        for (frontend, claim) in old.symmetric_difference(&new) {
            let related = self.related(*frontend);
            if related.len() == 1 && self.has_no_rival(frontend, service) {
                self.toggle(*frontend, claim);
                continue;
            }
            let before = self.winners(&related);
            self.toggle(*frontend, claim);
            if before != self.winners(&related) {
                // Whoever goes on claiming in vain is told the new owner.
                let claims = related.iter().flat_map(|frontend| self.all(frontend));
                concerned
                    .extend(before.iter().flatten().chain(claims).map(|claim| claim.name.service.clone()));
            }
        }
        if !new.is_empty() {
            let claimed: BTreeSet<FrontendAddress> = new.into_iter().map(|(frontend, _)| frontend).collect();
            self.by_service.insert(service.clone(), claimed.into_iter().collect());
        }
        concerned.remove(service);
        concerned
    }

    fn claims_of<'a>(
        &'a self,
        service: &'a ObjectName,
        frontend: FrontendAddress,
    ) -> impl Iterator<Item = (FrontendAddress, Claim)> + 'a {
        let claims = self.all(&frontend).iter();
        claims.filter(|claim| claim.name.service == *service).map(move |claim| (frontend, claim.clone()))
    }

    /// Does nobody but `service` claim it?
    fn has_no_rival(&self, frontend: &FrontendAddress, service: &ObjectName) -> bool {
        self.all(frontend).iter().all(|claim| claim.name.service == *service)
    }

    /// The claims to a frontend, by right.
    fn all(&self, frontend: &FrontendAddress) -> &[Claim] {
        self.claims.get(frontend).map(Rivals::all).unwrap_or_default()
    }

    /// Takes no more room than it needs, after many claims.
    pub fn pack(&mut self) {
        pack(&mut self.claims);
        pack(&mut self.by_service);
    }

    /// Takes a claim out, or puts it in where it is not.
    fn toggle(&mut self, frontend: FrontendAddress, claim: &Claim) {
        let mut known = match self.claims.entry(frontend) {
            Entry::Occupied(known) => known,
            Entry::Vacant(nobody) => {
                nobody.insert(Rivals::One(claim.clone()));
                return;
            }
        };
        let mut rivals = ThinVec::from(known.get().all());
        match rivals.binary_search(claim) {
            Ok(at) => drop(rivals.remove(at)),
            Err(at) => rivals.insert(at, claim.clone()),
        }
        match Rivals::of(rivals) {
            Some(rivals) => drop(known.insert(rivals)),
            None => drop(known.remove()),
        }
    }

    /// The owner of a frontend; of a NodePort, where nobody goes before it ([`Self::exceptions`]).
    #[must_use]
    pub fn owner(&self, frontend: &FrontendAddress) -> Option<&ServicePortName> {
        self.winner(frontend).map(|claim| &*claim.name)
    }

    /// The node addresses at which others go before the owner of a NodePort, and who.
    pub fn exceptions(
        &self,
        node_port: FrontendAddress,
    ) -> impl Iterator<Item = (IpAddr, &ServicePortName)> + '_ {
        let own = self.owner(&node_port);
        let under = self.site.under_node_port(node_port);
        under
            .filter_map(move |at| Some((at.addr?, self.owner(&at)?)))
            .filter(move |(_, owner)| own != Some(owner))
    }

    fn winner(&self, frontend: &FrontendAddress) -> Option<&Claim> {
        let node_port = self.site.node_port_over(frontend).and_then(|node_port| self.first(&node_port));
        [self.first(frontend), node_port].into_iter().flatten().min()
    }

    fn winners(&self, frontends: &[FrontendAddress]) -> Vec<Option<Claim>> {
        frontends.iter().map(|frontend| self.winner(frontend).cloned()).collect()
    }

    /// A frontend, and those whose owner may change with its claims.
    fn related(&self, frontend: FrontendAddress) -> Vec<FrontendAddress> {
        let claimed = |other: &FrontendAddress| self.claims.contains_key(other);
        let under = self.site.under_node_port(frontend).filter(claimed);
        let over = self.site.node_port_over(&frontend).filter(claimed);
        std::iter::once(frontend).chain(over).chain(under).collect()
    }

    fn first(&self, frontend: &FrontendAddress) -> Option<&Claim> {
        self.all(frontend).first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(port: u16) -> FrontendAddress {
        FrontendAddress { addr: Some([192, 0, 2, 1].into()), ipv6: false, protocol: Protocol::TCP, port }
    }

    fn claim(owners: &mut Owners, service: &str, created: Option<i64>, ports: &[u16]) -> Vec<String> {
        let object = ObjectName::new("ns", service);
        let name = ServicePortName { service: object.clone(), port: "".into(), protocol: Protocol::TCP };
        let claims = ports.iter().map(|&port| (frontend(port), name.clone()));
        owners.claim(&object, created, claims).into_iter().map(|name| name.name().to_string()).collect()
    }

    fn owner(owners: &Owners, port: u16) -> Option<&str> {
        owners.owner(&frontend(port)).map(|name| name.service.name())
    }

    #[test]
    fn c22_the_service_created_first_keeps_the_frontend() {
        let mut owners = Owners::default();
        assert!(claim(&mut owners, "young", Some(20), &[80]).is_empty());
        assert_eq!(claim(&mut owners, "old", Some(10), &[80]), ["young"], "the younger one loses it");
        assert_eq!(owner(&owners, 80), Some("old"));
        assert!(claim(&mut owners, "youngest", Some(30), &[80]).is_empty());
        assert_eq!(owner(&owners, 80), Some("old"));
    }

    #[test]
    fn c22_the_next_one_gets_it_when_the_first_lets_go() {
        let mut owners = Owners::default();
        claim(&mut owners, "old", Some(10), &[80, 443]);
        claim(&mut owners, "young", Some(20), &[80]);
        owners.pack();
        assert_eq!(claim(&mut owners, "old", Some(10), &[443]), ["young"]);
        assert_eq!(owner(&owners, 80), Some("young"));
        claim(&mut owners, "young", None, &[]);
        assert_eq!(owner(&owners, 80), None);
        assert_eq!(owner(&owners, 443), Some("old"));
    }

    #[test]
    fn c22_of_the_same_second_the_first_by_name_keeps_it_and_the_undated_come_last() {
        let mut owners = Owners::default();
        claim(&mut owners, "a", None, &[80]);
        claim(&mut owners, "c", Some(10), &[80]);
        claim(&mut owners, "b", Some(10), &[80]);
        assert_eq!(owner(&owners, 80), Some("b"));
    }

    #[test]
    fn c22_who_goes_on_claiming_in_vain_is_planned_anew_and_so_told_the_new_owner() {
        let mut owners = Owners::default();
        claim(&mut owners, "a", Some(10), &[80]);
        claim(&mut owners, "b", Some(20), &[80]);
        claim(&mut owners, "c", Some(30), &[80]);
        assert_eq!(claim(&mut owners, "a", None, &[]), ["b", "c"]);
    }

    #[test]
    fn what_nobody_else_claims_takes_no_more_room_than_its_claim() {
        assert_eq!(size_of::<Rivals>(), size_of::<Claim>());
    }

    #[test]
    fn claiming_the_same_again_concerns_nobody() {
        let mut owners = Owners::default();
        claim(&mut owners, "old", Some(10), &[80]);
        claim(&mut owners, "young", Some(20), &[80]);
        assert!(claim(&mut owners, "old", Some(10), &[80]).is_empty());
        assert!(claim(&mut owners, "young", Some(20), &[80]).is_empty());
    }
}
