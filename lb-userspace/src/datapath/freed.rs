//! Memory that was freed, given back to the kernel.
//!
//! Decides nothing but how. Must not know who freed it. Invariant: what is in use stays as it is.
//!
//! Parsing the eBPF object and the kernel's types takes some 25 MB for a moment, a full list of a large cluster
//! more. The allocator keeps what is freed, in case it is wanted again, which it is not.

/// From this size on, in bytes, things get memory of their own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 128 * 1024;

/// Has the allocator leave fewer holes between what stays: with one heap for all threads, since none of ours lives long but the
/// first, and with memory of its own for what is large, also after such a thing was freed once (mallopt(3)). For before
/// there is another thread.
pub fn leave_few_holes() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt(3) takes no pointer; there is one thread.
    unsafe {
        let _one_heap = libc::mallopt(libc::M_ARENA_MAX, 1);
        let _large_apart = libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives back all whole pages that nobody uses. Takes milliseconds where there is much to look through.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim(3) takes no pointer, locks the allocator itself and touches free memory alone.
    let _released_any = unsafe { libc::malloc_trim(0) };
}

/// Lets go of what is in memory of files that only have to be read, as the program's own code, which the kernel brings back as it is
/// needed: a quarter of it runs at the start alone, or never, and was brought by what lies beside it.
pub fn forget_files() {
    let Ok(smaps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, end) in of_files(&smaps) {
        // SAFETY: nothing was written to this mapping of a file, and nothing can be, so what is read there next is what was read there last.
        let _at_worst_it_stays =
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// From where to where `/proc/self/smaps` (proc_pid_smaps(5)) says that a file is mapped which the process neither may change
/// nor has changed in its memory, as the linker does with what it protects afterwards.
fn of_files(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut file = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some((start, end)) = bounds(first) {
            let is_read_only =
                words.next().is_some_and(|rights| rights.starts_with("r-") && rights.ends_with('p'));
            let is_file = words.nth(3).is_some_and(|path| path.starts_with('/'));
            file = (is_read_only && is_file).then_some((start, end));
        } else if first == "Anonymous:" && words.next() == Some("0") {
            found.extend(file.take());
        }
    }
    found
}

fn bounds(word: &str) -> Option<(usize, usize)> {
    let (start, end) = word.split_once('-')?;
    let bound = |text| usize::from_str_radix(text, 16).ok();
    Some((bound(start)?, bound(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_nobody_wrote_to_and_nobody_can_are_let_go_of() {
        let mapping = |start: usize, rights: &str, path: &str, changed: usize| {
            format!(
                "{start:x}-{:x} {rights} 003c8000 fe:00 5767171                    {path}\n\
                 Size:                 16 kB\nRss:                  12 kB\nAnonymous:            {changed} kB\n\
                 VmFlags: rd ex mr mw me sd\n",
                start + 0x4000
            )
        };
        let smaps = [
            mapping(0x559e_59aa_1000, "r--p", "/usr/bin/switchboard", 0),
            mapping(0x559e_59aa_5000, "r-xp", "/usr/bin/switchboard", 0),
            mapping(0x559e_59aa_9000, "r--p", "/usr/bin/switchboard", 8),
            mapping(0x559e_59aa_d000, "rw-p", "/usr/bin/switchboard", 0),
            mapping(0x559e_59ab_1000, "r-xs", "/usr/bin/switchboard", 0),
            mapping(0x7ffd_0000_1000, "r-xp", "[vdso]", 0),
            mapping(0x7ffd_0000_5000, "r--p", "", 0),
        ];
        let expected = [(0x559e_59aa_1000, 0x559e_59aa_5000), (0x559e_59aa_5000, 0x559e_59aa_9000)];
        assert_eq!(of_files(&smaps.concat()), expected);
        assert_eq!(of_files("not\na\n\nmap-zz r--p\nAnonymous: 0 kB"), []);
    }

    #[test]
    fn a_program_whose_files_were_let_go_of_goes_on() {
        forget_files();
        give_back();
        assert!(of_files(&std::fs::read_to_string("/proc/self/smaps").unwrap()).len() > 1);
    }
}
