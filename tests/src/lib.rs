//! The lab: one library that tests, the demo and the benchmarks share.
//!
//! It decides how a small cluster is built out of network namespaces, how traffic is sent through
//! it, and how the real agent binary is run in it. It must not know BPF maps, the planner, or
//! Kubernetes' types: what it knows of the product is a command line and the lines of its log.
//! Invariant: whatever a lab creates carries the lab's name, so that it is removed at the end, and
//! after a crash by the next lab.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use lb_tests::lab::{Lab, Layout};
//! use lb_tests::traffic::{EchoServer, tcp_once};
//!
//! # fn main() -> anyhow::Result<()> {
//! let lab = Lab::builder().node("node1", Layout::Routed, &["client", "web-1"]).build()?;
//! let web = lab.pod("web-1");
//! let _server = EchoServer::start(&web.netns, "web-1", &[8080])?;
//! let reply = tcp_once(&lab.pod("client").netns, web.v4_at(8080), Duration::from_secs(1))?;
//! assert_eq!(reply.backend, "web-1");
//! # Ok(())
//! # }
//! ```

pub mod agent;
pub mod apiserver;
pub mod capture;
pub mod differential;
pub mod foreign;
pub mod http;
pub mod lab;
pub mod manifests;
pub mod model;
pub mod packets;
pub mod peers;
pub mod poll;
pub mod scene;
pub mod traffic;
