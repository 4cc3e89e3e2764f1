//! The reserve: addresses allocated in advance, under reserved names, for use while a host is cut off. Since version
//! 3.
//!
//! ```text
//!   allocated in advance ─► used while cut off ─► claimed on return, under the name that it was used by
//! ```

use alloc::vec;
use alloc::vec::Vec;

use crate::command::ClaimReserve;
use crate::event::{AddressClaimed, Event};
use crate::ipam::Allocation;
use crate::name::RESERVE_PREFIX;
use crate::refusal::Refusal;
use crate::state::State;

/// Idempotent: a claimed address may be claimed again.
pub(crate) fn decide_claim(state: &State, claim: &ClaimReserve) -> Result<Vec<Event>, Refusal> {
    let ClaimReserve { reserve, name, host, tenant, segment, since } = claim.clone();
    name.check()?;
    let of_claim =
        |live: &Allocation| live.host == host && live.tenant == tenant && live.segment == segment;
    let held = state.ipam.by_name(&reserve).filter(of_claim);
    let held = held.filter(|held| held.name.as_str().starts_with(RESERVE_PREFIX));
    if let Some(live) = state.ipam.by_name(&name) {
        // Already claimed, unless the reserve still exists: then the name has another address.
        if of_claim(&live) && held.is_none() {
            return Ok(Vec::new());
        }
        let Allocation { name, ip, host, tenant, segment, .. } = live;
        return Err(Refusal::AddressNameInUse { name, ip, host, tenant, segment });
    }
    let Some(Allocation { ip, block, .. }) = held else {
        return Err(Refusal::AddressNotFound { address: reserve });
    };
    let event = AddressClaimed { name, reserve, ip, block, host, tenant, segment, since };
    Ok(vec![Event::AddressClaimed(event)])
}
