//! `<filesystem>`.

use super::address;
use super::scalar::{alias, number_attribute, path_attribute};
use super::view::{Read, View};
use crate::conf::domain::{
    AccessMode, Filesystem, FilesystemDriver, MultiDevices, NinePOptions, VirtiofsCache, VirtiofsOptions,
};

/// The mount tag of virtio-fs and virtio-9p: 36 bytes without a NUL, of which 9p takes 31.
const TAG_MAX: usize = 31;
/// A domain's root has places for so many directories.
const FILESYSTEMS_MAX: usize = 16;

/// Every `<filesystem>`; no two of one name.
pub(super) fn filesystems(devices: View<'_>) -> Read<Vec<Filesystem>> {
    let mut all: Vec<Filesystem> = Vec::new();
    for view in devices.all("filesystem") {
        let one = filesystem(view)?;
        if let Some(other) = all.iter().find(|other| other.tag == one.tag) {
            return Err(view.duplicate(format!("<filesystem> {}", one.tag), other.line));
        }
        if all.len() == FILESYSTEMS_MAX {
            return Err(view.unsupported(format!("more than {FILESYSTEMS_MAX} <filesystem>s")));
        }
        all.push(one);
    }
    Ok(all)
}

fn filesystem(view: View<'_>) -> Read<Filesystem> {
    let attributes = ["accessmode", "dmode", "fmode", "model", "multidevs", "type"];
    view.only(&attributes, &["address", "alias", "binary", "driver", "readonly", "source", "target"])?;
    view.fixed("type", &["mount"])?;
    view.fixed("model", &["virtio"])?;
    alias(view)?;
    let source = view.one("source")?.ok_or_else(|| view.missing("<source> of <filesystem>"))?;
    source.only(&["dir"], &[])?;
    Ok(Filesystem {
        source: path_attribute(source, "dir")?,
        tag: tag(view)?,
        driver: driver(view)?,
        readonly: view.flag("readonly")?,
        address: address::pci(view)?,
        line: view.line(),
    })
}

fn tag(view: View<'_>) -> Read<String> {
    let target = view.one("target")?.ok_or_else(|| view.missing("<target> of <filesystem>"))?;
    target.only(&["dir"], &[])?;
    let text = target.required("dir")?;
    let fine = !text.is_empty() && text.len() <= TAG_MAX && !text.chars().any(char::is_control);
    if fine {
        return Ok(text.to_owned());
    }
    let expected = format!("a name of 1 to {TAG_MAX} bytes without control characters");
    Err(target.value("attribute dir of <target>", text, expected))
}

#[derive(Clone, Copy)]
enum Word {
    Path,
    Virtiofs,
}

fn driver(view: View<'_>) -> Read<FilesystemDriver> {
    let element = view.one("driver")?;
    let word = match element {
        None => Word::Path,
        Some(driver) => {
            driver.only(&["queue", "type"], &[])?;
            // A handle was a way to open files that QEMU has no more; libvirt calls what it does a path.
            let words = [("handle", Word::Path), ("path", Word::Path), ("virtiofs", Word::Virtiofs)];
            driver.word("type", &words)?.unwrap_or(Word::Path)
        }
    };
    match word {
        Word::Path => {
            if let Some(binary) = view.one("binary")? {
                return Err(binary.contradiction("<binary> is virtiofsd's", "use <driver type='virtiofs'/>"));
            }
            if let Some(driver) = element.filter(|driver| driver.attribute("queue").is_some()) {
                return Err(driver.unsupported("attribute queue of this <driver>"));
            }
            nine_p(view).map(FilesystemDriver::Path)
        }
        Word::Virtiofs => virtiofs(view, element).map(FilesystemDriver::Virtiofs),
    }
}

fn nine_p(view: View<'_>) -> Read<NinePOptions> {
    let modes = [("mapped", AccessMode::Mapped), ("squash", AccessMode::Squash)];
    let access = match view.attribute("accessmode") {
        // libvirt's default.
        None | Some("passthrough") => {
            let mut error = view.unsupported("accessmode='passthrough' of a 9p <filesystem>");
            error.remedy = "write accessmode='mapped' (owners are kept in extended attributes) or 'squash'; passthrough needs a QEMU with root's capabilities".into();
            return Err(error);
        }
        Some(_) => view.word("accessmode", &modes)?.unwrap_or(AccessMode::Mapped),
    };
    let devices = [
        ("default", None),
        ("forbid", Some(MultiDevices::Forbid)),
        ("remap", Some(MultiDevices::Remap)),
        ("warn", Some(MultiDevices::Warn)),
    ];
    let (fmode, dmode) = (mode(view, "fmode")?, mode(view, "dmode")?);
    if access != AccessMode::Mapped && (fmode.is_some() || dmode.is_some()) {
        return Err(view.contradiction("fmode and dmode need accessmode='mapped'", "remove them"));
    }
    Ok(NinePOptions { access, fmode, dmode, multidevs: view.word("multidevs", &devices)?.flatten() })
}

/// Permission bits in octal; no set-uid, set-gid or sticky bit.
fn mode(view: View<'_>, name: &str) -> Read<Option<u32>> {
    let Some(text) = view.attribute(name) else { return Ok(None) };
    let octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o777) {
        Some(mode) => Ok(Some(mode)),
        None => {
            let what = format!("attribute {name} of <filesystem>");
            Err(view.value(what, text, "permission bits in octal, at most 777"))
        }
    }
}

fn virtiofs(view: View<'_>, driver: Option<View<'_>>) -> Read<VirtiofsOptions> {
    view.fixed("accessmode", &["passthrough"])?;
    for name in ["dmode", "fmode", "multidevs"] {
        if view.attribute(name).is_some() {
            return Err(view.unsupported(format!("attribute {name} of a virtiofs <filesystem>")));
        }
    }
    let queue = driver.map(|driver| number_attribute::<u16>(driver, "queue", 2)).transpose()?.flatten();
    if let (Some(driver), Some(length)) = (driver, queue)
        && !(length.is_power_of_two() && length <= 1024)
    {
        let text = length.to_string();
        return Err(driver.value("attribute queue of <driver>", &text, "a power of two of at most 1024"));
    }
    let mut options = VirtiofsOptions { queue: queue.map(u32::from), ..VirtiofsOptions::default() };
    let Some(binary) = view.one("binary")? else { return Ok(options) };
    binary.only(&["path", "xattr"], &["cache", "lock", "sandbox", "thread_pool"])?;
    if binary.attribute("path").is_some() {
        options.binary = Some(path_attribute(binary, "path")?);
    }
    options.xattr = binary.switch("xattr", "on", "off")?.unwrap_or(false);
    if let Some(cache) = binary.one("cache")? {
        cache.only(&["mode"], &[])?;
        let modes =
            [("always", VirtiofsCache::Always), ("auto", VirtiofsCache::Auto), ("none", VirtiofsCache::None)];
        options.cache = cache.word("mode", &modes)?;
    }
    if let Some(lock) = binary.one("lock")? {
        lock.only(&["flock", "posix"], &[])?;
        options.posix_lock = lock.switch("posix", "on", "off")?.unwrap_or(false);
        options.flock = lock.switch("flock", "on", "off")?.unwrap_or(false);
    }
    if let Some(sandbox) = binary.one("sandbox")? {
        // svirt holds it either way, and holds it tighter.
        sandbox.only(&["mode"], &[])?;
        sandbox.fixed("mode", &["chroot", "namespace"])?;
    }
    if let Some(pool) = binary.one("thread_pool")? {
        pool.only(&["size"], &[])?;
        pool.required("size")?;
        options.threads = number_attribute(pool, "size", 0)?.filter(|threads: &u32| *threads <= 64);
        if options.threads.is_none() {
            let text = pool.attribute("size").unwrap_or_default();
            return Err(pool.value("attribute size of <thread_pool>", text, "at most 64"));
        }
    }
    Ok(options)
}
