//! Storage pools and volumes as libvirt's XML: what a client hands in, and what it gets back.
//!
//! Directory pools only. An element that asks for something that cannot be had is refused; what describes a state,
//! such as a capacity of a pool, is passed over, as libvirt does.

mod pool;
mod volume;

pub use pool::{Pool, PoolState, pool_capabilities};
pub use volume::{Backing, Below, FileFacts, Volume, VolumeState, is_format};

use super::definition::grammar::value;
use super::xml::Document;
use super::xml::walk::At;
use super::xml::write::Writer;

/// The longest definition of a pool or volume in bytes.
const BYTES_MAX: usize = 1 << 20;

/// What is wrong with a pool or volume that a client hands in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageXmlError {
    /// It cannot be read, or something in it cannot mean anything.
    #[error("{0}")]
    Malformed(String),
    /// It asks for what there is not.
    #[error("{0}")]
    Unsupported(String),
}

fn malformed(text: impl Into<String>) -> StorageXmlError {
    StorageXmlError::Malformed(text.into())
}

fn unsupported(text: impl Into<String>) -> StorageXmlError {
    StorageXmlError::Unsupported(text.into())
}

/// Reads a document whose root has this name.
fn document<'t>(xml: &'t str, root: &str) -> Result<Document<'t>, StorageXmlError> {
    if xml.len() > BYTES_MAX {
        return Err(malformed(format!("the definition is longer than {BYTES_MAX} bytes")));
    }
    let document = Document::parse(xml.as_bytes()).map_err(|error| malformed(error.to_string()))?;
    let found = At::root(&document).name().to_owned();
    if found != root {
        return Err(malformed(format!("unexpected root element <{found}>, expecting <{root}>")));
    }
    Ok(document)
}

/// The name of a pool or volume.
fn name(at: At<'_>, what: &str) -> Result<String, StorageXmlError> {
    const NAME_MAX: usize = 255;
    let name = at.one("name").map(|name| name.text().into_owned()).unwrap_or_default();
    if name.is_empty() {
        return Err(malformed(format!("missing {what} name element")));
    }
    if name.chars().any(char::is_control) || name.len() > NAME_MAX {
        return Err(malformed(format!(
            "the name of a {what} has at most {NAME_MAX} bytes and no control characters"
        )));
    }
    Ok(name)
}

/// A number of bytes with a unit, bytes without one.
fn bytes(at: At<'_>) -> Result<u64, StorageXmlError> {
    let (text, unit) = (at.text(), at.attribute("unit").filter(|unit| !unit.is_empty()).unwrap_or("bytes"));
    let factor = value::unit(unit).ok_or_else(|| malformed(format!("unknown suffix '{unit}'")))?;
    let count = value::decimal(text.trim())
        .ok_or_else(|| malformed(format!("malformed {} element: {:?}", at.name(), clip(&text))))?;
    let bytes = count.checked_mul(factor).filter(|bytes| i64::try_from(*bytes).is_ok());
    bytes.ok_or_else(|| malformed(format!("{} is too large", at.name())))
}

/// What `<permissions>` of something that is made now asks for: a mode that lets nobody but root write.
fn mode(target: Option<At<'_>>) -> Result<Option<u32>, StorageXmlError> {
    match any_mode(target)? {
        Some(mode) if !is_roots(mode) => {
            Err(unsupported(format!("the mode {mode:04o} lets others than root write it")))
        }
        mode => Ok(mode),
    }
}

/// Whether a mode lets nobody but root write.
#[must_use]
pub fn is_roots(mode: u32) -> bool {
    mode & 0o022 == 0
}

/// What `<permissions>` asks for: a mode. Files and directories are root's, whoever uses them.
fn any_mode(target: Option<At<'_>>) -> Result<Option<u32>, StorageXmlError> {
    let Some(permissions) = target.and_then(|target| target.one("permissions")) else { return Ok(None) };
    for who in ["owner", "group"] {
        let asked = permissions.one(who).map(|who| who.text().trim().to_owned()).unwrap_or_default();
        if !["", "0", "-1", "4294967295"].contains(&asked.as_str()) {
            let text = "everything in a storage pool belongs to root; device models get descriptors";
            return Err(unsupported(format!("<{who}>{}</{who}>: {text}", clip(&asked))));
        }
    }
    let Some(mode) = permissions.one("mode") else { return Ok(None) };
    let text = mode.text();
    let octal = |text: &str| text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode =
        Some(text.trim()).filter(|text| octal(text)).and_then(|text| u32::from_str_radix(text, 8).ok());
    let mode = mode.filter(|mode| *mode <= 0o777).ok_or_else(|| malformed("malformed octal mode"))?;
    Ok(Some(mode))
}

/// Writes `<permissions>` of what is there.
fn write_permissions(w: &mut Writer, (mode, uid, gid): (u32, u32, u32)) {
    w.open("permissions", &[]);
    w.text("mode", &[], format_args!("0{mode:03o}"));
    w.text("owner", &[], uid);
    w.text("group", &[], gid);
    w.close();
}

/// The beginning of what a client wrote, for a message.
fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Whether a path is absolute and without `..` and the like; libvirt removes doubled and last slashes, and so do we.
fn sanitized(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let plain = path.starts_with('/') && !parts.is_empty() && path.len() < 4096;
    let sane = |part: &&str| *part != "." && *part != ".." && !part.chars().any(char::is_control);
    (plain && parts.iter().all(sane)).then(|| format!("/{}", parts.join("/")))
}

/// Reads whatever is given; for fuzzers and the replay of their corpus.
pub fn fuzz_storage(data: &[u8]) {
    let Ok(xml) = std::str::from_utf8(data) else { return };
    if let Ok(pool) = Pool::parse(xml, uuid::Uuid::nil()) {
        let again = Pool::parse(&pool.kept(), uuid::Uuid::nil());
        assert_eq!(again.as_ref(), Ok(&pool), "what was written is not what was read");
    }
    let _ = Volume::parse(xml);
}
