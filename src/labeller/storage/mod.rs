//! Files of storage pools: made, listed, given another size and removed, each inside the configured places.
//!
//! A directory is walked once and everything happens below its descriptor. A file is made without a name and gets
//! one when all of it is there, so that a name never stands for half a file, and never takes another one's place.
//! What a domain uses is neither resized nor removed. Stores of UEFI variables are removed here too. What looks at bytes
//! of an image, or takes as long as it is large, is done by [`Worker`]s, and never here.

mod contents;
mod job;
mod qcow2;
mod worker;

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, Dir, FallocateFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::apply::kernel;
use super::apply::nvram::owned_by;
use super::connection::ConnectionId;
use super::places::{DirectoryUse, Places};
use super::server::{Server, refused};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::nvram::named_for;
use crate::privsep::op::TpmVersion;
use crate::privsep::request::Reply;
use crate::privsep::storage::{
    Content, FILES_MAX, Fate, FileState, Qcow2Version, Scanned, StorageOp, Stored,
};
use crate::settings::Settings;
use crate::sys::lock::{self, ImageLock};
use crate::sys::path::{self, Found};

pub(super) use job::Job;
pub(super) use worker::Worker;

/// What a volume's mode may be: no set-uid, and nobody else writes it.
const FILE_MODES: u32 = 0o755;
/// The longest directory that is read, entries that are not told included.
const ENTRIES_MAX: usize = 200_000;

impl Server {
    /// Does what a pool asks for; no reply yet where one has to wait.
    pub(super) fn storage(&mut self, client: ConnectionId, op: StorageOp) -> Option<Reply> {
        let done = match op {
            StorageOp::Contents { path, part, passage } => {
                self.open_contents(&path, part, passage).map(|socket| {
                    if let Some(connection) = self.connections.get_mut(&client) {
                        connection.hand(Some(socket));
                    }
                    Stored::Opened
                })
            }
            op @ (StorageOp::Copy { .. } | StorageOp::Grow { .. } | StorageOp::Wipe { .. }) => {
                return self.begin_job(client, op).err().map(refused);
            }
            op => self.change(&op),
        };
        Some(done.map_or_else(refused, Reply::Stored))
    }

    fn change(&self, op: &StorageOp) -> Result<Stored, Refusal> {
        let places = Places::of(&self.settings);
        match op {
            StorageOp::BuildDirectory { path, mode } => build(&places, path, *mode),
            StorageOp::Create { path, content, mode } => {
                create(&places, &self.settings, path, content, *mode)
            }
            StorageOp::Look { path } => {
                let (directory, name) = within(&places, path, false)?;
                Ok(Stored::File(look(&directory, name, path)?))
            }
            StorageOp::Contents { path, .. }
            | StorageOp::Copy { path, .. }
            | StorageOp::Grow { path, .. }
            | StorageOp::Wipe { path } => Err(policy("use", path, "takes a process of its own", "")),
            StorageOp::Remove { path } => {
                let (directory, name) = within(&places, path, true)?;
                self.unused(&directory, name, "remove", path)?;
                fs::unlinkat(&directory, name, AtFlags::empty()).map_err(failed("remove", path))?;
                sync(&directory, path)?;
                Ok(Stored::Done)
            }
            StorageOp::RemoveDirectory { path } => remove_directory(&places, path),
            StorageOp::Resize { path, size, allocate } => {
                let (directory, name) = within(&places, path, true)?;
                self.resize(&directory, name, path, *size, *allocate)
            }
            StorageOp::Scan { path } => scan(&places, path),
            StorageOp::TpmState { uuid, fate } => self.tpm_state(&places, *uuid, *fate),
            StorageOp::Variables { path, uuid, fate } => self.variables(&places, path, *uuid, *fate),
        }
    }

    /// A domain's own store of UEFI variables: whether it is there, and that it is not any longer.
    fn variables(
        &self,
        places: &Places<'_>,
        path: &str,
        uuid: DomainUuid,
        fate: Fate,
    ) -> Result<Stored, Refusal> {
        // It is made by the first start that needs it.
        let place = self.settings.images.nvram.as_str();
        if matches!(fs::statat(fs::CWD, place, AtFlags::empty()), Err(Errno::NOENT)) {
            return Ok(Stored::There { there: false });
        }
        let (directory, name) = places.directory_of(path, DirectoryUse::Nvram)?;
        let there = is_own(&directory, &name, path, uuid)?;
        if there {
            self.leave_or_remove(&directory, &name, path, fate)?;
        }
        Ok(Stored::There { there })
    }

    /// The state of a domain's TPM, which is found by its name: whether it is there, and that it is not any longer.
    fn tpm_state(&self, places: &Places<'_>, uuid: DomainUuid, fate: Fate) -> Result<Stored, Refusal> {
        // It is made by the first start that needs it.
        let place = self.settings.tpm.state.as_str();
        if matches!(fs::statat(fs::CWD, place, AtFlags::empty()), Err(Errno::NOENT)) {
            return Ok(Stored::There { there: false });
        }
        let mut there = false;
        for version in [TpmVersion::V1_2, TpmVersion::V2_0] {
            let path = format!("{place}/{}", version.state_of(uuid));
            let (directory, name) = places.directory_of(&path, DirectoryUse::Tpm)?;
            match path::look(&directory, name.as_ref()) {
                Ok(_) => self.leave_or_remove(&directory, &name, &path, fate)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(kernel("look at", &path, &error, "see to its directory")),
            }
            there = true;
        }
        Ok(Stored::There { there })
    }

    /// What becomes of a store that is there.
    fn leave_or_remove(
        &self,
        directory: &OwnedFd,
        name: &str,
        path: &str,
        fate: Fate,
    ) -> Result<(), Refusal> {
        if fate != Fate::Stays {
            self.unused(directory, name, "remove", path)?;
        }
        if fate == Fate::Goes {
            fs::unlinkat(directory, name, AtFlags::empty()).map_err(failed("remove", path))?;
            sync(directory, path)?;
        }
        Ok(())
    }

    /// Whether a regular file is nobody's.
    fn unused(&self, directory: &OwnedFd, name: &str, operation: &str, path: &str) -> Result<Found, Refusal> {
        let found = regular(directory, name, operation, path)?;
        self.leases.unused(found.id(), operation, path)?;
        Ok(found)
    }

    /// Opens a regular file that is nobody's, under no other name, and keeps it from others until it is closed.
    fn exclusive(
        &self,
        directory: &OwnedFd,
        name: &str,
        operation: &str,
        path: &str,
    ) -> Result<(OwnedFd, Found), Refusal> {
        let found = self.unused(directory, name, operation, path)?;
        if found.links > 1 {
            return Err(policy(operation, path, "it has more than one hard link", "copy it"));
        }
        let file = open(directory, name, operation, path, &found, OFlags::RDWR)?;
        locked(&file, true, operation, path)?;
        Ok((file, found))
    }

    fn resize(
        &self,
        directory: &OwnedFd,
        name: &str,
        path: &str,
        size: u64,
        allocate: bool,
    ) -> Result<Stored, Refusal> {
        admit_size(&self.settings, "resize", path, size)?;
        let (file, found) = self.exclusive(directory, name, "resize", path)?;
        let io = |error: io::Error| kernel("resize", path, &error, "see that its file system has room");
        fs::ftruncate(&file, size).map_err(|error| io(error.into()))?;
        if allocate && size > found.size {
            let more = size - found.size;
            fs::fallocate(&file, FallocateFlags::empty(), found.size, more)
                .map_err(|error| io(error.into()))?;
        }
        File::from(file).sync_all().map_err(io)?;
        Ok(Stored::Done)
    }
}

/// Takes an image's lock: some other program may have it open.
fn locked(file: &OwnedFd, writes: bool, operation: &str, path: &str) -> Result<(), Refusal> {
    lock::take(file, ImageLock::new(writes, false)).map_err(|error| {
        let busy = error.kind() == io::ErrorKind::WouldBlock;
        let rule = if busy { "a domain or another program uses it".into() } else { error.to_string() };
        let remedy = "see who else uses the image: `virsh list`, `lsof`";
        Refusal::new(Layer::Lock, operation, path, rule, remedy)
    })
}

/// Whether this is a domain's own store of UEFI variables. Whoever may name any file of the directory does not hear of
/// those of others.
fn is_own(directory: &OwnedFd, name: &str, path: &str, uuid: DomainUuid) -> Result<bool, Refusal> {
    let owner = named_for(path);
    if owner.is_some_and(|owner| owner != uuid) {
        return Ok(false);
    }
    let found = match path::look(directory, name.as_ref()) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(kernel("look at", path, &error, "see to its directory")),
    };
    if owner.is_some() || !found.is(libc::S_IFREG) {
        return Ok(owner.is_some());
    }
    let file = open(directory, name, "look at", path, &found, OFlags::RDONLY)?;
    owned_by(&file, path, uuid)
        .map_err(|error| kernel("read the owner of", path, &error, "see its file system"))
}

/// What a name is, which is to be a regular file.
fn regular(directory: &OwnedFd, name: &str, operation: &str, path: &str) -> Result<Found, Refusal> {
    let found = path::look(directory, name.as_ref())
        .map_err(|error| kernel(operation, path, &error, "see whether it is there"))?;
    if !found.is(libc::S_IFREG) {
        return Err(policy(operation, path, "is no regular file", "name a file"));
    }
    Ok(found)
}

/// Opens the very file that was looked at.
fn open(
    directory: &OwnedFd,
    name: &str,
    operation: &str,
    path: &str,
    found: &Found,
    flags: OFlags,
) -> Result<OwnedFd, Refusal> {
    let io = |error: io::Error| kernel(operation, path, &error, "see its file system");
    let file = path::open_in(directory, name.as_ref(), flags).map_err(io)?;
    if Found::of(&file).map_err(io)?.id() != found.id() {
        return Err(policy(operation, path, "it was replaced meanwhile", "try again"));
    }
    Ok(file)
}

/// Splits a path and opens its directory.
fn within<'a>(places: &Places<'_>, path: &'a str, change: bool) -> Result<(OwnedFd, &'a str), Refusal> {
    let split = path.rsplit_once('/').filter(|(directory, _)| path::is_plain(path) && !directory.is_empty());
    let (directory, name) = split.ok_or_else(|| {
        policy("use", path, "is no plain absolute path", "write it without `..`, `.`, `//` and a last `/`")
    })?;
    Ok((places.pool(directory, change)?.fd, name))
}

fn build(places: &Places<'_>, path: &str, mode: u32) -> Result<Stored, Refusal> {
    // One that is there is only looked at: others may have their files in it.
    if let Ok(resolved) = path::resolve(path)
        && resolved.found.is(libc::S_IFDIR)
    {
        places.pool(path, false)?;
        return Ok(Stored::Done);
    }
    let (directory, name) = within(places, path, true)?;
    fs::mkdirat(&directory, name, Mode::from_raw_mode(mode & FILE_MODES)).map_err(failed("make", path))?;
    sync(&directory, path)?;
    Ok(Stored::Done)
}

fn remove_directory(places: &Places<'_>, path: &str) -> Result<Stored, Refusal> {
    // The places themselves stay: their parents are no places.
    let (directory, name) = within(places, path, true)?;
    fs::unlinkat(&directory, name, AtFlags::REMOVEDIR).map_err(failed("remove", path))?;
    sync(&directory, path)?;
    Ok(Stored::Done)
}

fn admit_size(settings: &Settings, operation: &str, path: &str, size: u64) -> Result<(), Refusal> {
    settings
        .limits
        .admit_volume(size)
        .map_err(|rule| policy(operation, path, &rule, "make it smaller, or raise limits.volume"))
}

fn admit_mode(path: &str, mode: u32) -> Result<(), Refusal> {
    if mode & !FILE_MODES == 0 {
        return Ok(());
    }
    let rule = format!("the mode {mode:#o} lets others write it, or is no mode of an image");
    Err(policy("create", path, &rule, "use 0600"))
}

fn create(
    places: &Places<'_>,
    settings: &Settings,
    path: &str,
    content: &Content,
    mode: u32,
) -> Result<Stored, Refusal> {
    admit_mode(path, mode)?;
    let (directory, name) = within(places, path, true)?;
    let io = |error: io::Error| kernel("create", path, &error, "see that its file system has room");
    let file = File::from(path::nameless(&directory, mode, OFlags::RDWR).map_err(io)?);
    match content {
        Content::Raw { size, allocation } => {
            admit_size(settings, "create", path, *size.max(allocation))?;
            file.set_len(*size).map_err(io)?;
            if *allocation > 0 {
                fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, *allocation).map_err(|error| {
                    let remedy =
                        "see that its file system has room and can allocate; or ask for an allocation of 0";
                    kernel("allocate", path, &error.into(), remedy)
                })?;
            }
        }
        Content::Qcow2 { size, preallocate, version, lazy_refcounts, backing } => {
            admit_size(settings, "create", path, *size)?;
            if *lazy_refcounts && *version == Qcow2Version::Two {
                let rule = "a qcow2 image of version 2 has no lazy refcounts";
                return Err(policy("create", path, rule, "make it of version 3"));
            }
            let named = backing.as_ref().map_or("/-", |backing| backing.path.as_str());
            if *size % 512 != 0 || *size > qcow2::SIZE_MAX || named.len() > qcow2::NAME_MAX {
                let rule = "a qcow2 image has whole sectors of 512 bytes, at most 128 TiB, and a backing file's name of at most 1023 bytes";
                return Err(policy("create", path, rule, "choose another size or name"));
            }
            if !path::is_plain(named) {
                return Err(policy(
                    "create",
                    path,
                    "its backing file is no plain absolute path",
                    "write it whole",
                ));
            }
            if *preallocate && (*size > qcow2::PREALLOCATED_MAX || backing.is_some()) {
                let rule = "tables are made ahead only up to 1 TiB, and not above a backing file";
                return Err(policy("create", path, rule, "create it without preallocation"));
            }
            let layout = qcow2::Layout::new(*size, *preallocate, *version, *lazy_refcounts);
            let mut out = BufWriter::with_capacity(1 << 16, &file);
            layout.write(&mut out, backing.as_ref()).and_then(|()| out.flush()).map_err(io)?;
            drop(out);
            file.set_len(layout.length()).map_err(io)?;
        }
    }
    file.sync_all().map_err(io)?;
    name_it(&file, &directory, name, path)
}

/// Gives a file that is whole its name.
fn name_it(file: &File, directory: &OwnedFd, name: &str, path: &str) -> Result<Stored, Refusal> {
    path::link(file, directory, name.as_ref()).map_err(|error| {
        kernel("create", path, &error, "choose another name: a file that is there is never replaced")
    })?;
    sync(directory, path)?;
    Ok(Stored::File(look(directory, name, path)?))
}

/// Makes a directory's change durable. An `O_PATH` descriptor cannot be synced.
fn sync(directory: &OwnedFd, path: &str) -> Result<(), Refusal> {
    let io = |error: io::Error| kernel("sync the directory of", path, &error, "see the kernel's log");
    let directory = path::reopen(directory, OFlags::RDONLY | OFlags::DIRECTORY).map_err(io)?;
    fs::fsync(directory).map_err(|error| io(error.into()))
}

fn scan(places: &Places<'_>, path: &str) -> Result<Stored, Refusal> {
    let resolved = places.pool(path, false)?;
    let io = |error: io::Error| kernel("read the directory", path, &error, "see its file system");
    let directory = path::reopen(&resolved.fd, OFlags::RDONLY | OFlags::DIRECTORY).map_err(io)?;
    let own = fs::fstat(&directory).map_err(|error| io(error.into()))?;
    let room = fs::fstatvfs(&directory).map_err(|error| io(error.into()))?;
    let mut files = Vec::new();
    for entry in Dir::read_from(&directory).map_err(|error| io(error.into()))?.take(ENTRIES_MAX) {
        let entry = entry.map_err(|error| io(error.into()))?;
        // A name that is no text could not be told to anybody.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." || name.chars().any(char::is_control) {
            continue;
        }
        // It may have gone since.
        let Ok(stat) = fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        files.extend(state(name, &stat));
        if files.len() > FILES_MAX {
            let rule = format!("it has more than {FILES_MAX} files");
            return Err(policy("list", path, &rule, "use a directory of its own for each pool"));
        }
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    let directory = state("", &own).ok_or_else(|| policy("list", path, "is no directory", ""))?;
    let (capacity, available) =
        (room.f_blocks.saturating_mul(room.f_frsize), room.f_bfree.saturating_mul(room.f_frsize));
    Ok(Stored::Scanned(Box::new(Scanned { directory, capacity, available, files })))
}

fn look(directory: &OwnedFd, name: &str, path: &str) -> Result<FileState, Refusal> {
    let stat = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at", path))?;
    state(name, &stat)
        .ok_or_else(|| policy("look at", path, "is neither a regular file nor a directory", "name a file"))
}

/// What is told of a file; nothing of what is neither a regular file nor a directory.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds are below 10^9")]
fn state(name: &str, stat: &Stat) -> Option<FileState> {
    let directory = match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => true,
        libc::S_IFREG => false,
        _ => return None,
    };
    Some(FileState {
        name: name.to_owned(),
        directory,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        accessed: (stat.st_atime, stat.st_atime_nsec as u32),
        modified: (stat.st_mtime, stat.st_mtime_nsec as u32),
        changed: (stat.st_ctime, stat.st_ctime_nsec as u32),
    })
}

fn failed(operation: &str, path: &str) -> impl Fn(Errno) -> Refusal {
    move |error| kernel(operation, path, &error.into(), "see whether it is there, and its file system")
}

fn policy(operation: &str, path: &str, rule: &str, remedy: &str) -> Refusal {
    Refusal::new(Layer::Policy, operation, path, rule, remedy)
}
