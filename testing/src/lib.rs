//! # What tests of several crates share
//!
//! No program that is shipped has it; `chaos` does. Its functions panic with the reason where a test cannot go on.

mod api_server;
mod frozen;
pub mod goldens;
mod grants;
mod ports;
mod programs;

pub use api_server::{ApiServer, kubeconfig};
pub use frozen::{frozen, hex, unhex};
pub use goldens::Goldens;
pub use grants::romanad_grants;
pub use ports::free_ports;
pub use programs::{agent_of, built, must, output, previous};
