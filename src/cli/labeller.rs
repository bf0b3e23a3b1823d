//! Finding the labeller, or starting one that outlives this program.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::exit::Failure;
use crate::driver::{DriverError, Labeller};
use crate::settings::Settings;

/// The name of the program.
const PROGRAM: &str = "svirt-labeller";

/// Connects to the labeller that runs; `None` where none does.
pub(super) fn running(settings: &Settings) -> Result<Option<Labeller>, Failure> {
    match Labeller::connect(settings) {
        Ok(labeller) => Ok(Some(labeller)),
        Err(DriverError::Io { source, .. })
            if matches!(
                source.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(failure(&error)),
    }
}

/// Makes sure that a labeller runs. Only root can start one.
pub(super) fn ensure(settings: &Settings, config: &Path) -> Result<(), Failure> {
    if running(settings)?.is_some() {
        return Ok(());
    }
    let program = find(settings)?;
    let log = Path::new(&settings.paths.run).join("labeller.log");
    let mut child = spawn(&program, config, &settings.paths.run, &log).map_err(|error| {
        Failure::plain(format!("cannot start {}: {error}", program.display()), "install svirt whole")
    })?;
    // It closes its standard output once it serves, or ends.
    let mut said = Vec::new();
    if let Some(out) = child.stdout.take() {
        out.take(4096).read_to_end(&mut said)?;
    }
    // The child that was started here may have been a mere forerunner; what counts is whether somebody serves.
    let end = child.try_wait()?;
    match running(settings)? {
        Some(_) => Ok(()),
        None => Err(Failure::plain(
            match end {
                Some(status) => format!("{PROGRAM} ended at once ({status}){}", last_line(&log)),
                None => format!("{PROGRAM} does not serve{}", last_line(&log)),
            },
            format!(
                "look into {}; `svirt config check` tells whether the configuration is good",
                log.display()
            ),
        )),
    }
}

fn spawn(program: &Path, config: &Path, run: &str, log: &Path) -> std::io::Result<std::process::Child> {
    DirBuilder::new().recursive(true).mode(0o755).create(run)?;
    let log =
        OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(log)?;
    let mut command = Command::new(program);
    command.arg("--config").arg(config).args(["--on-demand", "--ready-fd", "1"]);
    command.env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    command.spawn()
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
    Failure::Refused { refusal: Box::new(error.refusal()), stderr: error.stderr().to_owned() }
}
