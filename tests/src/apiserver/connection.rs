//! Connections: taken, served, reset, or left hanging.
//!
//! Decides what becomes of a connection when the mode changes. Must not know requests. Invariant: when
//! serving ends, so do all connections, and the port is free.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::Shared;
use super::http;

/// Serves until told to stop.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => panic!("the API server cannot take over its listener: {error}"),
    };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&shared), stream));
                }
                // Out of descriptors, say: the next one may be luckier.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    connections.shutdown().await;
}

async fn connection(shared: Arc<Shared>, stream: tokio::net::TcpStream) {
    let _ = stream.set_nodelay(true);
    let Ok(stream) = stream.into_std() else { return };
    let Ok(handle) = stream.try_clone() else { return };
    let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
    let mut mode = shared.faults.mode.subscribe();
    let epoch = mode.borrow_and_update().epoch;
    let service = service_fn(move |request| http::answer(Arc::clone(&shared), request));
    let mut served = Box::pin(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    loop {
        let now = *mode.borrow_and_update();
        if now.epoch != epoch {
            // Closed with unsent data dropped and nothing to linger for: a reset.
            let _ = SockRef::from(&handle).set_linger(Some(Duration::ZERO));
            return;
        }
        tokio::select! {
            // First, so that nothing that happens after a command gets out.
            biased;
            changed = mode.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            _ = &mut served, if !now.frozen => return,
        }
    }
}

/// Listens where a server listened a moment ago.
pub(super) fn bind_again(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).context("make a socket")?;
    socket.set_reuse_address(true).context("take a port that was used a moment ago")?;
    socket.bind(&address.into()).with_context(|| format!("listen on {address} again"))?;
    socket.listen(1024).with_context(|| format!("listen on {address} again"))?;
    Ok(socket.into())
}
