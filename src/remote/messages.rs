//! What happened to a domain, as libvirt's event messages. The only place that knows their numbers.

use super::call::reference;
use crate::manager::{Domain, What};
use crate::rpc::{Encode, Encoder, List, Procedure, TypedParam, XdrError};

/// virDomainEventID
const LIFECYCLE: i32 = 0;
const REBOOT: i32 = 1;
const RTC_CHANGE: i32 = 2;
const WATCHDOG: i32 = 3;
const IO_ERROR: i32 = 4;
const IO_ERROR_REASON: i32 = 6;
const TRAY_CHANGE: i32 = 10;
const PMWAKEUP: i32 = 11;
const PMSUSPEND: i32 = 12;
const BALLOON_CHANGE: i32 = 13;
const PMSUSPEND_DISK: i32 = 14;
const DEVICE_REMOVED: i32 = 15;
const AGENT_LIFECYCLE: i32 = 18;
const DEVICE_ADDED: i32 = 19;
const MIGRATION_ITERATION: i32 = 20;
const JOB_COMPLETED: i32 = 21;
const DEVICE_REMOVAL_FAILED: i32 = 22;
const METADATA_CHANGE: i32 = 23;
const BLOCK_THRESHOLD: i32 = 24;

/// One message, but for whom it is about and to whom it goes.
pub(super) struct Message<'a> {
    /// What a client registers for.
    pub(super) event: i32,
    /// The number that it is sent under.
    procedure: Procedure,
    /// A word before the domain, which some messages have.
    before: Option<i32>,
    after: After<'a>,
}

/// What stands behind the domain.
enum After<'a> {
    Nothing,
    Number(i32),
    Two(i32, i32),
    Long(i64),
    Unsigned(u64),
    Params(Vec<TypedParam<'static>>),
    Text(&'a str),
    NumberText(i32, Option<&'a str>),
    TextNumber(&'a str, i32),
    Texts(&'a str, Option<&'a str>, u64, u64),
    IoError(&'a str, &'a str, i32),
    IoErrorReason(&'a str, &'a str, i32, &'a str),
}

impl Message<'_> {
    /// The number that it is sent under to a registration, which has a number itself but in the old form; none where
    /// there is no such message.
    pub(super) fn procedure(&self, callback: Option<i32>) -> Option<Procedure> {
        match callback {
            Some(_) => Some(self.procedure),
            None => old(self.procedure),
        }
    }

    /// The bytes for one registration.
    pub(super) fn body(&self, callback: Option<i32>, domain: &Domain) -> Result<Vec<u8>, XdrError> {
        let mut to = Encoder::new();
        if let Some(callback) = &callback {
            to.put(callback)?;
            self.before.iter().try_for_each(|before| to.put(before))?;
        }
        to.put(&(reference(domain), &self.after))?;
        Ok(to.into_bytes())
    }
}

impl Encode for After<'_> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        match self {
            Self::Nothing => Ok(()),
            Self::Number(number) => to.put(number),
            Self::Two(one, two) => to.put(&(one, two)),
            Self::Long(number) => to.put(number),
            Self::Unsigned(number) => to.put(number),
            Self::Params(params) => to.put(&List::<_, 64>(params.clone())),
            Self::Text(text) => to.put(text),
            Self::NumberText(number, text) => to.put(&(number, text)),
            Self::TextNumber(text, number) => to.put(&(text, number)),
            Self::Texts(text, other, one, two) => to.put(&(text, other, one, two)),
            Self::IoError(path, alias, action) => to.put(&(path, alias, action)),
            Self::IoErrorReason(path, alias, action, reason) => to.put(&(path, alias, action, reason)),
        }
    }
}

/// The message of the old form, which names no registration. What is newer than that form has none.
fn old(procedure: Procedure) -> Option<Procedure> {
    use Procedure as P;
    Some(match procedure {
        P::DomainEventCallbackBalloonChange => P::DomainEventBalloonChange,
        P::DomainEventCallbackDeviceRemoved => P::DomainEventDeviceRemoved,
        P::DomainEventCallbackIoError => P::DomainEventIoError,
        P::DomainEventCallbackIoErrorReason => P::DomainEventIoErrorReason,
        P::DomainEventCallbackLifecycle => P::DomainEventLifecycle,
        P::DomainEventCallbackPmsuspend => P::DomainEventPmsuspend,
        P::DomainEventCallbackPmsuspendDisk => P::DomainEventPmsuspendDisk,
        P::DomainEventCallbackPmwakeup => P::DomainEventPmwakeup,
        P::DomainEventCallbackReboot => P::DomainEventReboot,
        P::DomainEventCallbackRtcChange => P::DomainEventRtcChange,
        P::DomainEventCallbackTrayChange => P::DomainEventTrayChange,
        P::DomainEventCallbackWatchdog => P::DomainEventWatchdog,
        _ => return None,
    })
}

/// The messages that tell of it, in libvirt's order.
pub(super) fn of(what: &What) -> Vec<Message<'_>> {
    use Procedure as P;
    let one = |event, procedure, after| Message { event, procedure, before: None, after };
    let slept = |event, procedure| Message { event, procedure, before: Some(0), after: After::Nothing };
    let message = match what {
        What::Agent { connected, reason } => {
            let state = if *connected { 1 } else { 2 };
            one(AGENT_LIFECYCLE, P::DomainEventCallbackAgentLifecycle, After::Two(state, *reason))
        }
        What::Balloon(bytes) => {
            one(BALLOON_CHANGE, P::DomainEventCallbackBalloonChange, After::Unsigned(bytes / 1024))
        }
        What::BlockThreshold { target, path, threshold, excess } => {
            let after = After::Texts(target, path.as_deref(), *threshold, *excess);
            one(BLOCK_THRESHOLD, P::DomainEventBlockThreshold, after)
        }
        What::DeviceAdded(alias) => one(DEVICE_ADDED, P::DomainEventCallbackDeviceAdded, After::Text(alias)),
        What::DeviceKept(alias) => {
            one(DEVICE_REMOVAL_FAILED, P::DomainEventCallbackDeviceRemovalFailed, After::Text(alias))
        }
        What::DeviceRemoved(alias) => {
            one(DEVICE_REMOVED, P::DomainEventCallbackDeviceRemoved, After::Text(alias))
        }
        What::IoError { alias, path, action, no_space } => return io_error(alias, path, action, *no_space),
        What::JobCompleted(progress) => {
            let after = After::Params(super::save::params(progress));
            one(JOB_COMPLETED, P::DomainEventCallbackJobCompleted, after)
        }
        What::Lifecycle(lifecycle) => {
            let (event, detail) = lifecycle.numbers();
            one(LIFECYCLE, P::DomainEventCallbackLifecycle, After::Two(event, detail))
        }
        What::MigrationIteration(turn) => {
            one(MIGRATION_ITERATION, P::DomainEventCallbackMigrationIteration, After::Number(*turn))
        }
        What::Metadata { kind, namespace } => {
            let after = After::NumberText(*kind, namespace.as_deref());
            one(METADATA_CHANGE, P::DomainEventCallbackMetadataChange, after)
        }
        What::PmSuspend => slept(PMSUSPEND, P::DomainEventCallbackPmsuspend),
        What::PmSuspendDisk => slept(PMSUSPEND_DISK, P::DomainEventCallbackPmsuspendDisk),
        What::PmWakeup => slept(PMWAKEUP, P::DomainEventCallbackPmwakeup),
        What::Reboot => one(REBOOT, P::DomainEventCallbackReboot, After::Nothing),
        What::RtcChange(offset) => one(RTC_CHANGE, P::DomainEventCallbackRtcChange, After::Long(*offset)),
        What::Tray { alias, open } => {
            let reason = i32::from(!open);
            one(TRAY_CHANGE, P::DomainEventCallbackTrayChange, After::TextNumber(alias, reason))
        }
        What::Watchdog(action) => {
            one(WATCHDOG, P::DomainEventCallbackWatchdog, After::Number(watchdog(action)))
        }
    };
    vec![message]
}

/// virDomainEventIOErrorAction; both forms of the event are sent.
fn io_error<'a>(alias: &'a str, path: &'a str, action: &str, no_space: bool) -> Vec<Message<'a>> {
    let action = match action {
        "stop" => 1,
        "report" => 2,
        _ => 0,
    };
    let reason = if no_space { "enospc" } else { "" };
    let plain = After::IoError(path, alias, action);
    let reasoned = After::IoErrorReason(path, alias, action, reason);
    vec![
        Message {
            event: IO_ERROR,
            procedure: Procedure::DomainEventCallbackIoError,
            before: None,
            after: plain,
        },
        Message {
            event: IO_ERROR_REASON,
            procedure: Procedure::DomainEventCallbackIoErrorReason,
            before: None,
            after: reasoned,
        },
    ]
}

/// virDomainEventWatchdogAction
fn watchdog(action: &str) -> i32 {
    match action {
        "pause" => 1,
        "reset" => 2,
        "poweroff" => 3,
        "shutdown" => 4,
        "debug" => 5,
        "inject-nmi" => 6,
        _ => 0,
    }
}
