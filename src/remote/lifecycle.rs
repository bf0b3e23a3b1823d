//! Calls that change a domain, or wait for one.

use super::call::{Answer, Call, Target, reference};
use super::error::{Code, Failure, From};
use crate::manager::{Leaves, Manager, ManagerError, StartFlags};
use crate::rpc::{self, Procedure};

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainCreate => |call| on(call, |target| start(target, StartFlags::default())),
        P::DomainCreateWithFlags => create_with_flags,
        P::DomainCreateXml => create_xml,
        P::DomainDefineXml => |call| define(call, call.arguments()?, 0),
        P::DomainDefineXmlFlags => define_flags,
        P::DomainDestroy => |call| on(call, |target| does(target, Manager::destroy)),
        P::DomainDestroyFlags => {
            |call| on_flags(call, DESTROY_GRACEFUL, |target| does(target, Manager::destroy))
        }
        P::DomainResume => |call| on(call, |target| does(target, Manager::resume)),
        P::DomainSetAutostart => set_autostart,
        P::DomainShutdown => |call| on(call, |target| does(target, Manager::shutdown)),
        P::DomainSuspend => |call| on(call, |target| does(target, Manager::suspend)),
        P::DomainUndefine => |call| on(call, |target| undefine(target, 0)),
        P::DomainUndefineFlags => undefine_flags,
        _ => return None,
    })
}

/// virDomainDestroyFlagsValues: no signal that can be refused is sent anyway.
const DESTROY_GRACEFUL: u32 = 1;
/// virDomainUndefineFlagsValues: managed save, snapshots, NVRAM kept or not, checkpoints, the TPM's state kept or not.
const UNDEFINE: u32 =
    UNDEFINE_SAVED | 2 | UNDEFINE_NVRAM | UNDEFINE_KEEP_NVRAM | 16 | UNDEFINE_TPM | UNDEFINE_KEEP_TPM;
const UNDEFINE_SAVED: u32 = 1;
const UNDEFINE_NVRAM: u32 = 4;
const UNDEFINE_KEEP_NVRAM: u32 = 8;
const UNDEFINE_TPM: u32 = 32;
const UNDEFINE_KEEP_TPM: u32 = 64;
/// virDomainCreateFlags
const START_PAUSED: u32 = 1;
const START_AUTODESTROY: u32 = 2;
/// How what was saved is read: always through the page cache.
const START_BYPASS_CACHE: u32 = 4;
const START_FORCE_BOOT: u32 = 8;
/// What the grammar does not have is refused instead of left out.
const VALIDATE: u32 = 16;
/// virDomainDefineFlags
const DEFINE_VALIDATE: u32 = 1;

type Done = Result<(), ManagerError>;

fn does(target: &Target<'_>, what: fn(&Manager, crate::base::DomainUuid) -> Done) -> Done {
    let (manager, uuid) = target.parts();
    what(manager, uuid)
}

fn on(call: &Call<'_>, what: impl FnOnce(&Target<'_>) -> Done) -> Answer {
    let reference: rpc::Domain<'_> = call.arguments()?;
    what(&call.domain(&reference, 0)?)?;
    call.answer(&())
}

fn on_flags(call: &Call<'_>, known: u32, what: impl FnOnce(&Target<'_>) -> Done) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, known)?;
    what(&target)?;
    call.answer(&())
}

fn undefine(target: &Target<'_>, flags: u32) -> Done {
    let (manager, uuid) = target.parts();
    let said = |goes: u32, keeps: u32| match (flags & goes != 0, flags & keeps != 0) {
        (false, false) => None,
        (_, keeps) => Some(keeps),
    };
    let variables = said(UNDEFINE_NVRAM, UNDEFINE_KEEP_NVRAM);
    let tpm = said(UNDEFINE_TPM, UNDEFINE_KEEP_TPM);
    manager.undefine(uuid, Leaves { managed_save: flags & UNDEFINE_SAVED == 0, variables, tpm })
}

fn undefine_flags(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, UNDEFINE)?;
    for (what, both) in
        [("NVRAM", UNDEFINE_NVRAM | UNDEFINE_KEEP_NVRAM), ("TPM", UNDEFINE_TPM | UNDEFINE_KEEP_TPM)]
    {
        if flags & both == both {
            let text = format!(
                "flags 'VIR_DOMAIN_UNDEFINE_{what}' and 'VIR_DOMAIN_UNDEFINE_KEEP_{what}' are mutually exclusive"
            );
            return Err(Failure::new(Code::InvalidArgument, From::Domain, text));
        }
    }
    undefine(&target, flags)?;
    call.answer(&())
}

fn start(target: &Target<'_>, flags: StartFlags) -> Done {
    let (manager, uuid) = target.parts();
    manager.start(uuid, flags).map(|_| ())
}

fn start_flags(call: &Call<'_>, flags: u32) -> StartFlags {
    let autodestroy = (flags & START_AUTODESTROY != 0).then_some(call.session.id);
    StartFlags { paused: flags & START_PAUSED != 0, force_boot: flags & START_FORCE_BOOT != 0, autodestroy }
}

fn create_with_flags(call: &Call<'_>) -> Answer {
    let (asked, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&asked, flags)?;
    call.only_flags(flags, START_PAUSED | START_AUTODESTROY | START_BYPASS_CACHE | START_FORCE_BOOT)?;
    let (manager, uuid) = target.parts();
    if flags & START_BYPASS_CACHE != 0 && manager.has_managed_save(uuid)? {
        let text = "QEMU reads through the page cache: bypassing it is not done; leave --bypass-cache away";
        return Err(ManagerError::Unsupported(text.into()).into());
    }
    let domain = manager.start(uuid, start_flags(call, flags))?;
    end_with_client(call, manager);
    call.answer(&reference(&domain))
}

/// Ends what was started to end with a client that went while it was being started.
///
/// One that goes later ends it itself: it is marked as gone before it looks for what is to end with it.
fn end_with_client(call: &Call<'_>, manager: &Manager) {
    if call.session.has_gone() {
        manager.connection_ended(call.session.id);
    }
}

fn create_xml(call: &Call<'_>) -> Answer {
    let (xml, flags): (&str, u32) = call.arguments()?;
    call.only_flags(flags, START_PAUSED | START_AUTODESTROY | VALIDATE)?;
    let domain = call.create(xml, flags, flags & VALIDATE != 0, start_flags(call, flags))?;
    end_with_client(call, call.manager());
    call.answer(&reference(&domain))
}

fn define_flags(call: &Call<'_>) -> Answer {
    let (xml, flags): (&str, u32) = call.arguments()?;
    call.only_flags(flags, DEFINE_VALIDATE)?;
    define(call, xml, flags)
}

fn define(call: &Call<'_>, xml: &str, flags: u32) -> Answer {
    call.answer(&reference(&call.define(xml, flags, flags & DEFINE_VALIDATE != 0)?))
}

fn set_autostart(call: &Call<'_>) -> Answer {
    let (reference, autostart): (rpc::Domain<'_>, i32) = call.arguments()?;
    let target = call.domain(&reference, 0)?;
    let (manager, uuid) = target.parts();
    manager.set_autostart(uuid, autostart != 0).map_err(Failure::from)?;
    call.answer(&())
}
