//! Translating labels from one domain of interpretation to another, by reviewed tables.
//!
//! A table is exact or it is refused: two labels never become one, and of two levels the same one dominates before
//! and after, so that nobody reaches more than before. What a table does not name has no image. Pure: the tables that
//! ship with svirt are compiled in, those of the configured directory are arguments.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Deserialize;

use super::context::Context;
use super::range::{Categories, Level, Range};
use crate::base::{CATEGORY_COUNT, Layer, Refusal};

/// The tables that ship with svirt.
const SHIPPED: &[(&str, &str)] =
    &[("selinux-libvirt-svirt.toml", include_str!("../../labels/doi/selinux-libvirt-svirt.toml"))];
/// The most tables, and the most steps from one domain of interpretation to another.
const TABLES_MAX: usize = 256;

/// Why a text is no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {what}")]
pub struct TableError {
    /// The file.
    pub name: String,
    /// What is wrong.
    pub what: String,
}

/// Why a label is not translated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// It is no label of its model.
    #[error("{label:?} is no SELinux context: {reason}")]
    Label {
        /// The label.
        label: String,
        /// Why not.
        reason: String,
    },
    /// Tables exist for SELinux alone.
    #[error("labels of the model {0:?} have no parts that a table could name")]
    Model(String),
    /// No table leads there.
    #[error("no reviewed table leads from {from:?} to {to:?}")]
    NoTable {
        /// From where.
        from: String,
        /// To where.
        to: String,
    },
    /// A part has no image.
    #[error("{part} has no image in {to:?}: {table} does not name it")]
    Unmapped {
        /// Such as `the type httpd_t`.
        part: String,
        /// To where.
        to: String,
        /// The table.
        table: String,
    },
}

/// A label that was translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    /// What it is there.
    pub label: String,
    /// The tables that lead there, in order.
    pub tables: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    model: String,
    from: String,
    to: String,
    reviewed: String,
    #[serde(default)]
    user: Vec<RawRow>,
    #[serde(default)]
    role: Vec<RawRow>,
    #[serde(default, rename = "type")]
    kind: Vec<RawRow>,
    #[serde(default)]
    sensitivity: Vec<RawRow>,
    #[serde(default)]
    categories: Vec<RawRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    from: String,
    to: String,
    reason: String,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    name: String,
    from: String,
    to: String,
    users: BTreeMap<String, String>,
    roles: BTreeMap<String, String>,
    types: BTreeMap<String, String>,
    sensitivities: BTreeMap<u8, u8>,
    /// The image of each category, by number.
    categories: BTreeMap<u16, u16>,
}

/// All tables of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables(Vec<Table>);

impl Tables {
    /// The shipped tables and `more`, each a name and a text. Two for the same way are refused: which one held would
    /// be chance.
    pub fn load(more: &[(String, String)]) -> Result<Self, TableError> {
        let shipped = SHIPPED.iter().map(|(name, text)| (*name, *text));
        let mut tables: Vec<Table> = Vec::new();
        for (name, text) in shipped.chain(more.iter().map(|(name, text)| (name.as_str(), text.as_str()))) {
            let table = Table::parse(name, text)?;
            let wrong = |what: String| Err(TableError { name: name.to_owned(), what });
            if let Some(same) = tables.iter().find(|other| other.from == table.from && other.to == table.to) {
                return wrong(format!("{} leads from {:?} to {:?} already", same.name, same.from, same.to));
            }
            if tables.len() >= TABLES_MAX {
                return wrong(format!("more than {TABLES_MAX} tables"));
            }
            tables.push(table);
        }
        Ok(Self(tables))
    }

    /// Translates a label. The same domain of interpretation needs no table.
    pub fn translate(
        &self,
        model: &str,
        from: &str,
        to: &str,
        label: &str,
    ) -> Result<Translated, TranslateError> {
        if model != "selinux" {
            return Err(TranslateError::Model(model.to_owned()));
        }
        let bad = |reason: String| TranslateError::Label { label: label.to_owned(), reason };
        let mut context: Context = label.parse().map_err(|error| bad(format!("{error}")))?;
        let way =
            self.way(from, to).ok_or_else(|| TranslateError::NoTable { from: from.into(), to: to.into() })?;
        let mut tables = Vec::new();
        for table in way {
            context = table.context(&context)?;
            tables.push(table.name.clone());
        }
        Ok(Translated { label: context.to_string(), tables })
    }

    /// Whether tables lead from one domain of interpretation to another.
    #[must_use]
    pub fn lead(&self, model: &str, from: &str, to: &str) -> bool {
        model == "selinux" && self.way(from, to).is_some()
    }

    /// The shortest way; of equals the one whose tables come first.
    fn way(&self, from: &str, to: &str) -> Option<Vec<&Table>> {
        let mut seen = BTreeSet::from([from]);
        let mut open: VecDeque<(&str, Vec<&Table>)> = VecDeque::from([(from, Vec::new())]);
        while let Some((at, way)) = open.pop_front() {
            if at == to {
                return Some(way);
            }
            for table in self.0.iter().filter(|table| table.from == at) {
                if seen.insert(&table.to) {
                    let further = way.iter().copied().chain([table]).collect();
                    open.push_back((&table.to, further));
                }
            }
        }
        None
    }
}

impl Table {
    fn parse(name: &str, text: &str) -> Result<Self, TableError> {
        let wrong = |what: String| TableError { name: name.to_owned(), what };
        let raw: RawTable =
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim().to_owned()))?;
        if raw.model != "selinux" {
            return Err(wrong(format!("tables of the model {:?} are not known", raw.model)));
        }
        for doi in [&raw.from, &raw.to] {
            if let Some(complaint) = crate::settings::doi_complaint(doi) {
                return Err(wrong(complaint));
            }
        }
        if raw.from == raw.to {
            return Err(wrong("it leads nowhere".into()));
        }
        let rows = [&raw.user, &raw.role, &raw.kind, &raw.sensitivity, &raw.categories];
        let unreasoned = rows.into_iter().flatten().find(|row| row.reason.trim().is_empty());
        if let Some(row) = unreasoned {
            return Err(wrong(format!("{:?} has no reason", row.from)));
        }
        if raw.reviewed.trim().is_empty() {
            return Err(wrong("it was not reviewed".into()));
        }
        Ok(Self {
            name: name.to_owned(),
            users: words("user", &raw.user).map_err(wrong)?,
            roles: words("role", &raw.role).map_err(wrong)?,
            types: words("type", &raw.kind).map_err(wrong)?,
            sensitivities: sensitivities(&raw.sensitivity).map_err(wrong)?,
            categories: categories(&raw.categories).map_err(wrong)?,
            from: raw.from,
            to: raw.to,
        })
    }

    fn context(&self, context: &Context) -> Result<Context, TranslateError> {
        let word = |map: &BTreeMap<String, String>, part: &str, name: &str| {
            map.get(name).cloned().ok_or_else(|| self.unmapped(format!("the {part} {name}")))
        };
        let range = Range::new(self.level(context.range.low())?, self.level(context.range.high())?);
        Ok(Context {
            user: word(&self.users, "user", &context.user)?,
            role: word(&self.roles, "role", &context.role)?,
            kind: word(&self.types, "type", &context.kind)?,
            // Both maps keep the order, so this holds whenever it held before.
            range: range.map_err(|error| self.unmapped(format!("the range {}: {error}", context.range)))?,
        })
    }

    fn level(&self, level: &Level) -> Result<Level, TranslateError> {
        let sensitivity = self.sensitivities.get(&level.sensitivity).copied();
        let mut categories = Categories::default();
        for category in level.categories.iter() {
            let image = self.categories.get(&category);
            categories.insert(*image.ok_or_else(|| self.unmapped(format!("the category c{category}")))?);
        }
        Ok(Level {
            sensitivity: sensitivity
                .ok_or_else(|| self.unmapped(format!("the sensitivity s{}", level.sensitivity)))?,
            categories,
        })
    }

    fn unmapped(&self, part: String) -> TranslateError {
        TranslateError::Unmapped { part, to: self.to.clone(), table: self.name.clone() }
    }
}

/// Rows of names; two never become one, and none becomes two.
fn words(part: &str, rows: &[RawRow]) -> Result<BTreeMap<String, String>, String> {
    let good = |name: &str| {
        (1..=128).contains(&name.len())
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
    };
    let mut map = BTreeMap::new();
    let mut images = BTreeSet::new();
    for row in rows {
        if let Some(bad) = [&row.from, &row.to].into_iter().find(|name| !good(name)) {
            return Err(format!("{bad:?} is no {part}"));
        }
        if !images.insert(row.to.clone()) {
            return Err(format!(
                "two {part}s become {:?}, and whoever has one would have the other too",
                row.to
            ));
        }
        if map.insert(row.from.clone(), row.to.clone()).is_some() {
            return Err(format!("the {part} {:?} stands there twice", row.from));
        }
    }
    Ok(map)
}

fn sensitivities(rows: &[RawRow]) -> Result<BTreeMap<u8, u8>, String> {
    let read = |text: &str| {
        let level: Level = text.parse().map_err(|_| format!("{text:?} is no sensitivity"))?;
        if level.categories.is_empty() {
            Ok(level.sensitivity)
        } else {
            Err(format!("{text:?} is no sensitivity"))
        }
    };
    let mut map = BTreeMap::new();
    for row in rows {
        if map.insert(read(&row.from)?, read(&row.to)?).is_some() {
            return Err(format!("the sensitivity {:?} stands there twice", row.from));
        }
    }
    let images: Vec<u8> = map.values().copied().collect();
    if images.is_sorted_by(|lower, higher| lower < higher) {
        return Ok(map);
    }
    Err("sensitivities change their order, and what dominated would be dominated".into())
}

/// Runs of categories, each onto a run as long.
fn categories(rows: &[RawRow]) -> Result<BTreeMap<u16, u16>, String> {
    let mut map = BTreeMap::new();
    let mut images = BTreeSet::new();
    for row in rows {
        let (from, to) = (run(&row.from)?, run(&row.to)?);
        if from.1 - from.0 != to.1 - to.0 {
            return Err(format!("{} and {} are not as long as each other", row.from, row.to));
        }
        for (own, image) in (from.0..=from.1).zip(to.0..=to.1) {
            if map.insert(own, image).is_some() {
                return Err(format!("the category c{own} stands there twice"));
            }
            if !images.insert(image) {
                return Err(format!("two categories become c{image}, and two domains could share a pair"));
            }
        }
    }
    Ok(map)
}

/// `c5` or `c0.c1023`.
fn run(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("{text:?} is no run of categories");
    let (first, last) = text.split_once('.').unwrap_or((text, text));
    let number = |part: &str| {
        let digits =
            part.strip_prefix('c').filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()));
        digits.and_then(|d| d.parse::<u16>().ok()).filter(|number| *number < CATEGORY_COUNT).ok_or_else(wrong)
    };
    let (first, last) = (number(first)?, number(last)?);
    if first <= last { Ok((first, last)) } else { Err(wrong()) }
}

impl From<TableError> for Refusal {
    fn from(error: TableError) -> Self {
        Self::new(
            Layer::Configuration,
            "use the translation table",
            error.name,
            error.what,
            "correct the table: each part names its one image, with a reason",
        )
    }
}

impl TranslateError {
    /// The error as a person sees it.
    #[must_use]
    pub fn refusal(&self, label: &str) -> Refusal {
        let remedy = match self {
            Self::Label { .. } => "write a whole context: user:role:type:range",
            Self::Model(_) => "name --model selinux; owners and profiles are given anew on each host",
            Self::NoTable { .. } => {
                "write a reviewed table into the directory of paths.doi; docs/doi.md shows one"
            }
            Self::Unmapped { .. } => {
                "give the part an image in the table, with a reason, or choose another label"
            }
        };
        Refusal::new(Layer::Selinux, "translate the label", label, self.to_string(), remedy)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(from: &str, to: &str, rows: &str) -> (String, String) {
        (
            format!("{from}-{to}.toml"),
            format!("model = \"selinux\"\nfrom = \"{from}\"\nto = \"{to}\"\nreviewed = \"yes\"\n{rows}"),
        )
    }

    fn row(part: &str, from: &str, to: &str) -> String {
        format!("[[{part}]]\nfrom = \"{from}\"\nto = \"{to}\"\nreason = \"r\"\n")
    }

    /// Two sites: categories move, one sensitivity is left out.
    fn two() -> Tables {
        let names = row("user", "u", "u") + &row("role", "r", "r");
        let first = names.clone()
            + &row("type", "a_t", "b_t")
            + &row("type", "x_t", "y_t")
            + &row("sensitivity", "s0", "s1")
            + &row("sensitivity", "s2", "s5")
            + &row("categories", "c0.c99", "c900.c999")
            + &row("categories", "c200", "c0");
        let second = names
            + &row("type", "b_t", "c_t")
            + &row("sensitivity", "s1", "s0")
            + &row("sensitivity", "s5", "s1")
            + &row("categories", "c900.c1023", "c100.c223")
            + &row("categories", "c0", "c5");
        Tables::load(&[table("one", "two", &first), table("two", "three", &second)]).unwrap()
    }

    #[test]
    fn what_a_table_names_is_exact() {
        let tables = two();
        let translate = |to: &str, label: &str| tables.translate("selinux", "one", to, label);
        let done = translate("two", "u:r:a_t:s0:c1,c2").unwrap();
        assert_eq!((done.label.as_str(), done.tables.len()), ("u:r:b_t:s1:c901,c902", 1));
        let done = translate("three", "u:r:a_t:s0:c1-s2:c1,c200").unwrap();
        assert_eq!((done.label.as_str(), done.tables.len()), ("u:r:c_t:s0:c101-s1:c5,c101", 2));
        assert_eq!(translate("one", "u:r:z_t:s9").unwrap().label, "u:r:z_t:s9", "nothing to translate");
    }

    #[test]
    fn what_a_table_does_not_name_is_refused_by_name() {
        let tables = two();
        for (label, to, part) in [
            ("u:r:z_t:s0", "two", "the type z_t"),
            ("v:r:a_t:s0", "two", "the user v"),
            ("u:q:a_t:s0", "two", "the role q"),
            ("u:r:a_t:s1", "two", "the sensitivity s1"),
            ("u:r:a_t:s0:c150", "two", "the category c150"),
            ("u:r:x_t:s0", "three", "the type y_t"),
        ] {
            let error = tables.translate("selinux", "one", to, label).unwrap_err();
            assert!(
                matches!(&error, TranslateError::Unmapped { part: found, .. } if found == part),
                "{error}"
            );
            assert!(!error.refusal(label).remedy.is_empty());
        }
        let no = |from: &str, to: &str| tables.translate("selinux", from, to, "u:r:a_t:s0").unwrap_err();
        assert!(matches!(no("two", "one"), TranslateError::NoTable { .. }), "no table is read backwards");
        assert!(matches!(no("one", "four"), TranslateError::NoTable { .. }));
        assert!(matches!(
            tables.translate("dac", "one", "two", "+1:+1").unwrap_err(),
            TranslateError::Model(_)
        ));
    }

    #[test]
    fn a_table_that_would_widen_access_is_refused() {
        let wrong = |rows: &str| Tables::load(&[table("a", "b", rows)]).unwrap_err().what;
        let two = |part: &str, a: (&str, &str), b: (&str, &str)| row(part, a.0, a.1) + &row(part, b.0, b.1);
        assert!(wrong(&two("type", ("a_t", "c_t"), ("b_t", "c_t"))).contains("become"));
        assert!(wrong(&two("user", ("a", "b"), ("a", "c"))).contains("twice"));
        assert!(wrong(&two("categories", ("c0.c5", "c10.c15"), ("c6", "c15"))).contains("become c15"));
        assert!(wrong(&row("categories", "c0.c5", "c0.c4")).contains("long"));
        assert!(wrong(&two("sensitivity", ("s0", "s1"), ("s1", "s0"))).contains("order"));
        assert!(wrong(&two("sensitivity", ("s0", "s1"), ("s1", "s1"))).contains("order"));
        assert!(wrong(&row("type", "a b", "c_t")).contains("no type"));
        assert!(wrong("[[type]]\nfrom = \"a\"\nto = \"b\"\nreason = \" \"\n").contains("no reason"));
        assert!(wrong("[[sort]]\n").contains("sort"));
        let twice = [table("a", "b", ""), table("a", "b", "")];
        assert!(Tables::load(&twice).unwrap_err().what.contains("already"));
        assert!(Tables::load(&[table("a", "a", "")]).is_err());
    }

    #[test]
    fn the_shipped_tables_are_good_and_lead_to_svirts_types() {
        let tables = Tables::load(&[]).unwrap();
        let of = |label: &str| tables.translate("selinux", "libvirt", "svirt", label);
        assert_eq!(
            of("system_u:system_r:svirt_t:s0:c41,c264").unwrap().label,
            "system_u:system_r:svirt_guest_t:s0:c41,c264"
        );
        assert!(of("unconfined_u:unconfined_r:unconfined_t:s0").is_err());
        let types = crate::settings::Selinux::default();
        let known = [&types.guest_type, &types.guest_tcg_type, &types.image_type, &types.content_type];
        for table in &tables.0 {
            for image in table.types.values() {
                assert!(known.contains(&image), "{image} is no type of labels/selinux");
            }
        }
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("labels/doi");
        for entry in std::fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(SHIPPED.iter().any(|(shipped, _)| *shipped == name), "{name} is not compiled in");
        }
    }

    fn level() -> impl Strategy<Value = Level> {
        (prop_oneof![Just(0u8), Just(2u8)], proptest::collection::vec(0u16..100, 0..6)).prop_map(
            |(sensitivity, list)| {
                let mut categories = Categories::default();
                list.into_iter().for_each(|category| categories.insert(category));
                Level { sensitivity, categories }
            },
        )
    }

    proptest! {
        #[test]
        fn nobody_reaches_more_than_before(a in level(), b in level()) {
            let tables = two();
            for to in ["two", "three"] {
                let image = |level: &Level| {
                    let label = format!("u:r:a_t:{level}");
                    let done = tables.translate("selinux", "one", to, &label).unwrap().label;
                    *done.parse::<Context>().unwrap().range.high()
                };
                prop_assert_eq!(image(&a).dominates(&image(&b)), a.dominates(&b));
                prop_assert_eq!(image(&a) == image(&b), a == b);
            }
        }

        #[test]
        fn two_steps_are_one_after_the_other(level in level()) {
            let tables = two();
            let label = format!("u:r:a_t:{level}");
            let first = tables.translate("selinux", "one", "two", &label).unwrap().label;
            let second = tables.translate("selinux", "two", "three", &first).unwrap().label;
            prop_assert_eq!(tables.translate("selinux", "one", "three", &label).unwrap().label, second);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}", label in "\\PC{0,40}") {
            let _ = Tables::load(&[("x".into(), text)]);
            let _ = two().translate("selinux", "one", "two", &label);
        }
    }
}
