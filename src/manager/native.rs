//! What a definition is to QEMU.

use super::{Manager, ManagerError};
use crate::conf::definition::Strictness;
use crate::driver;

impl Manager {
    /// The environment and the arguments of the device model that this definition would be started as.
    pub fn command_line(&self, xml: &str) -> Result<driver::CommandLine, ManagerError> {
        let domain = self.read(xml, super::draw_uuid(), Strictness::Lenient)?.to_start()?;
        Ok(driver::command_line(domain, &self.facts, &self.settings)?)
    }
}
