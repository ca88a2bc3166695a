//! `switchboard plan`: what would be programmed on a node, without a kernel or rights.
//!
//! Decides nothing; prints what `plan` decides. Must not touch maps. Invariant: the same objects print the same,
//! whoever prints them.

use std::process::ExitCode;
use std::time::Duration;

use super::node::{NodeArgs, addresses};
use super::objects::{SourceArgs, tell};
use super::output::{Format, Tabular, print};
use crate::model::{ObjectName, State};
use crate::plan::decide;
use crate::plan::owners::Owners;
use crate::plan::truth::{Answer, Row, rows};

/// How long an API server may take to list everything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints what would be programmed on a node, frontend by frontend: for a pod of the node, the node itself and
/// everyone else, the backends that may be chosen, or `reject` or `drop`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    node: NodeArgs,
    /// Only this Service.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    service: Option<String>,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Prints the plan. What cannot be used is said on stderr.
///
/// # Errors
/// Where the folder cannot be read, or the API server cannot be reached.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.node.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let update = runtime.block_on(args.source.once(PATIENCE))?;
    tell(&update.findings);
    let mut state = State::new(args.source.node()?);
    for change in update.changes {
        state.take_in(change);
    }
    // The Node's addresses alone: the same objects print the same on every host.
    let site = args.node.site(&state, &addresses(state.node()));
    for unusable in args.node.networks(&state).1 {
        tracing::warn!("{unusable}");
    }
    let planned = decide::dirty(&mut state, &mut Owners::on(site));
    for refused in planned.values().flat_map(|planned| &planned.refused) {
        tracing::warn!("{refused}");
    }
    let decisions = planned.values().flat_map(|planned| &planned.decisions);
    let mut rows = rows(decisions, args.node.masquerade());
    if let Some(service) = &args.service {
        if let Some(why) = why_not(&state, service) {
            tracing::warn!("{why}");
        }
        rows.retain(|row| row.owner.split(':').next() == Some(service));
    }
    print(&rows, args.output)?;
    Ok(ExitCode::SUCCESS)
}

/// Why a Service has no rows, where the objects tell (C1, C2).
fn why_not(state: &State, service: &str) -> Option<String> {
    let (namespace, name) = service.split_once('/')?;
    match state.service(&ObjectName::new(namespace, name)) {
        None => Some(format!(
            "there is no Service {service}, or the label service.kubernetes.io/service-proxy-name gives it to another proxy"
        )),
        Some(found) => {
            found.not_proxied.map(|why| format!("the Service {service} is left alone: {}", why.reason()))
        }
    }
}

impl Tabular for Row {
    const COLUMNS: &'static [&'static str] =
        &["SERVICE", "FRONTEND", "PROTOCOL", "CLIENTS", "PODS", "NODE", "OUTSIDE", "AFFINITY"];

    fn cells(&self) -> Vec<String> {
        let frontend = match self.address {
            Some(address) => std::net::SocketAddr::new(address, self.port).to_string(),
            None => format!("{} node port {}", self.family, self.port),
        };
        let pod = answer(&self.clients.pod);
        let or_same = |answer: String| if answer == pod { "same".to_owned() } else { answer };
        vec![
            self.owner.clone(),
            frontend,
            self.protocol.clone(),
            if self.source_ranges.is_empty() { "all".to_owned() } else { self.source_ranges.join("\n") },
            pod.clone(),
            or_same(answer(&self.clients.node)),
            or_same(answer(&self.clients.outside)),
            self.affinity_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s")),
        ]
    }
}

fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Refused(how) => (*how).to_owned(),
        Answer::Served { backends, masquerade_backends, .. } => {
            let line = |backend: &String| {
                let masqueraded = masquerade_backends.contains(backend);
                format!("{backend}{}", if masqueraded { " (masqueraded)" } else { "" })
            };
            backends.iter().map(line).collect::<Vec<_>>().join("\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NotProxied, Object, Service};

    #[test]
    fn c2_a_service_that_has_no_rows_is_told_with_the_reason() {
        let mut state = State::new("here");
        let bare = |name| Service::bare(ObjectName::new("ns", name));
        state.apply(Object::Service(bare("web")));
        state.apply(Object::Service(Service { not_proxied: Some(NotProxied::Headless), ..bare("db") }));
        assert_eq!(why_not(&state, "ns/web"), None);
        assert!(why_not(&state, "ns/db").is_some_and(|why| why.contains("cluster DNS")));
        assert!(why_not(&state, "ns/none").is_some_and(|why| why.contains("no Service ns/none")));
    }
}
