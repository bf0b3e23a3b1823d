//! UEFI firmware, and what the guest's firmware finds by name.

use serde::Serialize;

/// UEFI firmware in flash memory: code that is only read, and a store of variables of the domain's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Firmware {
    /// `<loader>`; without one the host's firmware descriptions decide (`<os firmware='efi'>`).
    pub loader: Option<String>,
    /// `<loader secure>`: whether only code in system management mode may write variables.
    pub secure: Option<bool>,
    /// `<firmware><feature name='secure-boot' enabled>`
    pub secure_boot: Option<bool>,
    /// `<firmware><feature name='enrolled-keys' enabled>`
    pub enrolled_keys: Option<bool>,
    /// `<nvram>`; one is named by the domain's uuid where there is none.
    pub nvram: Option<String>,
    /// `<nvram template>`
    pub template: Option<String>,
    /// Line of the element in the definition.
    pub line: u32,
}

impl Firmware {
    /// Firmware that the host's descriptions decide on alone.
    #[must_use]
    pub fn automatic(line: u32) -> Self {
        Self {
            loader: None,
            secure: None,
            secure_boot: None,
            enrolled_keys: None,
            nvram: None,
            template: None,
            line,
        }
    }
}

/// `<entry>` of `<sysinfo type='fwcfg'>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FwCfg {
    /// `name`; begins with `opt/`.
    pub name: String,
    /// What the guest reads under it.
    pub source: FwCfgSource,
    /// Line of the element in the definition.
    pub line: u32,
}

/// What a guest reads under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum FwCfgSource {
    /// `file`: what the file holds when the guest starts.
    File(String),
    /// The element's text.
    Text(String),
}

impl FwCfg {
    /// The most entries with a file of one domain.
    pub const FILES_MAX: usize = 8;
}
