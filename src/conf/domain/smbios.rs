//! What the guest's firmware says of the machine.

use serde::Serialize;

/// One table of what the guest's firmware says of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SmbiosTable {
    /// Its number in the SMBIOS specification.
    pub number: u8,
    /// Its values, by QEMU's names.
    pub values: Vec<(&'static str, String)>,
}
