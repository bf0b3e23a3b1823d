//! `<pool type='dir'>`

use uuid::Uuid;

use super::{
    StorageXmlError, any_mode, clip, document, malformed, name, sanitized, unsupported, write_permissions,
};
use crate::conf::xml::walk::At;
use crate::conf::xml::write::Writer;

/// libvirt's types of pools.
const TYPES: [&str; 14] = [
    "dir",
    "fs",
    "netfs",
    "logical",
    "disk",
    "iscsi",
    "iscsi-direct",
    "scsi",
    "mpath",
    "rbd",
    "sheepdog",
    "gluster",
    "zfs",
    "vstorage",
];

/// A pool's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its uuid.
    pub uuid: Uuid,
    /// Its directory: absolute, without `..`.
    pub path: String,
    /// Permission bits that a new directory gets.
    pub mode: Option<u32>,
}

/// What is known of an active pool's directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolState {
    /// Bytes of its file system.
    pub capacity: u64,
    /// Bytes of it that nobody uses.
    pub available: u64,
    /// Mode, owner and group of the directory.
    pub permissions: Option<(u32, u32, u32)>,
}

impl Pool {
    /// Reads a definition; `uuid` is the one to use where it has none.
    pub fn parse(xml: &str, uuid: Uuid) -> Result<Self, StorageXmlError> {
        let document = document(xml, "pool")?;
        let root = At::root(&document);
        match root.attribute("type") {
            Some("dir") => {}
            Some(other) if TYPES.contains(&other) => {
                return Err(unsupported(format!("a pool of type '{other}': svirt has directory pools only")));
            }
            Some(other) => {
                let text =
                    format!("Invalid value for attribute 'type' in element 'pool': '{}'.", clip(other));
                return Err(malformed(text));
            }
            None => return Err(malformed("Missing required attribute 'type' in element 'pool'")),
        }
        let name = name(root, "pool")?;
        if name.contains('/') {
            return Err(malformed(format!("name {name} cannot contain '/'")));
        }
        let uuid = match root.one("uuid").map(|uuid| uuid.text()) {
            Some(text) => Uuid::try_parse(text.trim()).map_err(|_| malformed("malformed uuid element"))?,
            None => uuid,
        };
        if let Some(feature) = root.one("features").and_then(|features| features.elements().next()) {
            return Err(unsupported(format!("the pool feature <{}>", clip(feature.name()))));
        }
        let target = root.one("target");
        let path = target.and_then(|target| target.one("path")).map(|path| path.text().into_owned());
        let path = path
            .filter(|path| !path.is_empty())
            .ok_or_else(|| malformed("missing storage pool target path"))?;
        let path = sanitized(&path).ok_or_else(|| {
            malformed(format!("the target path {:?} is not absolute, or has '..' in it", clip(&path)))
        })?;
        Ok(Self { name, uuid, path, mode: any_mode(target)? })
    }

    /// The definition as it is kept.
    #[must_use]
    pub fn kept(&self) -> String {
        self.write(&PoolState { permissions: self.mode.map(|mode| (mode, 0, 0)), ..PoolState::default() })
    }

    /// The definition as a client reads it.
    #[must_use]
    pub fn format(&self, state: Option<&PoolState>) -> String {
        state.map_or_else(|| self.kept(), |state| self.write(state))
    }

    fn write(&self, state: &PoolState) -> String {
        let mut w = Writer::new();
        w.open("pool", &[("type", &"dir")]);
        w.text("name", &[], &self.name);
        w.text("uuid", &[], self.uuid);
        w.text("capacity", &[("unit", &"bytes")], state.capacity);
        w.text("allocation", &[("unit", &"bytes")], state.capacity.saturating_sub(state.available));
        w.text("available", &[("unit", &"bytes")], state.available);
        // libvirt writes this one in two lines, and people compare.
        w.verbatim("<source>\n  </source>");
        w.open("target", &[]);
        w.text("path", &[], &self.path);
        if let Some(permissions) = state.permissions {
            write_permissions(&mut w, permissions);
        }
        w.finish()
    }
}

/// Which pools there can be: libvirt's types, and of directories the formats that volumes are made in.
#[must_use]
pub fn pool_capabilities() -> String {
    let mut w = Writer::new();
    w.open("storagepoolCapabilities", &[]);
    for kind in TYPES {
        let here = kind == "dir";
        w.open("pool", &[("type", &kind), ("supported", &if here { "yes" } else { "no" })]);
        if here {
            w.open("volOptions", &[]);
            w.empty("defaultFormat", &[("type", &"raw")]);
            w.open("enum", &[("name", &"targetFormatType")]);
            for format in ["raw", "qcow2"] {
                w.text("value", &[], format);
            }
            w.close();
            w.close();
        }
        w.close();
    }
    w.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const XML: &str = "<pool type='dir'><name>a&amp;b</name><capacity unit='bytes'>7</capacity><source/>\
        <target><path>/images//x/</path><permissions><mode>0750</mode><owner>0</owner></permissions></target></pool>";

    #[test]
    fn a_pool_is_written_as_it_was_read() {
        let pool = Pool::parse(XML, Uuid::from_u128(1)).unwrap();
        assert_eq!((pool.name.as_str(), pool.path.as_str(), pool.mode), ("a&b", "/images/x", Some(0o750)));
        // One that svirt would not make a directory with; there may be one that it is not about.
        assert_eq!(Pool::parse(&XML.replace("0750", "0777"), Uuid::nil()).unwrap().mode, Some(0o777));
        assert_eq!(Pool::parse(&pool.kept(), Uuid::nil()).unwrap(), pool);
        let state = PoolState { capacity: 10, available: 4, permissions: Some((0o711, 0, 5)) };
        let text = pool.format(Some(&state));
        assert!(text.contains("<allocation unit='bytes'>6</allocation>"), "{text}");
        assert!(text.contains("<source>\n  </source>\n"), "{text}");
        assert!(
            text.contains("      <mode>0711</mode>\n      <owner>0</owner>\n      <group>5</group>\n"),
            "{text}"
        );
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        let with = |from: &str, to: &str| Pool::parse(&XML.replace(from, to), Uuid::nil());
        for (from, to) in [
            ("'dir'", "'foo'"),
            ("a&amp;b", "a/b"),
            ("<name>a&amp;b</name>", ""),
            ("/images//x/", ""),
            ("/images//x/", "images"),
            ("/images//x/", "/images/../etc"),
            ("<source/>", "<uuid>1</uuid>"),
            ("0750", "9"),
        ] {
            assert!(matches!(with(from, to), Err(StorageXmlError::Malformed(_))), "{to}");
        }
        for (from, to) in [
            ("'dir'", "'logical'"),
            ("<source/>", "<features><cow state='yes'/></features>"),
            ("<owner>0", "<owner>7"),
        ] {
            assert!(matches!(with(from, to), Err(StorageXmlError::Unsupported(_))), "{to}");
        }
        // A directory comes from nowhere else: like libvirt, it is not looked at what a source says.
        let source = "<source><dir path='/x'/><name>x</name><format type='auto'/></source>";
        let pool = with("<source/>", source).unwrap();
        assert_eq!(pool, with("<source/>", "<source/>").unwrap());
        assert!(Pool::parse("<domain/>", Uuid::nil()).is_err() && Pool::parse("", Uuid::nil()).is_err());
    }

    #[test]
    fn every_type_is_told_of() {
        let text = pool_capabilities();
        assert_eq!(text.matches("<pool ").count(), 14);
        assert_eq!(text.matches("supported='yes'").count(), 1);
    }
}
