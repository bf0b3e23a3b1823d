//! Files that are only read.

use super::Apply;
use crate::base::{Layer, Refusal, Slot};
use crate::labeller::lease::Hold;
use crate::privsep::op::{Access, Op, Sharing};
use crate::sys::path::Found;

/// The largest file behind a name of the guest's firmware, in bytes: QEMU keeps a copy of it.
const FW_CFG_MAX: u64 = 16 << 20;

impl Apply<'_> {
    /// Opens one: nobody writes it while the domain runs.
    pub(super) fn open_readable(&mut self, slot: &Slot, path: &str) -> Result<(), Refusal> {
        let opened = self.places.open_readable(path)?;
        if self.is_fw_cfg(slot) {
            let error = |error: std::io::Error| super::kernel("look at", path, &error, "");
            let size = Found::of(&opened.fd).map_err(error)?.size;
            if size > FW_CFG_MAX {
                let rule =
                    format!("a file of <sysinfo> has at most {FW_CFG_MAX} bytes, and this one has {size}");
                let remedy = "give the guest a disk for it";
                return Err(Refusal::new(Layer::Policy, "hand to the guest's firmware", path, rule, remedy));
            }
        }
        self.hold(opened.id, Hold { access: Access::ReadOnly, sharing: Sharing::Readers }, path)?;
        self.check_labelled(slot, path, opened.place)?;
        self.out.readables.push((slot.clone(), path.to_owned(), opened.id));
        self.keep(slot, opened.fd)
    }

    fn is_fw_cfg(&self, wanted: &Slot) -> bool {
        let Some(Op::Spawn(spawn)) = self.ops.last() else { return false };
        spawn.confinement.root.files.iter().any(|file| file.slot == *wanted && file.place.is_fw_cfg())
    }
}
