//! Addresses of network cards.

use crate::base::{DomainUuid, mix};

/// The address of a card that the definition gives none, by its place among the cards: the same at every start.
#[must_use]
pub fn mac(uuid: DomainUuid, index: usize) -> [u8; 6] {
    let (high, low) = uuid.0.as_u64_pair();
    let [a, b, c, ..] = mix(high ^ low.rotate_left(32), index as u64).to_be_bytes();
    // QEMU's own prefix, as libvirt has it.
    [0x52, 0x54, 0x00, a, b, c]
}

/// As it is written.
#[must_use]
pub fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
