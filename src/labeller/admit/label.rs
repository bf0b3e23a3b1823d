//! SELinux contexts in a plan: types from the configured list, categories exactly the leased pair or none.

use super::{Admission, policy};
use crate::base::{CategoryPair, Refusal, Slot};
use crate::privsep::op::{Access, Sharing};
use crate::privsep::share::ShareIdentity;

/// A context, cut at its colons: user, role, type, and the rest.
struct Context<'a> {
    user: &'a str,
    role: &'a str,
    kind: &'a str,
    range: &'a str,
}

fn parse(label: &str) -> Option<Context<'_>> {
    let mut parts = label.splitn(4, ':');
    let context =
        Context { user: parts.next()?, role: parts.next()?, kind: parts.next()?, range: parts.next()? };
    (label.len() < 512).then_some(context)
}

/// Whether this is the context of a file of this type with exactly this pair.
fn is_object(label: &str, kind: &str, pair: Option<CategoryPair>) -> bool {
    let range = pair.map(|pair| CategoryPair::level(&[pair]));
    parse(label).is_some_and(|context| {
        (context.user, context.role) == ("system_u", "object_r")
            && context.kind == kind
            && range.as_deref() == Some(context.range)
    })
}

impl Admission<'_> {
    /// Checks the context of a process. On a host with SELinux there must be one, elsewhere none.
    /// `shares` are the pairs of the shared images and directories that the process uses.
    pub(super) fn process_label(
        &self,
        label: Option<&str>,
        types: &[&String],
        shares: &[CategoryPair],
    ) -> Result<(), Refusal> {
        let operation = "run a process as";
        let Some(label) = label else {
            if !self.selinux {
                return Ok(());
            }
            let rule = "this host runs SELinux, and every process of a domain needs a context";
            let remedy = "remove <seclabel type='none' model='selinux'/> from the definition";
            return Err(policy(operation, "no context".into(), rule, remedy));
        };
        if !self.selinux {
            let rule = "this host does not run SELinux, so nothing would enforce it";
            return Err(policy(operation, label.into(), rule, "remove the label, or enable SELinux"));
        }
        let refuse = |rule: &str, remedy: &str| Err(policy(operation, label.into(), rule, remedy));
        let Some(context) = parse(label) else {
            return refuse("is no context", "write user:role:type:range");
        };
        if context.user != "system_u" || context.role != "system_r" {
            return refuse("processes of domains run as system_u:system_r", "plan again");
        }
        if !types.iter().any(|known| *known == context.kind) {
            return refuse("its type is not one of the configuration's for this process", "see [selinux]");
        }
        match self.pair {
            Some(pair) if context.range == CategoryPair::level(&[&[pair], shares].concat()) => Ok(()),
            _ => refuse("its categories are not the leased ones", "plan again"),
        }
    }

    /// Checks the context of a file that one process of the domain alone writes.
    fn private_label(&self, label: &str, kind: &str, what: &str) -> Result<(), Refusal> {
        if is_object(label, kind, self.pair) {
            return Ok(());
        }
        Err(policy(&format!("label {what} as"), label.into(), "is not the domain's own label", "plan again"))
    }

    /// Checks the context of memory that several domains have: its own pair, without which every domain could open it.
    pub(super) fn shmem_label(&self, label: Option<&str>, name: &str) -> Result<(), Refusal> {
        let pair = self.shared_pair(&ShareIdentity::memory(name));
        let fits = match label {
            None => !self.selinux,
            Some(label) => self.selinux && is_object(label, &self.settings.selinux.shmem_type, pair),
        };
        if fits {
            return Ok(());
        }
        let (object, rule) = (label.unwrap_or("nothing"), "is not the memory's own label on this host");
        Err(policy("label shared memory as", object.into(), rule, "plan again"))
    }

    /// Checks the context of an image against how the image is opened.
    pub(super) fn image_label(&self, slot: &Slot, label: &str) -> Result<(), Refusal> {
        let operation = "label an image as";
        let refuse = |rule: &str, remedy: &str| Err(policy(operation, label.into(), rule, remedy));
        if self.nvrams.contains(&slot) {
            return self.private_label(label, &self.settings.selinux.image_type, "UEFI variables");
        }
        if self.states.contains(&slot) {
            return self.private_label(label, &self.settings.selinux.tpm_state_type, "a TPM's state");
        }
        if self.saved.contains(&slot) {
            return self.private_label(label, &self.settings.selinux.save_type, "a saved domain");
        }
        if self.directories.iter().any(|(directory, _)| *directory == slot) {
            let fits = is_object(label, &self.settings.selinux.share_type, self.pair_of(slot));
            return if fits { Ok(()) } else { refuse("is not the directory's own label", "plan again") };
        }
        if self.readables.contains(&slot) {
            let content = format!("system_u:object_r:{}:s0", self.settings.selinux.content_type);
            return if label == content {
                Ok(())
            } else {
                refuse("what is only read is content", "plan again")
            };
        }
        let (Some(context), Some(image)) = (parse(label), self.image(slot)) else {
            return refuse("is no context of an image of this plan", "write user:role:type:range");
        };
        if context.user != "system_u" || context.role != "object_r" {
            return refuse("images are system_u:object_r", "plan again");
        }
        let types = &self.settings.selinux;
        let own = self.pair.map(|pair| CategoryPair::level(&[pair]));
        let is_own = own.as_deref() == Some(context.range);
        let is_common = context.range == "s0";
        if context.kind == types.content_type {
            if image.access != Access::ReadOnly {
                return refuse("content that every domain reads cannot be writable", "plan again");
            }
            return if is_common { Ok(()) } else { refuse("content has no categories", "plan again") };
        }
        let known =
            context.kind == types.image_type || types.extra_image_types.iter().any(|t| t == context.kind);
        if !known {
            return refuse(
                "its type is not one of the configuration's for images",
                "add it to selinux.extra_image_types, if device models may use such files",
            );
        }
        if image.sharing == Sharing::Writers {
            let share = self.shared_pair(&image.identity.into());
            let is_shared = share.is_some_and(|pair| CategoryPair::level(&[pair]) == context.range);
            return if is_shared {
                Ok(())
            } else {
                refuse("its categories are not the share's", "plan again")
            };
        }
        if is_own || (is_common && image.access == Access::ReadOnly) {
            return Ok(());
        }
        refuse("its categories are not the leased pair", "plan again")
    }
}
