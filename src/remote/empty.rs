//! Kinds of objects that svirtd has none of: empty lists, and libvirt's errors for looking one up.

use super::Kind;
use super::call::{Answer, Call};
use super::connect::most;
use super::error::{Code, Failure, From};
use crate::rpc::{self, List, Procedure};

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::ConnectListAllInterfaces
        | P::ConnectListAllNodeDevices
        | P::ConnectListAllNwfilters
        | P::ConnectListAllNwfilterBindings
        | P::ConnectListAllSecrets => list_all,
        P::ConnectNumOfInterfaces
        | P::ConnectNumOfDefinedInterfaces
        | P::ConnectNumOfNwfilters
        | P::ConnectNumOfSecrets
        | P::NodeNumOfDevices => |call| call.answer(&0_i32),
        P::ConnectListInterfaces
        | P::ConnectListDefinedInterfaces
        | P::ConnectListNwfilters
        | P::ConnectListSecrets => names,
        P::NodeListDevices => devices,
        P::DomainBackupGetXmlDesc => {
            |call| on(call, |_| Err(Failure::new(Code::NoBackup, From::Qemu, "no domain backup job present")))
        }
        // Nothing encrypts a guest's memory.
        P::DomainGetLaunchSecurityInfo => |call| on(call, |call| call.answer(&List::<u32, 0>(Vec::new()))),
        P::NodeGetSevInfo => |call| match call.kind() {
            Kind::Test => Err(Failure::unsupported(call.procedure.api())),
            _ => Err(Failure::new(Code::OperationUnsupported, From::Qemu, "QEMU does not support SEV guest")),
        },
        P::DomainSnapshotNum => |call| on(call, |call| call.answer(&0_i32)),
        P::DomainListAllSnapshots | P::DomainListAllCheckpoints => snapshots,
        P::DomainSnapshotListNames => snapshot_names,
        P::DomainHasCurrentSnapshot => |call| on(call, |call| call.answer(&false)),
        _ => return lookup(procedure),
    })
}

fn lookup(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::InterfaceLookupByMacString => |call| {
            let address: &str = call.arguments()?;
            let text = format!("couldn't find interface with MAC address '{address}'");
            Err(Failure::new(Code::NoInterface, From::Interface, text))
        },
        P::InterfaceLookupByName => |call| {
            let name: &str = call.arguments()?;
            let text = format!("couldn't find interface named '{name}'");
            Err(Failure::new(Code::NoInterface, From::Interface, text))
        },
        P::NodeDeviceGetParent
        | P::NodeDeviceGetXmlDesc
        | P::NodeDeviceIsActive
        | P::NodeDeviceIsPersistent
        | P::NodeDeviceListCaps
        | P::NodeDeviceLookupByName
        | P::NodeDeviceNumOfCaps => {
            |call| missing(call, Code::NoNodeDevice, From::NodeDevice, "no node device")
        }
        P::NwfilterBindingLookupByPortDev => |call| {
            let port: &str = call.arguments()?;
            let text = format!("no nwfilter binding for port dev '{port}'");
            Err(Failure::new(Code::NoNwfilterBinding, From::Nwfilter, text))
        },
        P::NwfilterLookupByName => |call| missing(call, Code::NoNwfilter, From::Nwfilter, "no nwfilter"),
        P::NwfilterLookupByUuid => |call| missing_uuid(call, Code::NoNwfilter, From::Nwfilter, "no nwfilter"),
        P::DomainCheckpointLookupByName => {
            |call| absent(call, Code::NoCheckpoint, "no domain checkpoint with matching name")
        }
        P::DomainSnapshotLookupByName => {
            |call| absent(call, Code::NoSnapshot, "no domain snapshot with matching name")
        }
        P::DomainSnapshotCurrent => |call| {
            on(call, |_| {
                let text = "the domain does not have a current snapshot";
                Err(Failure::new(Code::NoSnapshot, From::Qemu, text))
            })
        },
        P::SecretLookupByUsage => |call| {
            let (_kind, usage): (i32, &str) = call.arguments()?;
            let text = format!("no secret with matching usage '{usage}'");
            Err(Failure::new(Code::NoSecret, From::Secret, text))
        },
        P::SecretLookupByUuid => |call| missing_uuid(call, Code::NoSecret, From::Secret, "no secret"),
        _ => return None,
    })
}

fn list_all(call: &Call<'_>) -> Answer {
    let (_need_results, _flags): (bool, u32) = call.arguments()?;
    call.answer(&(List::<u32, 0>(Vec::new()), 0_u32))
}

fn names(call: &Call<'_>) -> Answer {
    most(call.arguments()?)?;
    call.answer(&List::<&str, 0>(Vec::new()))
}

fn devices(call: &Call<'_>) -> Answer {
    let (_capability, _max, flags): (Option<&str>, i32, u32) = call.arguments()?;
    call.only_flags(flags, 0)?;
    call.answer(&List::<&str, 0>(Vec::new()))
}

/// A call on a domain with flags that select among nothing.
fn on(call: &Call<'_>, answer: fn(&Call<'_>) -> Answer) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let _target = call.domain(&reference, flags)?;
    answer(call)
}

fn snapshots(call: &Call<'_>) -> Answer {
    let (reference, _need_results, flags): (rpc::Domain<'_>, bool, u32) = call.arguments()?;
    let _target = call.domain(&reference, flags)?;
    call.answer(&(List::<u32, 0>(Vec::new()), 0_i32))
}

fn snapshot_names(call: &Call<'_>) -> Answer {
    let (reference, max, flags): (rpc::Domain<'_>, i32, u32) = call.arguments()?;
    let _target = call.domain(&reference, flags)?;
    most(max)?;
    call.answer(&List::<&str, 0>(Vec::new()))
}

/// Something of a domain's that it has none of.
fn absent(call: &Call<'_>, code: Code, what: &str) -> Answer {
    let (reference, name, flags): (rpc::Domain<'_>, &str, u32) = call.arguments()?;
    let _target = call.domain(&reference, flags)?;
    Err(Failure::new(code, From::Qemu, format!("{what} '{name}'")))
}

fn missing(call: &Call<'_>, code: Code, from: From, what: &str) -> Answer {
    // Some have flags behind the name, and there is nothing that they could ask for.
    let name: &str = call.arguments()?;
    Err(Failure::new(code, from, format!("{what} with matching name '{name}'")))
}

fn missing_uuid(call: &Call<'_>, code: Code, from: From, what: &str) -> Answer {
    let uuid = uuid::Uuid::from_bytes(call.arguments()?);
    Err(Failure::new(code, from, format!("{what} with matching uuid '{uuid}'")))
}
