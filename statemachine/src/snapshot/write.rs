//! Writes a snapshot directly from the state, without a second copy of it in memory.

use alloc::vec::Vec;

use serde::ser::{SerializeSeq, SerializeTuple};
use serde::{Serialize, Serializer};

use super::{Snapshot2, Snapshot3, Snapshot4, Snapshot5, Vip1};
use crate::entry::{Digest, Index, Millis, Term};
use crate::ipam::Block;
use crate::state::State;
use crate::tenant::Tenant;

/// The content of [`super::Snapshot1`], serialised from the state.
pub(super) struct Content<'a>(pub(super) &'a State);

/// A block in the form of [`super::Block1`].
struct BlockContent<'a>(&'a Block);

/// A tenant in the form of [`super::Tenant1`].
struct TenantContent<'a>(&'a Tenant);

/// A sequence with the given number of items, serialised while iterating.
struct Seq<F>(usize, F);

impl<I, F> Serialize for Seq<F>
where
    I: Iterator<Item: Serialize>,
    F: Fn() -> I,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0))?;
        (self.1)().try_for_each(|item| seq.serialize_element(&item))?;
        seq.end()
    }
}

/// The sequence of the items of an iterator, which runs once to count them: that is cheap.
fn seq<I: Iterator, F: Fn() -> I>(walk: F) -> Seq<F> {
    Seq(walk().count(), walk)
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let state = self.0;
        let ipam = &state.ipam;
        let mut parts = serializer.serialize_tuple(19)?;
        parts.serialize_element(&state.version)?;
        parts.serialize_element(&state.revision)?;
        parts.serialize_element(&state.index)?;
        parts.serialize_element(&state.term)?;
        parts.serialize_element(&state.at)?;
        parts.serialize_element(&state.digest)?;
        parts.serialize_element(&state.settings)?;
        parts.serialize_element(&state.topology().map(|topology| topology.spec()))?;
        parts.serialize_element(&seq(|| state.hosts()))?;
        parts.serialize_element(&seq(|| ipam.blocks().map(BlockContent)))?;
        parts.serialize_element(&seq(|| {
            let returned = ipam.pools.values().flat_map(|pool| &pool.returned);
            returned.map(|((at, revision), cidr)| (cidr, at, revision))
        }))?;
        parts.serialize_element(&seq(|| ipam.cooling.iter()))?;
        parts.serialize_element(&seq(|| ipam.blackouts()))?;
        parts.serialize_element(&seq(|| {
            state.tenants().map(|(id, tenant)| (id, &tenant.labels, TenantContent(tenant)))
        }))?;
        parts.serialize_element(&seq(|| state.policies()))?;
        parts.serialize_element(&seq(|| state.endpoints()))?;
        parts.serialize_element(&seq(|| state.vips().map(Vip1::of)))?;
        parts.serialize_element(&seq(|| state.routers()))?;
        parts.serialize_element(&seq(|| state.vip_fences.iter()))?;
        parts.end()
    }
}

impl Serialize for BlockContent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (block, owner) = (self.0, self.0.owner());
        let addresses = || {
            let live = block.addresses.from(0);
            live.map(|(offset, address)| (offset, &address.name, address.revision))
        };
        let head = (block.cidr, block.group, &owner.network, &owner.host);
        let tail = (&owner.tenant, &owner.segment, block.empty_since, block.live);
        (head, tail, seq(addresses)).serialize(serializer)
    }
}

impl Serialize for TenantContent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        seq(|| self.0.segments.iter()).serialize(serializer)
    }
}

/// Hashes what is written, in pieces.
struct Hashing {
    hasher: blake3::Hasher,
    piece: Vec<u8>,
}

/// Bytes hashed per call: enough to use all SIMD lanes.
const PIECE_BYTES: usize = 64 << 10;

impl postcard::ser_flavors::Flavor for Hashing {
    type Output = Digest;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.piece.len() + bytes.len() > PIECE_BYTES {
            self.hasher.update(&self.piece);
            self.piece.clear();
        }
        self.piece.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(mut self) -> postcard::Result<Digest> {
        self.hasher.update(&self.piece);
        Ok(Digest(*self.hasher.finalize().as_bytes()))
    }
}

/// The digest of the wire form of a value, without storing the wire form.
fn wire_digest<T: Serialize>(value: &T) -> Digest {
    let hashing = Hashing { hasher: blake3::Hasher::new(), piece: Vec::with_capacity(PIECE_BYTES) };
    #[expect(clippy::expect_used, reason = "postcard fails only on unknown lengths")]
    postcard::serialize_with_flavor(value, hashing).expect("a snapshot has a wire form")
}

impl State {
    /// The digest of the content: equal for all states with the same history, regardless of entries without events.
    /// O(n).
    #[must_use]
    pub fn state_digest(&self) -> Digest {
        let mut content = self.clone();
        content.index = Index(0);
        content.term = Term(0);
        content.at = Millis::default();
        content.snapshot_digest()
    }

    /// The digest of the snapshot, in format 2 or later.
    fn snapshot_digest(&self) -> Digest {
        let cluster = Snapshot2::of(self);
        if self.version < 3 {
            return wire_digest(&(2u16, Content(self), cluster));
        }
        let third = Snapshot3::of(self);
        if self.version == 3 {
            return wire_digest(&(3u16, Content(self), cluster, third));
        }
        let fourth = Snapshot4::of(self);
        match Snapshot5::of(self) {
            None => wire_digest(&(4u16, Content(self), cluster, third, fourth)),
            Some(fifth) => wire_digest(&(5u16, Content(self), cluster, third, fourth, fifth)),
        }
    }
}

#[cfg(test)]
mod tests {
    use core::iter;

    use super::*;
    use crate::entry::wire;

    #[test]
    fn what_is_hashed_is_what_is_written() {
        for length in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 7] {
            let bytes: Vec<u16> = iter::repeat_n(977, length).collect();
            assert_eq!(wire_digest(&bytes), Digest::of(&wire(&bytes)));
        }
        let state = State::new();
        let whole = wire(&(2u16, Content(&state), Snapshot2::of(&state)));
        assert_eq!(state.snapshot_digest(), Digest::of(&whole));
    }
}
