//! The disk that a client gives for a domain that runs or is kept, read once.

use super::definition::refused;
use super::{Manager, ManagerError};
use crate::base::Files;
use crate::conf::definition::{Definition as Tree, Strictness};

/// A disk as a client gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// Its XML, with the file in the place of a volume.
    pub(super) xml: String,
    /// `disk`, `cdrom` and so on.
    pub(super) device: String,
    /// `<target dev>`
    pub(super) target: String,
    /// Its image, where it is a file.
    pub(super) image: Option<String>,
}

/// The target that a client's disk names; nothing else of it is believed here, or asked for.
pub fn target(xml: &str) -> Result<String, ManagerError> {
    let named = Tree::named_disk(xml).map_err(refused)?;
    named.ok_or_else(no_disk)
}

fn no_disk() -> ManagerError {
    let text = "only disks, each named by its <target>, and network interfaces come and go, and only disks, links and the passwords of displays change, while a domain runs";
    ManagerError::Unsupported(text.into())
}

/// A definition of nothing but one device, so that it can be read.
fn carrier(xml: &str) -> Result<Tree, ManagerError> {
    let disk = Tree::device(xml).map_err(refused)?;
    let carrier = format!(
        "<domain type='qemu'><name>x</name><memory>65536</memory><os><type>hvm</type></os><devices>{disk}</devices></domain>"
    );
    Ok(Tree::parse(carrier.as_bytes(), Strictness::Lenient).map_err(refused)?.0)
}

impl Manager {
    /// Reads a client's disk, with the file of the volume that it names. Pools are not asked of by whoever is held to a list
    /// of files.
    pub(super) fn given(&self, xml: &str, files: &Files) -> Result<Given, ManagerError> {
        let mut tree = carrier(xml)?;
        let with_file = self.put_volumes(&mut tree, files)?;
        // Which buses there are is the domain's to say: the board of this carrier means nothing.
        let mut disks = tree.disk_targets();
        let (Some((device, target)), None) = (disks.next(), disks.next()) else { return Err(no_disk()) };
        let (device, target) = (device.to_owned(), target.to_owned());
        let image = tree.disk_files().next().map(str::to_owned);
        let xml = if with_file { tree.first_disk() } else { Some(xml.to_owned()) };
        let xml = xml.ok_or_else(|| ManagerError::Malformed("it is no disk".into()))?;
        Ok(Given { xml, device, target, image })
    }
}
