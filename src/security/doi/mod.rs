//! Translating labels from one domain of interpretation to another, by reviewed tables.
//!
//! A table is exact or it is refused: two labels never become one, and of two levels the same one dominates before
//! and after, so that nobody reaches more than before. What a table does not name has no image. Pure: the tables that
//! ship with svirt are compiled in, those of the configured directory are arguments.

mod contexts;
mod owners;

use std::collections::{BTreeSet, VecDeque};

use serde::Deserialize;

use self::contexts::Contexts;
use self::owners::Owners;
use super::context::Context;
use crate::base::{Layer, Refusal};

/// The tables that ship with svirt.
const SHIPPED: &[(&str, &str)] =
    &[("selinux-libvirt-svirt.toml", include_str!("../../../labels/doi/selinux-libvirt-svirt.toml"))];
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
    #[error("{label:?} is no label of {model}: {reason}")]
    Label {
        /// The model.
        model: &'static str,
        /// The label.
        label: String,
        /// Why not.
        reason: String,
    },
    /// A label of a model that has no tables.
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
    #[serde(default)]
    uid: Vec<RawRow>,
    #[serde(default)]
    gid: Vec<RawRow>,
}

/// A part and its image.
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
    parts: Parts,
}

/// What a table says, by the model of its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Parts {
    Dac(Owners),
    Selinux(Box<Contexts>),
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
            let same = |other: &&Table| {
                (other.model(), &other.from, &other.to) == (table.model(), &table.from, &table.to)
            };
            if let Some(same) = tables.iter().find(same) {
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
        let way = || {
            let none = || TranslateError::NoTable { from: from.into(), to: to.into() };
            self.way(model, from, to).ok_or_else(none)
        };
        let bad = |model, reason: String| TranslateError::Label { model, label: label.to_owned(), reason };
        let mut tables = Vec::new();
        let translated = match model {
            "selinux" => {
                let mut context: Context =
                    label.parse().map_err(|error| bad("selinux", format!("{error}")))?;
                for table in way()? {
                    context = table.context(&context)?;
                    tables.push(table.name.clone());
                }
                context.to_string()
            }
            "dac" => {
                let mut ids = Owners::read(label).map_err(|why| bad("dac", why.to_owned()))?;
                for table in way()? {
                    ids = table.owner(ids)?;
                    tables.push(table.name.clone());
                }
                Owners::write(ids)
            }
            other => return Err(TranslateError::Model(other.to_owned())),
        };
        Ok(Translated { label: translated, tables })
    }

    /// Whether tables lead from one domain of interpretation to another.
    #[must_use]
    pub fn lead(&self, model: &str, from: &str, to: &str) -> bool {
        matches!(model, "dac" | "selinux") && self.way(model, from, to).is_some()
    }

    /// The shortest way; of equals the one whose tables come first.
    fn way(&self, model: &str, from: &str, to: &str) -> Option<Vec<&Table>> {
        let mut seen = BTreeSet::from([from]);
        let mut open: VecDeque<(&str, Vec<&Table>)> = VecDeque::from([(from, Vec::new())]);
        while let Some((at, way)) = open.pop_front() {
            if at == to {
                return Some(way);
            }
            for table in self.0.iter().filter(|table| table.model() == model && table.from == at) {
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
        for doi in [&raw.from, &raw.to] {
            if let Some(complaint) = crate::settings::doi_complaint(doi) {
                return Err(wrong(complaint));
            }
        }
        if raw.from == raw.to {
            return Err(wrong("it leads nowhere".into()));
        }
        let contexts = [&raw.user, &raw.role, &raw.kind, &raw.sensitivity, &raw.categories];
        let owners = [&raw.uid, &raw.gid];
        let strange = match raw.model.as_str() {
            "dac" => contexts.iter().any(|rows| !rows.is_empty()),
            "selinux" => owners.iter().any(|rows| !rows.is_empty()),
            "apparmor" => {
                let why = "a profile is named after its domain and made anew on each host";
                return Err(wrong(format!("there are no tables of apparmor: {why}")));
            }
            other => return Err(wrong(format!("tables of the model {other:?} are not known"))),
        };
        if strange {
            return Err(wrong(format!("it names parts that labels of {} do not have", raw.model)));
        }
        let unreasoned =
            contexts.into_iter().chain(owners).flatten().find(|row| row.reason.trim().is_empty());
        if let Some(row) = unreasoned {
            return Err(wrong(format!("{:?} has no reason", row.from)));
        }
        if raw.reviewed.trim().is_empty() {
            return Err(wrong("it was not reviewed".into()));
        }
        let parts = match raw.model.as_str() {
            "dac" => Parts::Dac(Owners::new(&raw.uid, &raw.gid).map_err(wrong)?),
            _ => Parts::Selinux(Box::new(Contexts::new(&raw).map_err(wrong)?)),
        };
        Ok(Self { name: name.to_owned(), from: raw.from, to: raw.to, parts })
    }

    fn model(&self) -> &'static str {
        match self.parts {
            Parts::Dac(_) => "dac",
            Parts::Selinux(_) => "selinux",
        }
    }

    fn owner(&self, ids: (u32, u32)) -> Result<(u32, u32), TranslateError> {
        let Parts::Dac(owners) = &self.parts else { return Err(self.unmapped("the owner".into())) };
        owners.translate(ids).map_err(|part| self.unmapped(part))
    }

    fn context(&self, context: &Context) -> Result<Context, TranslateError> {
        let Parts::Selinux(parts) = &self.parts else { return Err(self.unmapped("the context".into())) };
        parts.translate(context).map_err(|part| self.unmapped(part))
    }

    fn unmapped(&self, part: String) -> TranslateError {
        TranslateError::Unmapped { part, to: self.to.clone(), table: self.name.clone() }
    }
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
            Self::Label { model: "dac", .. } => {
                "write +UID:+GID; a name may mean another number on another host"
            }
            Self::Label { .. } => "write a whole context: user:role:type:range",
            Self::Model(_) => {
                "name --model selinux or dac; a profile is made anew on each host, for its domain"
            }
            Self::NoTable { .. } => {
                "write a reviewed table into the directory of paths.doi; docs/doi.md shows one"
            }
            Self::Unmapped { .. } => {
                "give the part an image in the table, with a reason, or choose another label"
            }
        };
        let layer = match self {
            Self::Label { model: "dac", .. } => Layer::Dac,
            _ => Layer::Selinux,
        };
        Refusal::new(layer, "translate the label", label, self.to_string(), remedy)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::security::range::{Categories, Level};

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
            tables.translate("apparmor", "one", "two", "svirt-x").unwrap_err(),
            TranslateError::Model(_)
        ));
        let dac = tables.translate("dac", "one", "two", "+1:+1").unwrap_err();
        assert!(matches!(dac, TranslateError::NoTable { .. }), "tables of one model lead nowhere in another");
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
            let Parts::Selinux(parts) = &table.parts else { continue };
            for image in parts.types.values() {
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
