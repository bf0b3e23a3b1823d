//! svirt's own facts in a definition's `<metadata>`, under a namespace of their own because libvirt's schema admits
//! them nowhere else. `xml-schemas/metadata.rng` is the grammar. What stands in this namespace and is unknown is
//! refused, never passed over: it may ask for isolation.

use serde::Serialize;

use super::definition::SVIRT_NAMESPACE;
use super::xml::Document;
use super::xml::walk::At;
use super::{DefinitionError, DefinitionErrorKind, error::clip};

/// The most models that one domain's labels are bound for.
const BINDINGS_MAX: usize = 16;
/// The longest domain of interpretation and the longest model, in bytes: libvirt's limits.
const TEXT_MAX: usize = 256;

/// `<svirt:domain>`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// `<svirt:seclabel>`, one a model.
    pub bindings: Vec<Binding>,
}

/// `<svirt:seclabel model=… doi=…/>`: in which domain of interpretation a definition's labels of a model are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Binding {
    /// Such as `selinux`.
    pub model: String,
    /// The domain of interpretation.
    pub doi: String,
    /// Line of the element in the definition.
    pub line: u32,
}

/// Reads it from a definition.
pub(super) fn read(document: &Document<'_>) -> Result<Metadata, DefinitionError> {
    let mut metadata = Metadata::default();
    let Some(around) = At::root(document).one("metadata") else { return Ok(metadata) };
    let mut own = around.elements().filter(|inner| inner.namespace() == Some(SVIRT_NAMESPACE));
    let Some(domain) = own.next() else { return Ok(metadata) };
    if let Some(second) = own.next() {
        return Err(refuse(second, "a second element of svirt's namespace", "keep one <svirt:domain>"));
    }
    if domain.name() != "domain" {
        return Err(refuse(domain, "an element that is not <svirt:domain>", "write <svirt:domain>"));
    }
    nothing_but(domain, &[])?;
    for inner in domain.elements() {
        if inner.name() != "seclabel" || inner.namespace() != Some(SVIRT_NAMESPACE) {
            return Err(refuse(
                inner,
                &format!("<{}> in <svirt:domain>", clip(inner.name())),
                "svirt knows <svirt:seclabel model=… doi=…/> there",
            ));
        }
        let binding = binding(inner)?;
        if metadata.bindings.iter().any(|known| known.model == binding.model)
            || metadata.bindings.len() >= BINDINGS_MAX
        {
            let what = format!("another <svirt:seclabel> for the model {:?}", clip(&binding.model));
            return Err(refuse(inner, &what, "keep one for each model"));
        }
        metadata.bindings.push(binding);
    }
    Ok(metadata)
}

fn binding(at: At<'_>) -> Result<Binding, DefinitionError> {
    nothing_but(at, &["model", "doi"])?;
    if at.elements().next().is_some() {
        return Err(refuse(at, "something inside <svirt:seclabel>", "remove it"));
    }
    let text = |name: &str| {
        let value = at.attribute(name).unwrap_or_default();
        let good = (1..=TEXT_MAX).contains(&value.len())
            && !value.chars().any(|c| c.is_whitespace() || c.is_control());
        if good {
            return Ok(value.to_owned());
        }
        let what = format!(
            "<svirt:seclabel> without {name}, or with one of blanks or of more than {TEXT_MAX} bytes"
        );
        Err(refuse(at, &what, "write <svirt:seclabel model='selinux' doi='…'/>"))
    };
    Ok(Binding { model: text("model")?, doi: text("doi")?, line: at.line() })
}

/// Refuses attributes that are not listed, and text.
fn nothing_but(at: At<'_>, attributes: &[&str]) -> Result<(), DefinitionError> {
    if let Some(name) = at.attributes().find(|name| !attributes.contains(name)) {
        let what = format!("attribute {} of <svirt:{}>", clip(name), at.name());
        return Err(refuse(at, &what, "remove it"));
    }
    if at.text().chars().any(|c| !c.is_ascii_whitespace()) {
        return Err(refuse(at, &format!("text in <svirt:{}>", at.name()), "remove it"));
    }
    Ok(())
}

fn refuse(at: At<'_>, what: &str, remedy: &str) -> DefinitionError {
    DefinitionError {
        line: at.line(),
        path: "/domain/metadata".into(),
        kind: DefinitionErrorKind::Contradiction(format!("svirt's metadata has {what}")),
        remedy: remedy.into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn read_of(inside: &str) -> Result<Metadata, DefinitionError> {
        let xml = format!(
            "<domain>\n<metadata><o:note xmlns:o='urn:other' anything='1'>x</o:note>{inside}</metadata></domain>"
        );
        read(&Document::parse(xml.as_bytes()).unwrap())
    }

    #[test]
    fn bindings_are_read_and_other_programs_notes_passed_over() {
        assert_eq!(read_of("").unwrap(), Metadata::default());
        let found = read_of(
            "<s:domain xmlns:s='urn:svirt:domain:1'> <s:seclabel model='selinux' doi='a.example.'/> \
             <s:seclabel doi='0' model='dac'/></s:domain>",
        )
        .unwrap();
        let pairs: Vec<_> =
            found.bindings.iter().map(|b| (b.model.as_str(), b.doi.as_str(), b.line)).collect();
        assert_eq!(pairs, [("selinux", "a.example.", 2), ("dac", "0", 2)]);
    }

    #[test]
    fn what_is_unknown_in_svirts_namespace_is_refused() {
        for inside in [
            "<s:other xmlns:s='urn:svirt:domain:1'/>",
            "<s:domain xmlns:s='urn:svirt:domain:1'><s:profile/></s:domain>",
            "<s:domain xmlns:s='urn:svirt:domain:1'><seclabel model='dac' doi='0'/></s:domain>",
            "<s:domain xmlns:s='urn:svirt:domain:1' strict='yes'/>",
            "<s:domain xmlns:s='urn:svirt:domain:1'>x</s:domain>",
            "<s:domain xmlns:s='urn:svirt:domain:1'/><t:domain xmlns:t='urn:svirt:domain:1'/>",
            "<s:domain xmlns:s='urn:svirt:domain:1'><s:seclabel model='dac'/></s:domain>",
            "<s:domain xmlns:s='urn:svirt:domain:1'><s:seclabel model='dac' doi=''/></s:domain>",
            "<s:domain xmlns:s='urn:svirt:domain:1'><s:seclabel model='dac' doi='a b'/></s:domain>",
            "<s:domain xmlns:s='urn:svirt:domain:1'><s:seclabel model='dac' doi='0' type='x'/></s:domain>",
            "<s:domain xmlns:s='urn:svirt:domain:1'><s:seclabel model='dac' doi='0'><a/></s:seclabel></s:domain>",
            "<s:domain xmlns:s='urn:svirt:domain:1'><s:seclabel model='dac' doi='0'/><s:seclabel model='dac' doi='1'/></s:domain>",
        ] {
            let error = read_of(inside).unwrap_err();
            assert!(error.line == 2 && !error.remedy.is_empty(), "{inside}: {error}");
        }
    }
}
