//! What of a domain lies in files that are no disks: UEFI variables, and the state of its TPM.

use super::Definition;

impl Definition {
    /// The file that `<nvram>` names.
    #[must_use]
    pub fn nvram(&self) -> Option<&str> {
        let nvram = self.root.child("os")?.child("nvram")?;
        let file = match nvram.child("source") {
            Some(source) => source.attribute("file")?,
            None => nvram.text.trim(),
        };
        (!file.is_empty()).then_some(file)
    }

    /// Whether its emulated TPM is to keep its state when the definition goes; nothing where it has none.
    #[must_use]
    pub fn tpm_persists(&self) -> Option<bool> {
        let backend = self.root.child("devices")?.child("tpm")?.child("backend")?;
        let emulated = backend.attribute("type") == Some("emulator");
        emulated.then(|| backend.attribute("persistent_state") == Some("yes"))
    }

    /// Whether it asks for UEFI firmware.
    #[must_use]
    pub fn has_uefi(&self) -> bool {
        let Some(os) = self.root.child("os") else { return false };
        let is =
            |name: &str, value: &str| os.child("loader").and_then(|it| it.attribute(name)) == Some(value);
        os.attribute("firmware") == Some("efi") || is("type", "pflash") || os.child("nvram").is_some()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::conf::definition::Strictness;

    #[test]
    fn a_tpm_keeps_its_state_where_that_is_said() {
        let of = |devices: &str| {
            let text = format!(
                "<domain type='qemu'><name>a</name><memory>1024</memory><os><type>hvm</type></os>\
                 <devices>{devices}</devices></domain>"
            );
            Definition::parse(text.as_bytes(), Strictness::Lenient).unwrap().0.tpm_persists()
        };
        let tpm = |more: &str| of(&format!("<tpm><backend type='emulator'{more}/></tpm>"));
        assert_eq!((of(""), tpm(""), tpm(" persistent_state='no'")), (None, Some(false), Some(false)));
        assert_eq!(tpm(" persistent_state='yes'"), Some(true));
        let passed = "<tpm><backend type='passthrough'><device path='/dev/tpm0'/></backend></tpm>";
        assert_eq!(of(passed), None);
    }

    #[test]
    fn a_file_is_found_in_what_cannot_be_started_too() {
        let of = |os: &str| {
            let text = format!(
                "<domain type='kvm'><name>a</name><memory>1024</memory><os{os}<type arch='riscv64'>hvm</type></os></domain>"
            );
            let (tree, _) = Definition::parse(text.as_bytes(), Strictness::Lenient).unwrap();
            (tree.nvram().map(str::to_owned), tree.has_uefi())
        };
        assert_eq!(of(">"), (None, false));
        assert_eq!(of(" firmware='efi'>"), (None, true));
        assert_eq!(of("><loader type='rom'>/a</loader><nvram>/b.fd</nvram>"), (Some("/b.fd".into()), true));
        assert_eq!(
            of("><loader type='pflash'>/a</loader><nvram type='file'><source file='/c.fd'/></nvram>"),
            (Some("/c.fd".into()), true)
        );
    }
}
