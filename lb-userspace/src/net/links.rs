//! Links with their addresses, as the kernel has them now, and word of changes.
//!
//! Decides which facts about a link count. Must not judge them. Invariant: a snapshot is the kernel's own list,
//! never put together from events: events only say that it is time for another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::{FutureExt as _, Stream, StreamExt as _, TryStreamExt as _, pin_mut};
use ipnet::IpNet;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// How often to look without word of a change: the kernel drops events that nobody fetches in time.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A kernel answers in milliseconds; an answer that was lost never comes.
const PATIENCE: Duration = Duration::from_secs(5);

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index in this network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind, as `ip -d link` shows it; none for hardware.
    pub kind: Option<String>,
    /// Is its peer (of a veth) in another network namespace?
    pub peer_elsewhere: bool,
    /// The bridge or bond it belongs to.
    pub master: Option<u32>,
    /// Is it up?
    pub up: bool,
    /// Do its packets begin with an Ethernet header?
    pub ethernet: bool,
    /// Is it the loopback?
    pub loopback: bool,
    /// Its global unicast addresses: those that new connections may begin from, then the others (deprecated, as what
    /// announces load balancer addresses marks them; temporary, RFC 8981; not yet known to be the only one), each in
    /// the kernel's order, which has IPv6's newest first.
    pub addresses: Vec<IpNet>,
    /// The largest packet it takes, in bytes.
    pub mtu: Option<u32>,
    /// Does a default route lead through it?
    pub carries_default_route: bool,
    /// Does any route lead through it by way of a router, or to everywhere?
    pub leads_to_router: bool,
}

type Messages = futures_util::stream::BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

/// The host's links, watched.
pub struct Watcher {
    handle: Handle,
    messages: Messages,
    connection: AbortHandle,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Watcher {
    /// Watches the links of the network namespace of this thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// Where the kernel gives no netlink socket.
    pub fn new() -> anyhow::Result<Self> {
        let (connection, handle, messages) =
            new_multicast_connection(&GROUPS).context("opening a netlink socket")?;
        let connection = tokio::spawn(connection).abort_handle();
        Ok(Self { handle, messages: messages.map(|(message, _)| message).boxed(), connection })
    }

    /// Returns when something about links, addresses or routes has changed since the last call, or may have. Cancel safe:
    /// whoever is given up has taken no word of a change.
    ///
    /// # Errors
    /// Where the netlink socket is gone.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        if let Ok(None) = timeout(LOOK_AGAIN, self.messages.next()).await {
            anyhow::bail!("the netlink socket was closed");
        }
        // What else is there already needs no look of its own. Not awaited: a caller who gave up in between would never
        // hear of what was taken before.
        while let Some(Some(_)) = self.messages.next().now_or_never() {}
        Ok(())
    }

    /// The links as they are now, by index.
    ///
    /// # Errors
    /// Where the kernel does not answer, or not within five seconds.
    pub async fn snapshot(&self) -> anyhow::Result<Vec<Link>> {
        self.snapshot_within(PATIENCE).await
    }

    async fn snapshot_within(&self, limit: Duration) -> anyhow::Result<Vec<Link>> {
        timeout(limit, self.ask()).await.with_context(|| {
            format!("the kernel did not answer by netlink within {limit:?}, as if its answer was lost")
        })?
    }

    async fn ask(&self) -> anyhow::Result<Vec<Link>> {
        let links = all(self.handle.link().get().execute()).await.context("listing links")?;
        let addresses = all(self.handle.address().get().execute()).await.context("listing addresses")?;
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut routes = all(self.handle.route().get(v4).execute()).await.context("listing IPv4 routes")?;
        routes.extend(all(self.handle.route().get(v6).execute()).await.context("listing IPv6 routes")?);
        Ok(assemble(&links, &addresses, &routes))
    }
}

async fn all<T>(stream: impl Stream<Item = Result<T, rtnetlink::Error>>) -> Result<Vec<T>, rtnetlink::Error> {
    pin_mut!(stream);
    stream.try_collect().await
}

fn assemble(links: &[LinkMessage], addresses: &[AddressMessage], routes: &[RouteMessage]) -> Vec<Link> {
    let mut by_index: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
    let (begins, others): (Vec<_>, Vec<_>) = addresses.iter().partition(|message| may_begin(message));
    for message in begins.into_iter().chain(others) {
        by_index.entry(message.header.index).or_default().extend(global_address(message));
    }
    let defaults: BTreeSet<u32> =
        routes.iter().filter(|route| is_default(route)).flat_map(links_to_routers).collect();
    let to_routers: BTreeSet<u32> = routes.iter().flat_map(links_to_routers).collect();
    let mut links: Vec<Link> = links
        .iter()
        .map(|message| {
            let index = message.header.index;
            Link {
                addresses: by_index.remove(&index).unwrap_or_default(),
                carries_default_route: defaults.contains(&index),
                leads_to_router: to_routers.contains(&index),
                ..link(message)
            }
        })
        .collect();
    links.sort_by_key(|link| link.index);
    links
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        loopback: flags.contains(LinkFlags::Loopback),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Mtu(bytes) => link.mtu = Some(*bytes),
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

fn global_address(message: &AddressMessage) -> Option<IpNet> {
    if message.header.scope != AddressScope::Universe {
        return None;
    }
    // On a point-to-point link, "address" is the peer's.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let ip: IpAddr = local.or(address)?;
    IpNet::new(ip, message.header.prefix_len).ok()
}

/// May a new connection begin from it? What IPv6 calls temporary, IPv4 calls secondary (if_addr.h).
fn may_begin(message: &AddressMessage) -> bool {
    let unfit =
        AddressHeaderFlags::Deprecated | AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    let temporary = AddressHeaderFlags::Secondary;
    let flags = message.header.flags;
    !flags.intersects(unfit)
        && (message.header.family != AddressFamily::Inet6 || !flags.intersects(temporary))
}

fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0
}

/// The links of a default route, in whichever table, and of any other route that names a router.
fn links_to_routers(route: &RouteMessage) -> Vec<u32> {
    if route.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let is_default = is_default(route);
    let names_router = |attributes: &[RouteAttribute]| {
        let router = |attribute: &RouteAttribute| {
            matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_))
        };
        attributes.iter().any(router)
    };
    let by_itself = is_default || names_router(&route.attributes);
    let link = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) if by_itself => vec![*index],
        RouteAttribute::MultiPath(hops) => {
            let hops = hops.iter().filter(|hop| is_default || names_router(&hop.attributes));
            hops.map(|hop| hop.interface_index).collect()
        }
        _ => Vec::new(),
    };
    route.attributes.iter().flat_map(link).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_no_connection_should_begin_from_comes_last() {
        let address = |ip: &str, flags| {
            let (ip, mut message): (IpAddr, _) = (ip.parse().unwrap(), AddressMessage::default());
            (message.header.index, message.header.flags, message.header.prefix_len) = (2, flags, 32);
            message.header.family = if ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
            message.attributes.push(AddressAttribute::Address(ip));
            message
        };
        let fine = AddressHeaderFlags::Permanent;
        let mut link = LinkMessage::default();
        link.header.index = 2;
        let addresses = [
            address("fd00::99", fine | AddressHeaderFlags::Deprecated),
            address("fd00::98", AddressHeaderFlags::Secondary),
            address("fd00::97", AddressHeaderFlags::Tentative),
            address("10.0.0.9", fine | AddressHeaderFlags::Secondary),
            address("fd00::1", fine),
        ];
        let found = &assemble(&[link], &addresses, &[])[0].addresses;
        let found: Vec<String> = found.iter().map(|network| network.addr().to_string()).collect();
        assert_eq!(found, ["10.0.0.9", "fd00::1", "fd00::99", "fd00::98", "fd00::97"]);
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_holds_nobody_up_for_long() {
        // Nobody drives this connection, so nothing is ever sent or received.
        let (still, handle, messages) = new_multicast_connection(&GROUPS).unwrap();
        let connection = tokio::spawn(std::future::pending::<()>()).abort_handle();
        let watcher = Watcher { handle, messages: messages.map(|(message, _)| message).boxed(), connection };
        let error = watcher.snapshot_within(Duration::from_millis(20)).await.unwrap_err();
        assert!(error.to_string().contains("did not answer by netlink within 20ms"), "{error:#}");
        drop(still);
    }
}
