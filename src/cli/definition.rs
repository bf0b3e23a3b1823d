//! A definition's file: opened as the caller, read and parsed without privilege.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::exit::Failure;
use crate::base::Refusal;
use crate::conf::definition::{Definition as Kept, Strictness, Warning};
use crate::conf::domain::{Beyond, Domain};
use crate::conf::{DefinitionError, domain_xml};

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
        let (text, name) = self.read()?;
        domain_xml::parse(&text).map_err(|error| refused(error, &name))
    }

    /// Reads and parses it for whoever starts nothing, with what devices that do not run would use.
    pub(super) fn parse_beyond(self) -> Result<(Domain, Vec<Beyond>), Failure> {
        let (text, name) = self.read()?;
        domain_xml::parse_beyond(&text).map_err(|error| refused(error, &name))
    }

    /// Reads it and brings it into the kept form. To be called after privilege is gone.
    pub(super) fn keep(self, strictness: Strictness) -> Result<(Kept, Vec<Warning>, String), Failure> {
        let (text, name) = self.read()?;
        let (kept, warnings) = Kept::parse(&text, strictness).map_err(|error| refused(error, &name))?;
        Ok((kept, warnings, name))
    }

    fn read(self) -> Result<(Vec<u8>, String), Failure> {
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
        Ok((text, self.name))
    }
}

/// The refusal, with the file's name.
pub(super) fn refused(error: DefinitionError, name: &str) -> Failure {
    let refusal = Refusal::from(error);
    Refusal { object: format!("the domain definition {name}"), ..refusal }.into()
}
