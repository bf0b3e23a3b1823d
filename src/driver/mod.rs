//! Takes a definition to a running domain: parse, chains, survey, plan, start. Speaks to the labeller and to
//! supervisors; never opens an image, changes a label or executes QEMU itself.
#![forbid(unsafe_code)]

mod client;
mod control;
mod files;
mod machine;
mod native;
mod ondemand;
mod plug;
mod prober;
mod start;
mod stream;

pub use crate::plan::firmware::find as find_firmware;
pub use crate::plan::{disk_aliases, stores, throttle, tuned};
pub use client::Labeller;
pub use control::{Control, Picture};
pub use files::outside;
pub use machine::Machine;
pub use native::{CommandLine, command_line};
pub use ondemand::{OnDemand, PROGRAM, find as find_labeller};
pub use plug::{Plugging, interface_mac, plan_controller, plan_interface, plan_plug};
pub use prober::{LabellerProber, OwnProber};
pub use start::{Begin, Launch, Prepared, draw, prepare, prepare_unread, start, without_uuid};

use std::time::Duration;

use crate::base::{Layer, Refusal};
use crate::privsep::request::{NOT_RUNNING, Refused};
use crate::privsep::wire::WireError;

/// Where a labeller says what went wrong with it.
const LOOK: &str = "read /run/svirt/labeller.log (labeller.log in paths.run of the configuration), or `journalctl -u svirt-labeller` where \
                    systemd started it";

/// Why something that was asked for did not happen.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The other side's socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The domain is saved, and was to be started without what is saved of it: its disks would change under that.
    #[error("domain '{0}' is saved")]
    IsSaved(String),
    /// The labeller knows no such domain, or not any longer: it may have ended a moment ago.
    #[error("no such domain runs")]
    NoDomain,
    /// The other side closed the connection, or answered something else than was asked.
    #[error("{0}")]
    Protocol(String),
    /// The front part refused, before anything was touched.
    #[error(transparent)]
    Refusal(Box<Refusal>),
    /// The labeller refused or failed, and has undone what there was.
    #[error("{}", .0.refusal)]
    Refused(Box<Refused>),
    /// A supervisor took longer over an answer than anybody waits.
    #[error("the supervisor does not answer")]
    Silent,
    /// The labeller took longer over an answer than anything takes it.
    #[error("the labeller does not answer within {} s", .0.as_secs())]
    Stalled(Duration),
    /// A message was no message.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl From<Refusal> for DriverError {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(Box::new(refusal))
    }
}

impl DriverError {
    /// The error as a person sees it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Refusal(refusal) => (**refusal).clone(),
            Self::Refused(refused) => refused.refusal.clone(),
            Self::Io { what, source } => {
                let remedy = match source.kind() {
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                        "start the labeller: systemctl start svirt-labeller, or run svirt as root"
                    }
                    std::io::ErrorKind::PermissionDenied => {
                        "run svirt as root, or as the user of [uids] frontend"
                    }
                    _ => LOOK,
                };
                Refusal::new(Layer::Kernel, "speak", what.clone(), source.to_string(), remedy)
            }
            Self::IsSaved(name) => Refusal::new(
                Layer::Policy,
                "start",
                name.as_str(),
                "it has a managed save, which would not fit its disks any longer",
                "`virsh start` goes on from there; `virsh managedsave-remove` gives that up",
            ),
            Self::NoDomain => {
                let remedy = "`svirt list` shows the domains that run";
                Refusal::new(Layer::Lease, "find", "the domain", NOT_RUNNING, remedy)
            }
            Self::Protocol(text) => {
                Refusal::new(Layer::Kernel, "speak", text.clone(), "the conversation broke off", LOOK)
            }
            Self::Silent => Refusal::new(
                Layer::Kernel,
                "ask",
                "the domain's supervisor",
                "it does not answer in time: it is stopped, or too busy",
                "try again; `svirt stop --force` ends the domain without it",
            ),
            Self::Stalled(after) => Refusal::new(
                Layer::Kernel,
                "ask",
                "the labeller",
                format!("it does not answer within {} s: it is stopped, or far too busy", after.as_secs()),
                "`ps -C svirt-labeller -o pid,stat` shows T where it is stopped: `kill -CONT PID` lets it go on; if it hangs, `kill -9 PID` has \
                 another one take over, and the domains go on",
            ),
            Self::Wire(error) => Refusal::new(
                Layer::Policy,
                "understand",
                "a message",
                error.to_string(),
                "use svirt programs of one version",
            ),
        }
    }

    /// Whether it is that the domain does not run.
    #[must_use]
    pub fn is_not_running(&self) -> bool {
        match self {
            Self::NoDomain => true,
            Self::Refused(refused) => refused.refusal.rule == NOT_RUNNING,
            Self::Refusal(refusal) => refusal.rule == NOT_RUNNING,
            _ => false,
        }
    }

    /// The last lines of QEMU's standard error, where a start got so far.
    #[must_use]
    pub fn stderr(&self) -> &str {
        match self {
            Self::Refused(refused) => &refused.stderr,
            _ => "",
        }
    }
}
