//! The classes of values: what an attribute or a text may say, and how libvirt writes it back.

use std::borrow::Cow;
use std::net::IpAddr;

/// What may stand in an attribute or a text.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// A class with a reader of its own.
    Class(&'static Class),
    /// A hexadecimal number of at least so many digits and at most that value; decimal is taken too.
    Hex {
        /// Digits that are written.
        digits: usize,
        /// The largest value.
        max: u64,
    },
    /// A decimal number.
    Number {
        /// The smallest value.
        min: u64,
        /// The largest value.
        max: u64,
    },
    /// A decimal number that may be negative.
    Signed {
        /// The smallest value.
        min: i64,
        /// The largest value.
        max: i64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
}

/// A class of texts.
#[derive(Debug)]
pub struct Class {
    /// Its name in the schema.
    pub name: &'static str,
    /// What it is, for errors: `an absolute path`.
    pub expected: &'static str,
    /// The pattern of XML Schema that describes it; empty for any text.
    pub pattern: &'static str,
    /// The text as libvirt writes it, or nothing where it is none of this class.
    pub read: fn(&str) -> Option<Cow<'_, str>>,
}

/// The longest path that the kernel takes, in bytes.
const PATH_MAX: usize = 4095;

pub(super) const UINT: Value = Value::Number { min: 0, max: u32::MAX as u64 };
pub(super) const POSITIVE: Value = Value::Number { min: 1, max: u32::MAX as u64 };
pub(super) const ULONG: Value = Value::Number { min: 0, max: i64::MAX as u64 };
pub(super) const BYTE: Value = Value::Number { min: 0, max: 255 };
pub(super) const SHORT: Value = Value::Number { min: 0, max: 65_535 };
pub(super) const PORT: Value = Value::Signed { min: -1, max: 65_535 };
pub(super) const INT: Value = Value::Signed { min: i32::MIN as i64, max: i32::MAX as i64 };
pub(super) const YES_NO: Value = Value::Word(&["yes", "no"]);
pub(super) const ON_OFF: Value = Value::Word(&["on", "off"]);

macro_rules! class {
    ($name:ident, $expected:literal, $pattern:literal, $read:expr) => {
        pub(in crate::conf::definition) const $name: Value = Value::Class(&Class {
            name: stringify!($name),
            expected: $expected,
            pattern: $pattern,
            read: $read,
        });
    };
}

class!(ANY, "text", "", |text| Some(Cow::Borrowed(text)));
class!(LINE, "one line of text", "[^\\n]+", |text| {
    (!text.is_empty() && !text.contains('\n')).then_some(Cow::Borrowed(text))
});
class!(PATH, "an absolute path without control characters", "/.+", absolute);
class!(DIRECTORY, "an absolute path without control characters", "/.*", |text| {
    if text == "/" { Some(Cow::Borrowed(text)) } else { absolute(text) }
});
class!(FILE, "a path or a file name without control characters", ".+", |text| {
    (!text.is_empty() && text.len() <= PATH_MAX && !text.chars().any(char::is_control))
        .then_some(Cow::Borrowed(text))
});
class!(NAME, "a name of letters, digits, '.', '_', '+', ':' and '-'", "[a-zA-Z0-9_.+:\\-]+", |text| {
    only(text, |c| c.is_ascii_alphanumeric() || "_.+:-".contains(c))
});
class!(
    DEVICE,
    "a device name of letters, digits and '_', '.', '-', '\\', ':', '/'",
    "[a-zA-Z0-9_.\\-\\\\:/]+",
    |text| only(text, |c| c.is_ascii_alphanumeric() || "_.-\\:/".contains(c))
);
class!(ALIAS, "a name of letters, digits, '_', '.' and '-'", "[a-zA-Z0-9_.\\-]+", |text| {
    only(text, |c| c.is_ascii_alphanumeric() || "_.-".contains(c))
});
class!(
    TARGET,
    "a disk name such as vda, sdb, hdc, fda or nvme0n1",
    "(fd|hd|nvme|sd|vd|xvd|ubd)[a-zA-Z0-9_]+",
    |text| {
        let rest = ["fd", "hd", "nvme", "sd", "vd", "xvd", "ubd"]
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))?;
        only(rest, |c| c.is_ascii_alphanumeric() || c == '_')?;
        Some(Cow::Borrowed(text))
    }
);
class!(
    UUID,
    "a uuid such as 1b4e28ba-2fa1-4d2e-883f-0016d3cca427",
    "[a-fA-F0-9]{32}|[a-fA-F0-9]{8}-([a-fA-F0-9]{4}-){3}[a-fA-F0-9]{12}",
    |text| {
        let text = trim(text);
        matches!(text.len(), 32 | 36).then_some(())?;
        let uuid = uuid::Uuid::parse_str(text).ok().filter(|uuid| !uuid.is_nil())?;
        Some(Cow::Owned(uuid.as_hyphenated().to_string()))
    }
);
class!(
    MAC,
    "the MAC address of one card, such as 52:54:00:12:34:56",
    "[a-fA-F0-9][02468aceACE]:([a-fA-F0-9]{2}:){4}[a-fA-F0-9]{2}",
    |text| {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| {
                let digits = matches!(part.len(), 1 | 2) && part.bytes().all(|b| b.is_ascii_hexdigit());
                digits.then(|| u8::from_str_radix(part, 16).ok()).flatten()
            })
            .collect();
        let bytes = bytes.filter(|bytes| bytes.len() == 6 && bytes.first().is_some_and(|b| b & 1 == 0))?;
        Some(Cow::Owned(bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")))
    }
);
class!(IP, "an IP address", "[0-9.]+|[0-9a-fA-F:.]+", |text| {
    text.parse::<IpAddr>().ok().map(|_| Cow::Borrowed(text))
});
class!(HOST, "a host name or an IP address", "[a-zA-Z0-9.:%_\\-]+", |text| {
    only(text, |c| c.is_ascii_alphanumeric() || ".:%_-".contains(c))
});
class!(
    CPUSET,
    "a set of numbers such as 0-3,^2,8",
    "([0-9]+(-[0-9]+)?|\\^[0-9]+)(,([0-9]+(-[0-9]+)?|\\^[0-9]+))*",
    cpuset
);
class!(OCTAL, "a file mode such as 0755", "0?[0-7]{1,3}", |text| {
    let digits = text.strip_prefix('0').filter(|rest| !rest.is_empty()).unwrap_or(text);
    (digits.len() <= 3).then_some(())?;
    only(digits, |c| ('0'..='7').contains(&c))?;
    Some(Cow::Owned(format!("0{digits:0>3}")))
});
class!(
    UNIT,
    "a unit such as KiB, MiB or GiB",
    "[bB]([yY][tT][eE][sS]?)?|[kKmMgGtTpPeE]([iI]?[bB])?",
    |text| { unit(text).map(|_| Cow::Borrowed(text)) }
);
class!(USB_PORT, "a port such as 1 or 1.2", "[0-9]{1,3}(\\.[0-9]{1,3}){0,3}", |text| {
    let parts = text.split('.').count();
    let fine = parts <= 4
        && text.split('.').all(|part| part.len() <= 3 && only(part, |c| c.is_ascii_digit()).is_some());
    fine.then_some(Cow::Borrowed(text))
});
class!(WWN, "16 hexadecimal digits", "(0x)?[0-9a-fA-F]{16}", |text| {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    (digits.len() == 16).then_some(())?;
    only(digits, |c| c.is_ascii_hexdigit())?;
    Some(Cow::Borrowed(text))
});
class!(WORD, "one word of letters, digits, '-', '_' and '.'", "[a-zA-Z0-9_.\\-]+", |text| {
    only(text, |c| c.is_ascii_alphanumeric() || "_.-".contains(c))
});
class!(HEX_POLICY, "a number such as 0x0003", "(0x)?[0-9a-fA-F]+", |text| {
    let value = match text.strip_prefix("0x") {
        Some(digits) => {
            only(digits, |c| c.is_ascii_hexdigit()).and_then(|d| u64::from_str_radix(&d, 16).ok())
        }
        None => decimal(text),
    }?;
    Some(Cow::Owned(format!("0x{value:04x}")))
});
class!(LABEL, "a label of 1 to 4096 bytes without control characters", "[^\\n\\r\\t]+", |text| {
    let fine = !text.is_empty() && text.len() <= 4096 && !text.chars().any(char::is_control);
    fine.then_some(Cow::Borrowed(text))
});
class!(MODEL, "the name of a label model, of less than 257 bytes", "[^\\n\\r\\t]+", |text| {
    let fine = !text.is_empty() && text.len() < 257 && !text.chars().any(char::is_control);
    fine.then_some(Cow::Borrowed(text))
});
class!(
    SERIAL,
    "a serial number of letters, digits, blanks and '_', '.', '+', '-'",
    "[A-Za-z0-9_.+\\- ]+",
    |text| { only(text, |c| c.is_ascii_alphanumeric() || "_.+- ".contains(c)) }
);
class!(PRINTABLE, "printable ASCII", "[ -~]*", |text| {
    text.chars().all(|c| (' '..='~').contains(&c)).then_some(Cow::Borrowed(text))
});
class!(ADJUSTMENT, "a number of seconds, or reset", "[+\\-]?[0-9]+|reset", |text| {
    if text == "reset" {
        return Some(Cow::Borrowed(text));
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    only(digits, |c| c.is_ascii_digit())?;
    text.parse::<i64>().ok().map(|seconds| Cow::Owned(seconds.to_string()))
});
class!(ENVIRONMENT, "the name of an environment variable", "[a-zA-Z0-9_]+", |text| {
    only(text, |c| c.is_ascii_alphanumeric() || c == '_')
});

class!(PATH_OR_NOTHING, "an absolute path, or nothing", "(/.+)?", |text| {
    let text = trim(text);
    if text.is_empty() { Some(Cow::Borrowed("")) } else { absolute(text) }
});
class!(
    UUID_OR_NOTHING,
    "a uuid, or nothing",
    "([a-fA-F0-9]{32}|[a-fA-F0-9]{8}-([a-fA-F0-9]{4}-){3}[a-fA-F0-9]{12})?",
    |text| {
        let text = trim(text);
        if text.is_empty() {
            return Some(Cow::Borrowed(""));
        }
        matches!(text.len(), 32 | 36).then_some(())?;
        let uuid = uuid::Uuid::parse_str(text).ok()?;
        Some(Cow::Owned(uuid.as_hyphenated().to_string()))
    }
);

fn absolute(text: &str) -> Option<Cow<'_, str>> {
    let fine = text.starts_with('/')
        && text.len() > 1
        && text.len() <= PATH_MAX
        && !text.chars().any(char::is_control);
    fine.then_some(Cow::Borrowed(text))
}

fn only(text: &str, allowed: impl Fn(char) -> bool) -> Option<Cow<'_, str>> {
    (!text.is_empty() && text.chars().all(allowed)).then_some(Cow::Borrowed(text))
}

/// White space as XML knows it.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

fn cpuset(text: &str) -> Option<Cow<'_, str>> {
    let text = trim(text);
    for part in text.split(',') {
        let (from, to) = match part.strip_prefix('^') {
            Some(not) => (not, not),
            None => part.split_once('-').unwrap_or((part, part)),
        };
        let (from, to) = (decimal(from)?, decimal(to)?);
        if from > to || to > 65_535 {
            return None;
        }
    }
    Some(Cow::Borrowed(text))
}

/// A decimal number without a sign.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    only(text, |c| c.is_ascii_digit()).and_then(|digits| digits.parse().ok())
}

/// What one unit is in bytes, as libvirt's `virScaleInteger` has it.
pub(crate) fn unit(unit: &str) -> Option<u64> {
    let lower = unit.to_ascii_lowercase();
    if matches!(lower.as_str(), "b" | "byte" | "bytes") {
        return Some(1);
    }
    let (prefix, base) = match lower.strip_suffix("ib") {
        Some(binary) => (binary, 1024_u64),
        None => lower.strip_suffix('b').map_or((lower.as_str(), 1024), |prefix| (prefix, 1000)),
    };
    let power = ["k", "m", "g", "t", "p", "e"].iter().position(|known| *known == prefix)?;
    base.checked_pow(u32::try_from(power).ok()?.saturating_add(1))
}

impl Value {
    /// The text as libvirt writes it, or nothing where it is no such value.
    #[must_use]
    pub fn read<'t>(&self, text: &'t str) -> Option<Cow<'t, str>> {
        match self {
            Self::Class(class) => (class.read)(text),
            Self::Hex { digits, max } => {
                let text = trim(text);
                let value = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
                    Some(hex) => {
                        only(hex, |c| c.is_ascii_hexdigit()).and_then(|h| u64::from_str_radix(&h, 16).ok())
                    }
                    None => decimal(text),
                };
                let value = value.filter(|value| value <= max)?;
                Some(Cow::Owned(format!("0x{value:0digits$x}")))
            }
            Self::Number { min, max } => {
                let text = trim(text);
                let value = decimal(text).filter(|value| (min..=max).contains(&value))?;
                let plain = text == "0" || !text.starts_with('0');
                Some(if plain { Cow::Borrowed(text) } else { Cow::Owned(value.to_string()) })
            }
            Self::Signed { min, max } => {
                let text = trim(text);
                only(text.strip_prefix('-').unwrap_or(text), |c| c.is_ascii_digit())?;
                let value = text.parse::<i64>().ok().filter(|value| (min..=max).contains(&value))?;
                Some(Cow::Owned(value.to_string()))
            }
            Self::Word(words) => words.iter().find(|word| **word == text).map(|word| Cow::Borrowed(*word)),
        }
    }

    /// What may stand there, for errors.
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Class(class) => class.expected.to_owned(),
            Self::Hex { max, .. } => format!("a number of at most {max:#x}"),
            Self::Number { min, max: u64::MAX } => format!("a number of at least {min}"),
            Self::Number { min, max } => format!("a number from {min} to {max}"),
            Self::Signed { min, max } => format!("a number from {min} to {max}"),
            Self::Word(words) => match words {
                [one] => (*one).to_owned(),
                [first @ .., last] => format!("{} or {last}", first.join(", ")),
                [] => "nothing".to_owned(),
            },
        }
    }
}
