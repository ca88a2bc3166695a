//! The agent and the tool.
//!
//! Decides which rooms there are and in which direction they know each other:
//! `source -> model <- plan -> tables <- datapath`; only `reconcile` and `cmd` see all.

pub mod cmd;
pub mod datapath;
pub mod doctor;
pub mod flows;
pub mod model;
pub mod net;
pub mod plan;
pub mod reconcile;
pub mod serve;
pub mod source;
pub mod tables;
mod trees;
