//! From the command line to the loop: settings, directories, the lock, confinement, recovery, the socket.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::lease::Leases;
use super::own;
use super::recover::retry;
use super::server::{self, Server};
use super::store::Store;
use crate::settings::{DEFAULT_PATH, FILE_MAX, Settings, SettingsError, UserDirectories};
use crate::sys::{cred, file, listen, lock, memory, path, pidfd, selinux};

/// What the command line says.
#[derive(Debug, Default)]
pub struct Options {
    /// The configuration file, if not the default one.
    pub config: Option<String>,
    /// The socket, if not `labeller.sock` in the run directory.
    pub socket: Option<PathBuf>,
    /// Whether to leave once the last domain and client are gone.
    pub on_demand: bool,
    /// It is an ordinary user's, and root in a user namespace only.
    pub session: bool,
    /// Gets a byte once the socket listens.
    pub ready: Option<OwnedFd>,
    /// Where descriptors outlive this labeller, where it has a guard.
    pub store: Option<Store>,
}

/// Why the labeller cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum LabellerError {
    /// The configuration file cannot be read or is not to be trusted.
    #[error("cannot read the configuration: {0}")]
    Config(#[source] io::Error),
    /// A step of starting up failed.
    #[error("cannot {0}: {1}")]
    Step(String, #[source] io::Error),
    /// It was not started as root.
    #[error("svirt-labeller must be started as root")]
    NotRoot,
    /// Another labeller serves the same run directory.
    #[error("another svirt-labeller serves {0}")]
    Running(String),
    /// A setting is wrong.
    #[error("{0}")]
    Settings(#[from] SettingsError),
}

/// Serves until told to stop. Domains go on without it.
pub fn run(options: Options) -> Result<(), LabellerError> {
    if cred::effective_uid() != 0 {
        return Err(LabellerError::NotRoot);
    }
    let settings = settings(options.config.as_deref(), options.session)?;
    // Before any child: its signals are reset by whoever starts it.
    let signals = server::signals().map_err(step("block signals"))?;
    let journals = directories(&settings).map_err(step("make its directories"))?;
    let _only_one = only_one(&settings.paths.run)?;
    let libexec = libexec(&settings).map_err(step("find its own directory"))?;
    // Confinement moves it to the root directory.
    let socket = options.socket.map(std::path::absolute).transpose().map_err(step("name its socket"))?;
    own::confine(settings.confinement.io_uring).map_err(step("confine itself"))?;
    let store = match options.store {
        Some(guards) => Some(guards),
        None => Store::of_service_manager().map_err(step("take what systemd kept for it"))?,
    };
    let mut server = Server {
        // An ordinary user may relabel nothing and load no profile.
        selinux: selinux::running() && !options.session,
        boot: pidfd::boot_id().map_err(step("read the boot id"))?,
        launcher: super::real::launcher(&settings, &libexec).map_err(step("prepare for starts"))?,
        settings,
        journals,
        libexec,
        leases: Leases::default(),
        domains: BTreeMap::new(),
        probes: Vec::new(),
        talks: Vec::new(),
        tunes: Vec::new(),
        dumps: Vec::new(),
        jobs: Vec::new(),
        carriers: Vec::new(),
        spare_probe: None,
        prepare_at: None,
        managed: super::saved::Managed::default(),
        connections: BTreeMap::new(),
        past: VecDeque::new(),
        outbox: VecDeque::new(),
        complained: (None, 0),
        next: 0,
        on_demand: options.on_demand,
        store,
        idle: None,
    };
    server.recover().map_err(step("take over what an earlier labeller left"))?;
    let socket = socket.unwrap_or_else(|| Path::new(&server.settings.paths.run).join("labeller.sock"));
    let owner = (!options.session).then_some(server.settings.uids.frontend);
    let listener = bind(&socket, owner).map_err(step("bind its socket"))?;
    if let Some(ready) = options.ready {
        server::say_ready(&ready).map_err(step("say that it is ready"))?;
    }
    tracing::info!(socket = %socket.display(), domains = server.domains.len(), "serves");
    memory::trim();
    let served = server.run(&listener, &signals).map_err(step("serve"));
    let _ = std::fs::remove_file(&socket);
    served
}

fn step(what: &str) -> impl Fn(io::Error) -> LabellerError {
    let what = what.to_owned();
    move |error| LabellerError::Step(what.clone(), error)
}

pub(super) fn settings(config: Option<&str>, session: bool) -> Result<Settings, LabellerError> {
    let user = if session { UserDirectories::find(|name| std::env::var(name).ok()) } else { None };
    let own = user.as_ref().map(UserDirectories::settings);
    let mut settings = read(config, own.as_deref().unwrap_or(DEFAULT_PATH))?;
    match user {
        Some(user) => user.fill(&mut settings),
        None if session => return Err(step("find the user's directories")(io::ErrorKind::NotFound.into())),
        None => {}
    }
    Ok(settings)
}

fn read(config: Option<&str>, default: &str) -> Result<Settings, LabellerError> {
    let name = config.unwrap_or(default);
    // Root's, or in a session the user's own, who is root in its namespace.
    let text =
        file::read_owned(name, FILE_MAX as u64, cred::effective_uid()).map_err(LabellerError::Config)?;
    match text {
        Some(text) => Ok(Settings::from_toml(&text, name)?),
        None if config.is_some() => {
            let missing = io::Error::new(io::ErrorKind::NotFound, format!("{name} is not there"));
            Err(LabellerError::Config(missing))
        }
        None => Ok(Settings::default()),
    }
}

/// Where journals are, in the directory of its state.
pub(super) const JOURNALS: &str = "journal";

/// Makes svirt's own directories; returns where journals are.
fn directories(settings: &Settings) -> io::Result<PathBuf> {
    let paths = &settings.paths;
    for path in [&paths.run, &paths.state, &paths.cache] {
        if let Some(parent) = Path::new(path).parent() {
            std::fs::create_dir_all(parent)?;
        }
    }
    // 0711: clients must reach a socket whose name they know, and need not see whose others there are.
    path::own_directory(&paths.run, 0o711)?;
    path::own_directory(&format!("{}/control", paths.run), 0o711)?;
    path::own_directory(&paths.state, 0o700)?;
    path::own_directory(&paths.cache, 0o755)?;
    let journals = format!("{}/{JOURNALS}", paths.state);
    path::own_directory(&journals, 0o700)?;
    Ok(PathBuf::from(journals))
}

fn only_one(run: &str) -> Result<OwnedFd, LabellerError> {
    let name = format!("{run}/labeller.lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(name.as_str(), flags, Mode::from_raw_mode(0o600))
        .map_err(|error| step("open its lock file")(error.into()))?;
    retry(|| lock::whole_file(&file)).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => LabellerError::Running(run.to_owned()),
        _ => step("lock its run directory")(error),
    })?;
    Ok(file)
}

fn libexec(settings: &Settings) -> io::Result<PathBuf> {
    if !settings.paths.libexec.is_empty() {
        return Ok(PathBuf::from(&settings.paths.libexec));
    }
    let own = std::env::current_exe()?;
    Ok(own.parent().map(Path::to_path_buf).unwrap_or_default())
}

/// Binds the socket for root and `owner`; in a session root is the user.
fn bind(socket: &Path, owner: Option<u32>) -> io::Result<UnixListener> {
    let (Some(parent), Some(name)) = (socket.parent(), socket.file_name().and_then(|name| name.to_str()))
    else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket needs a directory and a name"));
    };
    let directory = path::directory(&parent.to_string_lossy())?;
    // A socket of this name is one that a killed labeller left: the lock says that none serves.
    if path::look(&directory, name.as_ref()).is_ok_and(|found| found.is(libc::S_IFSOCK)) {
        std::fs::remove_file(socket)?;
    }
    let listener = listen::unix(&directory, name, 0o600)?;
    if let Some(owner) = owner {
        // Who is heard is decided by the peer's credentials; others need not even get as far as that.
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner), rustix::fs::Gid::from_raw(owner));
        rustix::fs::chownat(&directory, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    }
    listen::nonblocking(listener)
}
