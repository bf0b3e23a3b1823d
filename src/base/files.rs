//! Which files of the host somebody's definitions may name.

/// Directories and files, each of them with all that lies below; or everything that there is.
///
/// It is about names alone, before anything is opened: where a name leads, the labeller sees to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// `None` is everything.
    only: Option<Vec<String>>,
    /// The rules that say so, counted from 1; for messages.
    rules: Vec<usize>,
}

impl Files {
    /// Everything.
    pub const ALL: Self = Self { only: None, rules: Vec::new() };

    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::new(Some(Vec::new()), Vec::new())
    }

    /// These and nothing else, by the word of these rules; `None` is everything.
    #[must_use]
    pub fn new(only: Option<Vec<String>>, rules: Vec<usize>) -> Self {
        Self { only, rules }
    }

    /// Whether nothing is left out.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.only.is_none()
    }

    /// The directories and files; `None` is everything.
    #[must_use]
    pub fn only(&self) -> Option<&[String]> {
        self.only.as_deref()
    }

    /// The rules that say so, counted from 1.
    #[must_use]
    pub fn rules(&self) -> &[usize] {
        &self.rules
    }

    /// Whether a path is one of them, or below one. A path that is not plain is none: it could lead anywhere.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        let Some(only) = &self.only else { return true };
        Self::is_plain(path) && only.iter().any(|known| is_below(path, known))
    }

    /// Whether a path is absolute, and has neither `.`, `..` nor empty parts but one at its end.
    #[must_use]
    pub fn is_plain(path: &str) -> bool {
        let Some(rest) = path.strip_prefix('/') else { return false };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        rest.is_empty() && path == "/"
            || !path.contains('\0') && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
    }

    /// What either of two gives.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let only = self.only.zip(other.only).map(|(mut mine, theirs)| {
            mine.extend(theirs);
            mine
        });
        Self { only, rules: both(self.rules, other.rules) }
    }

    /// What both of two give.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (mine, theirs) = match (&self.only, &other.only) {
            (None, _) => return other,
            (_, None) => return self,
            (Some(mine), Some(theirs)) => (mine, theirs),
        };
        let deeper = |a: &[String], b: &[String]| -> Vec<String> {
            a.iter().filter(|one| b.iter().any(|other| is_below(one, other))).cloned().collect()
        };
        let mut all = deeper(mine, theirs);
        all.extend(deeper(theirs, mine).into_iter().filter(|one| !mine.contains(one)));
        Self { only: Some(all), rules: both(self.rules, other.rules) }
    }
}

fn both(mut rules: Vec<usize>, more: Vec<usize>) -> Vec<usize> {
    rules.extend(more);
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// Whether `path` is `directory` or lies below it; both are plain.
fn is_below(path: &str, directory: &str) -> bool {
    let (path, directory) = (path.trim_end_matches('/'), directory.trim_end_matches('/'));
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(paths: &[&str]) -> Files {
        Files::new(Some(paths.iter().map(|path| (*path).to_owned()).collect()), vec![paths.len()])
    }

    #[test]
    fn a_name_is_inside_by_whole_parts() {
        let files = only(&["/srv/a", "/dev/vg/a-root", "/srv/b/"]);
        for path in
            ["/srv/a", "/srv/a/", "/srv/a/1.img", "/srv/a/x/y", "/dev/vg/a-root", "/srv/b", "/srv/b/1"]
        {
            assert!(files.has(path), "{path}");
        }
        for path in [
            "/srv",
            "/",
            "",
            "/srv/ab",
            "/srv/a/../b-1.img",
            "/srv/a/./1",
            "/srv/a//1",
            "srv/a/1",
            "/srv/a/..",
            "/dev/vg/a-root2",
            "/srv/a\0",
            "//srv/a",
        ] {
            assert!(!files.has(path), "{path}");
            assert!(Files::ALL.has(path) && !only(&[]).has(path), "{path}");
        }
        assert!(only(&["/"]).has("/etc/shadow"));
    }

    #[test]
    fn either_gives_more_and_both_give_less() {
        let (a, b) = (only(&["/srv/a", "/srv/c/d"]), only(&["/srv/a/x", "/srv/b", "/srv/c"]));
        let either = a.clone().or(b.clone());
        let both = a.clone().and(b.clone());
        for path in ["/srv/a/1", "/srv/a/x/1", "/srv/b/1", "/srv/c/1", "/srv/c/d/1", "/srv", "/etc"] {
            assert_eq!(either.has(path), a.has(path) || b.has(path), "{path}");
            assert_eq!(both.has(path), a.has(path) && b.has(path), "{path}");
        }
        assert_eq!(both.rules(), [2, 3]);
        assert!(a.clone().or(Files::ALL).is_all());
        assert_eq!(a.clone().and(Files::ALL), a);
    }
}
