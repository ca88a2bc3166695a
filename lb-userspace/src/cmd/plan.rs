//! `switchboard plan`: what would be programmed on a node, without a kernel or rights.
//!
//! Decides nothing; prints what `plan` decides. Must not touch maps. Invariant: the same objects print the same,
//! whoever prints them.

use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{Format, Tabular, print};
use crate::model::State;
use crate::plan::decide;
use crate::plan::owners::Owners;
use crate::plan::truth::{Answer, Masquerade, Row, rows};
use crate::source::file::{Host, Severity, read_once};

/// Prints what would be programmed on a node, frontend by frontend: for a pod of the node, the node itself and
/// everyone else, the backends that may be chosen, or `reject` or `drop`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Where Services, EndpointSlices and Nodes come from.
    #[arg(long, value_enum, default_value = "file")]
    source: Source,
    /// The folder of manifests, or one file.
    #[arg(long, value_name = "PATH")]
    path: PathBuf,
    /// The node; the host's name if left out.
    #[arg(long, env = "NODE_NAME")]
    node: Option<String>,
    /// Whose source address is replaced by the node's.
    #[arg(long, value_enum, default_value = "where-needed")]
    masquerade: MasqueradeArg,
    /// Only this Service.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    service: Option<String>,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Where objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Source {
    /// A folder of manifests.
    File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum MasqueradeArg {
    /// Only where the reply would not come back through the node (C25, C26).
    WhereNeeded,
    /// Wherever kube-proxy does it.
    Always,
}

/// Prints the plan. What cannot be used is said on stderr.
///
/// # Errors
/// Where the folder cannot be read.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let host = Host::this(args.node.clone())?;
    let snapshot = read_once(&args.path)?.with_node(&host, &args.path);
    for finding in &snapshot.findings {
        match finding.severity {
            Severity::Problem => tracing::warn!("{finding}"),
            Severity::Note => tracing::info!("{finding}"),
        }
    }
    let mut state = State::new(host.name);
    state.replace_all(snapshot.objects);
    let planned = decide::dirty(&mut state, &mut Owners::default());
    for refused in planned.values().flat_map(|planned| &planned.refused) {
        tracing::warn!("{refused}");
    }
    let masquerade = match args.masquerade {
        MasqueradeArg::WhereNeeded => Masquerade::WhereNeeded,
        MasqueradeArg::Always => Masquerade::Always,
    };
    let mut rows = rows(planned.values().flat_map(|planned| &planned.decisions), masquerade);
    if let Some(service) = &args.service {
        rows.retain(|row| row.owner.split(':').next() == Some(service));
    }
    print(&rows, args.output)?;
    Ok(ExitCode::SUCCESS)
}

impl Tabular for Row {
    const COLUMNS: &'static [&'static str] =
        &["SERVICE", "FRONTEND", "PROTOCOL", "PODS", "NODE", "OUTSIDE", "AFFINITY"];

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
