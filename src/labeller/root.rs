//! The minimal root of each emulator: a directory of copies, made once and mounted read-only into every start.
//!
//! A root is named by what it was copied from (path, device, inode, size and times of every source) and by the
//! reviewed list; `identity` beside the tree says all of it. A root is built under another name, synced and
//! renamed, so that a crash leaves nothing half-made under a name that is used; before its first use in each
//! life of the labeller every file is checked against its source's size and time, and a damaged root is made anew.
//! Old roots stay: a running device model may still load from its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::spawn::{Question, SHARE, SpawnError, ask};
use crate::base::{Layer, Refusal};
use crate::privsep::confinement::{RootPlace, RootShare, RootShmem};
use crate::sys::landlock::Allow;
use crate::sys::process;

/// What a root holds besides its program.
const EMULATOR: &str = include_str!("../../labels/root/qemu-x86.toml");
const SERVER: &str = include_str!("../../labels/root/virtiofsd.toml");

/// Dynamic loaders by the path that programs of the architecture name.
const LOADERS: &[&str] = &["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];

/// Empty files that device nodes are mounted over.
const DEVICES: [&str; 3] = ["/dev/kvm", "/dev/null", "/dev/urandom"];

/// How long the dynamic loader may take to list a file's libraries.
const LOADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no minimal root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file or directory could not be read or made.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was done.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The reviewed list is malformed; only a wrong build can say this.
    #[error("labels/root/qemu-x86.toml: {0}")]
    List(#[from] toml::de::Error),
    /// The dynamic loader could not be run.
    #[error(transparent)]
    Loader(#[from] SpawnError),
    /// A file that must be there is missing.
    #[error("{0} is missing")]
    Missing(String),
    /// The dynamic loader finds a library nowhere.
    #[error("{0}")]
    Unresolved(String),
}

impl RootError {
    /// What a person is told.
    #[must_use]
    pub fn refusal(&self, emulator: &Path) -> Refusal {
        let operation = "prepare the minimal root of";
        let (rule, remedy) = match self {
            Self::Loader(error) => return error.refusal(),
            Self::Missing(_) => (self.to_string(), "install the emulator's package completely"),
            Self::Unresolved(_) => (self.to_string(), "install the missing library and run ldconfig"),
            Self::File { .. } => (self.to_string(), "check paths.cache and the emulator's files"),
            Self::List(_) => (self.to_string(), "this build of svirt is broken"),
        };
        Refusal::new(Layer::Namespace, operation, emulator.display().to_string(), rule, remedy)
    }
}

fn at<T>(action: &'static str, path: impl Into<PathBuf>, result: io::Result<T>) -> Result<T, RootError> {
    result.map_err(|source| RootError::File { action, path: path.into(), source })
}

/// The reviewed list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    entry: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dirs: Vec<String>,
    names: Vec<String>,
    #[serde(default)]
    required: bool,
    #[serde(default)]
    libraries: bool,
    reason: String,
}

/// Where minimal roots are kept.
#[derive(Debug)]
pub struct RootStore {
    dir: PathBuf,
    loader_uid: u32,
    verified: std::cell::RefCell<BTreeSet<PathBuf>>,
}

/// One minimal root, checked and ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedRoot {
    tree: PathBuf,
}

impl PreparedRoot {
    /// The directory that becomes `/`.
    #[must_use]
    pub fn tree(&self) -> &Path {
        &self.tree
    }
}

impl RootStore {
    /// Opens (and makes, if need be) the store below `cache` (`paths.cache`). The dynamic loader runs as `loader_uid`.
    pub fn open(cache: &Path, loader_uid: u32) -> Result<Self, RootError> {
        let dir = cache.join("roots");
        at("make", &dir, DirBuilder::new().recursive(true).mode(0o755).create(&dir))?;
        let meta = at("examine", &dir, fs::symlink_metadata(&dir))?;
        if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            let source = io::Error::new(io::ErrorKind::PermissionDenied, "others than root may write there");
            return at("use", &dir, Err(source));
        }
        Ok(Self { dir, loader_uid, verified: std::cell::RefCell::default() })
    }

    /// The root of `emulator`, from the store if its sources are unchanged, else made now.
    pub fn prepare(&self, emulator: &Path) -> Result<PreparedRoot, RootError> {
        self.prepared(emulator, EMULATOR)
    }

    /// The same for a server of a shared directory.
    pub fn prepare_server(&self, program: &Path) -> Result<PreparedRoot, RootError> {
        self.prepared(program, SERVER)
    }

    fn prepared(&self, emulator: &Path, list: &str) -> Result<PreparedRoot, RootError> {
        let lock_path = self.dir.join(".lock");
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = at("open", &lock_path, lock)?;
        // Waits for another labeller that builds; given back when the descriptor closes.
        at(
            "lock",
            &lock_path,
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(Into::into),
        )?;
        if let Some(found) = self.find(emulator, list)? {
            return Ok(found);
        }
        self.sweep()?;
        self.build(emulator, list)
    }

    /// A root whose recorded sources are what the host has now, and whose copies are whole.
    fn find(&self, emulator: &Path, list: &str) -> Result<Option<PreparedRoot>, RootError> {
        for entry in at("list", &self.dir, fs::read_dir(&self.dir))? {
            let path = at("list", &self.dir, entry)?.path();
            let Ok(identity) = fs::read_to_string(path.join("identity")) else { continue };
            let Some(sources) = recorded(&identity, emulator, list) else { continue };
            if describe(emulator, list, &sources) != identity {
                continue;
            }
            let tree = path.join("tree");
            let known = self.verified.borrow().contains(&tree);
            if known || (only_roots(&path) && whole(&tree, &sources).unwrap_or(false)) {
                self.verified.borrow_mut().insert(tree.clone());
                return Ok(Some(PreparedRoot { tree }));
            }
            tracing::warn!(root = %path.display(), "a damaged minimal root is made anew");
            at("remove", &path, fs::remove_dir_all(&path))?;
        }
        Ok(None)
    }

    /// Removes what a crash left while it was being built.
    fn sweep(&self) -> Result<(), RootError> {
        for entry in at("list", &self.dir, fs::read_dir(&self.dir))? {
            let entry = at("list", &self.dir, entry)?;
            if entry.file_name().to_string_lossy().starts_with(".build-") {
                at("remove", entry.path(), fs::remove_dir_all(entry.path()))?;
            }
        }
        Ok(())
    }

    fn build(&self, emulator: &Path, list: &str) -> Result<PreparedRoot, RootError> {
        let sources = self.collect(emulator, list)?;
        let identity = describe(emulator, list, &sources);
        let building = self.dir.join(format!(".build-{}", process::own_pid()));
        let tree = building.join("tree");
        make_dir(&building)?;
        fill(&tree, &sources)?;
        let file = building.join("identity");
        // The labeller's umask is empty, so the mode stands here.
        let made = File::options().create_new(true).write(true).mode(0o644).open(&file);
        at("write", &file, made.and_then(|mut to| to.write_all(identity.as_bytes())))?;
        let handle = at("open", &building, File::open(&building))?;
        // Before the name that is looked for exists, everything below it is on the disk.
        at("sync", &building, rustix::fs::syncfs(&handle).map_err(Into::into))?;
        let name = self.dir.join(format!("{:016x}", digest(&identity)));
        if name.exists() {
            at("remove", &name, fs::remove_dir_all(&name))?;
        }
        at("rename", &building, fs::rename(&building, &name))?;
        at("sync", &self.dir, File::open(&self.dir).and_then(|dir| dir.sync_all()))?;
        let tree = name.join("tree");
        self.verified.borrow_mut().insert(tree.clone());
        Ok(PreparedRoot { tree })
    }

    /// Every path that belongs in, with absent optional ones, so that their appearance makes a new root.
    fn collect(&self, emulator: &Path, list: &str) -> Result<BTreeSet<PathBuf>, RootError> {
        let list: List = toml::from_str(list)?;
        let mut sources = BTreeSet::from([emulator.to_path_buf()]);
        let mut linked = vec![emulator.to_path_buf()];
        for entry in &list.entry {
            let paths: Vec<PathBuf> = entry
                .dirs
                .iter()
                .flat_map(|dir| entry.names.iter().map(move |name| Path::new(dir).join(name)))
                .collect();
            if entry.required && !paths.iter().any(|path| path.is_file()) {
                return Err(RootError::Missing(format!("{} ({})", entry.names.join(", "), entry.reason)));
            }
            linked.extend(paths.iter().filter(|path| entry.libraries && path.is_file()).cloned());
            sources.extend(paths);
        }
        let loader = LOADERS.iter().map(Path::new).find(|path| path.is_file());
        let loader = loader.ok_or_else(|| RootError::Missing("the dynamic loader".to_owned()))?;
        sources.insert(loader.to_path_buf());
        for file in linked {
            sources.extend(self.libraries(loader, &file)?);
        }
        Ok(sources)
    }

    /// What the dynamic loader resolves for one file, asked of a confined process.
    fn libraries(&self, loader: &Path, file: &Path) -> Result<Vec<PathBuf>, RootError> {
        let argv = [loader.display().to_string(), "--list".to_owned(), file.display().to_string()];
        let mut text = ask(&Question {
            program: loader,
            argv: &argv,
            uid: self.loader_uid,
            selinux_exec: None,
            reach: &[(file, Allow::PROGRAM)],
            errors_too: true,
            most: 1 << 16,
            timeout: LOADER_TIMEOUT,
        })?;
        if text.trim().is_empty() {
            text.push_str("the dynamic loader cannot read it (a static emulator is not supported)");
        }
        parse_libraries(&text)
            .ok_or_else(|| RootError::Unresolved(format!("{}: {}", file.display(), text.trim())))
    }
}

/// Reads `ld.so --list`: `name => path (address)` or `path (address)`; `None` where one was not found.
fn parse_libraries(text: &str) -> Option<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let target = line.split_once("=>").map_or(line, |(_, target)| target).trim();
        let path = target.rsplit_once(" (").map_or(target, |(path, _)| path);
        if path.starts_with('/') {
            found.push(PathBuf::from(path));
        } else if !line.starts_with("linux-vdso") && line != "statically linked" {
            return None;
        }
    }
    // A loader that was killed says nothing at all.
    (!text.trim().is_empty()).then_some(found)
}

/// The sources that an identity names, if it is one of this emulator and of this build's list.
fn recorded(identity: &str, emulator: &Path, list: &str) -> Option<BTreeSet<PathBuf>> {
    let rest = identity.strip_prefix(&header(emulator, list))?;
    rest.lines().map(|line| line.split_once('\t').map(|(path, _)| PathBuf::from(path))).collect()
}

fn header(emulator: &Path, list: &str) -> String {
    format!("svirt root 4 list {:016x} emulator {}\n", digest(list), emulator.display())
}

/// What the host has now under each of the paths.
fn describe(emulator: &Path, list: &str, sources: &BTreeSet<PathBuf>) -> String {
    let mut text = header(emulator, list);
    for path in sources {
        let state = fs::metadata(path).map_or_else(
            |_| "absent".to_owned(),
            |m| {
                format!(
                    "{} {} {} {} {} {} {}",
                    m.dev(),
                    m.ino(),
                    m.size(),
                    m.mtime(),
                    m.mtime_nsec(),
                    m.ctime(),
                    m.ctime_nsec()
                )
            },
        );
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{}\t{state}", path.display());
    }
    text
}

/// FNV-1a: a name, not a proof; the identity is compared as text.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn inside(tree: &Path, path: &Path) -> PathBuf {
    tree.join(path.strip_prefix("/").unwrap_or(path))
}

/// Empty files that something is mounted over.
fn mount_points() -> impl Iterator<Item = PathBuf> {
    let files = RootPlace::ALL.iter().map(|place| place.path()).chain(DEVICES).map(PathBuf::from);
    files.chain((0..RootShmem::MAX).map(RootShmem::path).map(PathBuf::from))
}

/// Empty directories that something is mounted over.
fn directories() -> impl Iterator<Item = String> {
    let shares = (0..RootShare::MAX).map(RootShare::path);
    ["/proc".to_owned(), SHARE.to_owned()].into_iter().chain(shares)
}

/// Whether nobody but root could have written a root's directory and identity.
fn only_roots(path: &Path) -> bool {
    [path.to_path_buf(), path.join("identity")].iter().all(|path| {
        fs::symlink_metadata(path)
            .is_ok_and(|meta| !meta.is_symlink() && meta.uid() == 0 && meta.mode() & 0o022 == 0)
    })
}

/// Whether the tree holds exactly the copies of the sources, untouched since they were made.
fn whole(tree: &Path, sources: &BTreeSet<PathBuf>) -> io::Result<bool> {
    let mut wanted = BTreeMap::new();
    for path in sources {
        if let Ok(meta) = fs::metadata(path) {
            wanted.insert(inside(tree, path), (meta.size(), Some((meta.mtime(), meta.mtime_nsec()))));
        }
    }
    wanted.extend(mount_points().map(|path| (inside(tree, &path), (0, None))));
    let mut dirs = vec![tree.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
                return Ok(false);
            }
            if meta.is_dir() {
                dirs.push(path);
                continue;
            }
            let time = (meta.mtime(), meta.mtime_nsec());
            match wanted.remove(&path) {
                Some((size, source))
                    if meta.is_file() && meta.size() == size && source.unwrap_or(time) == time => {}
                _ => return Ok(false),
            }
        }
    }
    Ok(wanted.is_empty())
}

fn fill(tree: &Path, sources: &BTreeSet<PathBuf>) -> Result<(), RootError> {
    make_parents(tree, Path::new("/"))?;
    for source in sources.iter().filter(|path| path.is_file()) {
        make_parents(tree, source.parent().unwrap_or(source))?;
        copy(source, &inside(tree, source))?;
    }
    for place in directories() {
        make_parents(tree, Path::new(&place))?;
    }
    for place in mount_points() {
        make_parents(tree, place.parent().unwrap_or(&place))?;
        let target = inside(tree, &place);
        let made = File::options().create_new(true).write(true).mode(0o444).open(&target);
        at("make", &target, made)?;
    }
    Ok(())
}

/// Makes the directories of `dir` inside the tree.
fn make_parents(tree: &Path, dir: &Path) -> Result<(), RootError> {
    let mut target = tree.to_path_buf();
    let names = dir.components().filter_map(|part| match part {
        Component::Normal(name) => Some(Some(name)),
        _ => None,
    });
    for name in std::iter::once(None).chain(names) {
        if let Some(name) = name {
            target.push(name);
        }
        if !target.is_dir() {
            make_dir(&target)?;
        }
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), RootError> {
    at("make", path, DirBuilder::new().mode(0o755).create(path))?;
    // Whatever the umask took away.
    at("make", path, fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
}

/// Copies contents (shared blocks where the file system can), execute bit and time.
///
/// Not the SELinux label: the policy gives the copies types of their own by where they lie and what they are called
/// (labels/selinux), so that the labeller need not be allowed to write to the system's types.
fn copy(source: &Path, target: &Path) -> Result<(), RootError> {
    let meta = at("examine", source, fs::metadata(source))?;
    at("copy", source, fs::copy(source, target))?;
    let mode = if meta.mode() & 0o111 == 0 { 0o644 } else { 0o755 };
    at("copy", source, fs::set_permissions(target, fs::Permissions::from_mode(mode)))?;
    let modified = at("examine", source, meta.modified())?;
    at("copy", source, File::options().write(true).open(target).and_then(|file| file.set_modified(modified)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_give_a_reason_for_each_entry() {
        let lists = [EMULATOR, SERVER].map(|text| toml::from_str::<List>(text).unwrap());
        for entry in lists.iter().flat_map(|list| &list.entry) {
            assert!(!entry.reason.is_empty() && !entry.names.is_empty(), "{entry:?}");
            assert!(entry.dirs.iter().all(|dir| dir.starts_with('/') && !dir.contains("..")), "{entry:?}");
            assert!(entry.names.iter().all(|name| !name.contains('/')), "{entry:?}");
        }
    }

    #[test]
    fn the_loader_is_understood() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibz.so.1 => /lib/x/libz.so.1 (0x00007f)\n\t/lib64/ld.so.2 (0x7f)\n";
        let found = parse_libraries(text).unwrap();
        assert_eq!(found, ["/lib/x/libz.so.1", "/lib64/ld.so.2"].map(PathBuf::from));
        assert_eq!(parse_libraries("\tstatically linked\n"), Some(Vec::new()));
        assert_eq!(parse_libraries("\tlibgone.so.1 => not found\n"), None);
        assert_eq!(parse_libraries("x: error while loading shared libraries\n"), None);
        assert_eq!(parse_libraries(""), None);
    }

    #[test]
    fn an_identity_names_its_sources() {
        let emulator = Path::new("/usr/bin/qemu");
        let sources = BTreeSet::from([PathBuf::from("/etc/none such"), PathBuf::from("/etc/passwd")]);
        let identity = describe(emulator, EMULATOR, &sources);
        assert_eq!(recorded(&identity, emulator, EMULATOR), Some(sources));
        assert_eq!(recorded(&identity, Path::new("/usr/bin/other"), EMULATOR), None);
        assert_eq!(recorded(&identity, emulator, SERVER), None);
        assert!(identity.contains("/etc/none such\tabsent\n"));
    }
}
