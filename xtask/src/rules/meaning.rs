//! What each rule says, in one line: the first column of meaning in docs/rules.md. Knows no test. Invariant: the place in
//! the list is the rule's number, counted from 1.

/// So many of the contract's rules, from C1 on, must have a test.
pub(super) const REQUIRED: u8 = 49;

/// The Service contract.
pub(super) const CONTRACT: &[&str] = &[
    "Services of another proxy and slices meant for DNS are passed over.",
    "Headless Services and external names are left to cluster DNS, and the tool says so.",
    "A slice's label names its Service; a Service without a selector takes slices written by hand.",
    "Nothing is programmed before all lists are complete; what an earlier run left stays in force until then.",
    "Endpoints are read from `discovery.k8s.io/v1` slices only.",
    "Conditions that nobody wrote have defaults, one address counts, and an unusable endpoint is told of.",
    "Ports of slices and Services belong together by name and protocol; the number is the slice's.",
    "An endpoint in two slices is one, and is there all through its move.",
    "Local is what carries the own node's name.",
    "Published addresses of pods that are not ready need nothing but what the slice says.",
    "The cluster set: ready endpoints within topology, else those that serve while they terminate.",
    "The local set, with a fallback of its own.",
    "Hints for nodes come before hints for zones; one endpoint without any switches them off.",
    "`internalTrafficPolicy` decides which set a ClusterIP uses.",
    "`externalTrafficPolicy` decides which set every other frontend uses.",
    "A ClusterIP is a frontend in each family, for each port.",
    "NodePorts stand at the chosen addresses, and at loopback for the node itself.",
    "Load balancer addresses are frontends unless a proxy stands in front.",
    "External addresses are frontends.",
    "Without a node port there is none.",
    "TCP, UDP and SCTP, over IPv4 and IPv6 alike.",
    "Of two claimants the older has the frontend; the other is told, and gets it when it is free.",
    "A pod that is given itself is answered through the node.",
    "With the external policy Local it counts who calls: pods and the node use all, others the local set.",
    "From outside to a backend elsewhere the source is the node; to a backend here it stays.",
    "Calls of a ClusterIP from inside keep their source.",
    "Source ports stay where they can, and change where two flows would be one.",
    "Every connection chooses anew, all backends alike.",
    "Every node chooses the same backend for a flow of an external frontend.",
    "A client stays with its backend for as long as affinity lasts.",
    "A connection stays with its backend until it ends.",
    "Where nobody serves, the call is refused.",
    "Where only others' nodes serve and the policy is Local, there is silence.",
    "A cluster address refuses ports it has not; an address that nobody has is silent.",
    "Source ranges guard load balancer addresses, and nothing else.",
    "UDP leaves a backend that stopped serving at once.",
    "TCP connections are never flushed; a vanished backend's are reset only where that is asked for.",
    "A new connection with the ports of a closed one chooses anew.",
    "ICMP errors are translated inside and out, and redirects dropped.",
    "Fragments follow the first of them.",
    "Options, extension headers and one VLAN tag are read; what is malformed is never mistranslated.",
    "Checksums hold, with and without offload.",
    "Where a program forwards by itself, a packet ages by one hop.",
    "What is no Service's leaves as it came.",
    "Health check node ports say how many local endpoints are ready.",
    "`/healthz` and `/livez` tell of changes that wait too long, and whether the node is eligible.",
    "Metrics have kube-proxy's names where it has them.",
    "The API server is reached by its own address, and its endpoints outlive its absence.",
    "An agent that is away leaves the datapath as it was.",
];

/// What a prototype was seen to break without.
pub(super) const PROTOTYPE: &[&str] = &[
    "A reverse row stands for one live flow; another flow of its tuple gets another port, a dead row gives way.",
    "What the node itself sends from a masquerade port holds its tuple by rows of its own.",
    "Redirects about a translated flow are dropped.",
    "On a bridge without br_netfilter, replies pass by the host's connection tracking: it is required, and said.",
    "ICMP errors are translated, at either hook.",
    "Fragments pass both hooks as fragments.",
    "The source is the outgoing device's address, or the node's where that has none.",
    "Every device that leads off the node has the programs.",
    "A firewall that lets in only what netfilter translated is found, and the rule it lacks is told.",
    "A SYN checks that its row's backend still serves, and rows outlive a FIN by two minutes.",
    "The masquerade address is chosen at egress, which fails closed where there is none.",
    "The hook is part of a row's key.",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_a_meaning() {
        assert_eq!((CONTRACT.len(), PROTOTYPE.len()), (usize::from(REQUIRED), 12));
    }
}
