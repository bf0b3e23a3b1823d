//! What a host says of its hardware, in libvirt's words.

use super::xml::write::Writer;

/// An element of `<sysinfo>`, and its entries: name and value.
type Section = (&'static str, Vec<(&'static str, String)>);

/// The host's SMBIOS, as far as it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysinfo {
    /// What stands in it, in libvirt's order.
    pub sections: Vec<Section>,
}

impl Sysinfo {
    /// As clients read it.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut w = Writer::new();
        w.within("sysinfo", &[("type", &"smbios")], |w| {
            for (section, entries) in &self.sections {
                w.within(section, &[], |w| {
                    entries.iter().for_each(|(name, value)| w.text("entry", &[("name", name)], value));
                });
            }
        });
        w.finish()
    }
}
