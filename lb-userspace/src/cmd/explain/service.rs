//! What becomes of connections to a Service, at each of its frontends.
//!
//! Decides which frontends are a Service's, and what is said of one that has none. Must not read maps. Invariant: each
//! frontend is answered as if it alone had been asked for.

use std::net::SocketAddr;

use lb_common::address::Protocol;
use serde::Serialize;

use super::answer::{Answer, Question, answer};
use crate::tables::{Family, Tables};

/// A frontend of a Service, and what becomes of who dials it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Explained {
    /// What is dialled.
    pub(super) frontend: SocketAddr,
    /// By what.
    pub(super) protocol: String,
    #[serde(flatten)]
    answer: Answer,
}

impl std::fmt::Display for Explained {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} {}", self.frontend, self.protocol, self.answer)
    }
}

/// The frontends of one family of the Service `namespace/name`, by address; `question` says who dials.
pub(super) fn of_service<A: Family>(tables: &Tables, question: &Question, service: &str) -> Vec<Explained> {
    let is_its = |id: u32| {
        let name = tables.service_ports.get(&id).and_then(|name| name.name());
        name.is_some_and(|name| name.split(':').next() == Some(service))
    };
    let rows = A::frontends(tables).iter();
    let its = rows.filter(|(key, row)| { key.protocol } != Protocol(0) && is_its(row.service_port));
    its.map(|(key, _)| {
        let frontend = SocketAddr::new({ key.addr }.to_ip(), { key.port }.get());
        let protocol = { key.protocol };
        let asked = Question { frontend, protocol, ..*question };
        Explained { frontend, protocol: protocol.to_string(), answer: answer::<A>(tables, &asked) }
    })
    .collect()
}

/// What is known of a Service without a frontend: the maps do not say why it has none.
pub(super) fn without_frontends(service: &str) -> Answer {
    let because = [
        format!("no frontend of {service} is in force on this node"),
        "headless Services (clusterIP: None), those without a cluster address and ExternalNames have none: cluster DNS \
         answers for them (C2)"
            .to_owned(),
        "one with the label service.kubernetes.io/service-proxy-name is another proxy's (C1)".to_owned(),
        format!(
            "one that was refused has an Event that says why; `switchboard plan --service {service}` with the source of \
             objects tells what it should be"
        ),
    ];
    Answer { outcome: "left alone", service: None, because: because.into(), backends: Vec::new() }
}

#[cfg(test)]
mod tests {
    use lb_common::address::V4;

    use super::super::answer::tests::tables;
    use super::*;

    #[test]
    fn c2_a_service_is_explained_frontend_by_frontend_and_one_that_has_none_by_why_that_may_be() {
        let question = Question {
            frontend: "0.0.0.0:0".parse().unwrap(),
            protocol: Protocol::TCP,
            client: None,
            inside: false,
            always_masquerades: false,
            node: "192.0.2.1".parse().unwrap(),
        };
        let explained = |service| of_service::<V4>(&tables(), &question, service);
        let all = explained("ns/web");
        let dialled: Vec<String> = all.iter().map(|one| one.frontend.to_string()).collect();
        assert_eq!(dialled, ["192.0.2.1:30000", "203.0.113.1:80", "203.0.113.1:81"]);
        assert!(
            all[1].to_string().starts_with("203.0.113.1:80/TCP forwarded by ns/web:/TCP\n"),
            "{}",
            all[1]
        );
        assert!(explained("ns/we").is_empty() && explained("ns/webs").is_empty());
        let nothing = without_frontends("ns/dns");
        assert!(nothing.to_string().contains("cluster DNS") && nothing.outcome == "left alone", "{nothing}");
    }
}
