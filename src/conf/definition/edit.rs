//! Changes to single values of a kept definition, as calls for them make them.

use super::Definition;

impl Definition {
    /// Sets `<currentMemory>`, in bytes.
    pub fn set_current_memory(&mut self, bytes: u64) {
        self.number("currentMemory", bytes / 1024);
    }

    /// Sets `<memory>`, in bytes; what the guest has at its start is never more.
    pub fn set_memory(&mut self, bytes: u64) {
        let kibibytes = bytes / 1024;
        self.number("memory", kibibytes);
        let current = self.root.child("currentMemory").and_then(|node| node.text.trim().parse::<u64>().ok());
        if current.is_none_or(|current| current > kibibytes) {
            self.number("currentMemory", kibibytes);
        }
    }

    /// Sets how many virtual CPUs the guest has.
    pub fn set_vcpus(&mut self, count: u32) {
        self.number("vcpu", count.into());
        if let Some(node) = self.root.child_mut("vcpu") {
            node.remove_attribute("current");
        }
    }

    fn number(&mut self, name: &str, value: u64) {
        if let Some(node) = self.root.ensure(name) {
            node.text = value.to_string();
        }
    }
}
