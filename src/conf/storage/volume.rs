//! `<volume>`

use super::{
    StorageXmlError, bytes, clip, document, malformed, mode, name, sanitized, unsupported, write_permissions,
};
use crate::conf::xml::walk::At;
use crate::conf::xml::write::Writer;
use crate::privsep::storage::Qcow2Version;

/// libvirt's formats of files.
const FORMATS: [&str; 20] = [
    "none", "raw", "dir", "bochs", "cloop", "dmg", "iso", "vpc", "vdi", "fat", "vhd", "ploop", "cow", "qcow",
    "qcow2", "qed", "vmdk", "vhdx", "luks", "auto",
];

/// A volume that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name, and its file's.
    pub name: String,
    /// What a guest sees, in bytes; absent where the layer below decides.
    pub capacity: Option<u64>,
    /// Bytes that take room at once; absent means all of it, as far as the format has it.
    pub allocation: Option<u64>,
    /// Its format, one of libvirt's.
    pub format: &'static str,
    /// The version of a qcow2 image, where the client names one.
    pub version: Option<Qcow2Version>,
    /// Whether a qcow2 image's refcounts may be written late.
    pub lazy_refcounts: bool,
    /// Permission bits.
    pub mode: Option<u32>,
    /// The layer below.
    pub backing: Option<Backing>,
}

/// A layer below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// Absolute path.
    pub path: String,
    /// Whether it is a qcow2 image; else raw, also where nothing is said: nobody guesses from its content.
    pub qcow2: bool,
}

/// A volume that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeState<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its path, which is also its key.
    pub path: &'a str,
    /// Whether it is a directory.
    pub directory: bool,
    /// What a guest sees, in bytes.
    pub capacity: u64,
    /// Bytes that it takes.
    pub allocation: u64,
    /// The file's length.
    pub physical: u64,
    /// Its format.
    pub format: &'a str,
    /// The features of a qcow2 image of version 3.
    pub features: Option<Vec<&'static str>>,
    /// Whether it is encrypted as LUKS has it.
    pub luks: bool,
    /// Mode, owner, group.
    pub permissions: (u32, u32, u32),
    /// Last read, last write, last change of the inode: seconds and nanoseconds since 1970.
    pub times: [(i64, u32); 3],
    /// The layer below.
    pub backing: Option<Below<'a>>,
}

/// Mode, owner and group; last read, last write and last change as seconds and nanoseconds since 1970.
pub type FileFacts = ((u32, u32, u32), [(i64, u32); 3]);

/// A layer below a volume that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Below<'a> {
    /// Its path.
    pub path: &'a str,
    /// Its format, where the header above tells it.
    pub format: Option<&'a str>,
    /// Mode, owner and group, and the times, where it is a file of a configured place.
    pub file: Option<FileFacts>,
}

impl Volume {
    /// Reads what a client wants to have.
    pub fn parse(xml: &str) -> Result<Self, StorageXmlError> {
        let volume = Self::parse_copy(xml)?;
        made(volume.format)?;
        if volume.capacity.is_none() && volume.backing.is_none() {
            return Err(malformed("missing capacity element"));
        }
        Ok(volume)
    }

    /// The same of a volume that is made of another one, which has a size.
    pub fn parse_copy(xml: &str) -> Result<Self, StorageXmlError> {
        let document = document(xml, "volume")?;
        let root = At::root(&document);
        match root.attribute("type") {
            None | Some("file") => {}
            Some(other) => {
                return Err(unsupported(format!("a volume of type '{}': svirt makes files", clip(other))));
            }
        }
        let name = name(root, "volume")?;
        let target = root.one("target");
        let format = known_format(target)?;
        let backing = root.one("backingStore").map(backing).transpose()?.flatten();
        // An empty one says nothing.
        let size = |name| root.one(name).filter(|at| !at.text().is_empty()).map(bytes).transpose();
        let (capacity, allocation) = (size("capacity")?, size("allocation")?);
        if let Some(target) = target {
            only_what_is_made(target)?;
        }
        let features = target.and_then(|target| target.one("features"));
        let lazy_refcounts = features.is_some_and(|features| features.one("lazy_refcounts").is_some());
        // libvirt 9.0 asks for the older version where nobody asks for what only the newer one has.
        let version = match target.and_then(|target| target.one("compat")) {
            Some(compat) => Some(compat_level(&compat.text())?),
            None => features.map(|_| Qcow2Version::Three),
        };
        let mode = mode(target)?;
        if lazy_refcounts && format != "qcow2" {
            return Err(unsupported("format features only available with qcow2"));
        }
        if lazy_refcounts && version == Some(Qcow2Version::Two) {
            return Err(unsupported("lazy_refcounts not supported with compat level 0.10"));
        }
        Ok(Self { name, capacity, allocation, format, version, lazy_refcounts, mode, backing })
    }

    /// Whether it has this format.
    #[must_use]
    pub fn is(&self, format: &str) -> bool {
        self.format == format
    }
}

/// The format that is asked for.
fn known_format(target: Option<At<'_>>) -> Result<&'static str, StorageXmlError> {
    let format = target.and_then(|target| target.one("format")).and_then(|format| format.attribute("type"));
    let format = format.filter(|format| !format.is_empty()).unwrap_or("raw");
    let known = FORMATS.into_iter().find(|known| *known == format);
    known.ok_or_else(|| unsupported(format!("unknown volume format type {}", clip(format))))
}

/// Whether an image of this format is made; then the same.
fn made(format: &'static str) -> Result<&'static str, StorageXmlError> {
    match format {
        "raw" | "qcow2" => Ok(format),
        known => Err(unsupported(format!("a volume of format {known}: svirt makes raw and qcow2 ones"))),
    }
}

/// Whether libvirt knows a format of this name.
#[must_use]
pub fn is_format(format: &str) -> bool {
    FORMATS.contains(&format)
}

fn backing(store: At<'_>) -> Result<Option<Backing>, StorageXmlError> {
    let Some(path) = store.one("path").map(|path| path.text().into_owned()).filter(|path| !path.is_empty())
    else {
        return Ok(None);
    };
    let path = sanitized(&path).ok_or_else(|| {
        unsupported(format!("the backing store {:?}: it must be an absolute path", clip(&path)))
    })?;
    Ok(Some(Backing { path, qcow2: made(known_format(Some(store))?)? == "qcow2" }))
}

/// What QEMU calls the version of a qcow2 image.
fn compat_level(text: &str) -> Result<Qcow2Version, StorageXmlError> {
    match text.trim() {
        "0.10" => Ok(Qcow2Version::Two),
        "1.1" => Ok(Qcow2Version::Three),
        other => Err(unsupported(format!("compat level {:?}: qcow2 has 0.10 and 1.1", clip(other)))),
    }
}

/// Refuses properties that a new image would not have.
fn only_what_is_made(target: At<'_>) -> Result<(), StorageXmlError> {
    for inner in target.elements() {
        match inner.name() {
            "path" | "format" | "permissions" | "timestamps" => {}
            "compat" => {}
            "clusterSize" if bytes(inner)? == 65_536 => {}
            "features" if inner.elements().all(|feature| feature.name() == "lazy_refcounts") => {}
            other => {
                let text = format!(
                    "<{}> of a volume: svirt makes plain images, qcow2 in clusters of 64 KiB",
                    clip(other)
                );
                return Err(unsupported(text));
            }
        }
    }
    Ok(())
}

impl VolumeState<'_> {
    /// The volume as a client reads it.
    #[must_use]
    pub fn format(&self) -> String {
        let mut w = Writer::new();
        w.open("volume", &[("type", &if self.directory { "dir" } else { "file" })]);
        w.text("name", &[], self.name);
        w.text("key", &[], self.path);
        w.text("capacity", &[("unit", &"bytes")], self.capacity);
        w.text("allocation", &[("unit", &"bytes")], self.allocation);
        if !self.directory {
            w.text("physical", &[("unit", &"bytes")], self.physical);
        }
        w.open("target", &[]);
        w.text("path", &[], self.path);
        w.empty("format", &[("type", &if FORMATS.contains(&self.format) { self.format } else { "raw" })]);
        write_permissions(&mut w, self.permissions);
        write_times(&mut w, self.times);
        if self.luks {
            w.empty("encryption", &[("format", &"luks")]);
        }
        if let Some(features) = &self.features {
            write_features(&mut w, features);
        }
        w.close();
        if let Some(below) = &self.backing {
            w.open("backingStore", &[]);
            w.text("path", &[], below.path);
            if let Some(format) = below.format.filter(|format| FORMATS.contains(format)) {
                w.empty("format", &[("type", &format)]);
            }
            if let Some((permissions, times)) = below.file {
                write_permissions(&mut w, permissions);
                write_times(&mut w, times);
            }
        }
        w.finish()
    }
}

/// What only a qcow2 image of version 3 has.
fn write_features(w: &mut Writer, features: &[&'static str]) {
    w.text("compat", &[], "1.1");
    if features.is_empty() {
        return w.empty("features", &[]);
    }
    w.open("features", &[]);
    features.iter().for_each(|feature| w.empty(feature, &[]));
    w.close();
}

fn write_times(w: &mut Writer, times: [(i64, u32); 3]) {
    w.open("timestamps", &[]);
    for (name, (seconds, nanoseconds)) in ["atime", "mtime", "ctime"].into_iter().zip(times) {
        match nanoseconds {
            0 => w.text(name, &[], seconds),
            _ => w.text(name, &[], format_args!("{seconds}.{nanoseconds:09}")),
        }
    }
    w.close();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const XML: &str = "<volume type='file'><name>v</name><capacity unit='MiB'>10</capacity><allocation>512</allocation>\
        <target><format type='qcow2'/><permissions><mode>0640</mode></permissions><features/></target>\
        <backingStore><path>/images/base</path><format type='raw'/></backingStore></volume>";

    #[test]
    fn a_volume_is_read_as_libvirt_reads_it() {
        let volume = Volume::parse(XML).unwrap();
        assert_eq!((volume.capacity, volume.allocation), (Some(10 << 20), Some(512)));
        assert_eq!(volume.backing, Some(Backing { path: "/images/base".into(), qcow2: false }));
        assert!(volume.is("qcow2") && volume.mode == Some(0o640));
        for (compat, version) in [
            ("<features/>", Some(Qcow2Version::Three)),
            ("<compat>1.1</compat>", Some(Qcow2Version::Three)),
            ("<compat>0.10</compat><features/>", Some(Qcow2Version::Two)),
            ("", None),
        ] {
            assert_eq!(
                Volume::parse(&XML.replace("<features/>", compat)).unwrap().version,
                version,
                "{compat}"
            );
        }
        // As libvirt's conformance kit writes it.
        let empty = XML.replace(">512<", "><");
        assert_eq!(Volume::parse(&empty).unwrap().allocation, None);
        let plain = Volume::parse("<volume><name>a</name><capacity>7</capacity></volume>").unwrap();
        assert_eq!((plain.format, plain.allocation, plain.backing), ("raw", None, None));
    }

    #[test]
    fn what_is_not_made_is_refused() {
        for (from, to) in [
            ("'file'", "'block'"),
            ("type='qcow2'", "type='vmdk'"),
            ("type='qcow2'", "type='foo'"),
            ("<features/>", "<features><extended_l2/></features>"),
            ("<features/>", "<compat>1.2</compat>"),
            ("<features/>", "<compat>0.10</compat><features><lazy_refcounts/></features>"),
            ("<features/>", "<clusterSize unit='KiB'>4</clusterSize>"),
            ("<features/>", "<encryption format='luks'/>"),
            ("<features/>", "<nocow/>"),
            ("/images/base", "base"),
            ("type='raw'", "type='vdi'"),
        ] {
            let changed = XML.replace(from, to);
            assert_ne!(changed, XML);
            assert!(matches!(Volume::parse(&changed), Err(StorageXmlError::Unsupported(_))), "{to}");
        }
        for (from, to) in
            [("<name>v</name>", ""), (">10<", ">x<"), (">10<", ">99999999999999999<"), ("'MiB'", "'q'")]
        {
            assert!(
                matches!(Volume::parse(&XML.replace(from, to)), Err(StorageXmlError::Malformed(_))),
                "{to}"
            );
        }
    }

    #[test]
    fn a_volume_is_written_as_libvirt_writes_it() {
        let state = VolumeState {
            name: "v",
            path: "/images/v",
            format: "qcow2",
            permissions: (0o600, 0, 0),
            times: [(5, 0), (6, 7), (8, 9)],
            features: Some(vec!["lazy_refcounts"]),
            backing: Some(Below { path: "/images/b<", format: Some("raw"), file: None }),
            ..VolumeState::default()
        };
        let text = state.format();
        assert!(
            text.contains(
                "    <compat>1.1</compat>\n    <features>\n      <lazy_refcounts/>\n    </features>\n"
            ),
            "{text}"
        );
        let bare = VolumeState { features: Some(Vec::new()), ..VolumeState::default() };
        assert!(bare.format().contains("    <compat>1.1</compat>\n    <features/>\n"));
        assert!(
            text.starts_with("<volume type='file'>\n  <name>v</name>\n  <key>/images/v</key>\n"),
            "{text}"
        );
        assert!(text.contains("      <atime>5</atime>\n      <mtime>6.000000007</mtime>\n"), "{text}");
        assert!(
            text.contains("  <backingStore>\n    <path>/images/b&lt;</path>\n    <format type='raw'/>\n"),
            "{text}"
        );
    }
}
