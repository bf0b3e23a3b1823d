//! A definition's file: opened as the caller, read and parsed without privilege.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::exit::Failure;
use crate::base::Refusal;
use crate::conf::domain::Domain;
use crate::conf::domain_xml;

/// The longest definition that is read, in bytes; libvirt's own limit is the same.
const DEFINITION_MAX: u64 = 64 << 20;

/// A definition that is open and not yet read.
pub(super) struct Definition {
    source: Box<dyn Read>,
    name: String,
}

impl Definition {
    /// Opens it; `-` is standard input.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self { source: Box::new(std::io::stdin()), name: "standard input".into() });
        }
        let file = File::open(path).map_err(|error| {
            Failure::plain(
                format!("cannot read the definition {}: {error}", path.display()),
                "name a file with libvirt's domain XML",
            )
        })?;
        Ok(Self { source: Box::new(file), name: path.display().to_string() })
    }

    /// Reads and parses it. To be called after privilege is gone.
    pub(super) fn parse(self) -> Result<Domain, Failure> {
        let mut text = Vec::new();
        // One byte more than is allowed, to tell whether there is more.
        self.source.take(DEFINITION_MAX + 1).read_to_end(&mut text).map_err(|error| {
            Failure::plain(format!("cannot read the definition {}: {error}", self.name), "")
        })?;
        if text.len() as u64 > DEFINITION_MAX {
            return Err(Failure::plain(
                format!("the definition {} is longer than {DEFINITION_MAX} bytes", self.name),
                "name a file with libvirt's domain XML",
            ));
        }
        domain_xml::parse(&text).map_err(|error| {
            let refusal = Refusal::from(error);
            Refusal { object: format!("the domain definition {}", self.name), ..refusal }.into()
        })
    }
}
