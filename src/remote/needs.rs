//! Which permissions each procedure needs: libvirt's own table. A procedure without a row does not compile.

use crate::access::{Object::*, Permission, Verb::*};
use crate::rpc::Procedure;

/// One permission, and when it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// The permission.
    pub(super) permission: Permission,
    /// When.
    pub(super) when: When,
}

/// On which flags of a call a permission depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Always.
    Always,
    /// Where any of these is given.
    With(u32),
    /// Where none of these is given.
    Without(u32),
}

use When::{Always, With, Without};

const fn need(object: crate::access::Object, verb: crate::access::Verb, when: When) -> Need {
    Need { permission: Permission { object, verb }, when }
}

impl When {
    /// Whether the permission is needed for a call with these flags.
    pub(super) fn holds(self, flags: u32) -> bool {
        match self {
            Always => true,
            With(mask) => flags & mask != 0,
            Without(mask) => flags & mask == 0,
        }
    }
}

/// Everything that a call needs; nothing for what is below permissions: authentication, closing, events.
pub(super) fn needs(procedure: Procedure) -> &'static [Need] {
    use Procedure as P;
    match procedure {
        P::ConnectOpen
        | P::ConnectGetType
        | P::ConnectGetVersion
        | P::ConnectGetHostname
        | P::ConnectSupportsFeature
        | P::ConnectGetUri
        | P::ConnectGetLibVersion
        | P::ConnectRegisterCloseCallback
        | P::ConnectUnregisterCloseCallback => const { &[need(Connect, Getattr, Always)] },
        P::ConnectClose
        | P::AuthList
        | P::AuthSaslInit
        | P::AuthSaslStart
        | P::AuthSaslStep
        | P::AuthPolkit
        | P::DomainEventLifecycle
        | P::ConnectIsSecure
        | P::DomainEventReboot
        | P::DomainEventRtcChange
        | P::DomainEventWatchdog
        | P::DomainEventIoError
        | P::DomainEventGraphics
        | P::DomainEventIoErrorReason
        | P::DomainEventControlError
        | P::DomainEventBlockJob
        | P::DomainEventDiskChange
        | P::DomainEventTrayChange
        | P::DomainEventPmwakeup
        | P::DomainEventPmsuspend
        | P::DomainEventBalloonChange
        | P::DomainEventPmsuspendDisk
        | P::DomainEventDeviceRemoved
        | P::NetworkEventLifecycle
        | P::DomainEventCallbackLifecycle
        | P::DomainEventCallbackReboot
        | P::DomainEventCallbackRtcChange
        | P::DomainEventCallbackWatchdog
        | P::DomainEventCallbackIoError
        | P::DomainEventCallbackGraphics
        | P::DomainEventCallbackIoErrorReason
        | P::DomainEventCallbackControlError
        | P::DomainEventCallbackBlockJob
        | P::DomainEventCallbackDiskChange
        | P::DomainEventCallbackTrayChange
        | P::DomainEventCallbackPmwakeup
        | P::DomainEventCallbackPmsuspend
        | P::DomainEventCallbackBalloonChange
        | P::DomainEventCallbackPmsuspendDisk
        | P::DomainEventCallbackDeviceRemoved
        | P::DomainEventBlockJob2
        | P::DomainEventCallbackTunable
        | P::DomainEventCallbackAgentLifecycle
        | P::DomainEventCallbackDeviceAdded
        | P::DomainEventCallbackMigrationIteration
        | P::ConnectEventConnectionClosed
        | P::DomainEventCallbackJobCompleted
        | P::DomainEventCallbackDeviceRemovalFailed
        | P::StoragePoolEventLifecycle
        | P::StoragePoolEventRefresh
        | P::NodeDeviceEventLifecycle
        | P::NodeDeviceEventUpdate
        | P::DomainEventCallbackMetadataChange
        | P::SecretEventLifecycle
        | P::SecretEventValueChanged
        | P::DomainEventBlockThreshold
        | P::DomainEventMemoryFailure
        | P::DomainEventMemoryDeviceSizeChange
        | P::NetworkEventCallbackMetadataChange
        | P::DomainEventNicMacChange => const { &[] },
        P::ConnectGetMaxVcpus
        | P::NodeGetInfo
        | P::ConnectGetCapabilities
        | P::NodeGetCellsFreeMemory
        | P::NodeGetFreeMemory
        | P::ConnectDomainEventDeregister
        | P::NodeGetSecurityModel
        | P::ConnectCompareCpu
        | P::ConnectBaselineCpu
        | P::ConnectDomainEventDeregisterAny
        | P::ConnectGetSysinfo
        | P::NodeGetCpuStats
        | P::NodeGetMemoryStats
        | P::NodeGetMemoryParameters
        | P::NodeGetCpuMap
        | P::ConnectGetCpuModelNames
        | P::ConnectNetworkEventDeregisterAny
        | P::ConnectDomainEventCallbackDeregisterAny
        | P::NodeGetFreePages
        | P::ConnectStoragePoolEventDeregisterAny
        | P::ConnectNodeDeviceEventDeregisterAny
        | P::ConnectSecretEventDeregisterAny
        | P::NodeGetSevInfo
        | P::ConnectGetStoragePoolCapabilities => const { &[need(Connect, Read, Always)] },
        P::DomainAttachDevice
        | P::DomainDetachDevice
        | P::DomainPinVcpu
        | P::DomainSetAutostart
        | P::DomainSetMaxMemory
        | P::DomainSetMemory
        | P::DomainSetVcpus
        | P::DomainAbortJob
        | P::DomainSaveImageGetXmlDesc
        | P::DomainBlockJobAbort
        | P::DomainBlockJobSetSpeed
        | P::DomainGetHostname
        | P::DomainGetTime
        | P::DomainSetPerfEvents
        | P::DomainGetGuestVcpus
        | P::DomainSetGuestVcpus
        | P::DomainSetBlockThreshold
        | P::DomainSetLifecycleAction
        | P::DomainGetGuestInfo
        | P::DomainAgentSetResponseTimeout
        | P::DomainAuthorizedSshKeysGet
        | P::DomainAuthorizedSshKeysSet
        | P::DomainStartDirtyRateCalc
        | P::DomainSetLaunchSecurityState
        | P::DomainAbortJobFlags
        | P::DomainFdAssociate
        | P::DomainGraphicsReload
        | P::DomainSetAutostartOnce => const { &[need(Domain, Write, Always)] },
        P::DomainCreate | P::DomainCreateWithFlags | P::DomainCreateWithFiles => {
            const { &[need(Domain, Start, Always)] }
        }
        P::DomainCreateXml | P::DomainCreateXmlWithFiles => {
            const { &[need(Domain, Write, Always), need(Domain, Start, Always)] }
        }
        P::DomainDefineXml | P::DomainDefineXmlFlags | P::DomainRename => {
            const { &[need(Domain, Write, Always), need(Domain, Save, Always)] }
        }
        P::DomainDestroy | P::DomainDestroyFlags => const { &[need(Domain, Stop, Always)] },
        P::DomainGetXmlDesc => {
            const {
                &[
                    need(Domain, Read, Always),
                    need(Domain, ReadSecure, With(1)),
                    need(Domain, ReadSecure, With(8)),
                ]
            }
        }
        P::DomainGetAutostart
        | P::DomainGetInfo
        | P::DomainGetMaxMemory
        | P::DomainGetMaxVcpus
        | P::DomainGetOsType
        | P::DomainGetVcpus
        | P::DomainGetSchedulerType
        | P::DomainGetSchedulerParameters
        | P::DomainSetSchedulerParameters
        | P::DomainBlockStats
        | P::DomainInterfaceStats
        | P::DomainGetSecurityLabel
        | P::DomainIsActive
        | P::DomainIsPersistent
        | P::DomainMemoryStats
        | P::DomainGetJobInfo
        | P::DomainHasManagedSaveImage
        | P::DomainSnapshotNum
        | P::DomainSnapshotListNames
        | P::DomainSnapshotLookupByName
        | P::DomainHasCurrentSnapshot
        | P::DomainSnapshotCurrent
        | P::DomainGetBlockInfo
        | P::DomainGetMemoryParameters
        | P::DomainIsUpdated
        | P::DomainGetBlkioParameters
        | P::DomainGetState
        | P::DomainGetSchedulerParametersFlags
        | P::DomainGetControlInfo
        | P::DomainGetVcpuPinInfo
        | P::DomainGetBlockJobInfo
        | P::DomainBlockStatsFlags
        | P::DomainSnapshotGetParent
        | P::DomainSnapshotNumChildren
        | P::DomainSnapshotListChildrenNames
        | P::DomainGetBlockIoTune
        | P::DomainGetNumaParameters
        | P::DomainGetInterfaceParameters
        | P::DomainGetCpuStats
        | P::DomainGetDiskErrors
        | P::DomainGetMetadata
        | P::DomainSnapshotIsCurrent
        | P::DomainSnapshotHasMetadata
        | P::DomainListAllSnapshots
        | P::DomainSnapshotListAllChildren
        | P::DomainGetSecurityLabelList
        | P::DomainGetEmulatorPinInfo
        | P::DomainGetJobStats
        | P::DomainGetIothreadInfo
        | P::DomainGetPerfEvents
        | P::DomainGetLaunchSecurityInfo
        | P::DomainListAllCheckpoints
        | P::DomainCheckpointListAllChildren
        | P::DomainCheckpointLookupByName
        | P::DomainCheckpointGetParent
        | P::DomainBackupGetXmlDesc
        | P::DomainGetMessages
        | P::DomainGetAutostartOnce => const { &[need(Domain, Read, Always)] },
        P::ConnectListDefinedDomains
        | P::ConnectNumOfDefinedDomains
        | P::ConnectListDomains
        | P::ConnectNumOfDomains
        | P::ConnectDomainEventRegister
        | P::ConnectDomainEventRegisterAny
        | P::ConnectListAllDomains
        | P::ConnectDomainEventCallbackRegisterAny
        | P::ConnectGetAllDomainStats => const { &[need(Connect, SearchDomains, Always)] },
        P::DomainLookupById | P::DomainLookupByName | P::DomainLookupByUuid => {
            const { &[need(Domain, Getattr, Always)] }
        }
        P::DomainReboot | P::DomainShutdownFlags => {
            const { &[need(Domain, InitControl, Always), need(Domain, Write, With(2))] }
        }
        P::DomainResume | P::DomainSuspend => const { &[need(Domain, Suspend, Always)] },
        P::DomainShutdown => const { &[need(Domain, InitControl, Always)] },
        P::DomainUndefine | P::DomainUndefineFlags => const { &[need(Domain, Delete, Always)] },
        P::ConnectListDefinedNetworks
        | P::ConnectListNetworks
        | P::ConnectNumOfDefinedNetworks
        | P::ConnectNumOfNetworks
        | P::ConnectListAllNetworks
        | P::ConnectNetworkEventRegisterAny => const { &[need(Connect, SearchNetworks, Always)] },
        P::NetworkCreate => const { &[need(Network, Start, Always)] },
        P::NetworkCreateXml | P::NetworkCreateXmlFlags => {
            const { &[need(Network, Write, Always), need(Network, Start, Always)] }
        }
        P::NetworkDefineXml | P::NetworkDefineXmlFlags => {
            const { &[need(Network, Write, Always), need(Network, Save, Always)] }
        }
        P::NetworkDestroy => const { &[need(Network, Stop, Always)] },
        P::NetworkGetXmlDesc
        | P::NetworkGetAutostart
        | P::NetworkGetBridgeName
        | P::NetworkIsActive
        | P::NetworkIsPersistent
        | P::NetworkGetDhcpLeases
        | P::NetworkGetMetadata => const { &[need(Network, Read, Always)] },
        P::NetworkLookupByName | P::NetworkLookupByUuid => const { &[need(Network, Getattr, Always)] },
        P::NetworkSetAutostart => const { &[need(Network, Write, Always)] },
        P::NetworkUndefine => const { &[need(Network, Delete, Always)] },
        P::DomainCoreDump | P::DomainCoreDumpWithFormat => const { &[need(Domain, CoreDump, Always)] },
        P::DomainRestore | P::DomainRestoreFlags | P::DomainRestoreParams => {
            const { &[need(Domain, Start, Always), need(Domain, Write, Always)] }
        }
        P::DomainSave
        | P::DomainManagedSave
        | P::DomainManagedSaveRemove
        | P::DomainSaveFlags
        | P::DomainSaveParams => const { &[need(Domain, Hibernate, Always)] },
        P::DomainMigratePrepare
        | P::DomainMigratePrepare2
        | P::DomainMigratePrepareTunnel
        | P::DomainMigratePrepare3
        | P::DomainMigratePrepareTunnel3
        | P::DomainMigratePrepare3Params
        | P::DomainMigratePrepareTunnel3Params => {
            const { &[need(Domain, Migrate, Always), need(Domain, Start, Always), need(Domain, Write, Always)] }
        }
        P::DomainMigratePerform
        | P::DomainMigrateFinish
        | P::DomainMigrateFinish2
        | P::DomainMigrateSetMaxDowntime
        | P::DomainMigrateSetMaxSpeed
        | P::DomainMigrateBegin3
        | P::DomainMigratePerform3
        | P::DomainMigrateFinish3
        | P::DomainMigrateConfirm3
        | P::DomainMigrateGetMaxSpeed
        | P::DomainMigrateGetCompressionCache
        | P::DomainMigrateSetCompressionCache
        | P::DomainMigrateBegin3Params
        | P::DomainMigratePerform3Params
        | P::DomainMigrateFinish3Params
        | P::DomainMigrateConfirm3Params
        | P::DomainMigrateStartPostCopy
        | P::DomainMigrateGetMaxDowntime => const { &[need(Domain, Migrate, Always)] },
        P::ConnectNumOfStoragePools
        | P::ConnectListStoragePools
        | P::ConnectNumOfDefinedStoragePools
        | P::ConnectListDefinedStoragePools
        | P::ConnectListAllStoragePools
        | P::ConnectStoragePoolEventRegisterAny => const { &[need(Connect, SearchStoragePools, Always)] },
        P::ConnectFindStoragePoolSources => const { &[need(Connect, DetectStoragePools, Always)] },
        P::StoragePoolCreateXml => {
            const { &[need(StoragePool, Start, Always), need(StoragePool, Write, Always)] }
        }
        P::StoragePoolDefineXml => {
            const { &[need(StoragePool, Write, Always), need(StoragePool, Save, Always)] }
        }
        P::StoragePoolCreate => const { &[need(StoragePool, Start, Always)] },
        P::StoragePoolBuild | P::StoragePoolDelete => const { &[need(StoragePool, Format, Always)] },
        P::StoragePoolDestroy => const { &[need(StoragePool, Stop, Always)] },
        P::StoragePoolUndefine => const { &[need(StoragePool, Delete, Always)] },
        P::StoragePoolRefresh => const { &[need(StoragePool, Refresh, Always)] },
        P::StoragePoolLookupByName
        | P::StoragePoolLookupByUuid
        | P::StoragePoolLookupByVolume
        | P::StoragePoolLookupByTargetPath => const { &[need(StoragePool, Getattr, Always)] },
        P::StoragePoolGetInfo
        | P::StoragePoolGetXmlDesc
        | P::StoragePoolGetAutostart
        | P::StoragePoolIsActive
        | P::StoragePoolIsPersistent => const { &[need(StoragePool, Read, Always)] },
        P::StoragePoolSetAutostart => const { &[need(StoragePool, Write, Always)] },
        P::StoragePoolNumOfVolumes | P::StoragePoolListVolumes | P::StoragePoolListAllVolumes => {
            const { &[need(StoragePool, SearchStorageVols, Always)] }
        }
        P::StorageVolCreateXml | P::StorageVolCreateXmlFrom => const { &[need(StorageVol, Create, Always)] },
        P::StorageVolDelete => const { &[need(StorageVol, Delete, Always)] },
        P::StorageVolLookupByName | P::StorageVolLookupByKey | P::StorageVolLookupByPath => {
            const { &[need(StorageVol, Getattr, Always)] }
        }
        P::StorageVolGetInfo | P::StorageVolGetXmlDesc | P::StorageVolGetPath | P::StorageVolGetInfoFlags => {
            const { &[need(StorageVol, Read, Always)] }
        }
        P::DomainBlockPeek => const { &[need(Domain, BlockRead, Always)] },
        P::DomainMemoryPeek => const { &[need(Domain, MemRead, Always)] },
        P::NodeNumOfDevices
        | P::NodeListDevices
        | P::ConnectListAllNodeDevices
        | P::ConnectNodeDeviceEventRegisterAny => const { &[need(Connect, SearchNodeDevices, Always)] },
        P::NodeDeviceLookupByName | P::NodeDeviceLookupScsiHostByWwn => {
            const { &[need(NodeDevice, Getattr, Always)] }
        }
        P::NodeDeviceGetXmlDesc
        | P::NodeDeviceGetParent
        | P::NodeDeviceNumOfCaps
        | P::NodeDeviceListCaps
        | P::NodeDeviceGetAutostart
        | P::NodeDeviceIsPersistent
        | P::NodeDeviceIsActive => const { &[need(NodeDevice, Read, Always)] },
        P::NodeDeviceDettach | P::NodeDeviceReAttach | P::NodeDeviceReset | P::NodeDeviceDetachFlags => {
            const { &[need(NodeDevice, Detach, Always)] }
        }
        P::NodeDeviceCreateXml => {
            const { &[need(NodeDevice, Write, Always), need(NodeDevice, Start, Always)] }
        }
        P::NodeDeviceDestroy => const { &[need(NodeDevice, Stop, Always)] },
        P::ConnectNumOfInterfaces
        | P::ConnectListInterfaces
        | P::ConnectNumOfDefinedInterfaces
        | P::ConnectListDefinedInterfaces
        | P::ConnectListAllInterfaces => const { &[need(Connect, SearchInterfaces, Always)] },
        P::InterfaceLookupByName | P::InterfaceLookupByMacString => {
            const { &[need(Interface, Getattr, Always)] }
        }
        P::InterfaceGetXmlDesc | P::InterfaceIsActive => const { &[need(Interface, Read, Always)] },
        P::InterfaceDefineXml => const { &[need(Interface, Write, Always), need(Interface, Save, Always)] },
        P::InterfaceUndefine => const { &[need(Interface, Delete, Always)] },
        P::InterfaceCreate => const { &[need(Interface, Start, Always)] },
        P::InterfaceDestroy => const { &[need(Interface, Stop, Always)] },
        P::ConnectDomainXmlFromNative
        | P::ConnectDomainXmlToNative
        | P::NodeSetMemoryParameters
        | P::ConnectGetDomainCapabilities
        | P::NodeAllocPages
        | P::ConnectCompareHypervisorCpu
        | P::ConnectBaselineHypervisorCpu
        | P::ConnectSetIdentity => const { &[need(Connect, Write, Always)] },
        P::ConnectNumOfSecrets
        | P::ConnectListSecrets
        | P::ConnectListAllSecrets
        | P::ConnectSecretEventRegisterAny => const { &[need(Connect, SearchSecrets, Always)] },
        P::SecretLookupByUuid | P::SecretLookupByUsage => const { &[need(Secret, Getattr, Always)] },
        P::SecretDefineXml => const { &[need(Secret, Write, Always), need(Secret, Save, Always)] },
        P::SecretGetXmlDesc => const { &[need(Secret, Read, Always)] },
        P::SecretSetValue => const { &[need(Secret, Write, Always)] },
        P::SecretGetValue => const { &[need(Secret, ReadSecure, Always)] },
        P::SecretUndefine => const { &[need(Secret, Delete, Always)] },
        P::DomainAttachDeviceFlags
        | P::DomainDetachDeviceFlags
        | P::DomainUpdateDeviceFlags
        | P::DomainSetMemoryParameters
        | P::DomainSetMemoryFlags
        | P::DomainSetBlkioParameters
        | P::DomainSetSchedulerParametersFlags
        | P::DomainPinVcpuFlags
        | P::DomainSetBlockIoTune
        | P::DomainSetNumaParameters
        | P::DomainSetInterfaceParameters
        | P::DomainSetMetadata
        | P::DomainPinEmulator
        | P::DomainSetMemoryStatsPeriod
        | P::DomainPinIothread
        | P::DomainAddIothread
        | P::DomainDelIothread
        | P::DomainSetVcpu
        | P::DomainDetachDeviceAlias
        | P::DomainSetIothreadParams
        | P::DomainSetThrottleGroup
        | P::DomainDelThrottleGroup => {
            const { &[need(Domain, Write, Always), need(Domain, Save, Without(3)), need(Domain, Save, With(2))] }
        }
        P::StorageVolWipe | P::StorageVolWipePattern => const { &[need(StorageVol, Format, Always)] },
        P::NwfilterLookupByName | P::NwfilterLookupByUuid => const { &[need(Nwfilter, Getattr, Always)] },
        P::NwfilterGetXmlDesc => const { &[need(Nwfilter, Read, Always)] },
        P::ConnectNumOfNwfilters | P::ConnectListNwfilters | P::ConnectListAllNwfilters => {
            const { &[need(Connect, SearchNwfilters, Always)] }
        }
        P::NwfilterDefineXml | P::NwfilterDefineXmlFlags => {
            const { &[need(Nwfilter, Write, Always), need(Nwfilter, Save, Always)] }
        }
        P::NwfilterUndefine => const { &[need(Nwfilter, Delete, Always)] },
        P::DomainSnapshotCreateXml => {
            const { &[need(Domain, Snapshot, Always), need(Domain, FsFreeze, With(64))] }
        }
        P::DomainSnapshotGetXmlDesc | P::DomainManagedSaveGetXmlDesc | P::DomainCheckpointGetXmlDesc => {
            const { &[need(Domain, Read, Always), need(Domain, ReadSecure, With(1))] }
        }
        P::DomainRevertToSnapshot | P::DomainSnapshotDelete => const { &[need(Domain, Snapshot, Always)] },
        P::DomainSetVcpusFlags => {
            const {
                &[
                    need(Domain, Write, Always),
                    need(Domain, Save, Without(3)),
                    need(Domain, Save, With(2)),
                    need(Domain, Write, With(8)),
                ]
            }
        }
        P::DomainGetVcpusFlags => const { &[need(Domain, Read, Always), need(Domain, Write, With(8))] },
        P::DomainOpenConsole | P::DomainOpenChannel => const { &[need(Domain, OpenDevice, Always)] },
        P::StorageVolUpload => const { &[need(StorageVol, DataWrite, Always)] },
        P::StorageVolDownload => const { &[need(StorageVol, DataRead, Always)] },
        P::DomainInjectNmi => const { &[need(Domain, InjectNmi, Always)] },
        P::DomainScreenshot => const { &[need(Domain, Screenshot, Always)] },
        P::InterfaceChangeBegin | P::InterfaceChangeCommit | P::InterfaceChangeRollback => {
            const { &[need(Connect, InterfaceTransaction, Always)] }
        }
        P::DomainSendKey => const { &[need(Domain, SendInput, Always)] },
        P::DomainSaveImageDefineXml | P::DomainManagedSaveDefineXml => {
            const { &[need(Domain, Write, Always), need(Domain, Hibernate, Always)] }
        }
        P::DomainBlockPull
        | P::DomainBlockResize
        | P::DomainBlockRebase
        | P::DomainBlockCommit
        | P::DomainBlockCopy => const { &[need(Domain, BlockWrite, Always)] },
        P::DomainReset => const { &[need(Domain, Reset, Always)] },
        P::DomainOpenGraphics | P::DomainOpenGraphicsFd => const { &[need(Domain, OpenGraphics, Always)] },
        P::NodeSuspendForDuration => const { &[need(Connect, PmControl, Always)] },
        P::StorageVolResize => const { &[need(StorageVol, Resize, Always)] },
        P::DomainPmSuspendForDuration | P::DomainPmWakeup => const { &[need(Domain, PmControl, Always)] },
        P::NetworkUpdate | P::NetworkSetMetadata => {
            const { &[need(Network, Write, Always), need(Network, Save, Without(3)), need(Network, Save, With(2))] }
        }
        P::DomainFstrim => const { &[need(Domain, FsTrim, Always)] },
        P::DomainSendProcessSignal => const { &[need(Domain, SendSignal, Always)] },
        P::DomainFsfreeze | P::DomainFsthaw | P::DomainGetFsinfo => {
            const { &[need(Domain, FsFreeze, Always)] }
        }
        P::DomainSetTime => const { &[need(Domain, SetTime, Always)] },
        P::DomainInterfaceAddresses => const { &[need(Domain, Read, Always), need(Domain, Write, With(1))] },
        P::DomainSetUserPassword => const { &[need(Domain, SetPassword, Always)] },
        P::NwfilterBindingLookupByPortDev => const { &[need(NwfilterBinding, Getattr, Always)] },
        P::NwfilterBindingGetXmlDesc => const { &[need(NwfilterBinding, Read, Always)] },
        P::NwfilterBindingCreateXml => const { &[need(NwfilterBinding, Create, Always)] },
        P::NwfilterBindingDelete => const { &[need(NwfilterBinding, Delete, Always)] },
        P::ConnectListAllNwfilterBindings => const { &[need(Connect, SearchNwfilterBindings, Always)] },
        P::NetworkListAllPorts => const { &[need(Network, SearchPorts, Always)] },
        P::NetworkPortLookupByUuid => const { &[need(NetworkPort, Getattr, Always)] },
        P::NetworkPortCreateXml => const { &[need(NetworkPort, Create, Always)] },
        P::NetworkPortGetParameters | P::NetworkPortGetXmlDesc => {
            const { &[need(NetworkPort, Read, Always)] }
        }
        P::NetworkPortSetParameters => const { &[need(NetworkPort, Write, Always)] },
        P::NetworkPortDelete => const { &[need(NetworkPort, Delete, Always)] },
        P::DomainCheckpointCreateXml => {
            const { &[need(Domain, Checkpoint, Always), need(Domain, FsFreeze, With(2))] }
        }
        P::DomainCheckpointDelete => const { &[need(Domain, Checkpoint, Always)] },
        P::DomainBackupBegin => {
            const { &[need(Domain, Checkpoint, Always), need(Domain, BlockWrite, Always)] }
        }
        P::NodeDeviceDefineXml => {
            const { &[need(NodeDevice, Write, Always), need(NodeDevice, Save, Always)] }
        }
        P::NodeDeviceUndefine => const { &[need(NodeDevice, Delete, Always)] },
        P::NodeDeviceCreate => const { &[need(NodeDevice, Start, Always)] },
        P::NodeDeviceSetAutostart => const { &[need(NodeDevice, Write, Always)] },
        P::NodeDeviceUpdate => {
            const {
                &[
                    need(NodeDevice, Write, Always),
                    need(NodeDevice, Save, Without(3)),
                    need(NodeDevice, Save, With(2)),
                ]
            }
        }
    }
}
