//! Objects, verbs and roles.

use std::fmt;
use std::str::FromStr;

/// Kinds of objects, in libvirt's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Object {
    Connect,
    Domain,
    Interface,
    Network,
    NetworkPort,
    NodeDevice,
    Nwfilter,
    NwfilterBinding,
    Secret,
    StoragePool,
    StorageVol,
}

macro_rules! verbs {
    ($($name:ident $text:literal),* $(,)?) => {
        /// What is done to an object, in libvirt's words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Verb { $($name,)* }

        impl Verb {
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $text),)*];
        }
    };
}

verbs! {
    BlockRead "block_read",
    BlockWrite "block_write",
    Checkpoint "checkpoint",
    CoreDump "core_dump",
    Create "create",
    DataRead "data_read",
    DataWrite "data_write",
    Delete "delete",
    Detach "detach",
    DetectStoragePools "detect_storage_pools",
    Format "format",
    FsFreeze "fs_freeze",
    FsTrim "fs_trim",
    Getattr "getattr",
    Hibernate "hibernate",
    InitControl "init_control",
    InjectNmi "inject_nmi",
    InterfaceTransaction "interface_transaction",
    MemRead "mem_read",
    Migrate "migrate",
    OpenDevice "open_device",
    OpenGraphics "open_graphics",
    OpenNamespace "open_namespace",
    PmControl "pm_control",
    Read "read",
    ReadSecure "read_secure",
    Refresh "refresh",
    Reset "reset",
    Resize "resize",
    Save "save",
    Screenshot "screenshot",
    SearchDomains "search_domains",
    SearchInterfaces "search_interfaces",
    SearchNetworks "search_networks",
    SearchNodeDevices "search_node_devices",
    SearchNwfilterBindings "search_nwfilter_bindings",
    SearchNwfilters "search_nwfilters",
    SearchPorts "search_ports",
    SearchSecrets "search_secrets",
    SearchStoragePools "search_storage_pools",
    SearchStorageVols "search_storage_vols",
    SendInput "send_input",
    SendSignal "send_signal",
    SetPassword "set_password",
    SetTime "set_time",
    Snapshot "snapshot",
    Start "start",
    Stop "stop",
    Suspend "suspend",
    Write "write",
}

impl Object {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Connect, "connect"),
        (Self::Domain, "domain"),
        (Self::Interface, "interface"),
        (Self::Network, "network"),
        (Self::NetworkPort, "network_port"),
        (Self::NodeDevice, "node_device"),
        (Self::Nwfilter, "nwfilter"),
        (Self::NwfilterBinding, "nwfilter_binding"),
        (Self::Secret, "secret"),
        (Self::StoragePool, "storage_pool"),
        (Self::StorageVol, "storage_vol"),
    ];
}

/// One permission, written `domain:start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// On what.
    pub object: Object,
    /// What.
    pub verb: Verb,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = Object::ALL.iter().find(|(object, _)| *object == self.object);
        let verb = Verb::ALL.iter().find(|(verb, _)| *verb == self.verb);
        write!(f, "{}:{}", object.map_or("", |known| known.1), verb.map_or("", |known| known.1))
    }
}

impl FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no permission, which is written such as domain:start");
        let (object, verb) = text.split_once(':').ok_or_else(wrong)?;
        let object = Object::ALL.iter().find(|(_, known)| *known == object).ok_or_else(wrong)?.0;
        let verb = Verb::ALL.iter().find(|(_, known)| *known == verb).ok_or_else(wrong)?.0;
        Ok(Self { object, verb })
    }
}

/// A set of permissions that a person has a word for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything.
    Admin,
    /// Sees, starts, stops and uses domains, and changes no definition.
    Operator,
    /// Sees everything, secrets in definitions included, and changes nothing.
    PolicyAuthor,
    /// Sees everything but secrets.
    Viewer,
}

impl Role {
    /// Whether the role has a permission.
    #[must_use]
    pub fn has(self, permission: Permission) -> bool {
        use Verb as V;
        let sees = matches!(
            permission.verb,
            V::Getattr
                | V::Read
                | V::SearchDomains
                | V::SearchInterfaces
                | V::SearchNetworks
                | V::SearchNodeDevices
                | V::SearchNwfilterBindings
                | V::SearchNwfilters
                | V::SearchPorts
                | V::SearchSecrets
                | V::SearchStoragePools
                | V::SearchStorageVols
        );
        let operates = permission.object == Object::Domain
            && matches!(
                permission.verb,
                V::Hibernate
                    | V::InitControl
                    | V::InjectNmi
                    | V::OpenDevice
                    | V::OpenGraphics
                    | V::PmControl
                    | V::Reset
                    | V::Screenshot
                    | V::SendInput
                    | V::Start
                    | V::Stop
                    | V::Suspend
            );
        match self {
            Self::Admin => true,
            Self::Operator => sees || operates,
            Self::PolicyAuthor => sees || permission.verb == V::ReadSecure,
            Self::Viewer => sees,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_written_as_libvirt_writes_them() {
        for (object, _) in Object::ALL {
            for (verb, _) in Verb::ALL {
                let permission = Permission { object: *object, verb: *verb };
                assert_eq!(permission.to_string().parse(), Ok(permission));
            }
        }
        assert!("domain".parse::<Permission>().is_err() && "domain:fly".parse::<Permission>().is_err());
    }

    #[test]
    fn roles_hold_what_their_names_say() {
        let has = |role: Role, text: &str| role.has(text.parse().unwrap());
        assert!(has(Role::Viewer, "domain:read") && !has(Role::Viewer, "domain:read_secure"));
        assert!(has(Role::Operator, "domain:start") && !has(Role::Operator, "domain:write"));
        assert!(!has(Role::Operator, "storage_pool:start") && !has(Role::Operator, "domain:delete"));
        assert!(has(Role::PolicyAuthor, "domain:read_secure") && !has(Role::PolicyAuthor, "domain:start"));
        assert!(has(Role::Admin, "connect:write"));
    }
}
