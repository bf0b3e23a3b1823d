//! Where the cgroups of a process are in the file system. Reads text that it is given; makes and changes nothing.

use std::path::PathBuf;

/// A process's cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The controllers of a version 1 hierarchy; none for the unified one.
    pub controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// The cgroup's directory.
    pub directory: PathBuf,
}

/// Joins the text of `/proc/PID/cgroup` with that of the reader's own `/proc/self/mountinfo`. A hierarchy that is not
/// mounted, and a cgroup outside of the reader's cgroup namespace, are left out.
#[must_use]
pub fn places(cgroup: &str, mountinfo: &str) -> Vec<Place> {
    cgroup.lines().filter_map(|line| place(line, mountinfo)).collect()
}

fn place(line: &str, mountinfo: &str) -> Option<Place> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (names, path) = (fields.next()?, fields.next()?);
    let controllers: Vec<String> =
        names.split(',').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect();
    let (root, mount) = mount_of(mountinfo, controllers.first().map(String::as_str))?;
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    // In a container the mount may show only a part of the hierarchy.
    let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or(path);
    let directory = PathBuf::from(format!("{mount}{}", below.trim_end_matches('/')));
    Some(Place { controllers, mount: PathBuf::from(mount), directory })
}

/// Root and mount point of the version 1 hierarchy with a controller, or of the unified one.
fn mount_of<'a>(mountinfo: &'a str, controller: Option<&str>) -> Option<(&'a str, &'a str)> {
    mountinfo.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let place = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let (kind, _, options) = (back.next()?, back.next()?, back.next()?);
        let found = match controller {
            None => kind == "cgroup2",
            Some(name) => kind == "cgroup" && options.split(',').any(|option| option == name),
        };
        found.then_some(place)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const UNIFIED: &str = "27 20 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_part_of_a_hierarchy_is_taken_for_what_it_shows() {
        let info = "27 20 0:24 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = places("0::/docker/x/inner\n", info);
        assert_eq!(found.first().unwrap().directory, PathBuf::from("/sys/fs/cgroup/inner"));
    }

    #[test]
    fn what_has_no_name_here_is_left_out() {
        assert_eq!(places("0::/a\n", UNIFIED).len(), 1);
        assert!(places("0::/../a\n", UNIFIED).is_empty(), "outside of the namespace");
        assert!(places("3:memory:/a\n", UNIFIED).is_empty(), "not mounted");
        assert!(places("0::/a\n", "- -\na b - c\n").is_empty());
    }
}
