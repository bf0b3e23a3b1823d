//! `svirt config`, and reading the configuration for every other command.

use std::io::{Read as _, Write as _};
use std::path::Path;

use super::args::Config;
use super::exit::Failure;
use super::output;
use crate::settings::{DEFAULT_PATH, FILE_MAX, Settings};
use crate::sys::file;

/// Reads the configuration. Only the default file may be absent: whoever names one means it.
pub(super) fn load(path: &Path) -> Result<Settings, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::plain(
            format!("cannot read the configuration {}: {error}", path.display()),
            "name another file with --config; without any the defaults hold",
        )
    };
    let mut text = String::new();
    match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => {
            return Ok(Settings::default());
        }
        Err(error) => return Err(unreadable(error)),
        // One byte more than is allowed, so that `from_toml` can tell.
        Ok(file) => file.take(FILE_MAX as u64 + 1).read_to_string(&mut text).map_err(unreadable)?,
    };
    Settings::from_toml(&text, &path.display().to_string())
        .map_err(|error| crate::base::Refusal::from(error).into())
}

/// Runs `svirt config …`.
pub(super) fn run(command: &Config, path: &Path, quiet: bool) -> Result<(), Failure> {
    let settings = load(path)?;
    if settings.relocation.server && !quiet {
        output::note(
            "relocation.server is on, and this version sends and receives no domains: nothing listens",
        );
    }
    match command {
        Config::Check if quiet => {}
        Config::Check if path.exists() => {
            output::note(&format!("{} is good", path.display()));
            // Whoever writes a draft may check it; the privileged half asks more.
            if let Err(error) = file::read_trusted(&path.display().to_string(), FILE_MAX as u64) {
                output::note(&format!("svirt-labeller would not read it as it lies there: {error}"));
            }
        }
        Config::Check => output::note(&format!("there is no {}; the defaults hold", path.display())),
        Config::Show => {
            let text = toml::to_string(&settings).map_err(|error| Failure::plain(error.to_string(), ""))?;
            anstream::stdout().lock().write_all(text.as_bytes())?;
        }
    }
    Ok(())
}
