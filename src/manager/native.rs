//! What a definition is to QEMU.

use std::sync::Arc;

use super::{Manager, ManagerError};
use crate::conf::definition::Strictness;
use crate::driver;

impl Manager {
    /// The environment and the arguments of the device model that this definition would be started as, for somebody who
    /// may know of storage pools, or may not.
    pub fn command_line(&self, xml: &str, pools: bool) -> Result<driver::CommandLine, ManagerError> {
        let definition = Arc::new(self.read(xml, super::draw_uuid(), Strictness::Lenient)?);
        let definition = if pools { self.resolved(definition)? } else { definition };
        Ok(driver::command_line(definition.to_start()?, &self.facts, &self.settings)?)
    }
}
