//! Virtual IPs: this host answers for those that the leader grants it, and only as long (P6).
//!
//! ```text
//!   log ──► VIP placed here ─┐                              ┌─► kernel: address with a lifetime
//!   timer ───────────────────┴─► holder ── order ─► watchdog┤
//!   leader ◄── renewal ─────────┘  ▲ ▲                      └─► link: ARP, neighbour advertisements
//!   grant, release ────────────────┘ └── links, addresses
//! ```
//! [`holder`] renews the leases ([`romana_statemachine::lease`]) and decides with [`plan`] what to have where. A process
//! of its own, the [`watchdog`], has the addresses: it adds, renews, announces and removes them ([`held_addresses`], [`frames`]).
//!
//! An address is off the host by the end of its grant, by whichever of these comes first:
//! 1. the leader asks for it back, and the holder has it removed: a planned move;
//! 2. the watchdog removes it at the end of its grant. It needs nothing from the agent for that, which may hang, be
//!    stopped (`SIGSTOP`) or be killed;
//! 3. the agent removes it, and kills a watchdog that does not answer;
//! 4. the kernel removes it: within the grant and [`REMOVAL`](romana_statemachine::lease::REMOVAL), which the leader
//!    waits for, too, except in the case described there.
//!
//! The kernel alone would do, but its shortest lifetime is 1 s, and it looks at lifetimes once a second: with the default
//! grant of 1 s an address can stay until 2 s after the last renewal. The watchdog is exact, and an agent that was stopped
//! between looking at the clock and adding an address cannot add it later. A restart leaves addresses in the kernel; the
//! next run takes them over if it is granted them while they last.

pub mod clock;
pub mod flux;
pub mod frames;
pub mod held_addresses;
pub mod holder;
pub mod plan;
pub mod process;
pub mod status;
pub mod watchdog;
