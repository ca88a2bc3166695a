//! How strictly conntrack looks at TCP's sequence numbers.
//!
//! Decides that packets may pass conntrack by only where it takes no offence: it follows a connection's window, and where
//! it was not shown what moved it, everything after that is invalid to it, which firewalls drop. Must not know who
//! passes it by. Invariant: what a host has set is only ever relaxed.

use std::fs;
use std::io::{self, ErrorKind};

use anyhow::Context as _;

/// The setting, of the caller's network namespace (Documentation/networking/nf_conntrack-sysctl.rst).
const SETTING: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relaxed {
    /// It is from now on.
    Now,
    /// It was already, or there is no conntrack.
    Already,
}

/// Lets conntrack take packets outside of the window it knows for what they are.
///
/// # Errors
/// Where the setting cannot be written, as in a container whose /proc/sys is for reading only.
pub fn relax() -> anyhow::Result<Relaxed> {
    set(SETTING).with_context(|| {
        format!(
            "setting {SETTING} to 1, since conntrack takes packets of connections that passed it by for invalid; run \
             `sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1` on the node, or --xdp off"
        )
    })
}

fn set(path: &str) -> io::Result<Relaxed> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Relaxed::Already),
        Err(error) => return Err(error),
        Ok(value) if value.trim() != "0" => return Ok(Relaxed::Already),
        Ok(_) => {}
    }
    fs::write(path, "1")?;
    Ok(Relaxed::Now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_strict_is_relaxed_once_and_what_is_not_there_needs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("setting").to_string_lossy().into_owned();
        assert_eq!(set(&path).unwrap(), Relaxed::Already);
        fs::write(&path, "0\n").unwrap();
        assert_eq!(set(&path).unwrap(), Relaxed::Now);
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), set(&path).unwrap()),
            ("1", Relaxed::Already)
        );
    }
}
