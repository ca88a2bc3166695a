//! `lb-fuzz`: random clusters and packets through the kernel and the reference model, for as long as one likes.
//!
//! Decides when it is enough. Must not judge. Invariant: it ends with success only if everything agreed, and whatever
//! did not can be repeated by the command that it prints.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use lb_tests::differential::{Found, Played, Subject, try_seed};

/// Random clusters and packets through the kernel and through a model of the contract, which must agree
#[derive(Parser)]
#[command(name = "cargo xtask fuzz", disable_version_flag = true)]
struct Options {
    /// Stop after so many packets
    #[arg(long, default_value_t = 1_000_000, conflicts_with = "duration")]
    cases: u64,
    /// Stop after so long: 90s, 10m, 2h
    #[arg(long = "for", id = "duration", value_parser = duration)]
    duration: Option<Duration>,
    /// The first cluster's seed; each cluster is the next one's [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Go on after a disagreement, and show one of each kind at the end
    #[arg(long)]
    keep_going: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no duration: write 90s, 10m or 2h");
    let (number, unit) = text.split_at(text.len() - text.ends_with(char::is_alphabetic) as usize);
    let number: u64 = number.parse().map_err(|_| bad())?;
    match unit {
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(60 * number)),
        "h" => Ok(Duration::from_secs(3_600 * number)),
        _ => Err(bad()),
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let first = match options.seed {
        Some(seed) => seed,
        None => seed_of_the_clock()?,
    };
    eprintln!("loading the programs");
    let mut subject = Subject::load().context("loading the programs (this needs root)")?;
    let bar = bar(&options);
    let begun = Instant::now();
    let (mut all, mut seed) = (Played::default(), first);
    let mut found: BTreeMap<String, (u64, Box<Found>)> = BTreeMap::new();
    while options.duration.map_or(all.packets < options.cases, |limit| begun.elapsed() < limit) {
        match try_seed(&mut subject, seed) {
            Ok(played) => all.add(&played),
            Err(new) => {
                // What was played until then is not counted, but it must end some time.
                all.packets += 1_000;
                let kind = new.failure.to_string();
                found.entry(kind).and_modify(|(times, _)| *times += 1).or_insert((1, new));
                if !options.keep_going {
                    break;
                }
            }
        }
        seed += 1;
        let packets = all.packets;
        let position = options.duration.map_or(packets, |_| begun.elapsed().as_secs());
        bar.set_position(position);
        bar.set_message(format!(
            "{packets} packets, {} clusters, {} disagreements",
            seed - first,
            found.len()
        ));
    }
    bar.finish_and_clear();
    for (times, one) in found.values() {
        println!("{one}\n{times} times; repeat it: cargo xtask fuzz --seed {} --cases 1\n", one.seed);
    }
    let took = begun.elapsed().as_secs_f64();
    for (verdict, times) in &all.verdicts {
        println!("{times:>12} {}", verdict.name());
    }
    let packets = all.packets;
    println!("{packets} packets of {} clusters (seeds from {first}) in {took:.1} s", seed - first);
    println!("{} kinds of disagreement", found.len());
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn seed_of_the_clock() -> Result<u64> {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("reading the clock")?;
    Ok(now.as_secs() * 1_000)
}

fn bar(options: &Options) -> ProgressBar {
    let length = options.duration.map_or(options.cases, |limit| limit.as_secs());
    let style = ProgressStyle::with_template("{bar:40} {percent:>3} %  {msg}");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
