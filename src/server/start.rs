//! From root to serving.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::{confine, serve, session, sockets};
use crate::access::{Policy, RulesError, SharedPolicy};
use crate::host;
use crate::remote::Kind;
use crate::settings::{DEFAULT_PATH, FILE_MAX, Settings, SettingsError, UserDirectories};
use crate::store::{Contents, Store, StoreError};
use crate::sys::{cred, file, memory};

/// The longest file of rules in bytes.
const RULES_MAX: u64 = 1 << 20;
/// The database in the store's directory.
pub(super) const DATABASE: &str = "domains.db";

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
    /// An ordinary user's directories cannot be told.
    #[error("HOME is not set to an absolute path, and root has not started svirtd")]
    NoHome,
    /// The configuration wants no sockets, and there is nothing else to serve.
    #[error("host.unix_server is false, and unix sockets are all that svirtd listens on")]
    Off,
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
    /// The test driver's first domain cannot be made.
    #[error("the test driver: {0}")]
    Test(crate::manager::ManagerError),
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
    pub(super) hostname: String,
    pub(super) policy: SharedPolicy,
    pub(super) rules: Rules,
    pub(super) sockets: sockets::Sockets,
    /// What runs and what is kept; why there is none where this daemon has no more than memory.
    pub(super) machine: Result<(Kind, Machine, Store, Contents), String>,
}

/// Where the rules are, who may have written them, and what holds without them.
#[derive(Debug)]
pub(super) struct Rules {
    file: String,
    owner: u32,
    built_in: Policy,
}

impl Rules {
    /// Reads them.
    pub(super) fn read(&self) -> Result<Policy, ServerError> {
        let Self { file, owner, built_in } = self;
        let text = file::read_owned(file, RULES_MAX, *owner).map_err(step("read the rules' file"))?;
        let Some(text) = text else { return Ok(built_in.clone()) };
        Policy::parse(&text, *owner).map_err(|error| ServerError::Rules { file: file.clone(), error })
    }
}

/// This machine, as root has seen it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) facts: crate::conf::facts::HostFacts,
    pub(super) node: crate::remote::Node,
    /// Empty until the domains that are to be started with the host were, in this boot.
    pub(super) autostarted: std::fs::File,
}

/// Serves until told to stop. Domains go on without it.
pub fn run(options: Options) -> Result<(), ServerError> {
    memory::bound();
    let config = options.config.as_deref();
    let prepared = if cred::effective_uid() == 0 { as_root(config)? } else { as_user(config)? };
    serve::serve(prepared, options.ready)
}

/// Everything that needs root, and then no root any longer.
fn as_root(config: Option<&str>) -> Result<Prepared, ServerError> {
    let settings = settings(config.unwrap_or(DEFAULT_PATH), config.is_some(), 0)?;
    let group = group(&settings.daemon.group)?;
    let rules = Rules { file: settings.daemon.access.clone(), owner: 0, built_in: Policy::built_in(group) };
    let policy = SharedPolicy::from(rules.read()?);
    confine::raise_descriptors().map_err(step("raise its number of descriptors"))?;
    confine::store_directory(&settings).map_err(step("make the store's directory"))?;
    let sockets = sockets::open(&settings, sockets::Owner::Root(group)).map_err(step("make its sockets"))?;
    let (machine, hostname) = (machine(&settings, host::View::System)?, hostname());
    confine::become_user(&settings)?;
    let (store, contents) = Store::open(&Path::new(&settings.daemon.store).join(DATABASE))?;
    confine::restrict(&settings)?;
    let machine = Ok((Kind::System, machine, store.serve()?, contents));
    Ok(Prepared { settings, hostname, policy, rules, sockets, machine })
}

/// What an ordinary user can have: a session where the host lets it have a labeller, and the test driver.
fn as_user(config: Option<&str>) -> Result<Prepared, ServerError> {
    let uid = cred::effective_uid();
    let directories = UserDirectories::find(|name| std::env::var(name).ok()).ok_or(ServerError::NoHome)?;
    let file = config.map_or_else(|| directories.settings(), ToOwned::to_owned);
    let mut settings = settings(&file, config.is_some(), uid)?;
    directories.fill(&mut settings);
    let rules = Rules { file: settings.daemon.access.clone(), owner: uid, built_in: Policy::of_user(uid) };
    let policy = SharedPolicy::from(rules.read()?);
    confine::raise_descriptors().map_err(step("raise its number of descriptors"))?;
    let sockets = sockets::open(&settings, sockets::Owner::User(uid)).map_err(step("make its sockets"))?;
    let hostname = hostname();
    let machine = match session::labeller(&settings, config) {
        Ok(labeller) => {
            let machine = machine(&settings, host::View::Session)?;
            let (store, contents) = session::store(&settings)?;
            Ok((machine, store, contents, labeller))
        }
        Err(why) => {
            tracing::warn!(%why, "there is no qemu:///session");
            Err(why)
        }
    };
    confine::give_up_privileges()?;
    confine::restrict(&settings)?;
    let machine = match machine {
        // The connection was held for as long as nobody else held one: without clients a labeller leaves.
        Ok((machine, store, contents, _labeller)) => Ok((Kind::Session, machine, store.serve()?, contents)),
        Err(why) => Err(why),
    };
    Ok(Prepared { settings, hostname, policy, rules, sockets, machine })
}

/// Reads the host.
fn machine(settings: &Settings, view: host::View) -> Result<Machine, ServerError> {
    let marker = Path::new(&settings.paths.run).join("svirtd.autostarted");
    let autostarted = std::fs::OpenOptions::new().create(true).append(true).open(marker);
    let autostarted = autostarted.map_err(step("note what was started with the host"))?;
    let mut inventory = host::inventory(settings, false);
    if view == host::View::Session {
        session::narrow(&mut inventory.facts);
    }
    let capabilities = inventory.capabilities(view, settings).map_err(ServerError::Capabilities)?;
    let node = crate::remote::Node::new(hostname(), mhz(), capabilities, inventory.emulators);
    let node = node.with_sysinfo(crate::host::sysinfo().as_ref());
    Ok(Machine { facts: inventory.facts, node, autostarted })
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
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

/// Reads the configuration, which only its owner may have written.
fn settings(name: &str, must: bool, owner: u32) -> Result<Settings, ServerError> {
    let text = file::read_owned(name, FILE_MAX as u64, owner).map_err(step("read the configuration"))?;
    let settings = match text {
        Some(text) => Settings::from_toml(&text, name)?,
        None if must => {
            let missing = io::Error::new(io::ErrorKind::NotFound, format!("{name} is not there"));
            return Err(step("read the configuration")(missing));
        }
        None => Settings::default(),
    };
    if settings.host.unix_server { Ok(settings) } else { Err(ServerError::Off) }
}

fn group(name: &str) -> Result<Option<u32>, ServerError> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = nix::unistd::Group::from_name(name).map_err(|error| step("read the groups")(error.into()))?;
    let found = found.ok_or_else(|| ServerError::Group(name.into()))?;
    Ok(Some(found.gid.as_raw()))
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
