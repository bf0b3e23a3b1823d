//! libvirt's error codes, domains and texts: the only place that knows them.

use std::time::Duration;

use crate::base::{DomainUuid, Layer, Refusal};
use crate::conf::storage::StorageXmlError;
use crate::driver::DriverError;
use crate::manager::ManagerError;
use crate::rpc::{Procedure, XdrError};
use crate::storage::StorageError;

/// Codes, as `virterror.h` numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum Code {
    Internal = 1,
    NoSupport = 3,
    NoConnect = 5,
    InvalidArgument = 8,
    OperationFailed = 9,
    Xml = 27,
    OperationDenied = 29,
    System = 38,
    Rpc = 39,
    NoDomain = 42,
    Overflow = 82,
    NoNetwork = 43,
    NoPool = 49,
    NoVolume = 50,
    NoNodeDevice = 53,
    OperationInvalid = 55,
    NoInterface = 57,
    NoNwfilter = 62,
    NoSecret = 66,
    ConfigUnsupported = 67,
    OperationTimeout = 68,
    NoSnapshot = 72,
    ArgumentUnsupported = 74,
    NoMetadata = 80,
    OperationUnsupported = 84,
    AgentUnresponsive = 86,
    AccessDenied = 88,
    NoNwfilterBinding = 101,
    NoCheckpoint = 103,
    NoBackup = 104,
    VolumeExists = 90,
    CpuIncompatible = 91,
    DeviceMissing = 99,
}

/// Where in libvirt an error would come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(super) enum From {
    None = 0,
    Rpc = 7,
    Qemu = 10,
    Storage = 18,
    Network = 19,
    Domain = 20,
    NodeDevice = 22,
    Interface = 26,
    Secret = 30,
    Cpu = 31,
    Nwfilter = 33,
    Streams = 38,
    Access = 55,
}

/// An error that a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) from: From,
    pub(super) message: String,
    /// Where it names a domain that the caller may not see, perhaps: that, and what is said to whoever may not.
    pub(super) hides: Option<Box<Hidden>>,
}

/// What an error says to whoever may not see the domain that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hidden {
    pub(super) holder: DomainUuid,
    pub(super) message: String,
}

/// What libvirt says of a domain's state in the same words for every driver.
const SHARED: &[&str] = &["domain is not running", "transient domains do not have any persistent config"];

impl Failure {
    /// The error with libvirt's own words before what is said.
    pub(super) fn new(code: Code, from: From, what: impl AsRef<str>) -> Self {
        let what = what.as_ref();
        let message = match code.words() {
            "" => what.to_owned(),
            words => format!("{words}: {what}"),
        };
        // In libvirt this comes from what all its drivers share.
        let shared = code == Code::OperationInvalid && SHARED.contains(&what);
        Self { code, from: if shared { From::Domain } else { from }, message, hides: None }
    }

    /// The error in these words alone.
    pub(super) fn raw(code: Code, from: From, message: String) -> Self {
        Self { code, from, message, hides: None }
    }

    /// The same where it is a refusal that names a domain; `more` is what is said after it.
    fn hiding(self, error: &DriverError, more: &str) -> Self {
        let refusal = error.refusal();
        let Some(holder) = refusal.holder.as_deref().copied() else { return self };
        let Self { message, .. } =
            Self::new(self.code, self.from, format!("{}{more}", refusal.without_holder()));
        Self { hides: Some(Box::new(Hidden { holder, message })), ..self }
    }

    /// A call that only an open connection takes.
    pub(super) fn not_open() -> Self {
        Self::new(Code::Internal, From::Rpc, "hypervisor connection not open")
    }

    /// A procedure that there is not. Clients look at the beginning of the text.
    pub(super) fn unknown_procedure(number: i32) -> Self {
        Self::raw(Code::Rpc, From::Rpc, format!("unknown procedure: {number}"))
    }

    /// A procedure that there is, and that this driver lacks.
    pub(super) fn unsupported(api: &str) -> Self {
        let from = match api {
            _ if api.starts_with("virDomain") => From::Domain,
            _ if api.starts_with("virNetwork") => From::Network,
            _ if api.starts_with("virStorage") => From::Storage,
            _ if api.starts_with("virNodeDevice") => From::NodeDevice,
            _ if api.starts_with("virInterface") => From::Interface,
            _ if api.starts_with("virSecret") => From::Secret,
            _ if api.starts_with("virNWFilter") => From::Nwfilter,
            _ => From::None,
        };
        Self::new(Code::NoSupport, from, api)
    }

    /// A flag that is not known, and so not ignored.
    pub(super) fn flags(flags: u32, procedure: Procedure) -> Self {
        let api = procedure.api();
        let from = match api {
            _ if api.starts_with("virDomain") => From::Qemu,
            _ if api.contains("Storage") => From::Storage,
            _ if api.contains("Network") => From::Network,
            _ if api.contains("NodeDevice") => From::NodeDevice,
            _ if api.contains("Interface") => From::Interface,
            _ if api.contains("Secret") => From::Secret,
            _ if api.contains("NWFilter") => From::Nwfilter,
            _ => From::Qemu,
        };
        let text = format!("unsupported flags (0x{flags:x}) in function {api}");
        Self::raw(Code::InvalidArgument, from, text)
    }

    /// A read-only client asked for more.
    pub(super) fn read_only(procedure: Procedure) -> Self {
        let text = match procedure {
            Procedure::DomainGetXmlDesc => "virDomainGetXMLDesc with secure flag".to_owned(),
            _ => format!("read only access prevents {}", procedure.api()),
        };
        Self::new(Code::OperationDenied, From::Domain, text)
    }

    /// A domain that does not exist, or that the caller may not see, by what a reference to it says.
    pub(super) fn no_domain(uuid: DomainUuid, name: &str) -> Self {
        Self::new(Code::NoDomain, From::Qemu, format!("no domain with matching uuid '{uuid}' ({name})"))
    }
}

impl Code {
    /// What libvirt says before the particulars.
    fn words(self) -> &'static str {
        match self {
            Self::Internal => "internal error",
            Self::NoSupport => "this function is not supported by the connection driver",
            Self::NoConnect => "no connection driver available for",
            Self::InvalidArgument => "invalid argument",
            Self::OperationFailed => "operation failed",
            Self::Xml => "XML error",
            Self::OperationDenied => "operation forbidden",
            Self::System | Self::Rpc | Self::VolumeExists => "",
            Self::NoDomain => "Domain not found",
            Self::Overflow => "numerical overflow",
            Self::NoNetwork => "Network not found",
            Self::NoPool => "Storage pool not found",
            Self::NoVolume => "Storage volume not found",
            Self::NoNodeDevice => "Node device not found",
            Self::OperationInvalid => "Requested operation is not valid",
            Self::NoInterface => "Interface not found",
            Self::NoNwfilter => "Network filter not found",
            Self::NoNwfilterBinding => "Network filter binding not found",
            Self::NoSecret => "Secret not found",
            Self::ConfigUnsupported => "unsupported configuration",
            Self::OperationTimeout => "Timed out during operation",
            Self::OperationUnsupported => "Operation not supported",
            Self::ArgumentUnsupported => "argument unsupported",
            Self::AgentUnresponsive => "Guest agent is not responding",
            Self::NoBackup => "Domain backup job id not found",
            Self::NoCheckpoint => "Domain checkpoint not found",
            Self::NoSnapshot => "Domain snapshot not found",
            Self::NoMetadata => "metadata not found",
            Self::AccessDenied => "access denied",
            Self::DeviceMissing => "device not found",
            Self::CpuIncompatible => "the CPU is incompatible with host CPU",
        }
    }
}

impl std::convert::From<XdrError> for Failure {
    fn from(_: XdrError) -> Self {
        Self::raw(Code::Rpc, From::Rpc, "Unable to decode message payload".into())
    }
}

impl std::convert::From<ManagerError> for Failure {
    fn from(error: ManagerError) -> Self {
        let text = error.to_string();
        match error {
            ManagerError::NoId(_) | ManagerError::NoName(_) | ManagerError::NoUuid(_) => {
                Self::new(Code::NoDomain, From::Qemu, text)
            }
            ManagerError::Busy { call, lasts } => busy(call, lasts),
            ManagerError::Denied(_) => Self::new(Code::AccessDenied, From::Access, text),
            ManagerError::Definition(refusal) => definition(&refusal),
            ManagerError::Driver(DriverError::NoDomain) => {
                // It ended after it had been looked up.
                Self::new(Code::OperationInvalid, From::Qemu, "domain is not running")
            }
            ManagerError::Away(error) | ManagerError::Driver(error) => {
                let said = match error.stderr().trim() {
                    "" => String::new(),
                    stderr => format!("\n  the device model said: {}", stderr.replace('\n', "\n    ")),
                };
                Self::new(Code::OperationFailed, From::Qemu, format!("{text}{said}")).hiding(&error, &said)
            }
            ManagerError::Limit(_) | ManagerError::NameTaken { .. } | ManagerError::UuidTaken { .. } => {
                Self::new(Code::OperationFailed, From::Qemu, text)
            }
            ManagerError::AgentSilent(_) => Self::new(Code::AgentUnresponsive, From::Qemu, text),
            ManagerError::NoAgent(_) => Self::new(Code::ArgumentUnsupported, From::Qemu, text),
            ManagerError::Failed(_) => Self::new(Code::OperationFailed, From::Qemu, text),
            ManagerError::NoDevice(_) => Self::new(Code::DeviceMissing, From::Domain, text),
            ManagerError::NoPool(_) => Self::new(Code::NoPool, From::Storage, text),
            ManagerError::NoVolume(_) => Self::new(Code::NoVolume, From::Storage, text),
            ManagerError::Argument(_) => Self::new(Code::InvalidArgument, From::Domain, text),
            ManagerError::Config(_) => Self::new(Code::ConfigUnsupported, From::Qemu, text),
            ManagerError::Value(_) => Self::new(Code::ArgumentUnsupported, From::Qemu, text),
            ManagerError::Malformed(_) => Self::new(Code::Xml, From::Domain, text),
            ManagerError::State(_) => Self::new(Code::OperationInvalid, From::Qemu, text),
            ManagerError::Late(_) => Self::new(Code::OperationTimeout, From::Qemu, text),
            ManagerError::Operation(_) => Self::new(Code::OperationUnsupported, From::Qemu, text),
            ManagerError::Store(_) => Self::new(Code::System, From::Qemu, text),
            ManagerError::Unsupported(_) => Self::new(Code::NoSupport, From::Domain, text),
        }
    }
}

impl std::convert::From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        let code = match &error {
            StorageError::Argument(_) => Code::InvalidArgument,
            // libvirt calls these internal, and its conformance kit looks at the second one's.
            StorageError::Taken(_) | StorageError::Transient => Code::Internal,
            StorageError::Conflict(_) | StorageError::Driver(_) | StorageError::Read { .. } => {
                Code::OperationFailed
            }
            StorageError::Exists(_) => Code::VolumeExists,
            StorageError::Lacks(_) => Code::NoSupport,
            StorageError::Operation(_) => Code::OperationUnsupported,
            StorageError::NoPoolName(_) | StorageError::NoPoolPath(_) | StorageError::NoPoolUuid(_) => {
                Code::NoPool
            }
            StorageError::NoVolume(..) => Code::NoVolume,
            StorageError::State(_) => Code::OperationInvalid,
            StorageError::Store(_) => Code::System,
            StorageError::Unsupported(_) | StorageError::Xml(StorageXmlError::Unsupported(_)) => {
                Code::ConfigUnsupported
            }
            StorageError::Xml(StorageXmlError::Malformed(_)) => Code::Xml,
        };
        let failure = Self::new(code, From::Storage, error.to_string());
        match &error {
            StorageError::Driver(driver) => failure.hiding(driver, ""),
            _ => failure,
        }
    }
}

/// As libvirt says it up to the parenthesis, which tools look for.
fn busy(call: &str, lasts: Duration) -> Failure {
    let remedy = match call {
        "DomainSave" | "DomainManagedSave" | "DomainCoreDump" => "wait until that is over, or domjobabort it",
        _ => "try again when that is over",
    };
    let text = format!(
        "cannot acquire state change lock (held by monitor=remoteDispatch{call}) for {} s by now: {remedy}",
        lasts.as_secs()
    );
    Failure::new(Code::OperationTimeout, From::None, text)
}

fn definition(refusal: &Refusal) -> Failure {
    let code =
        if refusal.layer == Layer::Definition { Code::ConfigUnsupported } else { Code::OperationFailed };
    Failure::new(code, From::Domain, refusal.to_string())
}
