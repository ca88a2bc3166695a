//! `switchboard explain`: what becomes of a new connection, and by which rows.
//!
//! Decides which question is asked. Must not write. Invariant: the answer is from the pinned maps, so it holds
//! whether an agent runs or not.

mod answer;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use lb_common::abi::ConfigFlags;
use lb_common::address::{Protocol, V4, V6};

use super::output::{Format, print_text};
use crate::datapath::kernel::{self, KernelMaps};
use crate::datapath::pins::{DEFAULT_ROOT, Pins};
use crate::tables::Maps as _;
use answer::{Question, answer};

/// Explains what becomes of a new connection to an address and port, and why. Connections that exist stay with
/// their backend: `switchboard get flows` shows them.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What the client dials.
    #[arg(value_name = "ADDRESS:PORT")]
    frontend: SocketAddr,
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
    let question = Question {
        frontend: args.frontend,
        protocol,
        client: args.from,
        inside: args.side == Side::Inside,
        always_masquerades: kernel::config(&pins)?.flags.has(ConfigFlags::MASQUERADE_ALWAYS),
    };
    let tables = KernelMaps::open(&pins)?.load()?;
    let answer = match args.frontend {
        SocketAddr::V4(_) => answer::<V4>(&tables, &question),
        SocketAddr::V6(_) => answer::<V6>(&tables, &question),
    };
    match args.output {
        Format::Table => print_text(&answer.to_string())?,
        Format::Json => print_text(&serde_json::to_string_pretty(&answer)?)?,
        Format::Yaml => print_text(&serde_saphyr::to_string(&answer)?)?,
    }
    Ok(ExitCode::SUCCESS)
}
