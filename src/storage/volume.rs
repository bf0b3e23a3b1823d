//! What is done to volumes.

use super::{Contents, Pool, Pools, Seen, StorageError, Taken};
use crate::conf::storage::{self as xml, Below, FileFacts, VolumeState};
use crate::driver::DriverError;
use crate::image::{self, Header, Qcow2};
use crate::manager::ManagerError;
use crate::privsep::storage::{
    BackingFile, BackingFormat, Content, Copied, FileState, Part, Passage, Qcow2Version, StorageOp, Stored,
};

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

/// How a volume is copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyHow {
    /// Whether the tables of a qcow2 image are to be there at once. A copy has those that the other one has.
    pub preallocate: bool,
    /// Whether the file system is to share the blocks, and nothing else will do.
    pub reflink: bool,
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

impl crate::manager::Volumes for Pools {
    fn file(&self, pool: &str, name: &str) -> Result<String, ManagerError> {
        let refused = |error: StorageError| match error {
            StorageError::NoPoolName(_) => ManagerError::NoPool(error.to_string()),
            StorageError::NoVolume(..) => ManagerError::NoVolume(error.to_string()),
            error => ManagerError::Failed(error.to_string()),
        };
        let pool = self.by_name(pool).map_err(refused)?;
        if !pool.active {
            let pool = &pool.definition.name;
            let text = format!("storage pool '{pool}' containing volume '{name}' is not active");
            return Err(ManagerError::State(text));
        }
        let volume = self.volume(&pool, name).map_err(refused)?;
        match volume.directory {
            true => Err(ManagerError::Failed(format!("volume '{name}' is a directory: no disk can be one"))),
            false => Ok(volume.path),
        }
    }
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
        let path = self.new_path(&pool, &wanted)?;
        let mode = wanted.mode.unwrap_or(FILE_MODE);
        let content = self.content_of(&wanted, preallocate)?;
        self.ask(StorageOp::Create { path: path.clone(), content, mode })?;
        self.look(&pool)?;
        Ok(Volume { pool: pool.definition.name.clone(), name: name.clone(), path, directory: false })
    }

    /// The path of a volume that is not there yet.
    fn new_path(&self, pool: &Pool, wanted: &xml::Volume) -> Result<String, StorageError> {
        let name = &wanted.name;
        if name.contains('/') {
            return Err(StorageError::State(format!("volume name '{name}' cannot contain '/'")));
        }
        if self.look(pool)?.files.contains_key(name) {
            return Err(StorageError::Exists(name.clone()));
        }
        Ok(format!("{}/{name}", pool.definition.path))
    }

    fn content_of(&self, wanted: &xml::Volume, preallocate: bool) -> Result<Content, StorageError> {
        if preallocate && !wanted.is("qcow2") {
            return Err(StorageError::Lacks("metadata preallocation only available with qcow2".into()));
        }
        let lazy_refcounts = wanted.lazy_refcounts;
        let version = wanted.version.unwrap_or(Qcow2Version::Two);
        let Some(backing) = &wanted.backing else {
            let size = wanted.capacity.unwrap_or(0);
            return Ok(if wanted.is("qcow2") {
                Content::Qcow2 { size: whole(size), preallocate, version, lazy_refcounts, backing: None }
            } else {
                let allocation = wanted.allocation.unwrap_or(size);
                Content::Raw { size: size.max(allocation), allocation }
            });
        };
        if !wanted.is("qcow2") {
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
            version,
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

    /// Makes a volume of what another one holds, which no domain may write meanwhile.
    pub fn copy_volume(
        &self,
        pool: uuid::Uuid,
        text: &str,
        source: &Volume,
        how: CopyHow,
    ) -> Result<Volume, StorageError> {
        let pool = self.by_uuid(pool)?;
        pool.must_be_active()?;
        let wanted = xml::Volume::parse_copy(text)?;
        let path = self.new_path(&pool, &wanted).map_err(|error| match error {
            StorageError::Exists(name) => StorageError::Taken(name),
            error => error,
        })?;
        no_directory(source)?;
        let (file, header) = self.file(source)?;
        let capacity = header.as_ref().map_or(0, |header| capacity(&file, header));
        self.must_be_alike(&wanted, source, header.as_ref())?;
        if how.preallocate && !wanted.is("qcow2") {
            let text = format!("metadata preallocation is not supported for {} volumes", wanted.format);
            return Err(StorageError::Unsupported(text));
        }
        let qcow2 = wanted.is("qcow2");
        // As libvirt has it: never less than the other one has.
        let size = wanted.capacity.unwrap_or(0).max(capacity);
        if size > capacity && !qcow2 && !is_plain(wanted.format) {
            let text = format!("a larger copy of a volume of format {}", wanted.format);
            return Err(StorageError::Unsupported(text));
        }
        let copy = Copied {
            // Others have a size of their own inside.
            size: match wanted.format {
                "qcow2" => size.checked_next_multiple_of(512).unwrap_or(size),
                format if is_plain(format) => size,
                _ => 0,
            },
            qcow2,
            allocate: is_plain(wanted.format)
                && wanted.allocation.is_none_or(|allocation| allocation >= size),
            reflink: how.reflink,
        };
        let mode = wanted.mode.unwrap_or(FILE_MODE);
        // It takes as long as a disk does: nobody waits for it who changes other pools and volumes.
        self.ask(StorageOp::Copy { from: source.path.clone(), path: path.clone(), copy, mode })?;
        self.look(&pool)?;
        Ok(Volume { pool: pool.definition.name.clone(), name: wanted.name, path, directory: false })
    }

    /// Whether a copy has the format of what it is made of, and the layer below. Of qcow2 it also gets the version, whatever
    /// was asked for: clients ask for the newer one of whatever they copy.
    fn must_be_alike(
        &self,
        wanted: &xml::Volume,
        source: &Volume,
        header: Option<&Header>,
    ) -> Result<(), StorageError> {
        let (format, asked) = (header.map_or("raw", shown_format), wanted.format);
        if format != asked && !(is_plain(format) && is_plain(asked)) {
            let text = format!(
                "a volume of format {asked} of the volume '{}', which has the format {format}: svirt copies within a \
                 format, and `qemu-img convert` does the rest",
                source.name
            );
            return Err(StorageError::Unsupported(text));
        }
        let below = header.and_then(|header| below_of(&source.path, header));
        match (&wanted.backing, below) {
            (None, None) => Ok(()),
            (Some(backing), Some(below)) if backing.path == below => Ok(()),
            (None, Some(below)) => Err(StorageError::Unsupported(format!(
                "a copy of the volume '{}' without the layer below it, {below}: svirt copies a layer by itself; name it as \
                 <backingStore>, or use `qemu-img convert`",
                source.name
            ))),
            (Some(_), _) => {
                Err(StorageError::Unsupported("a different backing store cannot be specified.".into()))
            }
        }
    }

    /// Gives a volume another size.
    pub fn resize_volume(&self, volume: &Volume, size: u64, how: Resize) -> Result<(), StorageError> {
        let _job = self.job();
        let (file, header) = self.file(volume)?;
        let argument = |text: &str| Err(StorageError::Argument(text.into()));
        let resized = |header: &Header| header.format == "qcow2" || is_plain(&header.format);
        let Some(header) = header.filter(resized) else {
            let text = format!(
                "volume '{}' is neither a raw image nor a qcow2 one: only those are resized here; `qemu-img resize` does it \
                 for others",
                volume.name
            );
            return Err(StorageError::Unsupported(text));
        };
        let had = capacity(&file, &header);
        let wanted = match (how.delta, how.shrink) {
            (false, _) => Some(size),
            (true, false) => had.checked_add(size),
            (true, true) => had.checked_sub(size),
        };
        let Some(wanted) = wanted else { return argument("the size is out of range") };
        if wanted < file.allocated {
            return argument("can't shrink capacity below existing allocation");
        }
        if wanted < had && !how.shrink {
            let text = "Can't shrink capacity below current capacity unless shrink flag explicitly specified";
            return argument(text);
        }
        let path = volume.path.clone();
        if is_plain(&header.format) {
            self.ask(StorageOp::Resize { path, size: wanted, allocate: how.allocate })?;
            return Ok(());
        }
        if how.allocate {
            return Err(StorageError::Operation("preallocate is only supported for raw type volume".into()));
        }
        let Some(wanted) = wanted.checked_next_multiple_of(512) else {
            return argument("the size is out of range");
        };
        if wanted < had {
            let text = format!(
                "volume '{}' is a qcow2 image, which svirt does not make smaller; `qemu-img resize --shrink` does it",
                volume.name
            );
            return Err(StorageError::Unsupported(text));
        }
        self.shows_nothing_below(volume, &header)?;
        self.ask(StorageOp::Grow { path, size: wanted })?;
        Ok(())
    }

    /// Whether a layer that gets larger would show more of the one below it.
    fn shows_nothing_below(&self, volume: &Volume, header: &Header) -> Result<(), StorageError> {
        let Some(below) = below_of(&volume.path, header) else { return Ok(()) };
        // Of another format than qcow2, the file's length is no less than what a guest sees.
        if self.header(&below)?.virtual_size <= header.virtual_size {
            return Ok(());
        }
        Err(StorageError::Unsupported(format!(
            "volume '{}' is shorter than the layer below it, {below}, whose end a guest would see; `qemu-img resize` clears it",
            volume.name
        )))
    }

    /// Opens the way to what a volume holds: to be read, or to be written where no domain and no other program uses it,
    /// which it is kept for until that is over.
    pub fn open_contents(
        &self,
        volume: &Volume,
        part: Part,
        passage: Passage,
    ) -> Result<Contents, StorageError> {
        no_directory(volume)?;
        Ok(Contents::new(self.labeller()?.open_contents(&volume.path, part, passage)?))
    }

    /// A part of an image in a configured place, whether a pool lists it or not; less where it ends before.
    pub fn part_of(&self, path: &str, part: Part) -> Result<Vec<u8>, StorageError> {
        let length = usize::try_from(part.length).unwrap_or(usize::MAX);
        if length == 0 {
            return Ok(Vec::new());
        }
        let passage = Passage::Down { sparse: false };
        let mut contents = Contents::new(self.labeller()?.open_contents(path, part, passage)?);
        let mut bytes = Vec::with_capacity(length.min(1 << 20));
        while bytes.len() < length {
            match contents.take() {
                Ok(Taken::Data(more)) => bytes.extend(more),
                // Nobody asked for holes.
                Ok(Taken::Hole(_) | Taken::End) => break,
                Err(error) => return Err(StorageError::Read { path: path.to_owned(), error }),
            }
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Overwrites a volume that nobody uses with zeros, for as long as somebody wants it: the rest stays as it was. One
    /// that has holes gives all of its room back.
    pub fn wipe_volume(&self, volume: &Volume, wanted: &dyn Fn() -> bool) -> Result<(), StorageError> {
        no_directory(volume)?;
        self.labeller()?.storage_while(StorageOp::Wipe { path: volume.path.clone() }, wanted)?;
        Ok(())
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
        let backing = header.as_ref().and_then(|header| below_of(&volume.path, header));
        let format = header.as_ref().and_then(|header| header.backing_format.as_deref());
        let state = VolumeState {
            name: &volume.name,
            path: &volume.path,
            directory: file.directory,
            capacity: header.as_ref().map_or(0, |header| capacity(&file, header)),
            allocation: if file.directory { 0 } else { file.allocated },
            physical: file.size,
            format: header.as_ref().map_or("dir", shown_format),
            features: header.as_ref().and_then(|header| header.qcow2).and_then(features),
            luks: header.as_ref().is_some_and(|header| header.format == "luks"),
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

/// The path of the layer below an image. A name in a header counts from the image's own directory.
fn below_of(path: &str, header: &Header) -> Option<String> {
    let name = header.backing_file.as_ref()?;
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    Some(if name.starts_with('/') { name.clone() } else { format!("{directory}/{name}") })
}

fn no_directory(volume: &Volume) -> Result<(), StorageError> {
    match volume.directory {
        true => Err(StorageError::Unsupported(format!("volume '{}' is a directory", volume.name))),
        false => Ok(()),
    }
}

/// What a guest sees: what the header says, where it says it.
fn capacity(file: &FileState, header: &Header) -> u64 {
    if shown_format(header) == "raw" && header.format != "luks" { file.size } else { header.virtual_size }
}

/// Whether what a guest sees is the file itself. (What is read as a CD may be anything that somebody put into raw bytes.)
fn is_plain(format: &str) -> bool {
    matches!(format, "raw" | "iso")
}

/// libvirt's name of a format.
fn shown_format(header: &Header) -> &str {
    match header.format.as_str() {
        "parallels" => "ploop",
        format if xml::is_format(format) && format != "luks" => format,
        // An encrypted one is said to be raw, and to be encrypted.
        _ => "raw",
    }
}

/// The features of a qcow2 image, whose first version has none.
fn features(qcow2: Qcow2) -> Option<Vec<&'static str>> {
    let has = [("lazy_refcounts", qcow2.lazy_refcounts), ("extended_l2", qcow2.extended_l2)];
    (qcow2.version > 2).then(|| has.into_iter().filter_map(|(feature, has)| has.then_some(feature)).collect())
}

/// Whole kibibytes, as libvirt asks `qemu-img` for.
fn whole(size: u64) -> u64 {
    size.checked_next_multiple_of(1024).unwrap_or(size)
}
