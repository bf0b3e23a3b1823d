//! Holds XML against a RELAX NG schema: with the relax-ng crate, and with xmllint beside it where it is installed.
#![allow(dead_code, unreachable_pub, reason = "not every test uses all of it")]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;

use relax_ng::{
    Content, DatatypeRegistry, Element, ExpandedName, ResolveError, Schema, SchemaResolver, SchemaSource,
    SchemaSyntax,
};
use roxmltree::{Document, Node};

/// Where libvirt's own schemas are, where its library is installed.
pub const LIBVIRT: &str = "/usr/share/libvirt/schemas";

/// A schema of `xml-schemas`.
pub fn own(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("xml-schemas").join(name)
}

/// A schema of libvirt's, or nothing and a word about it.
pub fn libvirt(name: &str) -> Option<PathBuf> {
    let path = Path::new(LIBVIRT).join(name);
    if !path.exists() {
        println!("skipped: needs {} (Debian: libvirt0)", path.display());
        return None;
    }
    Some(path)
}

struct Files(PathBuf);

impl SchemaResolver for Files {
    fn resolve(&self, href: &str, _base: &str) -> Result<SchemaSource, ResolveError> {
        let path = self.0.join(href);
        let text = std::fs::read_to_string(&path).map_err(|error| ResolveError::new(error.to_string()))?;
        Ok(SchemaSource::new(text, path.display().to_string(), SchemaSyntax::Xml))
    }
}

struct At<'a>(Node<'a, 'a>);

impl Element for At<'_> {
    type Location = u32;

    fn name(&self) -> ExpandedName {
        ExpandedName::new(self.0.tag_name().namespace(), self.0.tag_name().name())
    }

    fn attributes(&self) -> impl Iterator<Item = (ExpandedName, String)> {
        self.0.attributes().map(|a| (ExpandedName::new(a.namespace(), a.name()), a.value().to_owned()))
    }

    fn children(&self) -> impl Iterator<Item = Content<Self>> {
        let mut children: Vec<Content<Self>> = Vec::new();
        for child in self.0.children() {
            if child.is_element() {
                children.push(Content::Element(At(child)));
            } else if let Some(text) = child.text().filter(|_| child.is_text()) {
                match children.last_mut() {
                    Some(Content::Text(before)) => before.push_str(text),
                    _ => children.push(Content::Text(text.to_owned())),
                }
            }
        }
        children.into_iter()
    }

    fn location(&self) -> Option<u32> {
        Some(self.0.document().text_pos_at(self.0.range().start).row)
    }
}

thread_local! {
    /// The schemas that this test has used: libvirt's takes longer to compile than a document to check.
    static COMPILED: RefCell<BTreeMap<PathBuf, Rc<Schema>>> = const { RefCell::new(BTreeMap::new()) };
}

fn compiled(schema: &Path) -> Rc<Schema> {
    let compile = || {
        let text = std::fs::read_to_string(schema).unwrap();
        let source = SchemaSource::new(text, schema.display().to_string(), SchemaSyntax::Xml);
        let files = Files(schema.parent().unwrap().to_path_buf());
        Rc::new(Schema::compile(&source, &files).unwrap_or_else(|error| panic!("{schema:?}: {error}")))
    };
    COMPILED.with_borrow_mut(|known| known.entry(schema.to_path_buf()).or_insert_with(compile).clone())
}

/// What is wrong with a document; empty where nothing is. xmllint must be of the same opinion.
pub fn complaints(schema: &Path, xml: &str) -> Vec<String> {
    let compiled = compiled(schema);
    let document = Document::parse(xml).unwrap_or_else(|error| panic!("{error}\n{xml}"));
    let found = compiled.validate(&DatatypeRegistry::new(), &At(document.root_element())).unwrap();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    if let Some((good, said)) = xmllint(schema, xml) {
        assert_eq!(good, found.is_empty(), "xmllint thinks otherwise of\n{xml}\n{said}\nrelax-ng: {found:?}");
    }
    found
}

/// Whether xmllint finds a document good, and what it says.
fn xmllint(schema: &Path, xml: &str) -> Option<(bool, String)> {
    use std::io::Write as _;
    let child = Command::new("xmllint")
        .args(["--noout", "--relaxng"])
        .arg(schema)
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: needs xmllint (Debian: libxml2-utils) for a second opinion");
        return None;
    };
    child.stdin.take().unwrap().write_all(xml.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    Some((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
}
