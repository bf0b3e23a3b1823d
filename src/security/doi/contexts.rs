//! Contexts (`selinux`) from one domain of interpretation to another, part by part: users, roles, types,
//! sensitivities and runs of categories. Two parts never become one, and sensitivities keep their order.

use std::collections::{BTreeMap, BTreeSet};

use super::{RawRow, RawTable};
use crate::base::CATEGORY_COUNT;
use crate::security::context::Context;
use crate::security::range::{Categories, Level, Range, number};

/// A table of the parts of contexts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contexts {
    users: BTreeMap<String, String>,
    roles: BTreeMap<String, String>,
    pub(super) types: BTreeMap<String, String>,
    sensitivities: BTreeMap<u8, u8>,
    /// The image of each category, by number.
    categories: BTreeMap<u16, u16>,
}

impl Contexts {
    pub(super) fn new(raw: &RawTable) -> Result<Self, String> {
        Ok(Self {
            users: words("user", &raw.user)?,
            roles: words("role", &raw.role)?,
            types: words("type", &raw.kind)?,
            sensitivities: sensitivities(&raw.sensitivity)?,
            categories: categories(&raw.categories)?,
        })
    }

    /// The image of a context, or the part that has none.
    pub(super) fn translate(&self, context: &Context) -> Result<Context, String> {
        let word = |map: &BTreeMap<String, String>, part: &str, name: &str| {
            map.get(name).cloned().ok_or_else(|| format!("the {part} {name}"))
        };
        let range = Range::new(self.level(context.range.low())?, self.level(context.range.high())?);
        Ok(Context {
            user: word(&self.users, "user", &context.user)?,
            role: word(&self.roles, "role", &context.role)?,
            kind: word(&self.types, "type", &context.kind)?,
            // Both maps keep the order, so this holds whenever it held before.
            range: range.map_err(|error| format!("the range {}: {error}", context.range))?,
        })
    }

    fn level(&self, level: &Level) -> Result<Level, String> {
        let sensitivity = self.sensitivities.get(&level.sensitivity).copied();
        let mut categories = Categories::default();
        for category in level.categories.iter() {
            let image = self.categories.get(&category);
            categories.insert(*image.ok_or_else(|| format!("the category c{category}"))?);
        }
        let sensitivity = sensitivity.ok_or_else(|| format!("the sensitivity s{}", level.sensitivity))?;
        Ok(Level { sensitivity, categories })
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
    let number = |part: &str| number(part, 'c', CATEGORY_COUNT).ok_or_else(wrong);
    let (first, last) = (number(first)?, number(last)?);
    if first <= last { Ok((first, last)) } else { Err(wrong()) }
}
