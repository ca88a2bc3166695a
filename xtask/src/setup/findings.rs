//! What the machine has: compilers that could build the datapath, bpf-linker, LLVM, packages.
//! Looks and parses only; `decide` judges. Invariant: looking changes nothing, and what cannot be
//! read counts as absent.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::workspace;

/// The toolchain that is linked to Debian's packages.
pub(super) const DEBIAN_TOOLCHAIN: &str = "bpf-debian";

/// Packages whose programs the lab, the tests and the demo start, each with one of them.
const PROGRAMS: [(&str, &str); 9] = [
    ("nftables", "nft"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("iproute2", "ip"),
    ("ethtool", "ethtool"),
    ("bpftool", "bpftool"),
    ("tcpdump", "tcpdump"),
    ("util-linux", "nsenter"),
    ("procps", "sysctl"),
];

/// A release of rustc: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release(pub(super) u32, pub(super) u32);

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A rustup toolchain, as far as it matters for building eBPF programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Compiler {
    pub(super) name: String,
    pub(super) release: Release,
    /// Accepts `-Z` options by itself.
    pub(super) nightly: bool,
    /// Major version of its LLVM, which bpf-linker's must not be below.
    pub(super) llvm: u32,
    /// Has the standard library's source, for `-Z build-std=core`.
    pub(super) source: bool,
}

/// An installed bpf-linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Linker {
    pub(super) path: PathBuf,
    pub(super) version: String,
    /// Major version of the LLVM it loads; `None` where that is linked in.
    pub(super) llvm: Option<u32>,
}

/// Where cargo builds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    /// The target folder.
    pub(super) folder: PathBuf,
    /// Bytes that are free there.
    pub(super) free: u64,
    /// Bytes that earlier builds take there.
    pub(super) built: u64,
}

/// All that choosing a compiler depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    pub(super) rustup: bool,
    pub(super) compilers: Vec<Compiler>,
    /// `ID` and `VERSION_ID` of os-release, as `debian 12`.
    pub(super) system: String,
}

impl Findings {
    /// Looks at this machine.
    pub(super) fn look() -> Self {
        let rustup = workspace::find_program("rustup").is_some();
        let names =
            if rustup { toolchain_names(&output("rustup", &["toolchain", "list"])) } else { Vec::new() };
        Self {
            rustup,
            compilers: names.iter().filter_map(|name| compiler(name)).collect(),
            system: system(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
        }
    }
}

/// The installed bpf-linker that cargo would find, if it starts at all.
pub(super) fn linker() -> Option<Linker> {
    let path = workspace::find_program("bpf-linker")?;
    let said = output(&path.to_string_lossy(), &["--version"]);
    let version = said.split_whitespace().nth(1)?.to_owned();
    let llvm = llvm_loaded(&fs::read(&path).ok()?);
    Some(Linker { path, version, llvm })
}

/// Major versions of LLVM whose development files are installed where Debian puts them.
pub(super) fn installed_llvm(candidates: &[u32]) -> Vec<u32> {
    let there = |major: &u32| Path::new(&format!("/usr/lib/llvm-{major}/bin/llvm-config")).is_file();
    candidates.iter().copied().filter(there).collect()
}

/// Packages of `names` that are not installed, by dpkg.
pub(super) fn missing_packages(names: &[&str]) -> Vec<String> {
    let installed = |name: &str| {
        output("dpkg-query", &["-W", "-f", "${db:Status-Status}\n", name]).lines().any(|l| l == "installed")
    };
    names.iter().filter(|name| !installed(name)).map(|&name| name.to_owned()).collect()
}

/// Packages for tests and demo that are not installed: by dpkg, or by their program elsewhere.
pub(super) fn missing_programs() -> Vec<String> {
    if workspace::find_program("dpkg-query").is_some() {
        return missing_packages(&PROGRAMS.map(|(package, _)| package));
    }
    let absent = |(_, program): &&(&str, &str)| workspace::find_program(program).is_none();
    PROGRAMS.iter().filter(absent).map(|(package, _)| (*package).to_owned()).collect()
}

/// Whether the package lists of apt offer a package.
pub(super) fn offered(package: &str) -> bool {
    output("apt-cache", &["policy", package])
        .lines()
        .any(|line| line.trim().strip_prefix("Candidate:").is_some_and(|version| version.trim() != "(none)"))
}

/// The disk that cargo builds on, as far as the system tells.
pub(super) fn disk() -> Option<Disk> {
    let folder = workspace::target_dir();
    // It may be still to be made.
    let there = folder.ancestors().find(|path| path.exists())?;
    let found = nix::sys::statvfs::statvfs(there).ok()?;
    let free = found.blocks_available().saturating_mul(found.fragment_size());
    Some(Disk { built: held(&folder), folder, free })
}

/// Bytes that the files below a folder take on the disk; a file with several names counts once for each.
fn held(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
        .map(|(path, found)| if found.is_dir() { held(&path) } else { found.blocks() * 512 })
        .sum()
}

/// Asks one rustup toolchain what it is.
fn compiler(name: &str) -> Option<Compiler> {
    let sysroot = output("rustup", &["run", name, "rustc", "--print", "sysroot"]);
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    parse_compiler(name, &output("rustup", &["run", name, "rustc", "-vV"]), core.is_file())
}

/// Standard output of a program, empty if it fails.
fn output(program: &str, arguments: &[&str]) -> String {
    Command::new(program)
        .args(arguments)
        .env("PATH", workspace::path())
        .env("LC_ALL", "C")
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default()
}

fn parse_compiler(name: &str, verbose_version: &str, source: bool) -> Option<Compiler> {
    let field = |key: &str| verbose_version.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let release = field("release:")?;
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    Some(Compiler {
        name: name.to_owned(),
        release: Release(numbers.next()?, numbers.next()?),
        nightly: release.contains("nightly") || release.contains("dev"),
        llvm: field("LLVM version:")?.split('.').next()?.parse().ok()?,
        source,
    })
}

fn toolchain_names(list: &str) -> Vec<String> {
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly") || *name == DEBIAN_TOOLCHAIN || is_asked(name))
        .map(str::to_owned)
        .collect()
}

fn is_asked(name: &str) -> bool {
    std::env::var(super::toolchain::VARIABLE).is_ok_and(|asked| name.starts_with(&asked))
}

fn system(os_release: &str) -> String {
    let field = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    format!("{} {}", field("ID="), field("VERSION_ID="))
}

/// The major version in the name of the shared LLVM that a program asks the loader for.
fn llvm_loaded(program: &[u8]) -> Option<u32> {
    let number_after = |name: &[u8]| {
        let starts = program.windows(name.len()).enumerate().filter(|(_, window)| *window == name);
        starts.map(|(start, _)| start + name.len()).find_map(|start| {
            let digits: Vec<u8> =
                program[start..].iter().copied().take_while(u8::is_ascii_digit).take(4).collect();
            String::from_utf8(digits).ok()?.parse().ok()
        })
    };
    number_after(b"libLLVM.so.").or_else(|| number_after(b"libLLVM-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
        binary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn a_compiler_is_read_from_its_verbose_version() {
        let debian = parse_compiler(DEBIAN_TOOLCHAIN, DEBIAN, true).expect("a compiler");
        assert_eq!((debian.release, debian.nightly, debian.llvm), (Release(1, 96), false, 22));
        let nightly = DEBIAN.replace("release: 1.96.0", "release: 1.97.0-nightly");
        assert!(parse_compiler("nightly", &nightly, false).expect("a compiler").nightly);
        assert_eq!(parse_compiler("nightly", "", true), None);
    }

    #[test]
    fn only_toolchains_that_could_build_for_the_kernel_are_asked() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\nnightly-x86_64-unknown-linux-gnu\nbpf-debian\n";
        assert_eq!(toolchain_names(list), ["nightly-x86_64-unknown-linux-gnu", "bpf-debian"]);
        assert!(toolchain_names("no installed toolchains\n").is_empty());
    }

    #[test]
    fn the_system_is_read_with_and_without_quotes() {
        assert_eq!(system("NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n"), "debian 12");
        assert_eq!(system("ID=ubuntu\nVERSION_ID=\"24.04\"\n"), "ubuntu 24.04");
    }

    #[test]
    fn the_llvm_a_program_loads_is_read_from_its_bytes() {
        assert_eq!(llvm_loaded(b"\0libgcc_s.so.1\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_loaded(b"\0libLLVM-15.so.1\0"), Some(15));
        assert_eq!(llvm_loaded(b"static"), None);
    }
}
