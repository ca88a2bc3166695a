//! The real binary, run in a node of the lab.
//!
//! Decides how an agent is started, watched and ended, and how its one-shot commands are run. Must
//! not know what it programs: it sees a command line, an exit status and lines of JSON. Invariant:
//! every process started here is ended by its id when its value is dropped, unless it is let go.

mod binary;
mod journal;
mod log;
mod process;
mod tool;

pub use self::binary::binary;
pub use self::log::{InSync, LogLine};
pub use self::process::{Agent, AgentConfig, Objects};
pub use self::tool::{Tool, ToolOutput};
