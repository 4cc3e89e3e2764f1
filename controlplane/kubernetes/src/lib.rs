//! # Kubernetes
//!
//! Translates the objects of a Kubernetes cluster into commands for the log. Pure: no I/O, no clock, no async; except
//! for [`watch`], which follows the API server, and [`events`] and [`writes`], which write to it.
//!
//! ```text
//!   watch ─► Objects (of the API server) ──► translate ──► Translation (what the log should have; problems)
//!                                                              │
//!   State ─────────────────────────────────────────────────► diff ──► Plan (commands; problems) ─► events
//!   State, Objects ──────────────────────────────────────► writes: where Services show their VIPs
//! ```
//!
//! Level-triggered: both sides are compared as a whole, so it does not matter which events were missed. What came from
//! Kubernetes ([`State::source`]) is withdrawn when no object asks for it any more; what an operator made is never
//! withdrawn.
//!
//! | object | becomes |
//! |---|---|
//! | Node | host: InternalIPs, labels; `spec.unschedulable` drains it |
//! | Namespace | tenant, with its labels |
//! | Pod | endpoint at each of its addresses: segment of `romana.io/segment`, labels, named ports |
//! | NetworkPolicy | policy `kube.<namespace>.<name>` |
//! | Service with `romanaip` or `romanavip` | VIP `<service>.<namespace>`; candidates: nodes with a ready endpoint |
//! | Service of type LoadBalancer, class `romana.io/vip` | the same; without a ready endpoint any node, if policy is Cluster |
//!
//! The segment of a pod decides from which block its address comes, so it is known before there is an endpoint:
//! [`watch::Segments`].
//!
//! A list that lacks much of what the log has from Kubernetes is in doubt, and not acted on at once: [`guard`].
//!
//! An object that cannot be translated, or that the rules of the log refuse, is a [`Problem`]: nothing is narrowed,
//! widened or truncated silently. What the log has of it already stays as it is.
//!
//! [`State::source`]: romana_statemachine::State::source

mod desired;
mod diff;
pub mod events;
pub mod guard;
mod held;
mod objects;
mod problem;
mod shown;
mod translate;
pub mod watch;
pub mod writes;

pub use desired::{Desired, Translation, Wanted};
pub use diff::{Plan, diff};
pub use objects::{NetworkPolicy, ObjectName, Objects, Store};
pub use problem::{ObjectRef, Problem};
pub use translate::translate;
