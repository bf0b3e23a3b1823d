//! Writes XML in libvirt's style: single quotes, two spaces a level, `<a/>` for an element with nothing inside.
//!
//! Whatever stands in a value comes out as that value or not at all: what XML 1.0 cannot hold is left out.

use std::fmt::{self, Display, Write as _};

/// A document that is being written.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    out: String,
    open: Vec<&'static str>,
    /// Whether the innermost start tag still lacks its end.
    pending: bool,
}

impl Writer {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts an element that others will stand in.
    pub fn open(&mut self, name: &'static str, attributes: &[(&str, &dyn Display)]) {
        self.start(name, attributes);
        self.open.push(name);
        self.pending = true;
    }

    /// Ends the innermost element.
    pub fn close(&mut self) {
        let Some(name) = self.open.pop() else { return };
        if std::mem::take(&mut self.pending) {
            self.out.push_str("/>\n");
        } else {
            self.indent();
            self.tag_end(name);
        }
    }

    /// Writes an element with what `body` puts into it.
    pub fn within(
        &mut self,
        name: &'static str,
        attributes: &[(&str, &dyn Display)],
        body: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        body(self);
        self.close();
    }

    /// Writes an element with nothing inside.
    pub fn empty(&mut self, name: &'static str, attributes: &[(&str, &dyn Display)]) {
        self.open(name, attributes);
        self.close();
    }

    /// Writes an element with text inside: `<a>text</a>`, also where the text is empty.
    pub fn text(&mut self, name: &'static str, attributes: &[(&str, &dyn Display)], text: impl Display) {
        self.start(name, attributes);
        self.out.push('>');
        let _ = write!(Escaping(&mut self.out, false), "{text}");
        self.tag_end(name);
    }

    /// Writes an element that is well-formed XML already, as it is.
    pub fn verbatim(&mut self, xml: &str) {
        if std::mem::take(&mut self.pending) {
            self.out.push_str(">\n");
        }
        self.indent();
        self.out.push_str(xml);
        self.out.push('\n');
    }

    /// The document; elements that are still open are closed.
    #[must_use]
    pub fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.close();
        }
        self.out
    }

    fn start(&mut self, name: &'static str, attributes: &[(&str, &dyn Display)]) {
        if std::mem::take(&mut self.pending) {
            self.out.push_str(">\n");
        }
        self.indent();
        self.out.push('<');
        self.out.push_str(name);
        for (attribute, value) in attributes {
            let _ = write!(self.out, " {attribute}='");
            let _ = write!(Escaping(&mut self.out, true), "{value}");
            self.out.push('\'');
        }
    }

    fn indent(&mut self) {
        for _ in &self.open {
            self.out.push_str("  ");
        }
    }

    fn tag_end(&mut self, name: &str) {
        let _ = writeln!(self.out, "</{name}>");
    }
}

/// Escapes what is written through it; in attributes also what a reader would turn into a blank.
struct Escaping<'a>(&'a mut String, bool);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '\'' => self.0.push_str("&apos;"),
                '"' => self.0.push_str("&quot;"),
                '\r' => self.0.push_str("&#13;"),
                '\n' if self.1 => self.0.push_str("&#10;"),
                '\t' if self.1 => self.0.push_str("&#9;"),
                '\n' | '\t' => self.0.push(c),
                c if c < ' ' || c == '\u{fffe}' || c == '\u{ffff}' => {}
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::conf::xml::{Document, Node};

    #[test]
    fn elements_look_as_libvirt_writes_them() {
        let mut w = Writer::new();
        w.within("a", &[("b", &1)], |w| {
            w.empty("c", &[("d", &"it's")]);
            w.within("e", &[], |w| w.text("f", &[("g", &"<")], "x & y"));
            w.within("h", &[], |_| {});
            w.text("i", &[], "");
        });
        assert_eq!(
            w.finish(),
            "<a b='1'>\n  <c d='it&apos;s'/>\n  <e>\n    <f g='&lt;'>x &amp; y</f>\n  </e>\n  <h/>\n  <i></i>\n</a>\n"
        );
    }

    proptest! {
        #[test]
        fn every_value_is_read_back(value in "\\PC{0,20}[\\n\\t\\r]?\\PC{0,5}", text in "\\PC{1,20}\\n?\\PC{0,5}") {
            let allowed = |text: &str| text.chars().filter(|c| !matches!(c, '\u{fffe}' | '\u{ffff}')).collect::<String>();
            let mut w = Writer::new();
            w.text("a", &[("b", &value)], &text);
            let written = w.finish();
            let document = Document::parse(written.as_bytes()).unwrap();
            let root = document.element(document.root()).unwrap();
            prop_assert_eq!(root.attributes[0].value.as_ref(), allowed(&value));
            let Some(Node::Text(read)) = root.children.first() else {
                prop_assert!(false, "no text");
                return Ok(());
            };
            prop_assert_eq!(read.as_ref(), allowed(&text));
        }
    }
}
