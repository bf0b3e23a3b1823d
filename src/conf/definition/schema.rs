//! The grammar as a RELAX NG schema; `svirt schema` prints it, and `xml-schemas/domain.rng` is that.
//!
//! Order does not matter in it, as in libvirt's own: people write as they like, svirt writes in libvirt's order.

use std::collections::BTreeMap;

use super::SVIRT_NAMESPACE;
use super::grammar::{Attribute, Body, Child, DOMAIN, Element, QEMU_NAMESPACE, Times, Value, fits, value};
use crate::conf::xml::write::Writer;

const RELAX_NG: &str = "http://relaxng.org/ns/structure/1.0";
const DATATYPES: &str = "http://www.w3.org/2001/XMLSchema-datatypes";

/// A size's number.
const SIZE: Value = Value::Number { min: 0, max: u64::MAX };

/// The schema of a whole definition.
#[must_use]
pub fn domain() -> String {
    let elements = Elements::collect();
    let mut writer = Writer::new();
    writer.within("grammar", &[("xmlns", &RELAX_NG), ("datatypeLibrary", &DATATYPES)], |w| {
        // svirt's own metadata.
        w.empty("include", &[("href", &"metadata-common.rng")]);
        w.within("start", &[], |w| w.empty("ref", &[("name", &elements.name(&DOMAIN))]));
        for (element, name) in &elements.order {
            w.within("define", &[("name", name)], |w| define(w, element, &elements));
        }
        values(w, &elements);
        foreign(w);
    });
    format!(
        "<?xml version='1.0'?>\n<!-- Domain XML as svirt keeps it: `svirt schema` prints this file. -->\n{}",
        writer.finish()
    )
}

/// Every element once, with a name of its own.
struct Elements {
    order: Vec<(&'static Element, String)>,
    names: BTreeMap<usize, usize>,
}

impl Elements {
    fn collect() -> Self {
        let mut found = Self { order: Vec::new(), names: BTreeMap::new() };
        let mut used: BTreeMap<&'static str, u32> = BTreeMap::new();
        let mut open = vec![&DOMAIN];
        while let Some(element) = open.pop() {
            if found.names.contains_key(&address(element)) {
                continue;
            }
            let count = used.entry(element.local().0).or_default();
            *count = count.saturating_add(1);
            let name = element.local().0;
            let name = if *count == 1 { name.to_owned() } else { format!("{name}.{count}") };
            found.names.insert(address(element), found.order.len());
            found.order.push((element, name));
            open.extend(element.children().iter().rev().map(|child| child.element));
        }
        found
    }

    fn name(&self, element: &'static Element) -> &str {
        let at = self.names.get(&address(element));
        at.and_then(|at| self.order.get(*at)).map_or("", |(_, name)| name.as_str())
    }
}

/// Elements are statics: the address tells two of one name apart.
fn address(element: &'static Element) -> usize {
    std::ptr::from_ref(element).addr()
}

fn define(w: &mut Writer, element: &'static Element, elements: &Elements) {
    let (local, qemu) = element.local();
    let namespace = if qemu { QEMU_NAMESPACE } else { "" };
    w.within("element", &[("name", &local), ("ns", &namespace)], |w| {
        let mut parts = 0_usize;
        for attribute in
            element.attributes.iter().filter(|a| a.when.is_empty() && Some(a.name) != element.switch)
        {
            self::attribute(w, attribute);
            parts = parts.saturating_add(1);
        }
        match &element.body {
            Body::Children(children) => {
                parts = parts.saturating_add(self::children(w, element, children, elements));
            }
            Body::Foreign => {
                w.empty("ref", &[("name", &"foreign")]);
                return;
            }
            Body::Size(_) => {
                optional(w, true, |w| {
                    w.within("attribute", &[("name", &"unit")], |w| self::value(w, &value::UNIT))
                });
                self::value(w, &SIZE);
                return;
            }
            Body::Text(value) => {
                self::value(w, value);
                return;
            }
        }
        if parts == 0 {
            w.empty("empty", &[]);
        }
    });
}

/// The children that may stand; with a switch, for each of its words.
fn children(
    w: &mut Writer,
    element: &'static Element,
    children: &'static [Child],
    elements: &Elements,
) -> usize {
    if element.switch.is_some() {
        cases(w, element, children, elements);
        return 1;
    }
    let all: Vec<&Child> = children.iter().collect();
    interleave(w, &all, elements);
    all.len()
}

fn interleave(w: &mut Writer, children: &[&Child], elements: &Elements) {
    if !children.is_empty() {
        w.within("interleave", &[], |w| named(w, children, elements));
    }
}

/// A choice among the words of the switch, those with the same consequences together.
fn cases(w: &mut Writer, element: &'static Element, children: &'static [Child], elements: &Elements) {
    let Some(name) = element.switch else { return };
    let switches = element.attributes.iter().filter(|a| a.name == name);
    let mut cases: Vec<(Vec<usize>, Vec<&'static str>)> = Vec::new();
    let (mut required, mut default) = (false, None);
    for switch in switches {
        required |= switch.required;
        default = default.or(switch.default);
        let Value::Word(words) = switch.value else { continue };
        for word in words {
            let key = consequences(element, children, Some(word));
            match cases.iter_mut().find(|(other, _)| *other == key) {
                Some((_, words)) => words.push(word),
                None => cases.push((key, vec![word])),
            }
        }
    }
    w.within("choice", &[], |w| {
        for (_, words) in &cases {
            w.within("group", &[], |w| {
                // Absent it says its default.
                let absent = !required && default.is_some_and(|default| words.contains(&default));
                optional(w, absent, |w| {
                    w.within("attribute", &[("name", &name)], |w| self::words(w, words));
                });
                case(w, element, children, words.first().copied(), elements);
            });
        }
        if !required && default.is_none() {
            w.within("group", &[], |w| {
                w.empty("empty", &[]);
                case(w, element, children, None, elements);
            });
        }
    });
}

/// What may stand with a word.
fn case(
    w: &mut Writer,
    element: &'static Element,
    children: &'static [Child],
    word: Option<&str>,
    elements: &Elements,
) {
    for attribute in element.attributes.iter().filter(|a| !a.when.is_empty() && fits(a.when, word)) {
        self::attribute(w, attribute);
    }
    let fitting: Vec<&Child> = children.iter().filter(|child| fits(child.when, word)).collect();
    interleave(w, &fitting, elements);
}

fn consequences(element: &Element, children: &[Child], word: Option<&str>) -> Vec<usize> {
    let attributes = element.attributes.iter().map(|a| a.when);
    let all = attributes.chain(children.iter().map(|child| child.when));
    all.enumerate().filter(|(_, when)| !when.is_empty() && fits(when, word)).map(|(at, _)| at).collect()
}

/// Children, those of one name together: RELAX NG wants each name once in an interleave.
fn named(w: &mut Writer, children: &[&Child], elements: &Elements) {
    let mut done: Vec<&str> = Vec::new();
    for child in children {
        let name = child.element.name;
        if done.contains(&name) {
            continue;
        }
        done.push(name);
        let same: Vec<&&Child> = children.iter().filter(|other| other.element.name == name).collect();
        let refs = |w: &mut Writer| match same.as_slice() {
            [one] => w.empty("ref", &[("name", &elements.name(one.element))]),
            several => w.within("choice", &[], |w| {
                for one in several {
                    w.empty("ref", &[("name", &elements.name(one.element))]);
                }
            }),
        };
        match child.times {
            _ if child.live => w.within("zeroOrMore", &[], refs),
            Times::Many => w.within("zeroOrMore", &[], refs),
            Times::Once => refs(w),
            Times::Optional => w.within("optional", &[], refs),
        }
    }
}

fn attribute(w: &mut Writer, attribute: &Attribute) {
    let absent = !attribute.required || attribute.live;
    optional(w, absent, |w| {
        w.within("attribute", &[("name", &attribute.name)], |w| value(w, &attribute.value))
    });
}

fn optional(w: &mut Writer, optional: bool, body: impl FnOnce(&mut Writer)) {
    if optional { w.within("optional", &[], body) } else { body(w) }
}

fn words(w: &mut Writer, words: &[&str]) {
    w.within("choice", &[], |w| {
        for word in words {
            w.text("value", &[], word);
        }
    });
}

/// A value: by name, where several places have the same.
fn value(w: &mut Writer, value: &Value) {
    match shared(value) {
        Some(name) => w.empty("ref", &[("name", &name)]),
        None => whole_value(w, value),
    }
}

/// The name of a value's own definition; short ones have none.
fn shared(value: &Value) -> Option<String> {
    match value {
        Value::Class(class) => {
            (!class.pattern.is_empty()).then(|| format!("value.{}", class.name.to_lowercase()))
        }
        Value::Hex { max, .. } => Some(format!("value.hex.{max:x}")),
        Value::Number { min, max } => Some(format!("value.{min}.{max}")),
        Value::Signed { min, max } => Some(format!("value.signed.{min}.{max}")),
        Value::Word(["yes", "no"]) => Some("value.yes-no".to_owned()),
        Value::Word(["on", "off"]) => Some("value.on-off".to_owned()),
        Value::Word(_) => None,
    }
}

/// The definitions of all values that have one.
fn values(w: &mut Writer, elements: &Elements) {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    let mut add = |value: Value| shared(&value).and_then(|name| all.insert(name, value));
    for (element, _) in &elements.order {
        for attribute in element.attributes {
            add(attribute.value);
        }
        match element.body {
            Body::Size(_) => {
                add(value::UNIT);
                add(SIZE);
            }
            Body::Text(value) => {
                add(value);
            }
            Body::Children(_) | Body::Foreign => {}
        }
    }
    for (name, value) in &all {
        w.within("define", &[("name", name)], |w| whole_value(w, value));
    }
}

fn whole_value(w: &mut Writer, value: &Value) {
    match value {
        Value::Class(class) if class.pattern.is_empty() => w.empty("text", &[]),
        Value::Class(class) => pattern(w, class.pattern),
        Value::Hex { max, .. } => {
            let digits = format!("{max:x}").len();
            pattern(w, &format!("0[xX][0-9a-fA-F]{{1,{digits}}}|[0-9]+"));
        }
        Value::Number { min, max } => bounds(w, "unsignedLong", &min, &max),
        Value::Signed { min, max } => bounds(w, "long", &min, &max),
        Value::Word(words) => self::words(w, words),
    }
}

fn bounds(w: &mut Writer, kind: &str, min: &dyn std::fmt::Display, max: &dyn std::fmt::Display) {
    w.within("data", &[("type", &kind)], |w| {
        w.text("param", &[("name", &"minInclusive")], min);
        w.text("param", &[("name", &"maxInclusive")], max);
    });
}

fn pattern(w: &mut Writer, pattern: &str) {
    w.within("data", &[("type", &"string")], |w| w.text("param", &[("name", &"pattern")], pattern));
}

/// Elements of other programs: any, but of a namespace, and svirt's own by its schema.
fn foreign(w: &mut Writer) {
    w.within("define", &[("name", &"foreign")], |w| {
        w.within("interleave", &[], |w| {
            w.within("zeroOrMore", &[], |w| {
                w.within("element", &[], |w| {
                    w.within("anyName", &[], |w| {
                        w.within("except", &[], |w| {
                            w.empty("nsName", &[("ns", &"")]);
                            w.empty("nsName", &[("ns", &SVIRT_NAMESPACE)]);
                        });
                    });
                    w.empty("ref", &[("name", &"anything")]);
                });
            });
            w.within("optional", &[], |w| w.empty("ref", &[("name", &"svirt-domain")]));
        });
    });
    w.within("define", &[("name", &"anything")], |w| {
        w.within("zeroOrMore", &[], |w| {
            w.within("choice", &[], |w| {
                w.empty("text", &[]);
                w.within("attribute", &[], |w| w.empty("anyName", &[]));
                w.within("element", &[], |w| {
                    w.empty("anyName", &[]);
                    w.empty("ref", &[("name", &"anything")]);
                });
            });
        });
    });
}
