//! Calls that only read a domain.

use super::call::{Answer, Call, Target, reference};
use super::error::{Code, Failure, From};
use super::live::GUEST;
use super::{agent, measure};
use crate::base::DomainUuid;
use crate::manager::{Domain, ManagerError, State, Summary};
use crate::rpc::{self, Chars, Encode, Encoder, List, Procedure, XdrError};

/// virDomainState
const UNKNOWN: i32 = 0;
const RUNNING: i32 = 1;
const PAUSED: i32 = 3;
const SHUTOFF: i32 = 5;
const CRASHED: i32 = 6;
/// virDomainCrashedReason
const PANICKED: i32 = 1;

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainGetAutostart => |call| with(call, |call, target| call.answer(&target.domain.autostart)),
        P::DomainGetMaxMemory => {
            |call| with(call, |call, target| call.answer(&(definition(&target.domain)?.memory / 1024)))
        }
        P::DomainGetMaxVcpus => max_vcpus,
        P::DomainGetMessages => messages,
        P::DomainGetOsType => |call| with(call, |call, _| call.answer(&call.kind().os_type())),
        P::DomainGetSecurityLabel => security_label,
        P::DomainGetSecurityLabelList => security_label_list,
        P::DomainGetState => get_state,
        P::DomainHasManagedSaveImage => |call| {
            with_flags(call, |call, target| {
                call.answer(&call.manager().has_managed_save(target.domain.uuid)?)
            })
        },
        P::DomainIsActive => |call| with(call, |call, target| call.answer(&target.domain.may_run())),
        P::DomainIsPersistent => {
            |call| with(call, |call, target| call.answer(&target.domain.definition.is_some()))
        }
        P::DomainIsUpdated => |call| with(call, |call, _| call.answer(&false)),
        P::DomainLookupById => by_id,
        P::DomainLookupByName => by_name,
        P::DomainLookupByUuid => by_uuid,
        _ => return None,
    })
}

/// Those that read from the disk, or ask a guest for, what is often in memory: whether it is for this call.
pub(super) fn at_hand(procedure: Procedure) -> Option<fn(&Call<'_>) -> bool> {
    Some(match procedure {
        Procedure::DomainGetVcpusFlags => {
            |call| call.arguments().is_ok_and(|(_, flags): (rpc::Domain<'_>, u32)| flags & GUEST == 0)
        }
        Procedure::DomainGetXmlDesc => |call| xml_at_hand(call).unwrap_or(false),
        Procedure::DomainInterfaceAddresses => measure::known_addresses,
        _ => return None,
    })
}

/// Calls that are answered although it is not known yet whether the domain runs, for they say so, or do not tell it.
pub(super) fn says_what_is_left(procedure: Procedure) -> bool {
    use Procedure as P;
    matches!(
        procedure,
        P::DomainGetAutostart
            | P::DomainGetOsType
            | P::DomainGetState
            | P::DomainHasManagedSaveImage
            | P::DomainIsActive
            | P::DomainIsPersistent
            | P::DomainIsUpdated
            | P::DomainSetAutostart
    )
}

/// Calls that read what is in memory, and wait where it is not known yet.
pub(super) fn may_wait(procedure: Procedure) -> bool {
    procedure == Procedure::ConnectListAllDomains
        || procedure == Procedure::DomainHasManagedSaveImage
        || (procedure.api().starts_with("virDomain") && !says_what_is_left(procedure))
}

/// Calls that read what only the store has.
pub(super) fn slow_handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainGetVcpusFlags => vcpus_flags,
        P::DomainGetXmlDesc => xml,
        _ => return None,
    })
}

/// A call whose only argument is a domain.
fn with(call: &Call<'_>, answer: fn(&Call<'_>, &Target<'_>) -> Answer) -> Answer {
    let reference: rpc::Domain<'_> = call.arguments()?;
    answer(call, &call.domain(&reference, 0)?)
}

/// A call with a domain and flags, of which there are none.
fn with_flags(call: &Call<'_>, answer: fn(&Call<'_>, &Target<'_>) -> Answer) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    answer(call, &target)
}

fn by_name(call: &Call<'_>) -> Answer {
    let name: &str = call.arguments()?;
    let domain = call.look_up(|manager| manager.by_name(name), || ManagerError::NoName(name.into()))?;
    call.answer(&reference(&domain))
}

fn by_id(call: &Call<'_>) -> Answer {
    let id: i32 = call.arguments()?;
    let domain = call.look_up(|manager| manager.by_id(id), || ManagerError::NoId(id))?;
    call.answer(&reference(&domain))
}

fn by_uuid(call: &Call<'_>) -> Answer {
    let uuid = DomainUuid(uuid::Uuid::from_bytes(call.arguments()?));
    let domain = call.look_up(|manager| manager.by_uuid(uuid), || ManagerError::NoUuid(uuid))?;
    call.answer(&reference(&domain))
}

/// libvirt's state and reason.
pub(super) fn state(domain: &Domain) -> (i32, i32) {
    match domain.running().map(|live| live.state) {
        Some(State::Running(reason)) => (RUNNING, reason),
        Some(State::Paused(reason)) => (PAUSED, reason),
        Some(State::Crashed) => (CRASHED, PANICKED),
        Some(State::Starting) | None if domain.left.is_some() => (UNKNOWN, 0),
        Some(State::Starting) | None => (SHUTOFF, domain.ended),
    }
}

fn get_state(call: &Call<'_>) -> Answer {
    with_flags(call, |call, target| call.answer(&state(&target.domain)))
}

/// What a domain is, as far as this daemon knows.
pub(super) fn definition(domain: &Domain) -> Result<&Summary, Failure> {
    domain.current().ok_or_else(|| {
        let text = format!(
            "domain '{}' was started without svirtd, which has no definition of it; `svirt inspect` shows what runs",
            domain.name
        );
        Failure::new(Code::OperationInvalid, From::Qemu, text)
    })
}

/// Of what runs, unlike the newer call.
fn max_vcpus(call: &Call<'_>) -> Answer {
    with(call, |call, target| match target.domain.is_active() {
        true => call.answer(&vcpus(&target.domain)?),
        false => Err(Failure::new(Code::OperationInvalid, From::Domain, "domain is not running")),
    })
}

fn vcpus(domain: &Domain) -> Result<i32, Failure> {
    Ok(i32::try_from(definition(domain)?.vcpus).unwrap_or(i32::MAX))
}

/// virDomainXMLFlags
const XML_SECURE: u32 = 1;
const XML_INACTIVE: u32 = 2;
const XML_UPDATE_CPU: u32 = 4;
const XML_MIGRATABLE: u32 = 8;

fn xml(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, XML_SECURE | XML_INACTIVE | XML_UPDATE_CPU | XML_MIGRATABLE)?;
    let domain = &target.domain;
    let inactive = flags & XML_INACTIVE != 0;
    let secure = flags & XML_SECURE != 0;
    definition(domain)?;
    let kept = || match &domain.definition {
        Some(_) if inactive => call.manager().definition(domain),
        _ => call.manager().current(domain),
    };
    match domain.running() {
        _ if flags & XML_MIGRATABLE != 0 => call.answer(&kept()?.migratable()?),
        Some(live) if !inactive => call.answer(&live.text.view(secure)),
        _ => call.answer(&kept()?.view(secure)),
    }
}

/// Whether [`xml`] answers without waiting. Says nothing to anybody: who may know is asked there.
fn xml_at_hand(call: &Call<'_>) -> Option<bool> {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments().ok()?;
    let uuid = crate::base::DomainUuid(uuid::Uuid::from_bytes(reference.uuid));
    let domain = call.manager().by_uuid(uuid).ok()?;
    let lives = domain.is_active() && flags & XML_INACTIVE == 0;
    Some(flags & XML_MIGRATABLE == 0 && (lives || call.manager().is_at_hand(&domain)))
}

/// virDomainVcpuFlags
const AFFECT_LIVE: u32 = 1;
const AFFECT_CONFIG: u32 = 2;
const VCPU_MAXIMUM: u32 = 4;

fn vcpus_flags(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG | VCPU_MAXIMUM | GUEST)?;
    if flags & GUEST != 0 {
        if !target.domain.is_active() {
            let text = "vCPU count provided by the guest agent can only be requested for live domains";
            return Err(Failure::new(Code::InvalidArgument, From::Qemu, text));
        }
        let count = agent::online_vcpus(&target, flags & VCPU_MAXIMUM != 0)?;
        return call.answer(&i32::try_from(count).unwrap_or(i32::MAX));
    }
    let domain = &target.domain;
    let wrong = |text: &str| Err(Failure::new(Code::OperationInvalid, From::Qemu, text));
    let counted = |of: &Summary| {
        let count = if flags & VCPU_MAXIMUM == 0 { of.current_vcpus } else { of.vcpus };
        i32::try_from(count).unwrap_or(i32::MAX)
    };
    match (flags & (AFFECT_LIVE | AFFECT_CONFIG), &domain.definition) {
        (3, _) => {
            Err(Failure::new(Code::InvalidArgument, From::Domain, "flags live and config exclude each other"))
        }
        (AFFECT_LIVE, _) if !domain.is_active() => wrong("domain is not running"),
        (AFFECT_CONFIG, None) => wrong("transient domains do not have any persistent config"),
        (AFFECT_CONFIG, Some(kept)) => call.answer(&counted(kept)),
        _ => call.answer(&counted(definition(domain)?)),
    }
}

fn messages(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, 0)?;
    call.only_flags(flags, 3)?;
    const TAINTING: u32 = 2;
    let tainted = target.domain.running().is_some_and(|live| live.runtime.tainted);
    let wanted = flags == 0 || flags & TAINTING != 0;
    let text = "tainted: custom monitor control commands issued";
    call.answer(&List::<&str, 2048>((tainted && wanted).then_some(text).into_iter().collect()))
}

/// One label as it is sent; empty where the domain has none.
struct Label<'a>(Option<&'a crate::manager::Label>);

impl Encode for Label<'_> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        let text = self.0.map_or("", |label| label.label.as_str());
        to.put(&(Chars(text), self.0.is_some_and(|label| label.enforcing)))
    }
}

fn security_label(call: &Call<'_>) -> Answer {
    with(call, |call, target| {
        call.answer(&Label(target.domain.running().and_then(|live| live.labels.first())))
    })
}

fn security_label_list(call: &Call<'_>) -> Answer {
    with(call, |call, target| {
        let labels: Vec<Label<'_>> = match target.domain.running() {
            Some(live) => live.labels.iter().map(|label| Label(Some(label))).collect(),
            None => Vec::new(),
        };
        let found = i32::try_from(labels.len()).unwrap_or(0);
        call.answer(&(List::<_, 64>(labels), found))
    })
}
