//! Programs that others may have hung on links, as rtnetlink tells them: XDP, and filters of clsact.
//!
//! Decides nothing. Must not know which of them are Switchboard's. Invariant: needs no rights beyond reading links.

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::link::{LinkAttribute, LinkXdp};
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcOption};
use rtnetlink::{Handle, new_connection};

/// A program on a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OnLink {
    /// The link's index.
    pub link: u32,
    /// `xdp`, `clsact ingress` or `clsact egress`.
    pub hook: &'static str,
    /// The program's id, where it is told.
    pub id: Option<u32>,
    /// Its name, where it is told.
    pub name: Option<String>,
}

/// What hangs on the links of this thread's network namespace. Needs a tokio runtime.
///
/// # Errors
/// Where the kernel does not answer.
pub async fn on_links() -> anyhow::Result<Vec<OnLink>> {
    let (connection, handle, _) = new_connection().context("opening a netlink socket")?;
    let connection = tokio::spawn(connection).abort_handle();
    let found = read(&handle).await;
    connection.abort();
    found
}

async fn read(handle: &Handle) -> anyhow::Result<Vec<OnLink>> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await.context("listing links")?;
    let mut found = Vec::new();
    for link in links {
        let index = link.header.index;
        for attribute in &link.attributes {
            let LinkAttribute::Xdp(parts) = attribute else { continue };
            found.extend(parts.iter().filter_map(|part| match part {
                LinkXdp::ProgId(id) => Some(OnLink { link: index, hook: "xdp", id: Some(*id), name: None }),
                _ => None,
            }));
        }
        found.extend(filters(handle, index).await);
    }
    Ok(found)
}

async fn filters(handle: &Handle, link: u32) -> Vec<OnLink> {
    let mut found = Vec::new();
    let Ok(index) = i32::try_from(link) else { return found };
    for hook in ["clsact ingress", "clsact egress"] {
        let mut filters = handle.traffic_filter(index);
        let request = filters.get();
        let request = if hook.ends_with("ingress") { request.ingress() } else { request.egress() };
        // A link without the qdisc has no filters.
        let Ok(messages) = request.execute().try_collect::<Vec<_>>().await else { continue };
        for message in messages {
            let is_bpf = |one: &TcAttribute| matches!(one, TcAttribute::Kind(kind) if kind == "bpf");
            if !message.attributes.iter().any(is_bpf) {
                continue;
            }
            let options = message.attributes.iter().find_map(|attribute| match attribute {
                TcAttribute::Options(options) => Some(options),
                _ => None,
            });
            // The kernel tells a filter twice: the protocol and priority first, without options.
            if let Some(options) = options {
                let bpf = |one: &TcOption| match one {
                    TcOption::Bpf(option) => Some(option.clone()),
                    _ => None,
                };
                let mut program = OnLink { link, hook, id: None, name: None };
                for option in options.iter().filter_map(bpf) {
                    match option {
                        TcFilterBpfOption::ProgId(id) => program.id = Some(id),
                        TcFilterBpfOption::ProgName(name) => program.name = Some(name),
                        _ => {}
                    }
                }
                found.push(program);
            }
        }
    }
    found
}
