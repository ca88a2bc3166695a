//! Health check node ports over real sockets of the loopback interface.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::*;
use crate::serve::HealthCheck;

/// A port that is free at this moment.
fn free_port() -> u16 {
    std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

fn check(port: u16, local_endpoints: usize) -> Option<HealthCheck> {
    Some(HealthCheck { port, local_endpoints })
}

async fn ask(address: &str, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(format!("{address}:{port}")).await?;
    stream.write_all(b"GET /any/path HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Asks until the answer, empty for none, is as wanted.
async fn until(port: u16, wanted: impl Fn(&str) -> bool) {
    let asking = async {
        loop {
            let answer = ask("127.0.0.1", port).await.unwrap_or_default();
            if wanted(&answer) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), asking).await.expect("the answer that was waited for");
}

#[tokio::test]
async fn c45_ports_open_and_close_as_services_change() {
    let board = Arc::new(Board::default());
    let (first, second) = (free_port(), free_port());
    let web = ObjectName::new("ns", "web");
    let following = tokio::spawn(follow(board.clone(), |_| {}));
    board.set_check(&web, check(first, 0));
    until(first, |answer| answer.starts_with("HTTP/1.1 503")).await;
    board.set_check(&web, check(first, 2));
    until(first, |answer| {
        answer.starts_with("HTTP/1.1 200") && answer.contains("x-load-balancing-endpoint-weight: 2\r\n")
    })
    .await;
    assert!(ask("[::1]", first).await.unwrap().contains("\"localEndpoints\":2"), "both families");
    board.set_check(&web, check(second, 1));
    until(second, |answer| answer.starts_with("HTTP/1.1 200")).await;
    until(first, str::is_empty).await;
    board.set_check(&web, None);
    until(second, str::is_empty).await;
    following.abort();
}

#[tokio::test]
async fn c45_a_port_that_is_taken_is_told_once_holds_up_no_other_and_opens_when_it_is_free() {
    let board = Arc::new(Board::default());
    let squatter = std::net::TcpListener::bind("[::]:0").unwrap();
    let (taken, free) = (squatter.local_addr().unwrap().port(), free_port());
    let (tell, mut told) = mpsc::unbounded_channel();
    board.set_check(&ObjectName::new("ns", "a"), check(taken, 1));
    board.set_check(&ObjectName::new("ns", "b"), check(free, 1));
    let following = tokio::spawn(follow(board.clone(), move |notice| tell.send(notice).unwrap()));
    let notice = told.recv().await.unwrap();
    assert_eq!((notice.service.name(), notice.reason), ("a", "FailedToStartServiceHealthcheck"));
    assert!(
        notice.message.contains(&taken.to_string()) && notice.message.contains("free the port"),
        "{notice:?}"
    );
    until(free, |answer| answer.starts_with("HTTP/1.1 200")).await;
    drop(squatter);
    until(taken, |answer| answer.starts_with("HTTP/1.1 200")).await;
    assert!(told.try_recv().is_err(), "told once");
    following.abort();
}

#[tokio::test]
async fn c45_a_port_goes_from_one_service_to_another_at_once() {
    let board = Arc::new(Board::default());
    let port = free_port();
    let (tell, mut told) = mpsc::unbounded_channel();
    let following = tokio::spawn(follow(board.clone(), move |notice| tell.send(notice).unwrap()));
    board.set_check(&ObjectName::new("ns", "z"), check(port, 1));
    until(port, |answer| answer.contains("\"name\":\"z\"")).await;
    board.set_check(&ObjectName::new("ns", "z"), None);
    board.set_check(&ObjectName::new("ns", "a"), check(port, 1));
    until(port, |answer| answer.contains("\"name\":\"a\"")).await;
    assert!(told.try_recv().is_err());
    following.abort();
}
