//! What is done to volumes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use super::{Pool, Pools, Seen, StorageError};
use crate::conf::storage::{self as xml, Below, FileFacts, VolumeState};
use crate::driver::DriverError;
use crate::image::{self, Header};
use crate::privsep::storage::{BackingFile, BackingFormat, Content, FileState, StorageOp, Stored};

/// Mode of a volume that nobody gave one, as libvirt's.
const FILE_MODE: u32 = 0o600;
/// The most headers that are remembered.
const HEADERS_MAX: usize = 20_000;

/// A volume: a file of an active pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The name of its pool.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// Its path, which is also its key.
    pub path: String,
    /// Whether it is a directory.
    pub directory: bool,
}

/// What is known of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// libvirt's number of its type.
    pub kind: i32,
    /// What a guest sees, in bytes.
    pub capacity: u64,
    /// Bytes that it takes.
    pub allocation: u64,
    /// The file's length in bytes.
    pub physical: u64,
}

/// How a volume is resized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resize {
    /// Whether room is taken for all that is new.
    pub allocate: bool,
    /// Whether the size is a difference.
    pub delta: bool,
    /// Whether it may get smaller.
    pub shrink: bool,
}

impl Pools {
    /// The volumes of an active pool, by name.
    pub fn volumes(&self, pool: &Pool) -> Result<Vec<Volume>, StorageError> {
        let content = self.content(pool)?;
        Ok(content.files.values().map(|file| volume(pool, file)).collect())
    }

    /// The volume of this name.
    pub fn volume(&self, pool: &Pool, name: &str) -> Result<Volume, StorageError> {
        let content = self.content(pool)?;
        let file = content.files.get(name);
        file.map(|file| volume(pool, file)).ok_or_else(|| StorageError::NoVolume("name", name.into()))
    }

    /// The volume of this path or key, in any active pool.
    pub fn volume_by_path(&self, path: &str, word: &'static str) -> Result<Volume, StorageError> {
        let missing = || StorageError::NoVolume(word, path.into());
        let (directory, name) = path.rsplit_once('/').ok_or_else(missing)?;
        let pool = self.by_path(directory).map_err(|_| missing())?;
        // Whatever else keeps the directory from being read, it is not there for the client.
        self.volume(&pool, name).map_err(|_| missing())
    }

    /// Makes a volume.
    pub fn create_volume(
        &self,
        pool: uuid::Uuid,
        text: &str,
        preallocate: bool,
    ) -> Result<Volume, StorageError> {
        let _job = self.job();
        let pool = self.by_uuid(pool)?;
        pool.must_be_active()?;
        let wanted = xml::Volume::parse(text)?;
        let name = &wanted.name;
        if name.contains('/') {
            return Err(StorageError::State(format!("volume name '{name}' cannot contain '/'")));
        }
        if self.look(&pool)?.files.contains_key(name) {
            return Err(StorageError::Exists(name.clone()));
        }
        let path = format!("{}/{name}", pool.definition.path);
        let mode = wanted.mode.unwrap_or(FILE_MODE);
        let content = self.content_of(&wanted, preallocate)?;
        self.ask(StorageOp::Create { path: path.clone(), content, mode })?;
        self.look(&pool)?;
        Ok(Volume { pool: pool.definition.name.clone(), name: name.clone(), path, directory: false })
    }

    fn content_of(&self, wanted: &xml::Volume, preallocate: bool) -> Result<Content, StorageError> {
        if preallocate && !wanted.qcow2 {
            return Err(StorageError::Lacks("metadata preallocation only available with qcow2".into()));
        }
        let lazy_refcounts = wanted.lazy_refcounts;
        let Some(backing) = &wanted.backing else {
            let size = wanted.capacity.unwrap_or(0);
            return Ok(if wanted.qcow2 {
                Content::Qcow2 { size: whole(size), preallocate, lazy_refcounts, backing: None }
            } else {
                let allocation = wanted.allocation.unwrap_or(size);
                Content::Raw { size: size.max(allocation), allocation }
            });
        };
        if !wanted.qcow2 {
            return Err(StorageError::Lacks("backing storage not supported for raw volumes".into()));
        }
        if preallocate {
            return Err(StorageError::Unsupported(
                "metadata preallocation conflicts with backing store".into(),
            ));
        }
        // It must be in a configured place and be what it is said to be; a guest may have written its header.
        let below = self.header(&backing.path)?;
        let format = if backing.qcow2 { BackingFormat::Qcow2 } else { BackingFormat::Raw };
        if backing.qcow2 && below.format != "qcow2" {
            let text = format!("the backing store {} is no qcow2 image", backing.path);
            return Err(StorageError::Unsupported(text));
        }
        let size = wanted.capacity.unwrap_or(below.virtual_size);
        Ok(Content::Qcow2 {
            size: whole(size),
            preallocate: false,
            lazy_refcounts,
            backing: Some(BackingFile { path: backing.path.clone(), format }),
        })
    }

    /// Removes a volume that no domain uses.
    pub fn delete_volume(&self, volume: &Volume) -> Result<(), StorageError> {
        let _job = self.job();
        if volume.directory {
            self.ask(StorageOp::RemoveDirectory { path: volume.path.clone() })?;
        } else {
            self.ask(StorageOp::Remove { path: volume.path.clone() })?;
        }
        let pool = self.by_name(&volume.pool)?;
        // It is gone; that the directory cannot be read is no reason to say otherwise.
        let _ = self.look(&pool);
        Ok(())
    }

    /// Gives a raw volume another size.
    pub fn resize_volume(&self, volume: &Volume, size: u64, how: Resize) -> Result<(), StorageError> {
        let _job = self.job();
        let (file, header) = self.file(volume)?;
        let argument = |text: &str| Err(StorageError::Argument(text.into()));
        if header.as_ref().is_none_or(|header| header.format != "raw") {
            let text = format!(
                "volume '{}' is no raw image: only those are resized here; `qemu-img resize` does it for others",
                volume.name
            );
            return Err(StorageError::Unsupported(text));
        }
        let wanted = match (how.delta, how.shrink) {
            (false, _) => Some(size),
            (true, false) => file.size.checked_add(size),
            (true, true) => file.size.checked_sub(size),
        };
        let Some(wanted) = wanted else { return argument("the size is out of range") };
        if wanted < file.allocated {
            return argument("can't shrink capacity below existing allocation");
        }
        if wanted < file.size && !how.shrink {
            let text = "Can't shrink capacity below current capacity unless shrink flag explicitly specified";
            return argument(text);
        }
        let path = volume.path.clone();
        self.ask(StorageOp::Resize { path, size: wanted, allocate: how.allocate })?;
        Ok(())
    }

    /// Opens a volume and tells its length: to be read, or to be written where no domain and no other program uses it, which
    /// it is kept for until it is closed.
    pub fn open_volume(&self, volume: &Volume, write: bool) -> Result<(File, u64), StorageError> {
        if volume.directory {
            return Err(StorageError::Unsupported(format!("volume '{}' is a directory", volume.name)));
        }
        if self.sealed {
            let text = "contents of volumes are not reached through svirtd where SELinux enforces: its policy keeps \
                images from it; copy the file as an administrator, and refresh the pool";
            return Err(StorageError::Unsupported(text.into()));
        }
        let file = File::from(self.labeller()?.open_volume(&volume.path, write)?);
        let size = file.metadata().map_err(|source| failed("look at", volume, source))?.len();
        Ok((file, size))
    }

    /// Overwrites a volume that nobody uses with zeros. One that has holes gives all of its room back.
    pub fn wipe_volume(&self, volume: &Volume) -> Result<(), StorageError> {
        let (file, size) = self.open_volume(volume, true)?;
        let wiped = file.metadata().and_then(|state| {
            if state.blocks().saturating_mul(512) < size {
                file.set_len(0)?;
                file.set_len(size)?;
            } else {
                zero(&file, 0..size)?;
            }
            file.sync_all()
        });
        wiped.map_err(|source| failed("wipe", volume, source).into())
    }

    /// What is known of an image in a configured place, whether a pool lists it or not.
    pub fn info_of(&self, path: &str) -> Result<Info, StorageError> {
        let path = path.to_owned();
        self.info(&Volume { pool: String::new(), name: String::new(), path, directory: false })
    }

    /// What is known of a volume now.
    pub fn info(&self, volume: &Volume) -> Result<Info, StorageError> {
        let (file, header) = self.file(volume)?;
        Ok(Info {
            kind: if file.directory { 2 } else { 0 },
            capacity: header.map_or(0, |header| capacity(&file, &header)),
            allocation: if file.directory { 0 } else { file.allocated },
            physical: if file.directory { 0 } else { file.size },
        })
    }

    /// A volume as a client reads it.
    pub fn volume_xml(&self, volume: &Volume) -> Result<String, StorageError> {
        let (file, header) = self.file(volume)?;
        let directory = volume.path.rsplit_once('/').map_or("", |(directory, _)| directory);
        // A name in a header counts from the image's own directory.
        let backing = header
            .as_ref()
            .and_then(|header| header.backing_file.as_ref())
            .map(|name| if name.starts_with('/') { name.clone() } else { format!("{directory}/{name}") });
        let format = header.as_ref().and_then(|header| header.backing_format.as_deref());
        let state = VolumeState {
            name: &volume.name,
            path: &volume.path,
            directory: file.directory,
            capacity: header.as_ref().map_or(0, |header| capacity(&file, header)),
            allocation: if file.directory { 0 } else { file.allocated },
            physical: file.size,
            format: header.as_ref().map_or("dir", |header| &header.format),
            permissions: (file.mode & 0o777, file.uid, file.gid),
            times: [file.accessed, file.modified, file.changed],
            backing: backing.as_deref().map(|path| Below { path, format, file: self.below(path) }),
        };
        Ok(state.format())
    }

    /// What is told of a layer below, where the labeller tells it.
    fn below(&self, path: &str) -> Option<FileFacts> {
        match self.ask(StorageOp::Look { path: path.into() }) {
            Ok(Stored::File(file)) => {
                Some(((file.mode & 0o777, file.uid, file.gid), [file.accessed, file.modified, file.changed]))
            }
            _ => None,
        }
    }

    /// What a volume is now: its file, and the header of one that is no directory.
    fn file(&self, volume: &Volume) -> Result<(FileState, Option<Header>), StorageError> {
        let file = match self.ask(StorageOp::Look { path: volume.path.clone() })? {
            Stored::File(file) => file,
            _ => return Err(DriverError::Protocol("to the labeller about a volume".into()).into()),
        };
        if file.directory {
            return Ok((file, None));
        }
        let seen: Seen = (file.size, file.modified, file.changed);
        let known = self.headers().get(&volume.path).filter(|(when, _)| *when == seen).cloned();
        if let Some((_, header)) = known {
            return Ok((file, Some(header)));
        }
        let header = self.header(&volume.path)?;
        let mut headers = self.headers();
        if headers.len() >= HEADERS_MAX {
            headers.clear();
        }
        headers.insert(volume.path.clone(), (seen, header.clone()));
        Ok((file, Some(header)))
    }

    fn header(&self, path: &str) -> Result<Header, StorageError> {
        let probed = self.labeller()?.probe(path)?;
        image::read_answer(probed.header.as_bytes())
            .map_err(|failure| DriverError::Protocol(format!("{path}: {failure}")).into())
    }

    fn headers(&self) -> std::sync::MutexGuard<'_, std::collections::HashMap<String, (Seen, Header)>> {
        self.headers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Forgets the headers of a directory's files, so that they are read again.
    pub(super) fn forget_headers(&self, directory: &str) {
        let below = |path: &str| path.rsplit_once('/').is_some_and(|(own, _)| own == directory);
        self.headers().retain(|path, _| !below(path));
    }
}

fn volume(pool: &Pool, file: &FileState) -> Volume {
    Volume {
        pool: pool.definition.name.clone(),
        name: file.name.clone(),
        path: format!("{}/{}", pool.definition.path, file.name),
        directory: file.directory,
    }
}

fn failed(what: &str, volume: &Volume, source: io::Error) -> DriverError {
    DriverError::Io { what: format!("cannot {what} volume '{}'", volume.name), source }
}

/// Writes zeros there.
pub fn zero(file: &File, place: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = place.start;
    while at < place.end {
        let length = usize::try_from(place.end - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..length).unwrap_or_default(), at)?;
        at += length as u64;
    }
    Ok(())
}

fn capacity(file: &FileState, header: &Header) -> u64 {
    if header.format == "qcow2" { header.virtual_size } else { file.size }
}

/// Whole kibibytes, as libvirt asks `qemu-img` for.
fn whole(size: u64) -> u64 {
    size.checked_next_multiple_of(1024).unwrap_or(size)
}
