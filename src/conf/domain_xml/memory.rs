//! `<memoryBacking>`.

use super::scalar::{number_attribute, scaled_attribute};
use super::view::{Read, View};
use crate::conf::domain::{HugePages, MemoryBacking, MemorySource};

/// `<memoryBacking>`
pub(super) fn backing(root: View<'_>) -> Read<MemoryBacking> {
    let Some(view) = root.one("memoryBacking")? else { return Ok(MemoryBacking::default()) };
    let children = ["access", "allocation", "discard", "hugepages", "locked", "nosharepages", "source"];
    view.only(&[], &children)?;
    // Neither kind of memory outlives the device model, so there is nothing that it could be told to throw away.
    view.flag("discard")?;
    let source = match view.one("source")? {
        None => MemorySource::Anonymous,
        Some(source) => {
            source.only(&["type"], &[])?;
            source.required("type")?;
            // A file would need a writable path in the device model's root.
            let words = [("anonymous", MemorySource::Anonymous), ("memfd", MemorySource::Memfd)];
            source.word("type", &words)?.unwrap_or_default()
        }
    };
    let shared = match view.one("access")? {
        None => false,
        Some(access) => {
            access.only(&["mode"], &[])?;
            access.required("mode")?;
            access.word("mode", &[("private", false), ("shared", true)])?.unwrap_or(false)
        }
    };
    let (immediate, threads) = match view.one("allocation")? {
        None => (false, None),
        Some(allocation) => {
            allocation.only(&["mode", "threads"], &[])?;
            let words = [("immediate", true), ("ondemand", false)];
            let immediate = allocation.word("mode", &words)?.unwrap_or(false);
            (immediate, number_attribute(allocation, "threads", 1)?)
        }
    };
    Ok(MemoryBacking {
        source,
        shared,
        hugepages: view.one("hugepages")?.map(hugepages).transpose()?,
        locked: view.flag("locked")?,
        no_merge: view.flag("nosharepages")?,
        immediate,
        threads,
        line: view.line(),
    })
}

/// One size for all of it: svirt makes no NUMA nodes for a guest.
fn hugepages(view: View<'_>) -> Read<HugePages> {
    view.only(&[], &["page"])?;
    let Some(page) = view.one("page")? else { return Ok(HugePages { size: None }) };
    page.only(&["size", "unit"], &[])?;
    page.required("size")?;
    Ok(HugePages { size: Some(scaled_attribute(page, "size", "unit")?) })
}
