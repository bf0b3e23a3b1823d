//! From root to serving.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::{confine, serve, sockets};
use crate::access::{Policy, RulesError};
use crate::host;
use crate::settings::{DEFAULT_PATH, FILE_MAX, Settings, SettingsError};
use crate::store::{Store, StoreError};
use crate::sys::{cred, file};

/// The longest file of rules in bytes.
const RULES_MAX: u64 = 1 << 20;
/// The database in the store's directory.
const DATABASE: &str = "domains.db";

/// How the daemon is started.
#[derive(Debug, Default)]
pub struct Options {
    /// The configuration file; without one the default, which may be absent.
    pub config: Option<String>,
    /// Told with a newline that clients are served.
    pub ready: Option<OwnedFd>,
}

/// Why the daemon cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// What the host can do cannot be told.
    #[error("{0}")]
    Capabilities(crate::base::Refusal),
    /// The group of the configuration is not there.
    #[error("there is no group {0:?}, which daemon.group names")]
    Group(String),
    /// The configuration wants no sockets, and there is nothing else to serve.
    #[error("host.unix_server is false, and unix sockets are all that svirtd listens on")]
    Off,
    /// It was not started as root.
    #[error("svirtd must be started as root; it gives that up at once")]
    NotRoot,
    /// The file of rules is wrong.
    #[error("{file}: {error}")]
    Rules {
        /// The file.
        file: String,
        /// What is wrong.
        error: RulesError,
    },
    /// A setting is wrong.
    #[error("{0}")]
    Settings(#[from] SettingsError),
    /// A step of starting up failed.
    #[error("cannot {0}: {1}")]
    Step(&'static str, #[source] io::Error),
    /// The store cannot be used.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl From<confine::Failed> for ServerError {
    fn from((step, error): confine::Failed) -> Self {
        Self::Step(step, error)
    }
}

/// What the privileged part leaves to the other one.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) settings: Settings,
    pub(super) facts: crate::conf::facts::HostFacts,
    pub(super) node: crate::remote::Node,
    pub(super) policy: Policy,
    pub(super) sockets: sockets::Sockets,
    /// Empty until the domains that are to be started with the host were, in this boot.
    pub(super) autostarted: std::fs::File,
}

/// Serves until told to stop. Domains go on without it.
pub fn run(options: Options) -> Result<(), ServerError> {
    if cred::effective_uid() != 0 {
        return Err(ServerError::NotRoot);
    }
    let prepared = prepare(options.config.as_deref())?;
    confine::become_user(&prepared.settings)?;
    let (store, contents) = Store::open(&Path::new(&prepared.settings.daemon.store).join(DATABASE))?;
    confine::restrict()?;
    let store = store.serve()?;
    serve::serve(prepared, store, contents, options.ready)
}

fn prepare(config: Option<&str>) -> Result<Prepared, ServerError> {
    let settings = settings(config)?;
    if !settings.host.unix_server {
        return Err(ServerError::Off);
    }
    let group = group(&settings.daemon.group)?;
    let policy = policy(&settings.daemon.access, group)?;
    confine::raise_descriptors().map_err(step("raise its number of descriptors"))?;
    confine::store_directory(&settings).map_err(step("make the store's directory"))?;
    let sockets = sockets::open(&settings, group).map_err(step("make its sockets"))?;
    let marker = Path::new(&settings.paths.run).join("svirtd.autostarted");
    let autostarted = std::fs::OpenOptions::new().create(true).append(true).open(marker);
    let autostarted = autostarted.map_err(step("note what was started with the host"))?;
    let inventory = host::inventory(&settings, false);
    let capabilities =
        inventory.capabilities(host::View::System, &settings).map_err(ServerError::Capabilities)?;
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let node = crate::remote::Node::new(hostname, mhz(), capabilities, inventory.emulators);
    let facts = inventory.facts;
    Ok(Prepared { settings, facts, node, policy, sockets, autostarted })
}

/// The clock of the first CPU, as the kernel last saw it.
fn mhz() -> u32 {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("cpu MHz"));
    line.and_then(|rest| rest.split_once(':')?.1.trim().split('.').next()?.parse().ok()).unwrap_or(0)
}

pub(super) fn step(what: &'static str) -> impl Fn(io::Error) -> ServerError {
    move |error| ServerError::Step(what, error)
}

fn settings(config: Option<&str>) -> Result<Settings, ServerError> {
    let name = config.unwrap_or(DEFAULT_PATH);
    let text = file::read_trusted(name, FILE_MAX as u64).map_err(step("read the configuration"))?;
    match text {
        Some(text) => Ok(Settings::from_toml(&text, name)?),
        None if config.is_some() => {
            let missing = io::Error::new(io::ErrorKind::NotFound, format!("{name} is not there"));
            Err(step("read the configuration")(missing))
        }
        None => Ok(Settings::default()),
    }
}

fn group(name: &str) -> Result<Option<u32>, ServerError> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = nix::unistd::Group::from_name(name).map_err(|error| step("read the groups")(error.into()))?;
    let found = found.ok_or_else(|| ServerError::Group(name.into()))?;
    Ok(Some(found.gid.as_raw()))
}

fn policy(file: &str, group: Option<u32>) -> Result<Policy, ServerError> {
    let text = file::read_trusted(file, RULES_MAX).map_err(step("read the rules' file"))?;
    let Some(text) = text else { return Ok(Policy::built_in(group)) };
    Policy::parse(&text).map_err(|error| ServerError::Rules { file: file.into(), error })
}

/// Says on a descriptor, and to systemd, that clients are served.
pub(super) fn say_ready(fd: Option<&OwnedFd>) {
    if let Some(fd) = fd
        && let Err(error) = nix::unistd::write(fd, b"\n")
    {
        tracing::warn!(%error, "nobody hears that clients are served");
    }
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "the service manager does not hear that clients are served");
    }
}

/// Shared by what serves.
pub(super) type Domains = Arc<crate::manager::Manager>;
