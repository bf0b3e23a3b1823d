//! Owners (`dac`) from one domain of interpretation to another: runs of uids and gids, each onto a run as long.
//!
//! Two never become one, and nobody becomes root: whoever could not reach a file before cannot after. Names are
//! refused, because what number they mean is each host's own.

use super::RawRow;

/// A table of owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owners {
    uids: Vec<Run>,
    gids: Vec<Run>,
}

/// Numbers `first..=last`, and the image of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u32,
    last: u32,
    image: u32,
}

impl Run {
    fn image_last(self) -> u32 {
        self.image + (self.last - self.first)
    }
}

impl Owners {
    pub(super) fn new(uids: &[RawRow], gids: &[RawRow]) -> Result<Self, String> {
        Ok(Self { uids: runs("uid", uids)?, gids: runs("gid", gids)? })
    }

    /// The images of both, or the one that has none.
    pub(super) fn translate(&self, (uid, gid): (u32, u32)) -> Result<(u32, u32), String> {
        let image = |runs, part, id| image(runs, id).ok_or_else(|| format!("the {part} {id}"));
        Ok((image(&self.uids, "uid", uid)?, image(&self.gids, "gid", gid)?))
    }

    /// `+UID:+GID`.
    pub(super) fn read(label: &str) -> Result<(u32, u32), &'static str> {
        let (uid, gid) = label.split_once(':').ok_or("there is no colon")?;
        let id = |text: &str| number(text.strip_prefix('+').unwrap_or(text));
        id(uid).zip(id(gid)).ok_or("names and numbers beyond 4294967294 are not translated")
    }

    pub(super) fn write((uid, gid): (u32, u32)) -> String {
        format!("+{uid}:+{gid}")
    }
}

/// A number as it is written everywhere: no sign, no zeros before it; the highest means "no change" to the kernel.
fn number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let plain = plain && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|number| plain && *number != u32::MAX)
}

fn image(runs: &[Run], id: u32) -> Option<u32> {
    let run = runs.iter().find(|run| (run.first..=run.last).contains(&id))?;
    Some(run.image + (id - run.first))
}

fn runs(part: &str, rows: &[RawRow]) -> Result<Vec<Run>, String> {
    let mut all: Vec<Run> = Vec::new();
    for row in rows {
        let (from, to) = (span(part, &row.from)?, span(part, &row.to)?);
        if from.1 - from.0 != to.1 - to.0 {
            return Err(format!("{} and {} are not as long as each other", row.from, row.to));
        }
        if from.0 == 0 || to.0 == 0 {
            return Err(format!("the {part} 0 is root's on every host, and nobody else's"));
        }
        let run = Run { first: from.0, last: from.1, image: to.0 };
        let meet = |a: (u32, u32), b: (u32, u32)| a.0 <= b.1 && b.0 <= a.1;
        for other in &all {
            if meet(from, (other.first, other.last)) {
                return Err(format!("a {part} of {} stands there twice", row.from));
            }
            if meet(to, (other.image, other.image_last())) {
                return Err(format!(
                    "two {part}s become one of {}, and would own what the other owns",
                    row.to
                ));
            }
        }
        all.push(run);
    }
    Ok(all)
}

/// `1000` or `1000-1999`.
fn span(part: &str, text: &str) -> Result<(u32, u32), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!("{text:?} is no {part} and no run of them")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use crate::security::doi::{Tables, TranslateError};

    fn load(rows: &str) -> Result<Tables, String> {
        let text = format!("model = \"dac\"\nfrom = \"a\"\nto = \"b\"\nreviewed = \"yes\"\n{rows}");
        Tables::load(&[("t".into(), text)]).map_err(|error| error.what)
    }

    fn row(part: &str, from: &str, to: &str) -> String {
        format!("[[{part}]]\nfrom = \"{from}\"\nto = \"{to}\"\nreason = \"r\"\n")
    }

    fn sites() -> Tables {
        let rows = row("uid", "1000-1999", "501000-501999")
            + &row("uid", "64055", "107")
            + &row("gid", "1000-1999", "501000-501999")
            + &row("gid", "4294967000-4294967294", "1-295");
        load(&rows).unwrap()
    }

    #[test]
    fn owners_move_by_their_run() {
        let of = |label: &str| sites().translate("dac", "a", "b", label);
        assert_eq!(of("+1000:+1999").unwrap().label, "+501000:+501999");
        assert_eq!(of("64055:+4294967294").unwrap().label, "+107:+295");
        for label in ["+0:+1000", "+999:+1000", "+1000:+2000", "+1000:+0"] {
            assert!(matches!(of(label), Err(TranslateError::Unmapped { .. })), "{label}");
        }
        for label in
            ["root:root", "+1000", "", ":", "+1000:", "++1000:+1000", "+01000:+1000", "+4294967295:+1000"]
        {
            let error = of(label).unwrap_err();
            assert!(matches!(error, TranslateError::Label { .. }), "{label}");
            assert!(!error.refusal(label).remedy.is_empty());
        }
        assert!(sites().lead("dac", "a", "b") && !sites().lead("dac", "b", "a"));
        assert!(!sites().lead("selinux", "a", "b"));
    }

    #[test]
    fn a_table_that_would_widen_access_is_refused() {
        let wrong = |rows: &str| load(rows).unwrap_err();
        assert!(wrong(&row("uid", "0", "5")).contains("root"));
        assert!(wrong(&row("uid", "5", "0")).contains("root"));
        assert!(wrong(&row("gid", "5-9", "0-4")).contains("root"));
        assert!(wrong(&row("uid", "5-9", "15-18")).contains("long"));
        assert!(wrong(&(row("uid", "5-9", "15-19") + &row("uid", "9", "30"))).contains("twice"));
        assert!(wrong(&(row("uid", "5-9", "15-19") + &row("uid", "10", "19"))).contains("become one"));
        for span in ["9-5", "x", "", "-", "1-", "4294967295", "1-2-3", "+5"] {
            assert!(wrong(&row("uid", span, "7")).contains("no uid"), "{span}");
        }
        assert!(wrong(&row("type", "a_t", "b_t")).contains("do not have"));
    }

    proptest! {
        #[test]
        fn different_owners_stay_different(a in 900_u32..2100, b in 900_u32..2100) {
            let tables = sites();
            let of = |id: u32| tables.translate("dac", "a", "b", &format!("+{id}:+1000")).ok();
            if let (Some(first), Some(second)) = (of(a), of(b)) {
                prop_assert_eq!(first == second, a == b);
                prop_assert!(!first.label.starts_with("+0:"));
            }
        }
    }
}
