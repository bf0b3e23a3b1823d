//! What is known of a procedure. The table itself is `procedures`.

/// Whether a procedure is called, and whether its call may wait for the device model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sent by the server, never called.
    Event,
    /// A call that never waits for the device model.
    High,
    /// A call that may.
    Low,
}

/// Whether a read-only client may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnly {
    /// It may.
    Allowed,
    /// It may not.
    Refused,
    /// It may, unless any of these flags is given.
    RefusedWith(u32),
}

impl ReadOnly {
    /// Whether a read-only client may call with these flags.
    #[must_use]
    pub fn allows(self, flags: u32) -> bool {
        match self {
            Self::Allowed => true,
            Self::Refused => false,
            Self::RefusedWith(mask) => flags & mask == 0,
        }
    }
}

/// Makes the enumeration of procedures and what is known of each out of one table.
macro_rules! procedures {
    ($($number:literal $name:ident $api:literal $kind:ident $read_only:ident $(($mask:literal))?;)*) => {
        /// A procedure of the remote program; its discriminant is its number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum Procedure { $($name = $number,)* }

        impl Procedure {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The function of libvirt's interface that leads here; `-` for events.
            #[must_use]
            pub fn api(self) -> &'static str {
                match self { $(Self::$name => $api,)* }
            }

            /// Whether and how it is called.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)* }
            }

            /// Whether a read-only client may call it.
            #[must_use]
            pub fn read_only(self) -> ReadOnly {
                match self { $(Self::$name => ReadOnly::$read_only $(($mask))?,)* }
            }
        }
    };
}
pub(super) use procedures;

pub use super::procedures::Procedure;

impl Procedure {
    /// The procedure with this number.
    #[must_use]
    pub fn of(number: i32) -> Option<Self> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        Self::ALL.get(index).copied()
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> i32 {
        self as i32
    }
}

/// A procedure of the QEMU program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum QemuProcedure {
    DomainMonitorCommand = 1,
    DomainAttach = 2,
    DomainAgentCommand = 3,
    ConnectDomainMonitorEventRegister = 4,
    ConnectDomainMonitorEventDeregister = 5,
    DomainMonitorEvent = 6,
    DomainMonitorCommandWithFiles = 7,
}

impl QemuProcedure {
    /// The procedure with this number.
    #[must_use]
    pub fn of(number: i32) -> Option<Self> {
        let all = [
            Self::DomainMonitorCommand,
            Self::DomainAttach,
            Self::DomainAgentCommand,
            Self::ConnectDomainMonitorEventRegister,
            Self::ConnectDomainMonitorEventDeregister,
            Self::DomainMonitorEvent,
            Self::DomainMonitorCommandWithFiles,
        ];
        all.into_iter().find(|known| *known as i32 == number)
    }

    /// The function of libvirt's interface that leads here.
    #[must_use]
    pub fn api(self) -> &'static str {
        match self {
            Self::DomainMonitorCommand => "virDomainQemuMonitorCommand",
            Self::DomainAttach => "virDomainQemuAttach",
            Self::DomainAgentCommand => "virDomainQemuAgentCommand",
            Self::ConnectDomainMonitorEventRegister => "virConnectDomainQemuMonitorEventRegister",
            Self::ConnectDomainMonitorEventDeregister => "virConnectDomainQemuMonitorEventDeregister",
            Self::DomainMonitorEvent => "-",
            Self::DomainMonitorCommandWithFiles => "virDomainQemuMonitorCommandWithFiles",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_no_gap() {
        for (index, procedure) in Procedure::ALL.iter().enumerate() {
            assert_eq!(procedure.number(), i32::try_from(index).unwrap() + 1, "{procedure:?}");
            assert_eq!(Procedure::of(procedure.number()), Some(*procedure));
        }
        assert_eq!(Procedure::ALL.len(), 453);
        assert_eq!((Procedure::of(0), Procedure::of(-1), Procedure::of(454)), (None, None, None));
    }

    #[test]
    fn a_read_only_client_gets_no_secret() {
        assert!(Procedure::DomainGetXmlDesc.read_only().allows(2));
        assert!(!Procedure::DomainGetXmlDesc.read_only().allows(1));
        assert!(!Procedure::DomainGetXmlDesc.read_only().allows(8));
        assert!(!Procedure::DomainDestroy.read_only().allows(0));
    }

    #[test]
    fn calls_have_a_name_and_events_have_none() {
        for procedure in Procedure::ALL {
            assert_eq!(procedure.api() == "-", procedure.kind() == Kind::Event, "{procedure:?}");
        }
        assert_eq!(QemuProcedure::of(3), Some(QemuProcedure::DomainAgentCommand));
        assert_eq!(QemuProcedure::of(8), None);
    }
}
