//! The emulators that the configuration names: what each can do, asked once and then remembered by file identity.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::cache::{Cache, Identity, Known};
use super::cpu::HostFlags;
use super::question;
use crate::conf::emulator::EmulatorFacts;
use crate::conf::facts::Emulator;
use crate::settings::Settings;

/// Brings the cache's emulators up to date; whether anything changed.
///
/// One that cannot be asked is remembered with the reason, and asked again when its file changes.
pub(super) fn refresh(cache: &mut Cache, flags: &HostFlags, settings: &Settings) -> bool {
    let allowed = &settings.emulators.allowed;
    let found: Vec<Known> = allowed.iter().filter_map(|path| known(path, cache, flags, settings)).collect();
    let changed = found != cache.emulators;
    cache.emulators = found;
    changed
}

fn known(path: &str, cache: &Cache, flags: &HostFlags, settings: &Settings) -> Option<Known> {
    let identity = identity(path)?;
    let same = |known: &&Known| known.path == path && known.identity == identity && known.cpu == flags.key;
    if let Some(known) = cache.emulators.iter().find(same) {
        return Some(known.clone());
    }
    if !executable(path) {
        return Some(Known {
            path: path.into(),
            identity,
            cpu: flags.key.clone(),
            version: None,
            outcome: Err("it is not executable".into()),
        });
    }
    let outcome = question::ask(path, flags, settings);
    let version = match &outcome {
        Ok(facts) => Some(facts.version),
        Err(_) => question::version(path, settings).ok(),
    };
    // Replaced while it was asked: these answers belong to neither file.
    let (version, outcome) = if self::identity(path).as_ref() == Some(&identity) {
        (version, outcome)
    } else {
        (None, Err("it was replaced while it was asked".into()))
    };
    Some(Known { path: path.into(), identity, cpu: flags.key.clone(), version, outcome })
}

fn identity(path: &str) -> Option<Identity> {
    fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|found| Identity::of(&found))
}

fn executable(path: &str) -> bool {
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o111 != 0)
}

/// Those that guests cannot run under, with the reason.
pub(super) fn unusable(cache: &Cache) -> Vec<(String, String)> {
    let without = cache.emulators.iter().filter(|known| known.version.is_none());
    without.filter_map(|known| Some((known.path.clone(), known.outcome.as_ref().err()?.clone()))).collect()
}

/// Those that answered.
pub(super) fn answered(cache: &Cache) -> impl Iterator<Item = &EmulatorFacts> {
    cache.emulators.iter().filter_map(|known| known.outcome.as_ref().ok())
}

/// Those that guests can run under: what tells no more than its version can still be started.
pub(super) fn usable(cache: &Cache) -> impl Iterator<Item = Emulator> {
    cache
        .emulators
        .iter()
        .filter_map(|known| Some(Emulator { path: known.path.clone(), version: known.version? }))
}

/// Those that did not, with the reason.
pub(super) fn silent(cache: &Cache) -> impl Iterator<Item = (&str, &str)> {
    cache
        .emulators
        .iter()
        .filter_map(|known| Some((known.path.as_str(), known.outcome.as_ref().err()?.as_str())))
}
