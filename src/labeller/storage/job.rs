//! What is done to whole volumes, each by a [`Worker`]: copied, wiped, or made larger where their format has a size of its
//! own. Whoever asked waits for it; a copy gets its name when all of it is there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, ioctl_ficlone, seek};
use rustix::io::Errno;

use super::contents::{extent, zero};
use super::worker::{Bounds, Buffer, Worker, code};
use super::{admit_mode, admit_size, locked, name_it, open, policy, regular, within};
use crate::base::{Layer, Refusal};
use crate::image::{Growth, NoGrowth};
use crate::labeller::apply::kernel;
use crate::labeller::connection::ConnectionId;
use crate::labeller::places::Places;
use crate::labeller::server::{Server, refused};
use crate::privsep::request::Reply;
use crate::privsep::storage::{Copied, StorageOp, Stored};
use crate::sys::path;

/// What is copied at once, in bytes.
const CHUNK: u64 = 64 << 20;
/// How many run at once.
const JOBS_MAX: usize = 16;
/// Exit codes: blocks cannot be shared, and from the second on the reasons why an image does not grow.
const NO_REFLINK: u8 = 101;
const NO_GROWTH: u8 = 110;

/// One that goes on.
#[derive(Debug)]
pub(in crate::labeller) struct Job {
    client: ConnectionId,
    worker: Worker,
    operation: &'static str,
    path: String,
    /// The copy, its directory and the name that it gets.
    named: Option<(File, OwnedFd, String)>,
}

/// Why it was not done.
enum Wrong {
    Kernel(io::Error),
    NoGrowth(NoGrowth),
    NoReflink,
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

impl From<Errno> for Wrong {
    fn from(error: Errno) -> Self {
        Self::Kernel(error.into())
    }
}

impl From<Wrong> for u8 {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Kernel(error) => code(error),
            Wrong::NoGrowth(why) => NO_GROWTH + why.code(),
            Wrong::NoReflink => NO_REFLINK,
        }
    }
}

impl Job {
    /// What to poll.
    pub(in crate::labeller) fn fd(&self) -> BorrowedFd<'_> {
        self.worker.fd()
    }

    /// Its process.
    pub(in crate::labeller) fn pid(&self) -> i32 {
        self.worker.pid()
    }

    /// Who waits for it.
    pub(in crate::labeller) fn client(&self) -> ConnectionId {
        self.client
    }

    /// The reply, where it is over.
    fn reply(&self) -> Option<Reply> {
        let done = match self.worker.ended()? {
            Some(0) => match &self.named {
                Some((file, directory, name)) => name_it(file, directory, name, &self.path),
                None => Ok(Stored::Done),
            },
            code => Err(self.why(code)),
        };
        Some(done.map_or_else(refused, Reply::Stored))
    }

    fn why(&self, code: Option<u8>) -> Refusal {
        let refuse = |rule: &str, remedy: &str| policy(self.operation, &self.path, rule, remedy);
        let Some(code) = code else {
            return refuse("who did it was killed", "try again; `dmesg` tells of want of memory");
        };
        if let Some(why) = code.checked_sub(NO_GROWTH).and_then(NoGrowth::of) {
            return refuse(&why.to_string(), "`qemu-img resize` does it, with the domain stopped");
        }
        if code == NO_REFLINK {
            return refuse(
                "its file system cannot share blocks with that of the other volume",
                "ask for a copy without --reflink",
            );
        }
        let error = io::Error::from_raw_os_error(code.into());
        kernel(self.operation, &self.path, &error, "see that its file system has room, and the kernel's log")
    }
}

impl Server {
    /// Begins something that is not done at once. The reply comes when it is over.
    pub(super) fn begin_job(&mut self, client: ConnectionId, op: StorageOp) -> Result<(), Refusal> {
        let (path, operation) = match &op {
            StorageOp::Copy { path, .. } => (path, "copy to"),
            StorageOp::Grow { path, .. } => (path, "resize"),
            StorageOp::Wipe { path } => (path, "wipe"),
            _ => return Err(policy("use", "a volume", "that is done at once", "")),
        };
        let path = path.clone();
        if self.jobs.len() >= JOBS_MAX {
            let rule = format!("{JOBS_MAX} volumes are copied, wiped or resized already");
            return Err(policy(operation, &path, &rule, "try again when one of them is done"));
        }
        let places = Places::of(&self.settings);
        let (worker, named) = match op {
            StorageOp::Copy { from, copy, mode, .. } => {
                let (worker, named) = self.begin_copy(&places, &from, &path, copy, mode)?;
                (worker, Some(named))
            }
            StorageOp::Grow { size, .. } => {
                admit_size(&self.settings, operation, &path, size)?;
                let file = self.whole(&places, operation, &path)?;
                (self.work(operation, &path, &[&file], |buffer| grow(&file, size, buffer))?, None)
            }
            _ => {
                let file = self.whole(&places, operation, &path)?;
                (self.work(operation, &path, &[&file], |buffer| wipe(&file, buffer))?, None)
            }
        };
        self.jobs.push(Job { client, worker, operation, path, named });
        Ok(())
    }

    /// A file that is nobody's, for writing.
    fn whole(&self, places: &Places<'_>, operation: &str, path: &str) -> Result<File, Refusal> {
        let (directory, name) = within(places, path, true)?;
        self.exclusive(&directory, name, operation, path).map(|(file, _)| File::from(file))
    }

    fn work(
        &self,
        operation: &str,
        path: &str,
        files: &[&File],
        work: impl FnOnce(&mut Buffer) -> Result<(), Wrong>,
    ) -> Result<Worker, Refusal> {
        let bounds =
            Bounds { uid: self.settings.uids.imageprobe, longest: self.settings.limits.volume_most() };
        let kept: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
        Worker::begin(bounds, &kept, work)
            .map_err(|error| kernel(operation, path, &error, "try again in a moment"))
    }

    fn begin_copy(
        &self,
        places: &Places<'_>,
        from: &str,
        path: &str,
        copy: Copied,
        mode: u32,
    ) -> Result<(Worker, (File, OwnedFd, String)), Refusal> {
        admit_mode(path, mode)?;
        let (source, size) = {
            let (directory, name) = within(places, from, false)?;
            let found = regular(&directory, name, "copy", from)?;
            let file = open(&directory, name, "copy", from, &found, OFlags::RDONLY)?;
            // Nobody writes it meanwhile: a torn copy would be of no use.
            locked(&file, false, "copy", from)?;
            (File::from(file), found.size)
        };
        admit_size(&self.settings, "copy to", path, size.max(copy.size))?;
        let (directory, name) = within(places, path, true)?;
        if path::look(&directory, name.as_ref()).is_ok() {
            return Err(Refusal::new(
                Layer::Kernel,
                "copy to",
                path,
                "something has this name",
                "choose another one",
            ));
        }
        let io = |error: io::Error| kernel("copy to", path, &error, "see that its file system has O_TMPFILE");
        let file = File::from(path::nameless(&directory, mode, OFlags::RDWR).map_err(io)?);
        let worker = self.work("copy to", path, &[&source, &file], |buffer| {
            duplicate(&source, &file, size, copy, buffer)
        })?;
        Ok((worker, (file, directory, name.to_owned())))
    }

    /// Goes on with all of them, and forgets who has carried everything.
    pub(in crate::labeller) fn advance_jobs(&mut self) {
        self.carriers.retain(|carrier| carrier.ended().is_none());
        for job in std::mem::take(&mut self.jobs) {
            match job.reply() {
                Some(reply) => self.outbox.push_back((job.client, reply)),
                None => self.jobs.push(job),
            }
        }
    }
}

/// Overwrites a file with zeros, or has it be nothing but a hole where it has holes.
fn wipe(file: &File, buffer: &mut Buffer) -> Result<(), Wrong> {
    let size = seek(file, SeekFrom::End(0))?;
    if seek(file, SeekFrom::Hole(0)).unwrap_or(size) < size {
        file.set_len(0)?;
        file.set_len(size)?;
    } else {
        zero(file, 0, size, buffer)?;
    }
    Ok(file.sync_all()?)
}

/// Copies a file of `size` bytes, and gives the copy the size that it is to have.
fn duplicate(from: &File, to: &File, size: u64, copy: Copied, buffer: &mut Buffer) -> Result<(), Wrong> {
    match ioctl_ficlone(to, from) {
        Ok(()) => {}
        Err(_) if copy.reflink => return Err(Wrong::NoReflink),
        Err(_) => {
            if copy.allocate && size > 0 {
                fallocate(to, FallocateFlags::KEEP_SIZE, 0, size)?;
            }
            data(from, to, size, buffer)?;
            to.set_len(size)?;
        }
    }
    if copy.qcow2 {
        grow_to(to, copy.size, buffer)?;
    } else if copy.size > size {
        to.set_len(copy.size)?;
        if copy.allocate {
            fallocate(to, FallocateFlags::empty(), size, copy.size - size)?;
        }
    }
    Ok(to.sync_all()?)
}

/// Copies what is no hole.
fn data(from: &File, to: &File, size: u64, buffer: &mut Buffer) -> Result<(), Wrong> {
    let mut at = 0;
    while at < size {
        let (hole, data) = extent(from, at)?;
        if hole > 0 {
            at = at.saturating_add(hole);
            continue;
        }
        if data == 0 {
            break;
        }
        let end = at.saturating_add(data).min(size);
        while at < end {
            let (mut read, mut written) = (at, at);
            let length = usize::try_from((end - at).min(CHUNK)).unwrap_or(0);
            let copied = match copy_file_range(from, Some(&mut read), to, Some(&mut written), length) {
                // Two file systems, or one that cannot.
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                    piece(from, to, at, end, buffer)?
                }
                copied => copied?,
            };
            // It got shorter, though nobody should write it.
            if copied == 0 {
                return Ok(());
            }
            at = at.saturating_add(copied as u64);
        }
    }
    Ok(())
}

/// Copies some bytes; 0 where there are none.
fn piece(from: &File, to: &File, at: u64, end: u64, buffer: &mut Buffer) -> Result<usize, Wrong> {
    let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
    let place = buffer.get_mut(..most).unwrap_or_default();
    let length = from.read_at(place, at)?;
    to.write_all_at(place.get(..length).unwrap_or_default(), at)?;
    Ok(length)
}

/// Gives a qcow2 image a larger size, and brings it to the disk.
fn grow(file: &File, size: u64, buffer: &mut Buffer) -> Result<(), Wrong> {
    grow_to(file, size, buffer)?;
    Ok(file.sync_all()?)
}

/// Gives a qcow2 image a larger size; one that has it keeps it.
fn grow_to(file: &File, size: u64, buffer: &mut Buffer) -> Result<(), Wrong> {
    let length = seek(file, SeekFrom::End(0))?;
    let read = file.read_at(buffer, 0)?;
    let growth = Growth::new(buffer.get(..read).unwrap_or_default(), length, size);
    let Some(growth) = growth.map_err(Wrong::NoGrowth)? else { return Ok(()) };
    let cleared = growth.cleared();
    zero(file, cleared.start, cleared.end, buffer)?;
    // The header tells of entries only once they are there.
    file.sync_all()?;
    let (at, bytes) = growth.header();
    Ok(file.write_all_at(&bytes, at)?)
}
