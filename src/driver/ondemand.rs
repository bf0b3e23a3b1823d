//! Starting a labeller that outlives this program.

use std::ffi::{CStr, CString};
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::settings::Settings;
use crate::sys::process;

/// The name of the program.
pub const PROGRAM: &str = "svirt-labeller";

/// How a labeller is started.
#[derive(Clone, Copy, Debug)]
pub struct OnDemand<'a> {
    /// The program.
    pub program: &'a Path,
    /// The configuration; without a file the labeller takes the default one, which may be absent.
    pub config: Option<&'a Path>,
    /// Whether it is an ordinary user's, in a user namespace; it then gets this program's environment.
    pub session: bool,
    /// Where its standard error goes; its directory is there.
    pub log: &'a Path,
}

impl OnDemand<'_> {
    /// Starts it in a session of its own; returns once it serves or has ended.
    pub fn start(&self) -> io::Result<()> {
        let (append, truncate) = (!self.session, self.session);
        let log = OpenOptions::new()
            .create(true)
            .write(true)
            .append(append)
            .truncate(truncate)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(self.log)?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        let (mut ready, teller) = io::pipe()?;
        let mut words = vec![self.program.as_os_str().as_bytes(), b"--on-demand", b"--ready-fd", b"3"];
        if self.session {
            words.push(b"--session");
        }
        if let Some(config) = self.config {
            words.extend([b"--config", config.as_os_str().as_bytes()]);
        }
        let words = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let environment = if self.session { environment()? } else { Vec::new() };
        let argv: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
        let env: Vec<&CStr> = environment.iter().map(CString::as_c_str).collect();
        let [program, ..] = argv.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let placed =
            [(null.as_raw_fd(), 0), (null.as_raw_fd(), 1), (log.as_raw_fd(), 2), (teller.as_raw_fd(), 3)];
        process::fork(|| {
            let detached = process::new_session().and_then(|()| process::reset_signals());
            if detached.and_then(|()| process::place_fds(&placed, &mut [])).is_ok() {
                let _failed = process::exec(program, &argv, &env);
            }
            127
        })?;
        drop(teller);
        // A newline says that it serves; an end that it never will.
        let _said = ready.read(&mut [0])?;
        Ok(())
    }
}

/// What an ordinary user's labeller finds the user's directories by.
fn environment() -> io::Result<Vec<CString>> {
    const NAMES: [&str; 7] = [
        "HOME",
        "SVIRT_LOG",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
    ];
    let set = NAMES.into_iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)));
    Ok(set.map(CString::new).collect::<Result<_, _>>()?)
}

/// Finds the program: in the configured directory, else beside this one, else where `make install` puts it. What
/// failed is every place that was looked in.
pub fn find(settings: &Settings) -> io::Result<Result<PathBuf, Vec<PathBuf>>> {
    let own = std::env::current_exe()?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    let places = if settings.paths.libexec.is_empty() {
        vec![beside.to_owned(), beside.join("../libexec/svirt")]
    } else {
        vec![PathBuf::from(&settings.paths.libexec)]
    };
    let found = places.iter().map(|place| place.join(PROGRAM)).find(|program| program.is_file());
    Ok(found.ok_or(places))
}
