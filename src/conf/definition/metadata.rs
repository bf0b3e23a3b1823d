//! Title, description and the elements of other programs, as calls for them read and set them.

use super::node::Foreign;
use super::{Definition, Strictness, View, foreign};
use crate::conf::xml::Document;

/// Why an element cannot be put into `<metadata>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The prefix is no name.
    #[error("{0:?} is no prefix of a namespace")]
    Key(String),
    /// The prefix already stands for something else in the element.
    #[error("the element itself declares the prefix {0:?}; take another one")]
    Taken(String),
    /// The element is no XML.
    #[error("{0}")]
    Xml(String),
}

impl Definition {
    /// Sets `<title>`; nothing, or an empty one, removes it.
    pub fn set_title(&mut self, title: Option<&str>) {
        self.words("title", title);
    }

    /// Sets `<description>`; nothing, or an empty one, removes it.
    pub fn set_description(&mut self, description: Option<&str>) {
        self.words("description", description);
    }

    fn words(&mut self, name: &str, text: Option<&str>) {
        self.root.remove_children(name);
        if let Some(text) = text.filter(|text| !text.is_empty())
            && let Some(node) = self.root.add(name)
        {
            node.text = text.to_owned();
        }
    }

    /// The element of a namespace as whoever set it wrote it: without the prefix that it has among others.
    #[must_use]
    pub fn metadata_element(&self, namespace: &str) -> Option<String> {
        let xml = self.metadata(namespace)?;
        let document = Document::parse(xml.as_bytes()).ok()?;
        Some(foreign::without_prefix(&document, document.root(), namespace))
    }

    /// Puts an element under a namespace and prefix, instead of the one there was; nothing removes that.
    pub fn set_metadata(
        &mut self,
        namespace: &str,
        element: Option<(&str, &str)>,
    ) -> Result<(), MetadataError> {
        let xml = element.map(|(key, xml)| {
            if !is_prefix(key) {
                return Err(MetadataError::Key(key.chars().take(80).collect()));
            }
            let document = Document::parse(xml.as_bytes());
            let document = document.map_err(|error| MetadataError::Xml(error.to_string()))?;
            let text = foreign::with_prefix(&document, document.root(), key, namespace);
            text.ok_or_else(|| MetadataError::Taken(key.to_owned()))
        });
        let xml = xml.transpose()?;
        let Some(metadata) = self.root.ensure("metadata") else { return Ok(()) };
        metadata.foreign.retain(|other| other.namespace != namespace);
        metadata.foreign.extend(xml.map(|xml| Foreign { namespace: namespace.to_owned(), xml }));
        if metadata.foreign.is_empty() {
            self.root.remove_children("metadata");
        }
        Ok(())
    }
}

/// Sets whatever is given, and sees that it says nothing about anything else; for fuzzers and the replay of their corpus.
/// Title, namespace, prefix and element stand behind each other, with a zero byte between them.
pub fn fuzz_metadata(data: &[u8]) {
    const START: &[u8] = b"<domain type='test'><name>a</name><metadata><o:x xmlns:o='urn:other'/></metadata>\
        <memory>1024</memory><os><type>hvm</type></os></domain>";
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(4, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (title, namespace, key, xml) = (part(), part(), part(), part());
    let parse = |text: &[u8]| Definition::parse(text, Strictness::Strict);
    let Ok((mut definition, _)) = parse(START) else { return };
    definition.set_title(Some(title));
    definition.set_description(Some(title));
    if definition.set_metadata(namespace, Some((key, xml))).is_err() {
        definition.set_title(None);
    }
    let text = definition.format(View { secure: true, migratable: false });
    // What cannot be read back is refused before it is kept.
    let Ok((again, _)) = parse(text.as_bytes()) else { return };
    let other = |definition: &Definition| definition.metadata("urn:other").map(str::to_owned);
    assert_eq!(definition.name(), again.name(), "{text}");
    assert!(namespace == "urn:other" || other(&definition) == other(&again), "{text}");
    assert_eq!(definition.metadata(namespace), again.metadata(namespace), "{text}");
}

fn is_prefix(key: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    key.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && key.chars().all(inner)
        && !key.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("xml"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn definition(metadata: &str) -> Definition {
        let xml = format!(
            "<domain type='test'><name>a</name>{metadata}<memory>1024</memory><os><type>hvm</type></os></domain>"
        );
        Definition::parse(xml.as_bytes(), Strictness::Strict).unwrap().0
    }

    fn text(definition: &Definition) -> String {
        let text = definition.format(View { secure: true, migratable: false });
        let again = Definition::parse(text.as_bytes(), Strictness::Strict).unwrap().0;
        assert_eq!(again, *definition, "{text}");
        text
    }

    #[test]
    fn words_come_and_go() {
        let mut one = definition("<title>old</title>");
        one.set_title(Some("a < b"));
        one.set_description(Some("two\nlines"));
        let shown = text(&one);
        assert!(
            shown.contains("<title>a &lt; b</title>")
                && shown.contains("<description>two\nlines</description>")
        );
        one.set_title(Some(""));
        one.set_description(None);
        assert_eq!(one, definition(""));
    }

    #[test]
    fn an_element_is_given_back_as_it_came() {
        let mut one = definition("<metadata><o:x xmlns:o='urn:other'/></metadata>");
        one.set_metadata("urn:a", Some(("k", "<app id='1'><b>&amp;</b><k2:c xmlns:k2='urn:c'/></app>")))
            .unwrap();
        assert!(text(&one).contains("<k:app xmlns:k=\"urn:a\" id=\"1\"><b>&amp;</b>"), "{}", text(&one));
        assert_eq!(
            one.metadata_element("urn:a").as_deref(),
            Some("<app id=\"1\"><b>&amp;</b><k2:c xmlns:k2=\"urn:c\"/></app>")
        );
        one.set_metadata("urn:a", Some(("k", "<again/>"))).unwrap();
        assert_eq!(one.metadata_element("urn:a").as_deref(), Some("<again/>"));
        assert!(one.metadata("urn:other").is_some());
        one.set_metadata("urn:a", None).unwrap();
        one.set_metadata("urn:other", None).unwrap();
        assert_eq!(one, definition(""));
    }

    #[test]
    fn what_would_say_something_else_is_refused() {
        let mut one = definition("");
        for key in ["", "a b", "a:b", "1a", "xmlns", "a='x"] {
            assert!(
                matches!(one.set_metadata("urn:a", Some((key, "<x/>"))), Err(MetadataError::Key(_))),
                "{key}"
            );
        }
        for xml in ["", "<a>", "<a/><b/>", "x", "<!DOCTYPE a><a/>"] {
            assert!(
                matches!(one.set_metadata("urn:a", Some(("k", xml))), Err(MetadataError::Xml(_))),
                "{xml}"
            );
        }
        let own = "<k:x xmlns:k='urn:b'><k:y/></k:x>";
        assert!(matches!(one.set_metadata("urn:a", Some(("k", own))), Err(MetadataError::Taken(_))));
        one.set_metadata("urn:a\"><x", Some(("k", "<y/>"))).unwrap();
        let _whole = text(&one);
        assert_eq!(one.metadata_element("urn:a\"><x").as_deref(), Some("<y/>"));
    }
}
