//! The filter that the labeller puts under every plan's own, compiled once: what nobody whom it starts ever needs.
//!
//! The list is `labels/seccomp/ceiling.toml` and `floor.toml`. Filters stack and the strictest answer wins, so a plan
//! cannot take any of this back.

use std::io;
use std::sync::OnceLock;

use crate::filter::own;
use crate::sys::seccomp::Instruction;

static PROGRAM: OnceLock<Vec<Instruction>> = OnceLock::new();

/// The program. Whoever forks asks for it first, so that no child compiles it again.
pub(super) fn program() -> io::Result<&'static [Instruction]> {
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let compiled = own::floor().map_err(io::Error::other)?;
    let program = compiled.0.iter().map(|insn| (insn.0, insn.1, insn.2, insn.3)).collect();
    Ok(PROGRAM.get_or_init(|| program))
}
