//! What several domains use under one category pair, as plans, leases and surveys name it.

use serde::{Deserialize, Serialize};

use super::op::FileIdentity;

/// What several domains may use under one category pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum ShareIdentity {
    /// An image or a directory: it is there before its first domain.
    Object(FileIdentity),
    /// Memory: its first domain makes the file, after the pair is chosen, so it goes by its name.
    Memory {
        /// Its name inside the configured directory.
        memory: String,
    },
}

impl ShareIdentity {
    /// That of memory.
    #[must_use]
    pub fn memory(name: &str) -> Self {
        Self::Memory { memory: name.to_owned() }
    }
}

impl From<FileIdentity> for ShareIdentity {
    fn from(identity: FileIdentity) -> Self {
        Self::Object(identity)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_memory_are_told_apart_and_nothing_else_is_taken() {
        let file = ShareIdentity::from(FileIdentity { device: 1, inode: 7 });
        // As journals have had it before there was memory.
        for (identity, text) in
            [(file, r#"{"device":1,"inode":7}"#), (ShareIdentity::memory("m"), r#"{"memory":"m"}"#)]
        {
            assert_eq!(serde_json::to_string(&identity).unwrap(), text);
            assert_eq!(serde_json::from_str::<ShareIdentity>(text).unwrap(), identity);
        }
        for text in
            [r#"{"device":1}"#, r#"{"memory":"m","inode":7}"#, r#"{"device":1,"inode":7,"memory":"m"}"#, "{}"]
        {
            assert!(serde_json::from_str::<ShareIdentity>(text).is_err(), "{text}");
        }
    }
}
