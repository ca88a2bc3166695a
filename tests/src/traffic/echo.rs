//! A server that names itself and the source it saw, over TCP and UDP.
//!
//! Decides the tiny protocol (below); must not know who calls. Invariant: once `start` has
//! returned, every port answers; once the server is dropped, none does.
//!
//! - TCP: on connect the server sends `name peer_ip peer_port\n`, then echoes what it gets, and
//!   closes when the client does.
//! - UDP: the answer to a datagram is `name peer_ip peer_port ` and the datagram.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;

use crate::lab::Netns;

const BACKLOG: i32 = 4096;

/// A running echo server: one thread, any number of connections. Stops when dropped; connections
/// that are open then are closed as when a process is killed.
#[derive(Debug)]
pub struct EchoServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Serves TCP and UDP on these ports of every address of both families in `netns`.
    pub fn start(netns: &Netns, name: &str, ports: &[u16]) -> Result<Self> {
        Self::start_at(netns, name, &any_address(ports))
    }

    /// Serves TCP and UDP at exactly these addresses (on a node, say, which has several).
    pub fn start_at(netns: &Netns, name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let (server, addresses) = (name.to_owned(), addresses.to_vec());
        let thread = netns
            .spawn(&format!("echo-{name}"), move || match open(&server, &addresses) {
                Err(error) => drop(tell.send(Err(error))),
                Ok((runtime, sockets)) => runtime.block_on(async {
                    serve(&server, sockets);
                    drop(tell.send(Ok(())));
                    // Ends by the sender's value or by its drop alike.
                    let _ = stopped.await;
                }),
            })
            .context("start the echo server's thread")?;
        told.recv().context("the echo server's thread died")??;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Serves in the caller's own namespace until the process ends: the body of a server process
    /// that outlives its lab's process (see [`crate::lab::Lab::keep`]).
    pub fn run_here(name: &str, ports: &[u16]) -> Result<()> {
        let (runtime, sockets) = open(name, &any_address(ports))?;
        runtime.block_on(async {
            serve(name, sockets);
            std::future::pending::<()>().await;
        });
        Ok(())
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Sockets {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

fn any_address(ports: &[u16]) -> Vec<SocketAddr> {
    let both = |port: &u16| {
        [SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port)), SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))]
    };
    ports.iter().flat_map(both).collect()
}

fn open(name: &str, addresses: &[SocketAddr]) -> Result<(tokio::runtime::Runtime, Sockets)> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("make a runtime")?;
    let inside = runtime.enter();
    let mut sockets = Sockets { tcp: Vec::new(), udp: Vec::new() };
    for address in addresses {
        let opening = || format!("open port {address} for echo server {name}; is it taken in its namespace?");
        let listener = bound(*address, Type::STREAM).and_then(|socket| {
            socket.listen(BACKLOG)?;
            TcpListener::from_std(socket.into())
        });
        sockets.tcp.push(listener.with_context(opening)?);
        let datagrams = bound(*address, Type::DGRAM).and_then(|socket| UdpSocket::from_std(socket.into()));
        sockets.udp.push(datagrams.with_context(opening)?);
    }
    drop(inside);
    Ok((runtime, sockets))
}

fn bound(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        // A server that starts again must not wait for its old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn serve(name: &str, sockets: Sockets) {
    for listener in sockets.tcp {
        let name = name.to_owned();
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    // The client went away while it was served: its own side counts that.
                    Ok((stream, peer)) => drop(tokio::spawn(answer_stream(name.clone(), stream, peer))),
                    // Out of descriptors, say: let the others finish.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        });
    }
    for socket in sockets.udp {
        tokio::spawn(answer_datagrams(name.to_owned(), socket));
    }
}

async fn answer_stream(name: String, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{name} {} {}\n", peer.ip(), peer.port()).as_bytes()).await?;
    let mut buffer = [0; 8192];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(buffer.get(..count).unwrap_or_default()).await?;
    }
}

async fn answer_datagrams(name: String, socket: UdpSocket) {
    let mut buffer = vec![0; 65536];
    loop {
        // An error here is an earlier answer's ICMP error: nothing to do about it.
        let Ok((count, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let mut answer = format!("{name} {} {} ", peer.ip(), peer.port()).into_bytes();
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let _ = socket.send_to(&answer, peer).await;
    }
}
