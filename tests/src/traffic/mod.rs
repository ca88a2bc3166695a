//! Servers and clients that say who served whom.
//!
//! Decides what is sent and what counts as success; must not know the lab's layout or the agent.
//! Invariant: an exchange succeeds only if the answer is complete and is the answer to what was
//! sent; anything else is a [`Failure`] with a kind.

mod conversation;
mod dial;
mod echo;
mod failure;
mod load;
mod totals;

pub use self::dial::{Dial, Reply, tcp_once, udp_once};
pub use self::echo::EchoServer;
pub use self::failure::{Failure, FailureKind};
pub use self::load::{Load, LoadBuilder, Protocol};
pub use self::totals::{Conversations, Example, Failures, Totals};
