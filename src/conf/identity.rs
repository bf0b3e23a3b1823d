//! Name and uuid of a definition and nothing else, so that whether somebody may hand it in is decided before the
//! rest of it is read.
//!
//! Reads tokens until it has both, keeps no tree, and goes no deeper than counting. What it finds must be found
//! again by whoever reads the whole definition afterwards.

use quick_xml::events::Event;
use quick_xml::reader::Reader;

use crate::base::{DomainName, DomainUuid};

/// The longest definition in bytes; what a client of libvirt's can send.
const BYTES_MAX: usize = 4 << 20;
/// The most tokens that are looked at.
const TOKENS_MAX: usize = 400_000;

/// What identifies a definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `<name>`
    pub name: DomainName,
    /// `<uuid>`, where there is one.
    pub uuid: Option<DomainUuid>,
}

/// Reads it; an error is a sentence for whoever wrote the definition.
pub fn read(xml: &str) -> Result<Identity, String> {
    if xml.len() > BYTES_MAX {
        return Err(format!("the definition is longer than {BYTES_MAX} bytes"));
    }
    let mut reader = Reader::from_str(xml);
    let (mut depth, mut name, mut uuid): (usize, Option<String>, Option<String>) = (0, None, None);
    let mut into = Part::Other;
    for _ in 0..TOKENS_MAX {
        match reader
            .read_event()
            .map_err(|error| format!("the definition is not well-formed XML: {error}"))?
        {
            Event::Start(tag) => {
                depth += 1;
                into = match (depth, tag.name().as_ref()) {
                    (1, "domain") => Part::Other,
                    (1, _) => return Err("the root element is not <domain>".into()),
                    (2, "name") if name.is_none() => Part::Name,
                    (2, "uuid") if uuid.is_none() => Part::Uuid,
                    _ => Part::Other,
                };
            }
            Event::Empty(tag) if depth == 0 && tag.name().as_ref() != "domain" => {
                return Err("the root element is not <domain>".into());
            }
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                into = Part::Other;
            }
            Event::Text(text) => into.keep(&text.into_inner(), &mut name, &mut uuid),
            Event::CData(text) => into.keep(&text.into_inner(), &mut name, &mut uuid),
            Event::GeneralRef(_) if into != Part::Other => {
                return Err("the name or uuid contains a reference; write the character itself".into());
            }
            Event::DocType(_) => return Err("a document type declaration is refused".into()),
            Event::Eof => break,
            _ => {}
        }
        if depth == 1 && name.is_some() && uuid.is_some() {
            break;
        }
    }
    finish(name, uuid)
}

/// What is being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Name,
    Other,
    Uuid,
}

impl Part {
    fn keep(self, text: &str, name: &mut Option<String>, uuid: &mut Option<String>) {
        let kept = match self {
            Self::Name => name,
            Self::Uuid => uuid,
            Self::Other => return,
        };
        kept.get_or_insert_default().push_str(text);
    }
}

fn finish(name: Option<String>, uuid: Option<String>) -> Result<Identity, String> {
    let name = name.ok_or("the definition has no <name>")?;
    let name = DomainName::new(name.trim()).map_err(|error| error.to_string())?;
    let parse = |text: String| {
        let uuid = uuid::Uuid::try_parse(text.trim());
        uuid.map(DomainUuid).map_err(|_| {
            format!("malformed uuid element: {:?}", text.trim().get(..60).unwrap_or(text.trim()))
        })
    };
    Ok(Identity { name, uuid: uuid.map(parse).transpose()? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn another_root_is_named_whether_or_not_it_holds_anything() {
        for xml in ["<bogus/>", "<bogus></bogus>", "<bogus><name>a</name></bogus>"] {
            assert_eq!(read(xml).unwrap_err(), "the root element is not <domain>", "{xml}");
        }
        assert_eq!(read("<domain/>").unwrap_err(), "the definition has no <name>");
    }

    #[test]
    fn name_and_uuid_are_found_wherever_they_stand() {
        let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
        let found = read(&format!(
            "<?xml version='1.0'?><!-- x --><domain type='kvm'><devices><disk><name>no</name></disk></devices>\
             <uuid> {uuid} </uuid><name>web</name></domain>"
        ));
        let found = found.unwrap();
        assert_eq!((found.name.as_str(), found.uuid.unwrap().to_string().as_str()), ("web", uuid));
        assert_eq!(read("<domain><name>a</name></domain>").unwrap().uuid, None);
    }

    #[test]
    fn what_identifies_nothing_is_refused() {
        for wrong in [
            "",
            "<domain/>",
            "<network><name>a</name></network>",
            "<domain><name>a/b</name></domain>",
            "<domain><name>a</name><uuid>1</uuid></domain>",
            "<domain><name>a&amp;b</name></domain>",
            "<!DOCTYPE a><domain><name>a</name></domain>",
            "<domain><name>a</nam",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read(&"<a>".repeat(100_000)).is_err());
        assert!(read(&" ".repeat(BYTES_MAX + 1)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[<>/a-z='& !\\-\\[\\]]{0,80}") {
            let _ = read(&format!("<domain><name>{text}"));
        }
    }
}
