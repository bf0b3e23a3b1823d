//! Appliances: what a virtual machine image needs of a host, and the domain that it becomes there.
//!
//! The format is virt-image's, with one addition: a `<seclabel>` in `<guest>` names the security model and the domains
//! of interpretation that the appliance's labels are meant in. Pure; `docs/appliances.md` explains it.

mod check;
mod deploy;
mod parse;

use serde::Serialize;

use super::xml::XmlError;
use crate::base::{DomainName, Layer, Refusal};

pub use check::{Finding, Offer, Verdict, check};
pub use deploy::domain_xml;

/// One appliance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Appliance {
    /// `<name>`
    pub name: DomainName,
    /// `<label>`
    pub label: Option<String>,
    /// `<description>`
    pub description: Option<String>,
    /// `<boot>`: ways to run it, the preferred one first.
    pub boots: Vec<Boot>,
    /// `<vcpu>`
    pub vcpus: u32,
    /// `<memory>` in KiB.
    pub memory: u64,
    /// `<interface>`: how many.
    pub interfaces: u32,
    /// `<graphics>`
    pub graphics: bool,
    /// `<storage>`
    pub storage: Vec<StorageDisk>,
}

/// One boot descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// `type`: `hvm` or `xen`.
    pub kind: String,
    /// `<arch>`
    pub arch: String,
    /// `<features>` that the guest needs.
    pub features: Vec<String>,
    /// `<seclabel>`s of `<guest>`.
    pub security: Vec<Security>,
    /// `<os>`
    pub start: Start,
    /// `<drive>`s.
    pub drives: Vec<Drive>,
}

/// How a guest starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Start {
    /// `<loader dev=…>`: `hd` or `cdrom`.
    Device(String),
    /// `<kernel>`, `<initrd>`, `<cmdline>`: files beside the appliance.
    Kernel {
        /// The kernel.
        kernel: String,
        /// The initial memory disk.
        initrd: Option<String>,
        /// The kernel's command line.
        cmdline: Option<String>,
    },
    /// `<loader>pygrub</loader>` and the like: a program of another hypervisor.
    Program(String),
}

/// `<drive disk=… target=…>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drive {
    /// Which of [`Appliance::storage`].
    pub disk: usize,
    /// Such as `hda` or `vda`.
    pub target: String,
}

/// `<storage><disk>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StorageDisk {
    /// The file, below the appliance's directory.
    pub file: String,
    /// `raw` or `qcow2`; others are kept to be refused by name.
    pub format: String,
    /// `use`: `system`, `user` or `scratch`.
    pub usage: String,
}

/// `<seclabel model=…>` of a boot descriptor's `<guest>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Security {
    /// The model.
    pub model: String,
    /// `<doi>`s in any of which the appliance may run, the preferred one first.
    pub dois: Vec<String>,
    /// `<enforcing>yes</enforcing>`: the model must refuse.
    pub enforcing: bool,
    /// `<label>`: a static label, in the first of the domains of interpretation.
    pub label: Option<String>,
}

/// Why a text is no appliance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplianceError {
    /// Something is missing, unknown or makes no sense.
    #[error("{what}, line {line}")]
    Content {
        /// Where.
        line: u32,
        /// What.
        what: String,
    },
    /// It is no XML.
    #[error(transparent)]
    Xml(#[from] XmlError),
}

impl From<ApplianceError> for Refusal {
    fn from(error: ApplianceError) -> Self {
        Self::new(
            Layer::Definition,
            "read",
            "the appliance",
            error.to_string(),
            "correct that line; docs/appliances.md shows the format",
        )
    }
}

impl Appliance {
    /// Reads one. What is unknown is refused: it may be something that the host would have to have.
    pub fn parse(xml: &[u8]) -> Result<Self, ApplianceError> {
        parse::appliance(xml)
    }
}

/// Reads whatever is given; for fuzzers and the replay of their corpus.
pub fn fuzz_appliance(data: &[u8]) {
    match Appliance::parse(data) {
        Ok(read) => assert!(!read.boots.is_empty() && read.memory > 0 && read.vcpus > 0),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
