//! The guest's cgroup: the way into it for an attacker that ends soon, and why there is none.
//!
//! Only the hierarchies that can hold device rules are entered: the unified one, and version 1's `devices`. A limit on
//! memory or threads there is the guest's own, so nobody goes where there is no room.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::inspect::facts::{Mount, parse_mountinfo};
use crate::sys::process;

/// Threads that must be left for the guest besides ours.
const THREADS_LEFT: u64 = 8;

/// The cgroups of a process that are its own, open for joining.
#[derive(Debug)]
pub(super) struct Cgroup {
    joins: Vec<fs::File>,
}

/// What there is to enter.
#[derive(Debug)]
pub(super) enum Found {
    /// It shares the cgroups of whoever asks, or is in the root: no rule is its own.
    None,
    /// There is one.
    Own(Cgroup),
    /// There is one, and going there would be wrong.
    Unreachable(String),
}

impl Cgroup {
    /// Moves this process there, and makes sure that the guest is not what is killed should there be no room.
    pub(super) fn enter(&self) -> io::Result<()> {
        process::offer_to_oom_killer()?;
        for mut file in &self.joins {
            file.write_all(b"0")?;
        }
        Ok(())
    }
}

/// Finds the cgroups in the lines of `/proc/PID/cgroup`.
#[must_use]
pub(super) fn find(lines: &[String]) -> Found {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let own: Vec<String> = read("/proc/self/cgroup").lines().map(str::to_owned).collect();
    let mounts = parse_mountinfo(&read("/proc/self/mountinfo"));
    let places = places(lines, &own, &mounts);
    if places.is_empty() {
        return Found::None;
    }
    let mut joins = Vec::new();
    for place in &places {
        match open(place) {
            Ok(file) => joins.push(file),
            Err(why) => return Found::Unreachable(format!("{}: {why}", place.directory.display())),
        }
    }
    Found::Own(Cgroup { joins })
}

/// One directory of a hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    directory: PathBuf,
    mount: PathBuf,
    unified: bool,
}

/// The directories that hold the process and not the reader.
fn places(lines: &[String], own: &[String], mounts: &[Mount]) -> Vec<Place> {
    lines
        .iter()
        .filter(|line| !own.contains(line))
        .filter_map(|line| {
            let (controllers, path) = line
                .splitn(3, ':')
                .skip(1)
                .collect::<Vec<_>>()
                .try_into()
                .ok()
                .map(|[controllers, path]: [&str; 2]| (controllers, path))?;
            let unified = controllers.is_empty();
            let devices = controllers.split(',').any(|name| name == "devices");
            // Outside of the reader's cgroup namespace there is no way by name.
            let named = path.starts_with('/') && path != "/" && !path.split('/').any(|part| part == "..");
            if !(unified || devices) || !named {
                return None;
            }
            let mount = mounts.iter().find(|mount| match mount.kind.as_str() {
                "cgroup2" => unified,
                "cgroup" => {
                    devices
                        && Path::new(&mount.point).file_name().is_some_and(|name| {
                            name.to_string_lossy().split(',').any(|name| name == "devices")
                        })
                }
                _ => false,
            })?;
            let mount = PathBuf::from(&mount.point);
            Some(Place { directory: mount.join(path.trim_start_matches('/')), mount, unified })
        })
        .collect()
}

/// Opens a cgroup's list of processes, or says why nobody should go there.
fn open(place: &Place) -> Result<fs::File, String> {
    let mut directory = place.directory.as_path();
    if place.unified {
        // Threads may have cgroups of their own; a process can only join the one that holds them all.
        while read(directory, "cgroup.type").is_some_and(|kind| kind == "threaded") {
            directory = directory.parent().filter(|up| up.starts_with(&place.mount)).ok_or("is threaded")?;
        }
        room(directory)?;
    }
    let options = fs::OpenOptions::new().write(true).open(directory.join("cgroup.procs"));
    options.map_err(|error| error.to_string())
}

fn room(directory: &Path) -> Result<(), String> {
    let events = read(directory, "cgroup.events").unwrap_or_default();
    if events.lines().any(|line| line == "frozen 1") {
        return Err("is frozen: the attacker would be too".into());
    }
    if read(directory, "memory.oom.group").is_some_and(|group| group == "1") {
        return Err("is killed as a whole when its memory runs out".into());
    }
    let number = |name| read(directory, name).and_then(|text| text.parse::<u64>().ok());
    if let (Some(most), Some(now)) = (number("pids.max"), number("pids.current"))
        && now.saturating_add(THREADS_LEFT) > most
    {
        return Err(format!("has {now} of {most} threads: the attacker could take the guest's last ones"));
    }
    Ok(())
}

fn read(directory: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(directory.join(name)).ok()?.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn only_hierarchies_with_device_rules_and_a_cgroup_of_its_own_count() {
        let mounts = parse_mountinfo(
            "30 20 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             31 20 0:27 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
             32 20 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
        );
        let guest = lines(&["5:devices:/m/g", "4:memory:/m/g", "0::/m/g"]);
        let own = lines(&["5:devices:/m", "4:memory:/m", "0::/m"]);
        let found = places(&guest, &own, &mounts);
        let directories: Vec<_> = found.iter().map(|place| place.directory.display().to_string()).collect();
        assert_eq!(directories, ["/sys/fs/cgroup/devices/m/g", "/sys/fs/cgroup/unified/m/g"]);
        assert!(places(&own, &own, &mounts).is_empty(), "the reader's own is none of the guest's");
        assert!(places(&lines(&["0::/"]), &own, &mounts).is_empty(), "the root has no rules");
        assert!(places(&lines(&["0::/../x"]), &own, &mounts).is_empty(), "outside of the namespace");
    }

    #[test]
    fn where_there_is_no_room_nobody_goes() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        assert!(room(dir.path()).is_ok());
        put("cgroup.events", "populated 1\nfrozen 0\n");
        put("pids.max", "max\n");
        put("pids.current", "900\n");
        assert!(room(dir.path()).is_ok());
        put("pids.max", "903\n");
        assert!(room(dir.path()).unwrap_err().contains("900 of 903"));
        put("pids.max", "2000\n");
        put("cgroup.events", "populated 1\nfrozen 1\n");
        assert!(room(dir.path()).unwrap_err().contains("frozen"));
    }
}
