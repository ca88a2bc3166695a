//! `switchboard explain`: what becomes of a new connection, and by which rows.
//!
//! Decides which question is asked. Must not write. Invariant: the answer is from the pinned maps, so it holds
//! whether an agent runs or not.

mod answer;
mod service;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use lb_common::abi::ConfigFlags;
use lb_common::address::{Address as _, Protocol, V4, V6};
use serde::Serialize;

use super::output::{Format, print_text};
use crate::datapath::kernel::{self, KernelMaps};
use crate::datapath::pins::{DEFAULT_ROOT, Pins};
use crate::tables::{Maps as _, Tables};
use answer::{Answer, Question, answer};
use service::{of_service, without_frontends};

/// Explains what becomes of a new connection to an address and port, or to each frontend of a Service, and why. Connections that exist stay with
/// their backend: `switchboard get flows` shows them.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What the client dials, or the Service: then each of its frontends.
    #[arg(value_name = "ADDRESS:PORT|NAMESPACE/NAME")]
    frontend: Asked,
    /// TCP, UDP or SCTP.
    #[arg(long, value_enum, ignore_case = true, default_value = "tcp")]
    protocol: Transport,
    /// The client's address; without it only what is the same for all.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// Where the client is: a pod of this node or the node itself is inside, everyone else outside.
    #[arg(long, value_enum, default_value = "outside")]
    side: Side,
    /// The folder that maps are pinned under.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pin_dir: PathBuf,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    Frontend(SocketAddr),
    Service(String),
}

impl std::str::FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(frontend) = text.parse() {
            return Ok(Self::Frontend(frontend));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Service(text.to_owned()))
            }
            _ => Err(
                "expected an address and a port, as in 10.96.0.10:80 or [fd00::10]:80, or a Service, as in \
                      default/web"
                    .to_owned(),
            ),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Transport {
    Tcp,
    Udp,
    Sctp,
}

/// Where a client is (C24).
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Side {
    /// A pod of this node, or the node itself.
    Inside,
    /// Anywhere else.
    Outside,
}

/// Prints the answer.
///
/// # Errors
/// Where nothing is pinned or rights are missing.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let pins = Pins::in_use(&args.pin_dir)?;
    let protocol = match args.protocol {
        Transport::Tcp => Protocol::TCP,
        Transport::Udp => Protocol::UDP,
        Transport::Sctp => Protocol::SCTP,
    };
    let config = kernel::config(&pins)?;
    let node = |ipv6: bool| if ipv6 { config.node_v6.to_ip() } else { config.node_v4.to_ip() };
    let about = |frontend: SocketAddr| Question {
        frontend,
        protocol,
        client: args.from,
        inside: args.side == Side::Inside,
        always_masquerades: config.flags.has(ConfigFlags::MASQUERADE_ALWAYS),
        node: node(frontend.is_ipv6()),
    };
    let tables = KernelMaps::open(&pins)?.load()?;
    let service = match &args.frontend {
        Asked::Frontend(frontend) => {
            let answer = one(&tables, &about(*frontend));
            return show(&answer, args.output, &answer.to_string());
        }
        Asked::Service(service) => service,
    };
    let anyone = about(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
    let mut all = of_service::<V4>(&tables, &anyone, service);
    all.extend(of_service::<V6>(&tables, &anyone, service));
    if all.is_empty() {
        let nothing = without_frontends(service);
        return show(&nothing, args.output, &nothing.to_string());
    }
    let texts: Vec<String> = all.iter().map(ToString::to_string).collect();
    show(&all, args.output, &texts.join("\n"))
}

fn show(answer: &impl Serialize, format: Format, text: &str) -> anyhow::Result<ExitCode> {
    match format {
        Format::Table => print_text(text)?,
        Format::Json => print_text(&serde_json::to_string_pretty(answer)?)?,
        Format::Yaml => print_text(&serde_saphyr::to_string(answer)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn one(tables: &Tables, question: &Question) -> Answer {
    match question.frontend {
        SocketAddr::V4(_) => answer::<V4>(tables, question),
        SocketAddr::V6(_) => answer::<V6>(tables, question),
    }
}
