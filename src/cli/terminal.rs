//! The terminal in raw mode, put back on every way out.

use std::io::{self, IsTerminal as _};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Standard input in raw mode; dropping it puts the former mode back.
pub(super) struct Raw {
    before: Option<Termios>,
}

impl Raw {
    /// Switches standard input to raw mode; does nothing where it is no terminal.
    pub(super) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw)?;
        Ok(Self { before: Some(before) })
    }

    /// Whether there is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.before.is_some()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing better is left to do if that fails.
            let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}
