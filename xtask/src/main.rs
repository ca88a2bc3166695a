//! The project's own task runner: `cargo xtask VERB`. This file only names the verbs; each lives
//! in a module of the same name and returns an error whose text says what to do.
//!
//! It must not know how the agent or the datapath work: it runs cargo, looks at the machine, and
//! reads source text. Invariant: a verb that reports success has done all of what it names, and
//! says in words whatever it left out.

mod abi;
mod bench;
mod ci;
mod demo;
mod fuzz;
mod handover;
mod image;
mod lint;
mod rights;
mod rules;
mod setup;
mod terminal;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install the eBPF toolchain, bpf-linker and the packages that tests and demo use
    Setup,
    /// Run every test this machine allows, and say what was left out and why
    Test(test::Options),
    /// Show the load balancer at work in network namespaces (needs root)
    Demo(demo::Options),
    /// Make a container image, an OCI archive with the agent as a static binary, without a daemon
    Image(image::Options),
    /// Measure it beside kube-proxy's kind of rules and plain routing (needs root)
    Bench(bench::Options),
    /// Try random clusters and packets on the kernel and on a model of the contract (needs root)
    Fuzz(fuzz::Options),
    /// Check formatting, clippy, the house laws and licences
    Lint,
    /// Check the house laws by reading the source: sizes, `unsafe`, direction of `use` lines
    Tidy,
    /// Compare docs/rules.md, the table of rules and their tests, with the tests' names
    Rules(rules::Options),
    /// Compare the layout of the maps with the golden lb-common/abi.txt
    Abi(abi::Options),
    /// What the continuous integration runs: lint, the demo, then every test
    Ci,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup => setup::run(),
        Verb::Test(options) => test::run(&options),
        Verb::Demo(options) => demo::run(&options),
        Verb::Image(options) => image::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Fuzz(options) => fuzz::run(&options),
        Verb::Lint => lint::run(),
        Verb::Tidy => tidy::run(),
        Verb::Rules(options) => rules::run(&options),
        Verb::Abi(options) => abi::run(&options),
        Verb::Ci => ci::run(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            terminal::failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
