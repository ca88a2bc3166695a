//! The demo: a Service of pods on one node, balanced, scaled, and its agent killed, under traffic.
//!
//! Decides the acts and their order. Must not make networks or traffic itself: that is the lab's.
//! Invariant: what it reports was counted; any failure is told and makes the exit code 1.

mod report;
mod screen;
mod stage;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use lb_tests::traffic::Totals;

use report::Report;
use screen::Screen;
use stage::Stage;

/// How long each act's traffic goes on, at least.
const ACT: Duration = Duration::from_secs(5);

/// Shows a ClusterIP at work in network namespaces of its own. Needs root.
#[derive(Parser)]
struct Options {
    /// Print one JSON object with the results as the last line.
    #[arg(long)]
    json: bool,
    /// Leave the lab up at the end, and print the commands to try by hand.
    #[arg(long)]
    keep: bool,
    /// Serve as this backend in the present namespace; what `--keep` starts.
    #[arg(long, hide = true, value_name = "NAME")]
    serve: Option<String>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match &options.serve {
        Some(name) => {
            lb_tests::traffic::EchoServer::run_here(name, &[stage::POD_PORT]).map(|()| ExitCode::SUCCESS)
        }
        None => demo(&options),
    };
    result.unwrap_or_else(|error| {
        eprintln!("demo: {error:#}");
        ExitCode::FAILURE
    })
}

fn demo(options: &Options) -> anyhow::Result<ExitCode> {
    let _to_the_end = lb_tests::lab::clean_up_when_interrupted()?;
    let screen = Screen::new();
    screen.say("building a node with pods `client`, `a` to `e`, each in a network namespace of its own");
    let mut stage = Stage::build()?;
    screen.say("starting `switchboard run` on the manifests of deploy/demo: Service shop/web, three backends, IPv4 and IPv6");
    stage.start_agent()?;
    let loads = stage.start_traffic()?;
    let watch = |screen: &Screen, served_by: &[&str]| screen.watch(&loads, ACT, served_by);
    let mut kills = 0;

    screen.act("three backends", &["a", "b", "c"]);
    watch(&screen, &["a", "b", "c"])?;
    screen.act("scaled up to five", &["a", "b", "c", "d", "e"]);
    stage.scale(&["a", "b", "c", "d", "e"])?;
    watch(&screen, &["a", "b", "c", "d", "e"])?;
    screen.act("scaled down to two; connections that others have stay with them", &["a", "b"]);
    stage.scale(&["a", "b"])?;
    watch(&screen, &["a", "b"])?;
    screen.act("kill -9 the agent: the kernel goes on by itself", &["a", "b"]);
    stage.kill_agent()?;
    kills += 1;
    watch(&screen, &["a", "b"])?;
    screen.say(&format!("the tool reads the kernel's maps without an agent:\n{}", stage.services()?));
    screen.act("the agent is back, and finds nothing to do", &["a", "b"]);
    let rows_written = stage.restart_agent()?;
    watch(&screen, &["a", "b"])?;
    screen.finish();

    let mut totals = Totals::default();
    loads.into_iter().for_each(|load| totals.merge(&load.stop()));
    let report = Report::new(&totals, kills, rows_written);
    if options.keep {
        stage.keep()?;
    } else {
        drop(stage);
    }
    println!("{}", report.table());
    if options.json {
        println!("{}", serde_json::to_string(&report).context("writing the report as JSON")?);
    }
    Ok(if report.all_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
