//! What labs leave on the machine, and how it is removed.
//!
//! Decides by name alone what belongs to which lab, and by process id whether that lab's process
//! still lives; must not know how a lab is wired. Invariant: nothing of a living lab is touched,
//! and no process outside of a lab's namespaces is ever signalled.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::Pid;

use super::cgroup;
use super::netns::{NETNS_FOLDER, ip_batch};
use crate::poll;

/// Where the kernel's BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// Under it, one folder for each agent of each lab.
pub const PIN_ROOT: &str = "/sys/fs/bpf/switchboard-lab";

/// Locked (`flock`) while a lab is set up and leftovers are removed, so that two processes do not
/// mount bpffs over each other.
pub const LOCK_FILE: &str = "/run/switchboard-lab.lock";

/// Agents' logs, one file for each agent of each lab; in the folder for temporary files.
pub(super) fn log_folder() -> PathBuf {
    std::env::temp_dir().join("switchboard-lab")
}

/// Takes the machine-wide lock of lab set-up; let go when the file is dropped.
pub(super) fn lock() -> Result<File> {
    let file = File::create(LOCK_FILE).with_context(|| format!("create the labs' lock {LOCK_FILE}"))?;
    file.lock().with_context(|| format!("take the labs' lock {LOCK_FILE}"))?;
    Ok(file)
}

/// Mounts bpffs where it belongs if nothing did so yet. Call with the lock held.
pub(super) fn mount_bpffs() -> Result<()> {
    let there =
        statfs(BPFFS).with_context(|| format!("look at {BPFFS}; the kernel needs CONFIG_BPF_SYSCALL"))?;
    if there.filesystem_type() != BPF_FS_MAGIC {
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .with_context(|| format!("mount bpffs on {BPFFS}"))?;
    }
    Ok(())
}

/// Removes what labs of dead processes left: processes, namespaces, pins (and with them the programs on cgroups),
/// cgroups, logs.
///
/// A lab that was kept ([`super::Lab::keep`]) is such a leftover too once its process is gone.
pub fn remove_leftovers() -> Result<()> {
    let of_the_dead =
        |name: &str| lab_process(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    remove(&of_the_dead)?;
    remove_logs(&of_the_dead);
    Ok(())
}

/// Removes what this process's labs have, also while it makes more: until nothing is found, or three times.
pub(super) fn remove_of_this_process() -> Result<()> {
    let own = |name: &str| lab_process(name) == Some(std::process::id());
    for _ in 0..3 {
        remove(&own)?;
        if names_in(Path::new(NETNS_FOLDER), &own).is_empty() {
            break;
        }
    }
    remove_logs(&own);
    Ok(())
}

/// Removes all that carries the lab's name. After a panic, hence a failed test, the logs stay: the
/// next lab that is built once this process has ended removes them.
pub(super) fn remove_lab(lab: &str) -> Result<()> {
    let prefix = format!("{lab}-");
    let own = |name: &str| name.starts_with(&prefix);
    remove(&own)?;
    if !std::thread::panicking() {
        remove_logs(&own);
    }
    Ok(())
}

/// Removes one namespace of a lab, and what still runs in it.
pub(super) fn remove_namespace(name: &str) -> Result<()> {
    let names = [name.to_owned()];
    end_processes_in(&names)?;
    delete_namespaces(&names)
}

fn remove(chosen: &dyn Fn(&str) -> bool) -> Result<()> {
    let namespaces = names_in(Path::new(NETNS_FOLDER), chosen);
    if !namespaces.is_empty() {
        end_processes_in(&namespaces)?;
        delete_namespaces(&namespaces)?;
    }
    for name in names_in(Path::new(PIN_ROOT), chosen) {
        let folder = Path::new(PIN_ROOT).join(name);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove the pins in {}", folder.display()));
            }
            _ => {}
        }
    }
    cgroup::remove(chosen)
}

/// Removes agents' logs of the chosen labs.
fn remove_logs(chosen: &dyn Fn(&str) -> bool) {
    for name in names_in(&log_folder(), chosen) {
        // Two labs may clean up after the same dead one: whoever comes second finds nothing.
        let _ = fs::remove_file(log_folder().join(name));
    }
}

/// Deletes namespaces by name; those that somebody else deleted meanwhile are no error.
fn delete_namespaces(names: &[String]) -> Result<()> {
    let lines: Vec<String> = names.iter().map(|name| format!("netns del {name}")).collect();
    let Err(error) = ip_batch(None, &lines) else { return Ok(()) };
    let gone = |name: &String| !Path::new(NETNS_FOLDER).join(name).exists();
    for name in names {
        if !gone(name) && ip_batch(None, &[format!("netns del {name}")]).is_err() && !gone(name) {
            return Err(error);
        }
    }
    Ok(())
}

/// Kills every other process whose network namespace is one of these, and waits for their end.
fn end_processes_in(namespaces: &[String]) -> Result<()> {
    let inodes: Vec<u64> = namespaces
        .iter()
        .filter_map(|name| fs::metadata(Path::new(NETNS_FOLDER).join(name)).ok())
        .map(|meta| meta.ino())
        .collect();
    for pid in processes_in(&inodes) {
        // The process may have ended by itself since it was listed.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    poll::until("processes in the lab's namespaces to end", Duration::from_secs(5), || {
        let alive = processes_in(&inodes);
        if alive.is_empty() { Ok(()) } else { Err(format!("process ids {alive:?}")) }
    })
}

fn processes_in(inodes: &[u64]) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid).ok() != Some(std::process::id()))
        // A zombie has no namespace any more: it is not found here, which is as good as ended.
        .filter(|pid| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|meta| inodes.contains(&meta.ino()))
        })
        .collect()
}

fn names_in(folder: &Path, chosen: &dyn Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| chosen(name))
        .collect()
}

/// Under [`PIN_ROOT`], the folder of the `number`th set of programs that this process runs without a lab.
pub(crate) fn programs_folder(number: u32) -> String {
    format!("sb{}-p{number}", std::process::id())
}

/// The process id in a name of the form `sb<pid>-<n>-...`, or in that of a folder of programs without a lab; none for any
/// other name.
fn lab_process(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix("sb")?.splitn(3, '-');
    let pid = parts.next()?.parse().ok()?;
    let (number, member) = (parts.next()?, parts.next());
    let numbered = |number: &str| number.parse::<u32>().is_ok();
    let ours = match number.strip_prefix('p') {
        Some(number) => numbered(number) && member.is_none(),
        None => numbered(number) && member.is_some(),
    };
    ours.then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_a_process() {
        assert_eq!(lab_process("sb4711-0-web-1"), Some(4711));
        for foreign in [
            "sb4711",
            "sb4711-0",
            "sb-0-x",
            "sbx-0-x",
            "4711-0-x",
            "sb4711-x-y",
            "cni-4711-0-x",
            "sb4711-p",
            "sb4711-p0-x",
        ] {
            assert_eq!(lab_process(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn programs_without_a_lab_have_their_process_too() {
        assert_eq!(lab_process(&programs_folder(7)), Some(std::process::id()));
    }
}
