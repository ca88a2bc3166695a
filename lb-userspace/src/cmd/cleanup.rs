//! `switchboard cleanup`: removes what agents pinned and attached.
//!
//! Decides nothing but the order: programs first. Must not need the eBPF object. Invariant: what it removed, it
//! says; nothing outside the pin folder and our own filters is touched.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::datapath::attach::{self, Interface};
use crate::datapath::kernel;
use crate::datapath::pins::{DEFAULT_ROOT, Pins};

/// Removes the programs and maps of this node. Connections to Services stop working.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The folder that maps and links are pinned under.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pin_dir: PathBuf,
}

/// Removes everything; finding nothing is a success.
///
/// # Errors
/// Where an agent still runs or rights are missing.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let pins = Pins::at(&args.pin_dir);
    if !pins.exist() {
        println!("nothing to remove at {}", pins.folder().display());
        return Ok(ExitCode::SUCCESS);
    }
    // Held by whoever runs; taken again, by the same process, when the pins go.
    drop(pins.lock()?);
    if let Ok(interfaces) = kernel::interfaces(&pins)
        && let Ok(rows) = interfaces.rows()
    {
        for (index, _) in rows {
            if let Ok(name) = nix::net::if_::if_indextoname(index) {
                let name = name.to_string_lossy().into_owned();
                attach::detach(&pins, &Interface { index, name })?;
            }
        }
    }
    let removed = pins.remove()?;
    println!(
        "removed the programs from interfaces, {} more links and {} maps at {}",
        removed.links.len(),
        removed.maps.len(),
        pins.folder().display()
    );
    Ok(ExitCode::SUCCESS)
}
