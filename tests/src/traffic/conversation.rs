//! A long-lived connection that says something every few milliseconds and checks each answer.
//!
//! Decides when a conversation is broken; must not know how many there are. Invariant: every
//! message carries its number, so a lost, doubled or foreign answer is seen.

use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::dial::Dial;
use super::failure::Failure;
use super::load::{Protocol, Shared};
use super::totals::{Conversations, note};

/// Time between two messages.
const PACE: Duration = Duration::from_millis(20);

/// Converses until `stop` says so or the connection breaks, and counts as it goes.
pub(super) async fn converse(shared: &Shared, stop: watch::Receiver<bool>) {
    let ended = match shared.protocol {
        Protocol::Tcp => over_tcp(shared, stop).await,
        Protocol::Udp => over_udp(shared, stop).await,
    };
    if let Err(failure) = ended {
        shared.count(|totals| note(&mut totals.conversations.broken, failure));
    }
}

async fn over_tcp(shared: &Shared, mut stop: watch::Receiver<bool>) -> Result<(), Failure> {
    let dial = &shared.dial;
    let (mut stream, reply) = dial.in_time(dial.greeted()).await?;
    let _open = Open::new(shared, reply.backend);
    let mut ticks = ticks();
    for number in 0_u64.. {
        if stopped(&mut stop, &mut ticks).await {
            break;
        }
        say(dial, &mut stream, number).await?;
        shared.count(|totals| totals.conversations.messages += 1);
    }
    dial.in_time(dial.close(stream)).await
}

/// One message; its failure tells how far the conversation had come.
async fn say(dial: &Dial, stream: &mut TcpStream, number: u64) -> Result<(), Failure> {
    let from = stream.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string());
    dial.in_time(dial.echo(stream, &number.to_be_bytes())).await.map_err(|failure| {
        Failure::new(failure.kind, format!("message {number} from {from}: {}", failure.detail))
    })
}

async fn over_udp(shared: &Shared, mut stop: watch::Receiver<bool>) -> Result<(), Failure> {
    let dial = &shared.dial;
    let socket = dial.udp_socket().await?;
    let mut server = ask(dial, &socket).await?;
    let _open = Open::new(shared, server.clone());
    let mut ticks = ticks();
    while !stopped(&mut stop, &mut ticks).await {
        match ask(dial, &socket).await {
            Ok(backend) => shared.count(|totals| {
                totals.conversations.messages += 1;
                totals.conversations.moved += u64::from(backend != server);
                server = backend;
            }),
            Err(failure) => shared.count(|totals| note(&mut totals.conversations.broken, failure)),
        }
    }
    Ok(())
}

async fn ask(dial: &Dial, socket: &UdpSocket) -> Result<String, Failure> {
    dial.ask(socket).await.map(|reply| reply.backend)
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Waits for the next tick; true if the load was stopped before it.
async fn stopped(stop: &mut watch::Receiver<bool>, ticks: &mut tokio::time::Interval) -> bool {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => true,
        _ = ticks.tick() => false,
    }
}

/// Counts a conversation as open for as long as it lives.
struct Open<'a> {
    shared: &'a Shared,
}

impl<'a> Open<'a> {
    fn new(shared: &'a Shared, backend: String) -> Self {
        shared.count(|totals| {
            let Conversations { opened, open, by_backend, .. } = &mut totals.conversations;
            *opened += 1;
            *open += 1;
            *by_backend.entry(backend).or_default() += 1;
        });
        Self { shared }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.count(|totals| totals.conversations.open -= 1);
    }
}
