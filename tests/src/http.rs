//! A page asked for by HTTP, in a network namespace.
//!
//! Decides that a connection serves one request. Must not know what is served. Invariant: returns within its limit.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::lab::Netns;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Status line and headers, as they came.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A header's value; empty where it is absent.
    pub fn header(&self, name: &str) -> &str {
        let value = |line: &'_ str| {
            line.split_once(':').filter(|(found, _)| found.eq_ignore_ascii_case(name)).is_some()
        };
        let line = self.head.lines().find(|line| value(line)).unwrap_or_default();
        line.split_once(':').map_or("", |(_, value)| value.trim())
    }
}

/// Asks for a page.
pub fn get(netns: &Netns, server: SocketAddr, path: &str, limit: Duration) -> Result<Answer> {
    let asking = || format!("ask http://{server}{path}");
    let text = netns.run(|| ask(server, path, limit)).with_context(asking)?;
    let (head, body) =
        text.split_once("\r\n\r\n").context("an answer without an end of its head").with_context(asking)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status")
        .with_context(asking)?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

fn ask(server: SocketAddr, path: &str, limit: Duration) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, limit)?;
    stream.set_read_timeout(Some(limit))?;
    // HTTP/1.0: the body ends with the connection, and comes in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
