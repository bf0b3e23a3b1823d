//! Filter fragments as they stand in `labels/seccomp`: TOML in, rules out, anything unclear refused.

use std::sync::OnceLock;

use serde::Deserialize;
use syscalls::Sysno;

use super::constants;
use super::model::{Action, Condition, Filter, Test, Word};

/// A named part of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Its name, that of its file.
    pub name: String,
    /// What it is for, one sentence.
    pub summary: String,
    /// Its rules, in the order of the file.
    pub rules: Vec<Rule>,
}

/// Some system calls, when they are let through, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The calls.
    pub calls: Vec<Sysno>,
    /// What they get where all conditions hold.
    pub action: Action,
    /// The conditions on their arguments.
    pub conditions: Vec<Condition>,
    /// Why the rule is there.
    pub reason: String,
}

/// Why a text is no fragment.
#[derive(Debug, thiserror::Error)]
pub enum FragmentError {
    /// It is not TOML, or has other keys than it should.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A rule has no reason.
    #[error("{fragment}: the rule for {calls} has no reason")]
    NoReason {
        /// Which fragment.
        fragment: String,
        /// The rule's calls.
        calls: String,
    },
    /// A system call's name is not in the table.
    #[error("{fragment}: x86-64 has no system call named {call:?}")]
    UnknownCall {
        /// Which fragment.
        fragment: String,
        /// The name.
        call: String,
    },
    /// A constant's name is not in the table.
    #[error("{fragment}: {name:?} is no known constant")]
    UnknownConstant {
        /// Which fragment.
        fragment: String,
        /// The name.
        name: String,
    },
    /// A rule's keys contradict each other.
    #[error("{fragment}: the rule for {calls}: {what}")]
    Contradiction {
        /// Which fragment.
        fragment: String,
        /// The rule's calls.
        calls: String,
        /// What is wrong.
        what: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFragment {
    name: String,
    summary: String,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    calls: Vec<String>,
    class: RawClass,
    errno: Option<RawErrno>,
    #[serde(default)]
    args: Vec<RawCondition>,
    #[serde(default)]
    reason: String,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum RawClass {
    Always,
    Kill,
    Launch,
    Refused,
}

#[derive(Clone, Copy, Deserialize)]
enum RawErrno {
    #[serde(rename = "ENOSYS")]
    Enosys,
    #[serde(rename = "EPERM")]
    Eperm,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawCondition {
    arg: u8,
    #[serde(default)]
    word: RawWord,
    at_most: Option<RawValue>,
    mask: Option<RawValue>,
    value: Option<RawValue>,
    one_of: Option<Vec<RawValue>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RawWord {
    Full,
    #[default]
    Low,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawValue {
    Number(u64),
    Names(String),
}

impl Fragment {
    /// Reads a fragment.
    pub fn parse(text: &str) -> Result<Self, FragmentError> {
        let raw: RawFragment = toml::from_str(text)?;
        let name = raw.name;
        let rules = raw.rule.into_iter().map(|rule| read_rule(&name, rule)).collect::<Result<_, _>>()?;
        Ok(Self { rules, summary: raw.summary, name })
    }

    /// Reads a fragment that is part of the program, once.
    pub fn once(read: &'static OnceLock<Self>, text: &str) -> Result<&'static Self, FragmentError> {
        match read.get() {
            Some(fragment) => Ok(fragment),
            None => {
                let fragment = Self::parse(text)?;
                Ok(read.get_or_init(|| fragment))
            }
        }
    }

    /// Adds every rule to a filter; [`Filter::normalise`] comes after the last fragment.
    pub fn add_to(&self, filter: &mut Filter) {
        for rule in &self.rules {
            for call in &rule.calls {
                filter.add(*call, rule.conditions.clone(), rule.action);
            }
        }
    }
}

fn read_rule(fragment: &str, raw: RawRule) -> Result<Rule, FragmentError> {
    let names = raw.calls.join(", ");
    let wrong = |what| FragmentError::Contradiction { fragment: fragment.into(), calls: names.clone(), what };
    if raw.reason.trim().is_empty() {
        return Err(FragmentError::NoReason { fragment: fragment.into(), calls: names });
    }
    if raw.calls.is_empty() {
        return Err(wrong("it names no system call"));
    }
    if raw.errno.is_some() != (raw.class == RawClass::Refused) {
        return Err(wrong("an error number belongs to the class \"refused\", and only there"));
    }
    let action = match (raw.class, raw.errno) {
        (RawClass::Always, _) => Action::Allow,
        (RawClass::Kill, _) => Action::Kill,
        (RawClass::Launch, _) => Action::Launch,
        (RawClass::Refused, Some(RawErrno::Enosys)) => Action::Errno(libc::ENOSYS as u16),
        (RawClass::Refused, _) => Action::Errno(libc::EPERM as u16),
    };
    let calls = raw.calls.iter().map(|call| read_call(fragment, call)).collect::<Result<_, _>>()?;
    let conditions = raw
        .args
        .into_iter()
        .map(|condition| read_condition(fragment, condition)?.ok_or_else(|| wrong("a condition is unclear")))
        .collect::<Result<_, _>>()?;
    Ok(Rule { calls, action, conditions, reason: raw.reason })
}

fn read_call(fragment: &str, call: &str) -> Result<Sysno, FragmentError> {
    call.parse().map_err(|_| FragmentError::UnknownCall { fragment: fragment.into(), call: call.into() })
}

/// `None` where the keys of the condition do not make exactly one test.
fn read_condition(fragment: &str, raw: RawCondition) -> Result<Option<Condition>, FragmentError> {
    let read = |value: RawValue| read_value(fragment, value);
    let test = match (raw.at_most, raw.mask, raw.value, raw.one_of) {
        (Some(most), None, None, None) => Test::AtMost(read(most)?),
        (None, Some(mask), Some(value), None) => Test::Masked { mask: read(mask)?, value: read(value)? },
        (None, None, None, Some(values)) if !values.is_empty() => {
            let mut values = values.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
            values.sort_unstable();
            values.dedup();
            Test::OneOf(values)
        }
        _ => return Ok(None),
    };
    let word = match raw.word {
        RawWord::Full => Word::Full,
        RawWord::Low => Word::Low,
    };
    Ok((raw.arg < 6).then_some(Condition { arg: raw.arg, word, test }))
}

/// A number, or names of constants joined by `|`.
fn read_value(fragment: &str, value: RawValue) -> Result<u64, FragmentError> {
    match value {
        RawValue::Number(number) => Ok(number),
        RawValue::Names(names) => names.split('|').map(str::trim).try_fold(0, |sum, name| {
            constants::value(name).map(|value| sum | value).ok_or_else(|| FragmentError::UnknownConstant {
                fragment: fragment.into(),
                name: name.into(),
            })
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(rule: &str) -> Result<Fragment, FragmentError> {
        Fragment::parse(&format!("name = \"t\"\nsummary = \"s\"\n[[rule]]\n{rule}"))
    }

    #[test]
    fn a_rule_needs_a_reason() {
        let error = parse("calls = [\"read\"]\nclass = \"always\"\nreason = \" \"").unwrap_err();
        assert!(matches!(error, FragmentError::NoReason { .. }), "{error}");
    }

    #[test]
    fn names_that_nobody_knows_are_refused() {
        let call = parse("calls = [\"raed\"]\nclass = \"always\"\nreason = \"r\"").unwrap_err();
        assert!(call.to_string().contains("raed"), "{call}");
        let name = parse(
            "calls = [\"socket\"]\nclass = \"always\"\nreason = \"r\"\nargs = [{ arg = 0, one-of = [\"AF_X\"] }]",
        )
        .unwrap_err();
        assert!(name.to_string().contains("AF_X"), "{name}");
        assert!(matches!(parse("calls = [\"read\"]\nwhen = 1"), Err(FragmentError::Toml(_))));
    }

    #[test]
    fn an_unclear_condition_is_refused() {
        for args in
            ["{ arg = 0 }", "{ arg = 6, one-of = [1] }", "{ arg = 0, mask = 1 }", "{ arg = 0, one-of = [] }"]
        {
            let text = format!("calls = [\"read\"]\nclass = \"always\"\nreason = \"r\"\nargs = [{args}]");
            assert!(matches!(parse(&text), Err(FragmentError::Contradiction { .. })), "{args}");
        }
    }
}
