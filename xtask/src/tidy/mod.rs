//! `tidy`: checks the laws of the house by reading the source: what a compiler and clippy cannot
//! know, and review forgets. Each law is a function from one source file to findings; this file
//! only walks the tree and prints.
//!
//! It must not run or build anything. Invariant: a finding names file, line, the law, and what to
//! do about it.

mod direction;
mod direction_paths;
mod names;
mod sizes;
mod unsafety;

use std::{fmt, fs, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{rules, terminal, workspace};

/// Folders whose Rust files are held to the laws.
const ROOMS: [&str; 6] = ["lb-common", "lb-ebpf", "lb-userspace", "tests", "xtask", "fuzz"];

/// Folders below them that hold something else than this project's source.
const NOT_SOURCE: [&str; 2] = ["target", "fixtures"];

/// One Rust file.
struct Source {
    /// From the workspace's root, with `/`.
    path: String,
    text: String,
    tree: syn::File,
}

impl Source {
    fn parse(path: &str, text: String) -> Result<Self, Finding> {
        match syn::parse_file(&text) {
            Ok(tree) => Ok(Self { path: path.to_owned(), text, tree }),
            Err(error) => Err(Finding {
                path: path.to_owned(),
                line: error.span().start().line,
                law: format!("every file is Rust: {error}"),
                remedy: "make it compile",
            }),
        }
    }

    fn finding(&self, line: usize, law: impl Into<String>, remedy: &'static str) -> Finding {
        Finding { path: self.path.clone(), line, law: law.into(), remedy }
    }

    /// Whether the file is `place`: that file, or one below the module or folder of that name.
    fn is_within(&self, place: &str) -> bool {
        self.path
            .strip_prefix(place)
            .is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
    }
}

/// One place where a law is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    law: String,
    remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.path, self.line, self.law, self.remedy)
    }
}

/// Reads every file and prints what it finds.
pub(crate) fn run() -> Result<ExitCode> {
    let clock = terminal::Stopwatch::start();
    let root = workspace::root();
    let paths = rust_files()?;
    let mut findings = Vec::new();
    for path in &paths {
        let text = fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"))?;
        findings.extend(check(path, text));
    }
    let manifest = "lb-common/Cargo.toml";
    let text = fs::read_to_string(root.join(manifest)).with_context(|| format!("reading {manifest}"))?;
    findings.extend(direction::dependencies_of_lb_common(manifest, &text));
    let untested = rules::check()?;
    for finding in &findings {
        println!("{finding}");
    }
    for finding in &untested {
        println!("{finding}");
    }
    let looked = format!("{} files in {}", paths.len(), clock.said());
    if findings.is_empty() && untested.is_empty() {
        terminal::fine(&format!("the laws of the house hold: {looked}"));
        return Ok(ExitCode::SUCCESS);
    }
    terminal::failure(&format!(
        "{} findings in {looked}; the laws are told in CONTRIBUTING.md",
        findings.len() + untested.len()
    ));
    Ok(ExitCode::FAILURE)
}

/// Every Rust file that is held to the laws, from the workspace's root, sorted.
pub(crate) fn rust_files() -> Result<Vec<String>> {
    let root = workspace::root();
    let mut paths = Vec::new();
    for room in ROOMS {
        walk(&root, room, &mut paths)?;
    }
    ensure!(!paths.is_empty(), "there is no Rust file under {}; is this the workspace?", root.display());
    paths.sort();
    Ok(paths)
}

/// All laws, on one file.
fn check(path: &str, text: String) -> Vec<Finding> {
    let source = match Source::parse(path, text) {
        Ok(source) => source,
        Err(finding) => return vec![finding],
    };
    let laws = [names::check, sizes::check, unsafety::check, direction::check];
    let mut findings: Vec<_> = laws.iter().flat_map(|law| law(&source)).collect();
    findings.sort_by_key(|finding| finding.line);
    findings
}

fn walk(root: &Path, folder: &str, paths: &mut Vec<String>) -> Result<()> {
    let there = root.join(folder);
    if !there.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(&there).with_context(|| format!("reading the folder {folder}"))? {
        let entry = entry.with_context(|| format!("reading the folder {folder}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{folder}/{name}");
        let kind = entry.file_type().with_context(|| format!("looking at {path}"))?;
        if kind.is_dir() {
            if !name.starts_with('.') && !NOT_SOURCE.contains(&name.as_str()) {
                walk(root, &path, paths)?;
            }
        } else if name.ends_with(".rs") {
            paths.push(path);
        }
    }
    Ok(())
}

/// The findings on a small file, for the tests of the laws.
#[cfg(test)]
fn found(law: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<(usize, String)> {
    let source = Source::parse(path, text.to_owned()).expect("the test's source is Rust");
    law(&source).into_iter().map(|finding| (finding.line, finding.law)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_names_file_line_law_and_remedy() {
        let findings = check("lb-userspace/src/plan/utils.rs", "\nuse kube::Client;\n".to_owned());
        let said: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 3, "{said:#?}");
        assert!(said.iter().any(|line| line.starts_with("lb-userspace/src/plan/utils.rs:2: ")), "{said:#?}");
    }

    #[test]
    fn a_file_that_is_no_rust_is_one_finding() {
        let findings = check("xtask/src/main.rs", "//! Broken.\nfn {".to_owned());
        assert_eq!((findings.len(), findings[0].line), (1, 2));
    }

    #[test]
    fn a_place_is_a_file_or_all_below_a_folder_but_no_namesake() {
        let at = |path: &str| Source::parse(path, String::new()).expect("empty");
        assert!(at("lb-userspace/src/model/service.rs").is_within("lb-userspace/src/model"));
        assert!(at("lb-userspace/src/model.rs").is_within("lb-userspace/src/model"));
        assert!(!at("lb-userspace/src/model_of.rs").is_within("lb-userspace/src/model"));
    }
}
