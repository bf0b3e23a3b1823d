//! Finding the labeller, or starting one that outlives this program.

use std::ffi::{CStr, CString};
use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exit::Failure;
use crate::driver::{DriverError, Labeller};
use crate::settings::Settings;
use crate::sys::{path, process};

/// The name of the program.
const PROGRAM: &str = "svirt-labeller";
/// How often one is started before that counts as a failure.
const TRIES: u32 = 3;

/// Connects to the labeller that runs; `None` where none does.
pub(super) fn running(settings: &Settings) -> Result<Option<Labeller>, Failure> {
    match Labeller::connect(settings) {
        // One that is being killed still takes connections for a moment, but never answers.
        Ok(mut labeller) => match labeller.survey() {
            Ok(_) => Ok(Some(labeller)),
            Err(error @ DriverError::Refused(_)) => Err(failure(&error)),
            Err(_) => Ok(None),
        },
        Err(DriverError::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
        {
            Ok(None)
        }
        Err(error) => Err(failure(&error)),
    }
}

/// Connects to the labeller, started if need be; only root can start one.
///
/// The connection is kept until it is used: a labeller on demand leaves some seconds after its last client, and on a
/// slow machine reading the host takes longer.
pub(super) fn ensure(settings: &Settings, config: &Path) -> Result<Labeller, Failure> {
    let log = Path::new(&settings.paths.run).join("labeller.log");
    for _ in 0..TRIES {
        if let Some(labeller) = running(settings)? {
            return Ok(labeller);
        }
        let program = find(settings)?;
        start(&program, config, &settings.paths.run, &log).map_err(|error| {
            Failure::plain(format!("cannot start {}: {error}", program.display()), "install svirt whole")
        })?;
        if let Some(labeller) = running(settings)? {
            return Ok(labeller);
        }
        // A predecessor that is ending holds the lock until it is gone.
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(Failure::plain(
        format!("{PROGRAM} does not serve{}", last_line(&log)),
        format!("read {}; `svirt config check` tells whether the configuration is good", log.display()),
    ))
}

/// Starts a labeller in a session of its own, and returns once it serves or has ended.
fn start(program: &Path, config: &Path, run: &str, log: &Path) -> io::Result<()> {
    if let Some(parent) = Path::new(run).parent() {
        std::fs::create_dir_all(parent)?;
    }
    // As the labeller would make it itself.
    path::own_directory(run, 0o711)?;
    let log =
        OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(log)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let (mut ready, teller) = io::pipe()?;
    let mut words = vec![program.as_os_str().as_bytes(), b"--on-demand", b"--ready-fd", b"3"];
    // Without a file of its own the labeller takes the default one, which may be absent.
    if config.exists() {
        words.extend([b"--config", config.as_os_str().as_bytes()]);
    }
    let words = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    let argv: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    let [program, ..] = argv.as_slice() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let placed =
        [(null.as_raw_fd(), 0), (null.as_raw_fd(), 1), (log.as_raw_fd(), 2), (teller.as_raw_fd(), 3)];
    process::fork(|| {
        let detached = process::new_session().and_then(|()| process::reset_signals());
        if detached.and_then(|()| process::place_fds(&placed, &mut [])).is_ok() {
            let _failed = process::exec(program, &argv, &[]);
        }
        127
    })?;
    drop(teller);
    // A newline says that it serves; an end that it never will.
    let _said = ready.read(&mut [0])?;
    Ok(())
}

/// In the configured directory, else beside this program, else where `make install` puts it.
fn find(settings: &Settings) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let beside = own.parent().unwrap_or(Path::new("/"));
    let places = if settings.paths.libexec.is_empty() {
        vec![beside.to_owned(), beside.join("../libexec/svirt")]
    } else {
        vec![PathBuf::from(&settings.paths.libexec)]
    };
    places.iter().map(|place| place.join(PROGRAM)).find(|program| program.is_file()).ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        Failure::plain(
            format!("there is no {PROGRAM} in {}", looked.join(" and ")),
            "install svirt whole, or set paths.libexec",
        )
    })
}

fn last_line(log: &Path) -> String {
    let Ok(text) = std::fs::read_to_string(log) else { return String::new() };
    text.lines().last().map_or(String::new(), |line| format!(": {line}"))
}

/// A driver's error as a command's failure.
#[must_use]
pub(super) fn failure(error: &DriverError) -> Failure {
    if matches!(error, DriverError::NoDomain) {
        return Failure::gone();
    }
    Failure::Refused { refusal: Box::new(error.refusal()), stderr: error.stderr().to_owned() }
}
