//! SELinux contexts: `user:role:type:range`, checked before they go anywhere.

use std::fmt;
use std::str::FromStr;

use super::range::{Range, RangeError};

/// A whole context.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// Such as `system_u`.
    pub user: String,
    /// Such as `system_r`, or `object_r` for a file.
    pub role: String,
    /// The type.
    pub kind: String,
    /// The range.
    pub range: Range,
}

/// Why a text is no context.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Not four parts, or a part that is no identifier.
    #[error("it has not the form user:role:type:range")]
    Form,
    /// The range is wrong.
    #[error(transparent)]
    Range(#[from] RangeError),
}

impl Context {
    /// The context of a process that svirt starts.
    #[must_use]
    pub fn process(kind: &str, range: Range) -> Self {
        Self { user: "system_u".into(), role: "system_r".into(), kind: kind.into(), range }
    }

    /// The context of a file.
    #[must_use]
    pub fn file(kind: &str, range: Range) -> Self {
        Self { user: "system_u".into(), role: "object_r".into(), kind: kind.into(), range }
    }
}

fn identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

impl FromStr for Context {
    type Err = ContextError;

    fn from_str(text: &str) -> Result<Self, ContextError> {
        let mut parts = text.splitn(4, ':');
        let (Some(user), Some(role), Some(kind), Some(range)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ContextError::Form);
        };
        if ![user, role, kind].into_iter().all(identifier) {
            return Err(ContextError::Form);
        }
        Ok(Self { user: user.into(), role: role.into(), kind: kind.into(), range: range.parse()? })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.user, self.role, self.kind, self.range)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_read_and_printed() {
        let text = "system_u:system_r:svirt_guest_t:s0:c41,c264";
        let context: Context = text.parse().unwrap();
        assert_eq!(context.kind, "svirt_guest_t");
        assert_eq!(context.range.pair().unwrap().to_string(), "c41,c264");
        assert_eq!(context.to_string(), text);
    }

    #[test]
    fn other_texts_are_not() {
        for text in ["", "a:b:c", "a:b:c:s0:c1:c2", "a b:c:d:s0", ":r:t:s0", "u:r:t:s0\n", "u:r:t\0:s0"] {
            assert!(text.parse::<Context>().is_err(), "{text:?}");
        }
    }
}
