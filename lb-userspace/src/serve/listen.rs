//! Ports that are listened on.
//!
//! Decides how a socket is opened, how many may talk to it at once and how long they may take. Must not know what is
//! answered. Invariant: a port that cannot be opened is said once and tried again; the agent goes on.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::address::ServeAddress;

/// When a port that could not be opened is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(5);
/// Connections at once on a port; more wait in the kernel's queue.
const CONNECTIONS: usize = 128;
const BACKLOG: i32 = 128;
/// How long a request's head may take, and a connection be idle.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves pages at an address for ever; at no address, returns at once.
pub(super) async fn keep_open(what: &str, option: &str, address: ServeAddress, pages: Router) {
    let ServeAddress::At(address) = address else { return };
    let mut failed = false;
    loop {
        match open(address) {
            Ok(listener) => {
                tracing::info!(%address, "{what} is served");
                failed = false;
                serve(listener, pages.clone()).await;
            }
            Err(error) if !failed => {
                failed = true;
                tracing::error!(
                    %address,
                    "{what} cannot be served: {error}; tried again every {RETRY:?} (another address: {option}, or off)"
                );
            }
            Err(error) => tracing::debug!(%address, "{what} can still not be served: {error}"),
        }
        sleep(RETRY).await;
    }
}

/// Opens a port. The unspecified address stands for every address of both families, where the host has both.
pub(super) fn open(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return listener(address);
    }
    let any = |ip: IpAddr| SocketAddr::new(ip, address.port());
    listener(any(Ipv6Addr::UNSPECIFIED.into())).or_else(|error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => listener(any(Ipv4Addr::UNSPECIFIED.into())),
        _ => Err(error),
    })
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Else connections of a process before that are not quite over would keep the port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Answers until the listener fails. Dropped, it ends every connection.
pub(super) async fn serve(listener: TcpListener, pages: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let talk = talk(stream, pages.clone());
                connections.spawn(async move {
                    talk.await;
                    drop(place);
                });
            }
            // Of one connection, or for want of descriptors: the port itself stays open.
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn talk(stream: TcpStream, pages: Router) -> impl Future<Output = ()> {
    let service = TowerToHyperService::new(pages);
    async move {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        // A client that goes away in the middle is its own affair.
        connection.await.ok();
    }
}
