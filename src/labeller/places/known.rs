//! What there is of the directories that the configuration names, by device and inode.
//!
//! Of some nobody can say what they are: a file system fails, or others could have made a link on the way. What such a
//! place means depends on what its list is for, so a list says both: the places that are known, and whether all are.

use rustix::io::Errno;

use super::refusal;
use crate::base::Refusal;
use crate::labeller::lease::ObjectId;
use crate::sys::path::{self, WalkError};

/// The places of one list.
#[derive(Debug, Default)]
pub(super) struct Known {
    ids: Vec<ObjectId>,
    /// The first one of which it is not known whether it is there, and why.
    unknown: Option<(String, String)>,
}

impl Known {
    pub(super) fn of<'p>(places: impl IntoIterator<Item = &'p String>) -> Self {
        let mut known = Self::default();
        for place in places {
            match directory_id(place) {
                Ok(id) => known.ids.extend(id),
                Err(why) if known.unknown.is_none() => known.unknown = Some((place.clone(), why)),
                Err(_) => {}
            }
        }
        known
    }

    /// Whether one of them is among these. For lists that admit: a place that is not known admits nothing.
    pub(super) fn admits(&self, mut ids: impl Iterator<Item = ObjectId>) -> bool {
        ids.any(|id| self.ids.contains(&id))
    }

    /// Whether one of them is among these, which lead to a path. For lists that keep away: where a place is not known, any
    /// directory may be it, and the path is refused.
    pub(super) fn keeps(&self, path: &str, mut ids: impl Iterator<Item = ObjectId>) -> Result<bool, Refusal> {
        match &self.unknown {
            Some((place, why)) => Err(not_told_apart(path, place, why)),
            None => Ok(ids.any(|id| self.ids.contains(&id))),
        }
    }
}

/// The refusal of a path of which it is not known whether it lies in a place of the configuration.
pub(super) fn not_told_apart(path: &str, place: &str, why: &str) -> Refusal {
    let rule = format!("cannot be told apart from what lies in {place}: {why}");
    refusal(path, &rule, "see to that directory and its file system, or correct the setting that names it")
}

/// Which directory a place is, `None` where there is none, or why that is not known. Where no link is on the way, as nearly
/// always, one step finds what a walk would: there are a dozen places, and they are looked up for each question and each
/// start.
pub(super) fn directory_id(place: &str) -> Result<Option<ObjectId>, String> {
    // What is not set.
    if place.is_empty() {
        return Ok(None);
    }
    if !path::is_plain(place) {
        return Err(WalkError::NotPlain(place.to_owned()).to_string());
    }
    // No other error says that nothing is there.
    let absent = |error: &std::io::Error| {
        [Errno::NOENT, Errno::NOTDIR].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    };
    let found = match path::find_known(place) {
        Ok((_, found)) => found,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => match path::resolve(place) {
            Ok(resolved) => resolved.found,
            Err(WalkError::Kernel(_, error)) if absent(&error) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        },
        Err(error) => return Err(error.to_string()),
    };
    Ok(found.is(libc::S_IFDIR).then(|| found.id()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{lchown, symlink};

    use super::super::{DirectoryUse, Places};
    use crate::settings::Settings;

    /// Directories of images, shares, dumps and saved domains, and an image.
    fn settings(at: impl Fn(&str) -> String) -> Settings {
        for name in ["images", "shares", "dumps", "saves"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("images/a.raw"), "x").unwrap();
        let mut settings = Settings::default();
        settings.images.relabelable = vec![at("images")];
        settings.shares.places = vec![at("shares")];
        settings.save.dumps = at("dumps");
        settings.save.places = vec![at("saves")];
        settings
    }

    #[test]
    fn a_place_that_cannot_be_looked_up_refuses_what_it_would_keep_away() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let good = settings(at);
        let opens = |settings: &Settings, path: &str| {
            Places::of(settings).open_readable(&at(path)).map(drop).map_err(|refusal| refusal.to_string())
        };
        opens(&good, "images/a.raw").unwrap();
        // Longer than a name may be, which is neither there nor not there.
        let long = at(&"x".repeat(300));
        let foreign = at("foreign");
        symlink(at("images"), &foreign).unwrap();
        lchown(&foreign, Some(12_345), Some(12_345)).unwrap();
        for lost in [&long, &foreign] {
            let mut own = good.clone();
            own.save.dumps.clone_from(lost);
            let refused = opens(&own, "images/a.raw").unwrap_err();
            assert!(refused.contains(lost) && refused.contains("cannot be told apart"), "{refused}");
            assert!(Places::of(&own).open_share(&at("shares")).is_err());
            assert!(Places::of(&own).pool(&at("images"), false).is_err());
            let saves = Places::of(&own).directory_of(&at("saves/a"), DirectoryUse::Saves);
            assert!(saves.unwrap_err().to_string().contains("cannot be told apart"));
            // A list that admits goes on without it.
            let mut more = good.clone();
            more.images.relabelable.insert(0, lost.clone());
            more.images.readable.push(lost.clone());
            more.images.block_devices.push(lost.clone());
            opens(&more, "images/a.raw").unwrap();
        }
        for absent in [at("absent/below"), at("images/a.raw/below")] {
            let mut own = good.clone();
            own.save.dumps = absent;
            opens(&own, "images/a.raw").unwrap();
        }
    }

    #[test]
    fn links_lead_nowhere_while_a_place_of_shares_is_not_known() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let mut settings = settings(at);
        symlink(at("images"), at("link")).unwrap();
        let opens = |settings: &Settings, path: &str| {
            Places::of(settings).open_readable(&at(path)).map(drop).map_err(|refusal| refusal.to_string())
        };
        opens(&settings, "link/a.raw").unwrap();
        settings.shares.places.push(at(&"x".repeat(300)));
        let refused = opens(&settings, "link/a.raw").unwrap_err();
        assert!(refused.contains("cannot be told apart"), "{refused}");
        // It matters to nothing else.
        opens(&settings, "images/a.raw").unwrap();
        Places::of(&settings).open_share(&at("shares")).unwrap();
    }
}
