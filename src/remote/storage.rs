//! Storage pools and volumes.

use super::call::{Answer, Call};
use super::connect::most;
use super::error::{Code, Failure, From};
use crate::access::Object;
use crate::conf::storage::pool_capabilities;
use crate::rpc::{List, Procedure};
use crate::storage::{CopyHow, Pool, Resize, StorageError, Volume};

/// A pool as messages refer to it: name and uuid, of which only the uuid counts.
type PoolRef<'a> = (&'a str, [u8; 16]);
/// A volume as messages refer to it: its pool's name, its own, its key.
type VolumeRef<'a> = (&'a str, &'a str, &'a str);

/// Calls that read memory.
pub(super) fn fast(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::ConnectGetStoragePoolCapabilities => capabilities,
        P::ConnectListAllStoragePools => list_all,
        P::ConnectListDefinedStoragePools => |call| names(call, |pool| !pool.active),
        P::ConnectListStoragePools => |call| names(call, |pool| pool.active),
        P::ConnectNumOfDefinedStoragePools => |call| count(call, |pool| !pool.active),
        P::ConnectNumOfStoragePools => |call| count(call, |pool| pool.active),
        P::StoragePoolGetAutostart => |call| with(call, |call, pool| call.answer(&pool.autostart)),
        P::StoragePoolIsActive => |call| with(call, |call, pool| call.answer(&pool.active)),
        P::StoragePoolIsPersistent => |call| with(call, |call, pool| call.answer(&pool.persistent)),
        P::StoragePoolLookupByName => by_name,
        P::StoragePoolLookupByTargetPath => by_path,
        P::StoragePoolLookupByUuid => by_uuid,
        P::StoragePoolLookupByVolume => by_volume,
        _ => return None,
    })
}

/// Calls that wait for the store or the labeller.
pub(super) fn slow(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::ConnectFindStoragePoolSources => sources,
        P::StoragePoolBuild => build,
        P::StoragePoolCreate => start,
        P::StoragePoolCreateXml => create,
        P::StoragePoolDefineXml => define,
        P::StoragePoolDelete => |call| change_with_flags(call, |call, uuid| Ok(call.pools().delete(uuid)?)),
        P::StoragePoolDestroy => |call| change(call, |call, uuid| Ok(call.pools().stop(uuid)?)),
        P::StoragePoolGetInfo => info,
        P::StoragePoolGetXmlDesc => xml,
        P::StoragePoolListAllVolumes => list_all_volumes,
        P::StoragePoolListVolumes => list_volumes,
        P::StoragePoolNumOfVolumes => num_of_volumes,
        P::StoragePoolRefresh => {
            |call| change_with_flags(call, |call, uuid| Ok(call.pools().refresh(uuid)?))
        }
        P::StoragePoolSetAutostart => set_autostart,
        P::StoragePoolUndefine => |call| change(call, |call, uuid| Ok(call.pools().undefine(uuid)?)),
        P::StorageVolCreateXml => create_volume,
        P::StorageVolCreateXmlFrom => copy_volume,
        P::StorageVolDelete => delete_volume,
        P::StorageVolGetInfo => |call| volume_info(call, call.arguments()?, 0),
        P::StorageVolGetInfoFlags => |call| {
            let (reference, flags) = call.arguments()?;
            volume_info(call, reference, flags)
        },
        P::StorageVolGetPath => |call| {
            let volume = volume(call, call.arguments()?)?;
            call.answer(&volume.path)
        },
        P::StorageVolGetXmlDesc => volume_xml,
        P::StorageVolLookupByKey => |call| volume_by_path(call, "key"),
        P::StorageVolLookupByName => volume_by_name,
        P::StorageVolLookupByPath => |call| volume_by_path(call, "path"),
        P::StorageVolResize => resize,
        P::StorageVolWipe => |call| {
            let (reference, flags) = call.arguments()?;
            wipe(call, reference, ZERO, flags)
        },
        P::StorageVolWipePattern => |call| {
            let (reference, algorithm, flags) = call.arguments()?;
            wipe(call, reference, algorithm, flags)
        },
        _ => return None,
    })
}

/// The pool of a reference, once the call is permitted on it.
fn pool(call: &Call<'_>, (name, uuid): PoolRef<'_>, flags: u32) -> Result<Pool, Failure> {
    let uuid = uuid::Uuid::from_bytes(uuid);
    let missing = || {
        let text = format!("no storage pool with matching uuid '{uuid}' ({name})");
        Failure::new(Code::NoPool, From::Storage, text)
    };
    call.permit_on(Object::StoragePool, flags, missing)?;
    call.pools().by_uuid(uuid).map_err(|_| missing())
}

fn found(call: &Call<'_>, find: impl Fn() -> Result<Pool, StorageError>, unseen: StorageError) -> Answer {
    call.permit_on(Object::StoragePool, 0, || unseen.into())?;
    call.answer(&reference(&find()?))
}

fn reference(pool: &Pool) -> PoolRef<'_> {
    (&pool.definition.name, pool.definition.uuid.into_bytes())
}

fn with(call: &Call<'_>, answer: fn(&Call<'_>, &Pool) -> Answer) -> Answer {
    answer(call, &pool(call, call.arguments()?, 0)?)
}

/// A change whose only argument is a pool.
fn change(call: &Call<'_>, act: fn(&Call<'_>, uuid::Uuid) -> Result<(), Failure>) -> Answer {
    act(call, pool(call, call.arguments()?, 0)?.definition.uuid)?;
    call.answer(&())
}

/// A change with flags, of which there are none.
fn change_with_flags(call: &Call<'_>, act: fn(&Call<'_>, uuid::Uuid) -> Result<(), Failure>) -> Answer {
    let (reference, flags): (PoolRef<'_>, u32) = call.arguments()?;
    let pool = pool(call, reference, flags)?;
    call.only_flags(flags, 0)?;
    act(call, pool.definition.uuid)?;
    call.answer(&())
}

fn by_name(call: &Call<'_>) -> Answer {
    let name: &str = call.arguments()?;
    found(call, || call.pools().by_name(name), StorageError::NoPoolName(name.into()))
}

fn by_uuid(call: &Call<'_>) -> Answer {
    let uuid = uuid::Uuid::from_bytes(call.arguments()?);
    found(call, || call.pools().by_uuid(uuid), StorageError::NoPoolUuid(uuid))
}

fn by_path(call: &Call<'_>) -> Answer {
    let path: &str = call.arguments()?;
    found(call, || call.pools().by_path(path), StorageError::NoPoolPath(path.into()))
}

fn by_volume(call: &Call<'_>) -> Answer {
    let (name, _, _): VolumeRef<'_> = call.arguments()?;
    found(call, || call.pools().by_name(name), StorageError::NoPoolName(name.into()))
}

fn visible(call: &Call<'_>) -> Vec<Pool> {
    if call.sees(Object::StoragePool) { call.pools().all() } else { Vec::new() }
}

fn count(call: &Call<'_>, which: fn(&Pool) -> bool) -> Answer {
    call.answer(&total(visible(call).iter().filter(|pool| which(pool)).count()))
}

/// A number of things as a result.
fn total(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn names(call: &Call<'_>, which: fn(&Pool) -> bool) -> Answer {
    let max = most(call.arguments()?)?;
    let pools = visible(call);
    let names = pools.iter().filter(|pool| which(pool)).map(|pool| pool.definition.name.as_str());
    call.answer(&List::<&str, 16_384>(names.take(max).collect()))
}

/// Flags, and what they select.
type Group = &'static [(u32, fn(&Pool) -> bool)];

/// virConnectListAllStoragePoolsFlags.
const GROUPS: [Group; 4] = [
    &[(1, |pool| !pool.active), (2, |pool| pool.active)],
    &[(4, |pool| pool.persistent), (8, |pool| !pool.persistent)],
    &[(16, |pool| pool.autostart), (32, |pool| !pool.autostart)],
    // Directories, and everything else.
    &[(64, |_| true), (0xf_ff80, |_| false)],
];

fn list_all(call: &Call<'_>) -> Answer {
    let (need_results, flags): (bool, u32) = call.arguments()?;
    call.only_flags(flags, 0xf_ffff)?;
    let selected = |pool: &Pool| {
        GROUPS.iter().all(|group| {
            let asked = group.iter().any(|(flag, _)| flags & flag != 0);
            !asked || group.iter().any(|(flag, holds)| flags & flag != 0 && holds(pool))
        })
    };
    let mut pools = visible(call);
    pools.retain(selected);
    let found = u32::try_from(pools.len()).unwrap_or(u32::MAX);
    let shown = if need_results { pools.iter().map(reference).collect() } else { Vec::new() };
    call.answer(&(List::<_, 16_384>(shown), found))
}

fn capabilities(call: &Call<'_>) -> Answer {
    call.only_flags(call.arguments()?, 0)?;
    call.answer(&pool_capabilities())
}

fn sources(call: &Call<'_>) -> Answer {
    let (kind, _spec, flags): (&str, Option<&str>, u32) = call.arguments()?;
    call.only_flags(flags, 0)?;
    call.read_only(flags)?;
    let text = format!("pool type '{kind}' does not support source discovery");
    Err(Failure::new(Code::NoSupport, From::Storage, text))
}

/// virStoragePoolCreateFlags and virStoragePoolBuildFlags: a directory that is there is never overwritten.
const CREATE_BUILD: u32 = 1;
const CREATE_NO_OVERWRITE: u32 = 4;
const BUILD_NO_OVERWRITE: u32 = 4;

fn define(call: &Call<'_>) -> Answer {
    let (text, flags): (&str, u32) = call.arguments()?;
    call.permit_new(flags)?;
    call.only_flags(flags, 0)?;
    call.answer(&reference(&call.pools().define(text)?))
}

fn create(call: &Call<'_>) -> Answer {
    let (text, flags): (&str, u32) = call.arguments()?;
    call.permit_new(flags)?;
    call.only_flags(flags, CREATE_BUILD | CREATE_NO_OVERWRITE)?;
    let build = flags & (CREATE_BUILD | CREATE_NO_OVERWRITE) != 0;
    call.answer(&reference(&call.pools().create(text, build)?))
}

fn start(call: &Call<'_>) -> Answer {
    let (reference, flags): (PoolRef<'_>, u32) = call.arguments()?;
    let pool = pool(call, reference, flags)?;
    call.only_flags(flags, CREATE_BUILD | CREATE_NO_OVERWRITE)?;
    let build = flags & (CREATE_BUILD | CREATE_NO_OVERWRITE) != 0;
    call.pools().start(pool.definition.uuid, build)?;
    call.answer(&())
}

fn build(call: &Call<'_>) -> Answer {
    let (reference, flags): (PoolRef<'_>, u32) = call.arguments()?;
    let pool = pool(call, reference, flags)?;
    call.only_flags(flags, BUILD_NO_OVERWRITE)?;
    call.pools().build(pool.definition.uuid)?;
    call.answer(&())
}

fn set_autostart(call: &Call<'_>) -> Answer {
    let (reference, autostart): (PoolRef<'_>, bool) = call.arguments()?;
    let pool = pool(call, reference, 0)?;
    call.pools().set_autostart(pool.definition.uuid, autostart)?;
    call.answer(&())
}

/// virStoragePoolState
const INACTIVE: i32 = 0;
const RUNNING: i32 = 2;

fn info(call: &Call<'_>) -> Answer {
    let pool = pool(call, call.arguments()?, 0)?;
    let state = call.pools().state(&pool)?;
    let number = if state.is_some() { RUNNING } else { INACTIVE };
    let room = state.unwrap_or_default();
    call.answer(&(number, room.capacity, room.capacity.saturating_sub(room.available), room.available))
}

/// VIR_STORAGE_XML_INACTIVE: a pool has one definition, so it asks for nothing else.
const XML_INACTIVE: u32 = 1;

fn xml(call: &Call<'_>) -> Answer {
    let (reference, flags): (PoolRef<'_>, u32) = call.arguments()?;
    let pool = pool(call, reference, flags)?;
    call.only_flags(flags, XML_INACTIVE)?;
    let state = call.pools().state(&pool)?;
    call.answer(&pool.definition.format(state.as_ref()))
}

fn volumes(call: &Call<'_>, reference: PoolRef<'_>) -> Result<Vec<Volume>, Failure> {
    let pool = pool(call, reference, 0)?;
    let volumes = call.pools().volumes(&pool)?;
    Ok(if call.sees(Object::StorageVol) { volumes } else { Vec::new() })
}

fn volume_reference(volume: &Volume) -> VolumeRef<'_> {
    (&volume.pool, &volume.name, &volume.path)
}

fn num_of_volumes(call: &Call<'_>) -> Answer {
    call.answer(&total(volumes(call, call.arguments()?)?.len()))
}

fn list_volumes(call: &Call<'_>) -> Answer {
    let (reference, max): (PoolRef<'_>, i32) = call.arguments()?;
    let (volumes, max) = (volumes(call, reference)?, most(max)?);
    let names = volumes.iter().map(|volume| volume.name.as_str()).take(max).collect();
    call.answer(&List::<&str, 16_384>(names))
}

fn list_all_volumes(call: &Call<'_>) -> Answer {
    let (reference, need_results, flags): (PoolRef<'_>, bool, u32) = call.arguments()?;
    let volumes = volumes(call, reference)?;
    call.only_flags(flags, 0)?;
    let found = u32::try_from(volumes.len()).unwrap_or(u32::MAX);
    let shown = if need_results { volumes.iter().map(volume_reference).collect() } else { Vec::new() };
    call.answer(&(List::<_, 16_384>(shown), found))
}

/// The volume of a reference, once the call is permitted on it.
fn volume(call: &Call<'_>, (pool, name, _): VolumeRef<'_>) -> Result<Volume, Failure> {
    call.permit_on(Object::StorageVol, 0, || StorageError::NoVolume("name", name.into()).into())?;
    let pools = call.pools();
    Ok(pools.volume(&pools.by_name(pool)?, name)?)
}

fn volume_by_name(call: &Call<'_>) -> Answer {
    let (reference, name): (PoolRef<'_>, &str) = call.arguments()?;
    call.permit_on(Object::StorageVol, 0, || StorageError::NoVolume("name", name.into()).into())?;
    let pools = call.pools();
    let pool = pools.by_uuid(uuid::Uuid::from_bytes(reference.1))?;
    call.answer(&volume_reference(&pools.volume(&pool, name)?))
}

fn volume_by_path(call: &Call<'_>, word: &'static str) -> Answer {
    let path: &str = call.arguments()?;
    call.permit_on(Object::StorageVol, 0, || StorageError::NoVolume(word, path.into()).into())?;
    call.answer(&volume_reference(&call.pools().volume_by_path(path, word)?))
}

/// VIR_STORAGE_VOL_GET_PHYSICAL: the length in place of what it takes.
const GET_PHYSICAL: u32 = 1;

fn volume_info(call: &Call<'_>, reference: VolumeRef<'_>, flags: u32) -> Answer {
    let volume = volume(call, reference)?;
    call.only_flags(flags, GET_PHYSICAL)?;
    let info = call.pools().info(&volume)?;
    let taken = if flags & GET_PHYSICAL != 0 { info.physical } else { info.allocation };
    call.answer(&(info.kind, info.capacity, taken))
}

fn volume_xml(call: &Call<'_>) -> Answer {
    let (reference, flags): (VolumeRef<'_>, u32) = call.arguments()?;
    let volume = volume(call, reference)?;
    call.only_flags(flags, 0)?;
    call.answer(&call.pools().volume_xml(&volume)?)
}

/// VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA, which virt-install asks for.
const PREALLOC_METADATA: u32 = 1;

fn create_volume(call: &Call<'_>) -> Answer {
    let (reference, text, flags): (PoolRef<'_>, &str, u32) = call.arguments()?;
    call.permit_new(flags)?;
    call.only_flags(flags, PREALLOC_METADATA)?;
    let (pool, preallocate) = (uuid::Uuid::from_bytes(reference.1), flags & PREALLOC_METADATA != 0);
    let volume = call.pools().create_volume(pool, text, preallocate)?;
    call.answer(&volume_reference(&volume))
}

/// VIR_STORAGE_VOL_CREATE_REFLINK
const REFLINK: u32 = 2;

fn copy_volume(call: &Call<'_>) -> Answer {
    let (reference, text, (pool, name, _), flags): (PoolRef<'_>, &str, VolumeRef<'_>, u32) =
        call.arguments()?;
    call.permit_new(flags)?;
    call.only_flags(flags, PREALLOC_METADATA | REFLINK)?;
    let pools = call.pools();
    let source = pools.volume(&pools.by_name(pool)?, name)?;
    let how = CopyHow { preallocate: flags & PREALLOC_METADATA != 0, reflink: flags & REFLINK != 0 };
    let volume = pools.copy_volume(uuid::Uuid::from_bytes(reference.1), text, &source, how)?;
    call.answer(&volume_reference(&volume))
}

fn delete_volume(call: &Call<'_>) -> Answer {
    let (reference, flags): (VolumeRef<'_>, u32) = call.arguments()?;
    let volume = volume(call, reference)?;
    call.only_flags(flags, 0)?;
    call.pools().delete_volume(&volume)?;
    call.answer(&())
}

/// virStorageVolResizeFlags
const RESIZE_ALLOCATE: u32 = 1;
const RESIZE_DELTA: u32 = 2;
const RESIZE_SHRINK: u32 = 4;

fn resize(call: &Call<'_>) -> Answer {
    let (reference, size, flags): (VolumeRef<'_>, u64, u32) = call.arguments()?;
    let volume = volume(call, reference)?;
    call.only_flags(flags, RESIZE_ALLOCATE | RESIZE_DELTA | RESIZE_SHRINK)?;
    let how = Resize {
        allocate: flags & RESIZE_ALLOCATE != 0,
        delta: flags & RESIZE_DELTA != 0,
        shrink: flags & RESIZE_SHRINK != 0,
    };
    call.pools().resize_volume(&volume, size, how)?;
    call.answer(&())
}

/// VIR_STORAGE_VOL_WIPE_ALG_ZERO
const ZERO: u32 = 0;

/// Other patterns are for disks that tell no more, and none of them for files.
fn wipe(call: &Call<'_>, reference: VolumeRef<'_>, algorithm: u32, flags: u32) -> Answer {
    let volume = volume(call, reference)?;
    call.only_flags(flags, 0)?;
    if algorithm != ZERO {
        let text = format!("wiping with the algorithm {algorithm}: volumes are overwritten with zeros only");
        return Err(Failure::new(Code::ConfigUnsupported, From::Storage, text));
    }
    call.pools().wipe_volume(&volume, &|| !call.session.has_gone())?;
    call.answer(&())
}
