//! Why a command ends without success, and the exit code that says so.

use crate::base::Refusal;

/// The exit codes; `docs/exit-codes.md` explains them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// Everything was done.
    Done = 0,
    /// Something was refused or failed; the message says what.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No running domain has that name or uuid.
    NoDomain = 3,
    /// Only root may do that.
    NeedsRoot = 4,
    /// The device model died: a signal, or an exit code that is not 0.
    Died = 5,
    /// `inspect` found a difference, or `probe` got through.
    Finding = 6,
    /// The host does not satisfy what an appliance needs.
    Unfit = 7,
    /// SIGINT ended it.
    Interrupted = 130,
    /// SIGTERM ended it.
    Terminated = 143,
}

/// A command's end without success.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The device model died while the guest ran.
    #[error("{message}")]
    Died {
        /// How.
        message: String,
        /// What tells more, or empty.
        remedy: &'static str,
        /// The last lines of QEMU's standard error, or empty.
        stderr: String,
    },
    /// Standard output is gone, as when it is piped into `head`; nothing is said about it.
    #[error("standard output is closed")]
    OutputClosed,
    /// The user ended it.
    #[error("{1}")]
    Ended(Code, String),
    /// A message and what to do.
    #[error("{message}")]
    Plain {
        /// How the program ends.
        code: Code,
        /// What is wrong.
        message: String,
        /// What to change, or empty.
        remedy: String,
    },
    /// A refusal of any layer; the device model's last words where there are any.
    #[error("{refusal}")]
    Refused {
        /// Who said no, and why.
        refusal: Box<Refusal>,
        /// The last lines of QEMU's standard error, or empty.
        stderr: String,
    },
}

impl Failure {
    /// A message without a layer.
    pub fn plain(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Plain { code: Code::Failed, message: message.into(), remedy: remedy.into() }
    }

    /// Only root may do this; `command` is what to type instead.
    #[must_use]
    pub fn needs_root(command: &str) -> Self {
        Self::Plain {
            code: Code::NeedsRoot,
            message: "only root may do this: it talks to svirt-labeller, which serves root alone".into(),
            remedy: format!("sudo {command}"),
        }
    }

    /// No running domain is called so.
    #[must_use]
    pub fn no_domain(name: &str) -> Self {
        Self::Plain {
            code: Code::NoDomain,
            message: format!("no running domain has the name or uuid {name:?}"),
            remedy: "`svirt list` shows those that run".into(),
        }
    }

    /// The domain that was found runs no more.
    #[must_use]
    pub fn gone() -> Self {
        Self::Plain {
            code: Code::NoDomain,
            message: "the domain runs no more".into(),
            remedy: "`svirt list` shows those that run".into(),
        }
    }

    /// How the program ends.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Died { .. } => Code::Died,
            Self::Ended(code, _) | Self::Plain { code, .. } => *code,
            Self::OutputClosed | Self::Refused { .. } => Code::Failed,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { refusal: Box::new(refusal), stderr: String::new() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::plain(error.to_string(), "")
    }
}
