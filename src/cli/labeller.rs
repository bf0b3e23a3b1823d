//! Finding the labeller, or starting one that outlives this program.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exit::Failure;
use crate::driver::{self, DriverError, Labeller, OnDemand, PROGRAM};
use crate::settings::Settings;
use crate::sys::path;

/// How often one is started before that counts as a failure.
const TRIES: u32 = 3;

/// Connects to the labeller that runs; `None` where none does.
pub(super) fn running(settings: &Settings) -> Result<Option<Labeller>, Failure> {
    match Labeller::connect(settings) {
        // One that is being killed still takes connections for a moment, but never answers.
        Ok(mut labeller) => match labeller.survey() {
            Ok(_) => Ok(Some(labeller)),
            Err(error @ (DriverError::Refused(_) | DriverError::Stalled(_))) => Err(failure(&error)),
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

/// Starts a labeller, and returns once it serves or has ended.
fn start(program: &Path, config: &Path, run: &str, log: &Path) -> io::Result<()> {
    if let Some(parent) = Path::new(run).parent() {
        std::fs::create_dir_all(parent)?;
    }
    // As the labeller would make it itself.
    path::own_directory(run, 0o711)?;
    // Without a file of its own the labeller takes the default one, which may be absent.
    let config = Some(config).filter(|config| config.exists());
    OnDemand { program, config, session: false, log }.start()
}

fn find(settings: &Settings) -> Result<PathBuf, Failure> {
    driver::find_labeller(settings)?.map_err(|places| {
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
