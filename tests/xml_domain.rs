//! Definitions as people write them, against the values they must become and the refusals they must get.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use svirt::base::{Layer, Refusal};
use svirt::conf::domain::*;
use svirt::conf::domain_xml::parse;
use svirt::conf::{DefinitionError, DefinitionErrorKind as Kind};
use svirt::privsep::supervisor::LifecycleAction;

const TYPICAL: &str = include_str!("data/domain/typical.xml");

/// A small definition with `devices` in it and `rest` behind the devices.
fn small(devices: &str, rest: &str) -> String {
    format!(
        "<domain type='qemu'><name>a</name><memory>65536</memory><os><type machine='q35'>hvm</type></os>\n<devices>\n{devices}\n</devices>\n{rest}</domain>"
    )
}

fn refused(xml: &str) -> DefinitionError {
    match parse(xml.as_bytes()) {
        Ok(domain) => panic!("accepted:\n{xml}\nas {domain:#?}"),
        Err(error) => error,
    }
}

fn accepted(xml: &str) -> Domain {
    parse(xml.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{xml}"))
}

#[test]
fn a_typical_definition_becomes_its_values() {
    let domain = accepted(TYPICAL);
    assert_eq!(domain.virt, VirtType::Kvm);
    assert_eq!(domain.uuid.unwrap().to_string(), "1b4e28ba-2fa1-4d2e-883f-0016d3cca427");
    assert_eq!(domain.title.as_deref(), Some("Web & mail"));
    assert_eq!((domain.memory, domain.current_memory), (2 << 30, 1 << 30));
    assert_eq!(domain.vcpus, 4);
    assert_eq!(domain.os.boot, Boot::Devices(vec![]));
    assert_eq!(
        domain.features,
        Features { acpi: true, apic: true, pae: false, smm: None, vmport: Some(false), vmcoreinfo: false }
    );
    assert_eq!(domain.cpu.mode, CpuMode::HostPassthrough);
    assert_eq!(domain.cpu.features, [("vmx".to_owned(), false)]);
    assert_eq!(domain.clock.timers.len(), 3);
    assert_eq!(domain.on_poweroff, LifecycleAction::Destroy);
    assert_eq!(domain.on_crash, LifecycleAction::Preserve);
    let devices = &domain.devices;
    let disk = &devices.disks[0];
    assert_eq!((disk.line, disk.boot_order, disk.cache), (29, Some(1), CacheMode::None));
    let top = disk.source.as_ref().unwrap();
    assert_eq!(top.path, "/var/lib/svirt/images/web, 1.qcow2");
    assert_eq!(top.seclabels, [DeviceLabel { model: Some("dac".to_owned()), label: None }]);
    let Backing::Layer(middle) = &top.backing else { panic!("no middle layer") };
    let Backing::Layer(base) = &middle.backing else { panic!("no base") };
    assert_eq!(
        (base.kind, base.format, &base.backing),
        (SourceKind::Block, ImageFormat::Raw, &Backing::None)
    );
    assert!(devices.disks[1].readonly && devices.disks[1].source.is_none());
    assert_eq!(devices.interfaces[0].mac, Some([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
    assert_eq!(devices.interfaces[1].backend, InterfaceBackend::Tap("tap0".to_owned()));
    assert_eq!((devices.serials.len(), devices.consoles.len()), (1, 1));
    assert_eq!(devices.serials[0].log, Some(("/var/log/svirt/web-1.log".to_owned(), true)));
    assert_eq!(devices.rngs[0].rate, Some((1024, 2000)));
    assert_eq!(devices.memballoon.unwrap().free_page_reporting, Some(true));
    assert_eq!(devices.vncs[0].listen, VncListen::Address("127.0.0.1".parse().unwrap(), None));
    // A port beside it is the one of an earlier run.
    let earlier = accepted(&TYPICAL.replace("port='-1' autoport", "port='5900' autoport"));
    assert_eq!(earlier.devices.vncs[0].listen, devices.vncs[0].listen);
    assert_eq!(devices.videos, [Video::new(VideoModel::Vga)]);
    assert_eq!(domain.seclabels.len(), 2);
}

#[test]
fn the_smallest_definition_gets_libvirts_defaults() {
    let domain = accepted(&small("", "").replace(" machine='q35'", ""));
    assert_eq!((domain.memory, domain.vcpus), (64 << 20, 1));
    assert_eq!(domain.os.machine, "pc");
    assert_eq!(domain.os.boot, Boot::Devices(vec![BootDevice::Hd]));
    assert_eq!(
        domain.devices.memballoon,
        Some(MemBalloon { autodeflate: None, free_page_reporting: None, period: None, address: None })
    );
    assert!(domain.devices.videos.is_empty());
    assert_eq!(domain.on_reboot, LifecycleAction::Restart);
}

#[test]
fn what_does_not_run_is_refused_by_name_and_line() {
    let cases = [
        ("<hub type='usb'/>", "unsupported: <hub>"),
        ("<sound model='usb'/>", "unsupported: model='usb' of <sound>"),
        ("<channel type='unix'><target type='guestfwd'/></channel>", "unsupported: type='guestfwd'"),
        ("<disk type='network'><target dev='vda'/></disk>", "unsupported: type='network'"),
        ("<disk><source file='/a'/><target dev='vda'/><iotune><x/></iotune></disk>", "unsupported: <x>"),
        (
            "<disk><source file='/a'/><target dev='vda'/><iotune><total_iops_sec>5</total_iops_sec>\
             <group_name>g</group_name></iotune></disk><disk><source file='/b'/><target dev='vdb'/><iotune>\
             <total_iops_sec>5</total_iops_sec><group_name>g</group_name></iotune></disk>",
            "unsupported: several disks in the group 'g'",
        ),
        (
            "<disk><source file='/a' startupPolicy='optional'/><target dev='vda'/></disk>",
            "unsupported: attribute startupPolicy of <source>",
        ),
        (
            "<disk><driver type='vmdk'/><source file='/a'/><target dev='vda'/></disk>",
            "unsupported: type='vmdk' of <driver>",
        ),
        (
            "<rng model='virtio'><backend model='random'/><address type='ccw'/></rng>",
            "unsupported: type='ccw' of <address>",
        ),
        ("<interface type='direct'/>", "unsupported: type='direct'"),
        ("<interface type='network'><source network='nat'/></interface>", "unsupported: the network"),
        ("<interface type='bridge'><filterref filter='x'/></interface>", "unsupported: <filterref>"),
        ("<interface type='bridge'><driver name='vhost'/></interface>", "unsupported: name='vhost'"),
        ("<graphics type='spice' tlsPort='5901'/>", "unsupported: tlsPort='5901'"),
        ("<graphics type='spice'><gl enable='yes'/></graphics>", "unsupported: enable='yes' of <gl>"),
        ("<graphics type='sdl'/>", "unsupported: type='sdl'"),
        ("<redirdev type='tcp'/>", "unsupported: type='tcp'"),
        ("<controller type='usb' index='1'/>", "unsupported: index='1'"),
        ("<input type='evdev'/>", "unsupported: type='evdev'"),
        ("<controller type='usb' model='nec-xhci'/>", "unsupported: model='nec-xhci'"),
        ("<tpm><backend type='passthrough'/></tpm>", "unsupported: type='passthrough'"),
        ("<tpm><backend type='emulator' version='3.0'/></tpm>", "unsupported: version='3.0'"),
        ("<vsock model='virtio-transitional'/>", "unsupported: model='virtio-transitional'"),
        ("<watchdog model='diag288'/>", "unsupported: model='diag288'"),
        ("<panic model='hyperv'/>", "unsupported: model='hyperv' of <panic>"),
        ("<panic model='pseries'/>", "unsupported: model='pseries' of <panic>"),
        ("<panic model='s390'/>", "unsupported: model='s390' of <panic>"),
        ("<panic model='isa'><address type='pci'/></panic>", "unsupported: type='pci' of <address>"),
        ("<panic model='pvpanic'><address type='isa'/></panic>", "unsupported: type='isa' of <address>"),
        ("<video><model type='vga' ram='1024'/></video>", "unsupported: attribute ram of <model>"),
        ("<video><model type='vga' heads='2'/></video>", "unsupported: more than 1 heads"),
        ("<hostdev mode='subsystem'/>", "unsupported: <hostdev>"),
        ("stray", "unsupported: text in <devices>"),
    ];
    for (devices, expected) in cases {
        let error = refused(&small(devices, ""));
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(error.to_string().contains(if devices == "stray" { "line 2" } else { "line 3" }), "{error}");
        assert!(matches!(error.kind, Kind::Unsupported(_)), "{error:?}");
    }
    let device = "<blkiotune><device><path>/dev/a</path><weight>300</weight></device></blkiotune>";
    for rest in ["<iothreads>1</iothreads>", "<launchSecurity/>", device] {
        let error = refused(&small("", rest));
        assert!(matches!(error.kind, Kind::Unsupported(_)), "{error:?}");
    }
    let commandline = "<q:commandline xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'/>";
    let error = refused(&small("", commandline));
    assert!(error.to_string().starts_with("unsupported: <q:commandline>, line 5"), "{error}");
}

#[test]
fn an_address_says_what_to_do_about_it() {
    let mouse = "<input type='mouse' bus='ps2'><address type='isa'/></input>";
    let refusal = Refusal::from(refused(&small(mouse, "")));
    assert_eq!(refusal.layer, Layer::Definition);
    assert!(refusal.remedy.starts_with("remove the <address>"), "{refusal}");
    assert!(refusal.rule.contains("/domain/devices/input/address"), "{refusal}");
}

#[test]
fn values_out_of_range_and_contradictions_are_refused() {
    let replace = |from: &str, to: &str| {
        assert!(TYPICAL.contains(from), "{from}");
        refused(&TYPICAL.replacen(from, to, 1))
    };
    let cases = [
        ("<memory unit='MiB'>2048<", "<memory unit='MiB'>0<"),
        ("<memory unit='MiB'>2048<", "<memory unit='MiB'>-1<"),
        ("<memory unit='MiB'>2048<", "<memory unit='EiB'>99999999999<"),
        ("<memory unit='MiB'>2048<", "<memory unit='MiB'>99999999999999999999<"),
        ("<memory unit='MiB'>2048<", "<memory unit='parsec'>1<"),
        ("<currentMemory unit='GiB'>1<", "<currentMemory unit='GiB'>3<"),
        (">4</vcpu>", ">0</vcpu>"),
        (">4</vcpu>", ">4294967296</vcpu>"),
        (">4</vcpu>", ">5</vcpu>"),
        ("<name>web-1<", "<name>a/b<"),
        ("<name>web-1<", "<name>a&#10;b<"),
        ("<name>web-1<", "<name><"),
        ("1B4E28BA", "1B4E28BG"),
        ("/var/lib/svirt/images/web, 1.qcow2", "images/web.qcow2"),
        ("/var/lib/svirt/images/web, 1.qcow2", "/images/a&#10;b"),
        ("/usr/bin/qemu-system-x86_64", "qemu"),
        ("dev='sda' bus='sata'", "dev='vda' bus='virtio'"),
        ("dev='sda' bus='sata'", "dev='sda' bus='ide'"),
        ("dev='sda' bus='sata'", "dev='sd1' bus='sata'"),
        ("<boot order='2'/>", "<boot order='1'/>"),
        ("<boot order='2'/>", "<boot order='0'/>"),
        ("<boot order='2'/>", "<boot/>"),
        ("hvm</type>", "hvm</type><boot dev='hd'/>"),
        ("hvm</type>", "xen</type>"),
        ("hvm</type>", "hvm</type><cmdline>quiet</cmdline>"),
        ("arch='x86_64'", "arch='aarch64'"),
        ("pc-q35-7.2", "microvm"),
        ("pc-q35-7.2", "q35,accel=tcg"),
        ("name='vmx'", "name='vmx=on,+svm'"),
        ("52:54:00:12:34:56", "53:54:00:12:34:56"),
        ("52:54:00:12:34:56", "52:54:00:12:34"),
        ("52:54:00:12:34:56", "52:54:00:12:34:56:78"),
        ("dev='tap0' managed='no'", "dev='tap0'"),
        ("dev='tap0'", "dev='../tap0'"),
        ("<serial>WEB-1<", "<serial>WEB,1<"),
        ("cache='none' io='native'", "io='native'"),
        ("port='-1' autoport='yes'", "autoport='no'"),
        ("port='-1' autoport='yes'", "port='65536' autoport='no'"),
        ("address='127.0.0.1'", "address='localhost'"),
        ("<backingStore/>", "<backingStore/><backingStore/>"),
        ("<format type='raw'/>", ""),
        ("mode='bind'", "mode='connect'"),
        ("type='kvm'", "type='xen'"),
        ("type='kvm'", "type='qemu'"),
        ("<vcpu placement='static'>4</vcpu>", "<vcpu>4</vcpu><vcpu>4</vcpu>"),
    ];
    for (from, to) in cases {
        let error = replace(from, to);
        assert!(!error.remedy.is_empty() && error.line > 0 && !error.path.is_empty(), "{error:?}");
    }
    let shared = replace("<serial>WEB-1</serial>", "<shareable/>");
    assert!(matches!(shared.kind, Kind::Contradiction(_)), "{shared}");
}

#[test]
fn memory_units_are_libvirts() {
    let cases = [
        ("1", "b", 1024),
        ("1", "KB", 1024),
        ("1", "k", 1024),
        ("1000", "KB", 1_000_448),
        ("1", "m", 1 << 20),
        ("1", "MB", 1_000_448),
        ("1", "gib", 1 << 30),
        ("1", "T", 1 << 40),
    ];
    for (value, unit, bytes) in cases {
        let current =
            format!("<memory unit='TiB'>2</memory><currentMemory unit='{unit}'> {value}\n</currentMemory>");
        let xml = small("", "").replace("<memory>65536</memory>", &current);
        assert_eq!(accepted(&xml).current_memory, bytes, "{value} {unit}");
    }
}

#[test]
fn a_chain_may_be_two_hundred_layers_deep_and_no_deeper() {
    let chain = |layers: usize| {
        let open: String = (0..layers)
            .map(|n| format!("<backingStore><format type='qcow2'/><source file='/i/{n}'/>"))
            .collect();
        let close = "</backingStore>".repeat(layers);
        small(
            &format!(
                "<disk><driver type='qcow2'/><source file='/i/top'/>{open}<backingStore/>{close}<target dev='vda'/></disk>"
            ),
            "",
        )
    };
    let domain = accepted(&chain(199));
    let mut depth = 1;
    let mut at = domain.devices.disks[0].source.as_ref().unwrap();
    while let Backing::Layer(below) = &at.backing {
        depth += 1;
        at = below;
    }
    assert_eq!((depth, at.path.as_str()), (200, "/i/198"));
    assert!(refused(&chain(200)).to_string().contains("200 layers"));
}

#[test]
fn consoles_mirror_serials_as_in_libvirt() {
    let domain = accepted(&small("<console type='pty'/>", ""));
    assert_eq!((domain.devices.serials.len(), domain.devices.consoles.len()), (1, 0));
    let both = "<serial type='pty'/><console type='file'><source path='/c'/></console>";
    assert!(matches!(refused(&small(both, "")).kind, Kind::Contradiction(_)));
    let two = "<console type='pty'/><console type='pty'/>";
    assert!(matches!(refused(&small(two, "")).kind, Kind::Contradiction(_)));
}

/// Section 1.2 of libvirt's behaviour, row by row: what becomes of each label, or how it is refused.
#[test]
fn domain_labels_follow_libvirt() {
    let label = |xml: &str| parse(small("", xml).as_bytes()).map(|domain| domain.seclabels);
    let kind = |xml: &str| label(xml).unwrap()[0].kind.clone();
    assert_eq!(kind("<seclabel model='selinux'/>"), SecLabelKind::Dynamic { baselabel: None });
    assert_eq!(
        kind("<seclabel model='selinux'><baselabel>b</baselabel><label>l</label></seclabel>"),
        SecLabelKind::Dynamic { baselabel: Some("b".to_owned()) }
    );
    assert_eq!(kind("<seclabel model='none' type='dynamic'/>"), SecLabelKind::None);
    assert_eq!(
        kind("<seclabel model='dac' type='static'><label>+1:+1</label></seclabel>"),
        SecLabelKind::Static { label: "+1:+1".to_owned(), imagelabel: None, relabel: false }
    );
    let error = |xml: &str| label(xml).unwrap_err().kind;
    assert!(matches!(error("<seclabel model='selinux' relabel='no'/>"), Kind::LabelRequest(_)));
    assert!(matches!(error("<seclabel model='dac' type='none' relabel='yes'/>"), Kind::LabelRequest(_)));
    assert!(matches!(error("<seclabel model='selinux' type='static'/>"), Kind::Missing(_)));
    assert!(matches!(error("<seclabel model='selinux' type='default'/>"), Kind::Value { .. }));
    assert!(matches!(error("<seclabel model='selinux' relabel='maybe'/>"), Kind::Value { .. }));
    assert!(matches!(error("<seclabel model='dac'/><seclabel model='dac'/>"), Kind::Duplicate { .. }));
    assert!(matches!(error("<seclabel type='none'/>"), Kind::Missing(_)));
    assert!(matches!(error("<seclabel model='smack'/>"), Kind::Unsupported(_)));
    let long = |bytes: usize| {
        format!("<seclabel model='dac' type='static'><label>{}</label></seclabel>", "l".repeat(bytes))
    };
    assert!(label(&long(4096)).is_ok());
    assert!(label(&long(4097)).is_err());
}

#[test]
fn image_labels_follow_libvirt() {
    let with = |own: &str, domain: &str| {
        let disk = format!("<disk><source file='/a'>{own}</source><target dev='vda'/></disk>");
        parse(small(&disk, domain).as_bytes()).map_err(|error| error.kind)
    };
    assert!(with("<seclabel model='dac' relabel='no'/>", "").is_ok());
    assert!(with("<seclabel model='selinux'><label>l</label></seclabel>", "").is_ok());
    assert!(matches!(with("<seclabel model='selinux'/>", ""), Err(Kind::Missing(_))));
    let both = "<seclabel relabel='no'><label>l</label></seclabel>";
    assert!(matches!(with(both, ""), Err(Kind::Contradiction(_))));
    let twice = "<seclabel model='dac' relabel='no'/><seclabel model='dac' relabel='no'/>";
    assert!(matches!(with(twice, ""), Err(Kind::Duplicate { .. })));
    let fixed = "<seclabel model='dac' type='static'><label>l</label></seclabel>";
    assert!(matches!(with("<seclabel model='dac' relabel='no'/>", fixed), Err(Kind::LabelRequest(_))));
    let none = "<seclabel model='dac' type='none'/>";
    assert!(with("<seclabel model='dac' relabel='no'/>", none).is_ok());
    let labelled = "<seclabel model='dac'><label>l</label></seclabel>";
    assert!(matches!(with(labelled, none), Err(Kind::LabelRequest(_))));
}

#[test]
fn hardware_becomes_its_values() {
    let domain = accepted(&small(
        "<controller type='pci' model='pcie-root-port'/><controller type='pci' index='7' model='pcie-root-port'/>\
         <controller type='pci' model='pcie-root-port'><address type='pci' bus='0' slot='0x1e' function='3'/></controller>\
         <channel type='unix'><source mode='bind'/><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <channel type='unix'><target type='virtio' name='a'/></channel>\
         <channel type='unix'><source mode='connect'/><target type='virtio' name='b'/></channel>\
         <memballoon model='virtio'><stats period='10'/></memballoon>\
         <input type='tablet'/><input type='mouse'/><sound model='ich9'/><watchdog model='itco'/>\
         <panic model='pvpanic'/><panic><address type='isa' iobase='0x505'/></panic>\
         <video><model type='virtio' heads='2'/></video><video><model type='qxl' vram='9216'/></video>\
         <disk><source file='/a'/><target dev='sda' bus='usb'/><address type='usb' bus='0' port='3'/></disk>\
         <disk><source file='/b'/><target dev='sdb'/><address type='drive' unit='9'/></disk>\
         <disk><source file='/c'/><target dev='nvme1n1'/></disk>",
        "<pm><suspend-to-mem enabled='no'/></pm>",
    ));
    let devices = &domain.devices;
    let index = |at: usize| devices.controllers[at].index;
    assert_eq!((index(0), index(1), index(2)), (1, 7, 8));
    let address = devices.controllers[2].address.unwrap();
    assert_eq!((address.bus, address.slot, address.function), (0, 0x1e, 3));
    let agent = &devices.channels[0];
    assert!(devices.channels.iter().all(|channel| channel.source == CharSource::UnixAuto));
    assert_eq!(agent.target, CharTarget::Channel("org.qemu.guest_agent.0".into()));
    assert_eq!((devices.inputs.len(), devices.inputs[0].bus), (1, InputBus::Usb));
    assert_eq!((devices.sounds[0].model, devices.audios.len()), (SoundModel::Ich9, 0));
    assert_eq!(devices.watchdogs[0].action, WatchdogAction::Reset);
    let panics: Vec<_> = devices.panics.iter().map(|panic| panic.model).collect();
    assert_eq!(panics, [PanicModel::Pci { address: None }, PanicModel::Isa { port: Some(0x505) }]);
    assert_eq!(devices.memballoon.unwrap().period, Some(10));
    assert_eq!((devices.videos[0].heads, devices.videos[1].vram), (2, Some(16_384)));
    let disks: Vec<_> = devices.disks.iter().map(|disk| (disk.bus, disk.port, disk.unit)).collect();
    let expected =
        [(DiskBus::Usb, Some(UsbPort(3)), None), (DiskBus::Scsi, None, Some(9)), (DiskBus::Nvme, None, None)];
    assert_eq!(disks, expected);
    assert_eq!((domain.pm.suspend_to_mem, domain.pm.suspend_to_disk), (Some(false), None));
}

#[test]
fn wrong_hardware_is_refused() {
    let channel = |name: &str| format!("<channel type='pty'><target type='virtio' name='{name}'/></channel>");
    let cases = [
        ("<controller type='pci' index='2' model='pcie-root-port'/>".repeat(2), "duplicate"),
        ("<controller type='usb' model='qemu-xhci'/>".repeat(2), "duplicate"),
        ("<controller type='usb' model='qemu-xhci' ports='16'/>".into(), "1 to 15"),
        ("<controller type='pci' index='0' model='pcie-root-port'/>".into(), "at least 1"),
        ("<controller type='sata'><address type='pci' slot='4'/></controller>".into(), "chip set"),
        (
            "<rng model='virtio'><backend model='builtin'/><address type='pci' slot='32'/></rng>".into(),
            "0x1f",
        ),
        (
            "<rng model='virtio'><backend model='builtin'/><address type='pci' domain='1'/></rng>".into(),
            "domain",
        ),
        ("<rng model='virtio'><backend model='builtin'/><address type='pci' bus='0xg'/></rng>".into(), "bus"),
        ("<input type='tablet'><address type='usb' port='1.2'/></input>".into(), "port"),
        ("<input type='tablet'><address type='usb' port='16'/></input>".into(), "1 to 15"),
        (channel("a,b"), "letters"),
        (channel("").clone(), "letters"),
        (channel("a").repeat(2), "duplicate"),
        ("<sound model='ich9'><audio id='3'/></sound>".into(), "not there"),
        ("<controller type='usb' model='ich9-uhci1'/>".into(), "without the ich9-ehci1"),
        ("<controller type='sata'><address type='pci' slot='7'/></controller>".into(), "in its chip set"),
        ("<audio id='1' type='none'/>".repeat(2), "twice"),
        ("<sound model='ac97'><codec type='micro'/></sound>".into(), "codec"),
        ("<graphics type='spice'/>".repeat(2), "duplicate"),
        ("<channel type='spicevmc'><target type='virtio' name='a'/></channel>".into(), "needs a <graphics"),
        ("<redirdev type='spicevmc'/>".into(), "needs a <graphics"),
        ("<audio id='1' type='spice'/>".into(), "needs a <graphics"),
        ("<watchdog model='itco'/>".repeat(2), "duplicate"),
        ("<panic/><panic model='isa'/>".into(), "duplicate"),
        ("<panic><address type='isa' iobase='0x10000'/></panic>".into(), "at most 0xffff"),
        ("<watchdog model='itco'/><watchdog model='ib700' action='none'/>".into(), "one action"),
        ("<video><model type='vga' vram='1000'/></video>".into(), "from 1024 to"),
        (
            "<memballoon model='virtio'><stats period='2147483648'/></memballoon>".into(),
            "a number of seconds up to 2147483647",
        ),
        ("<video><model type='vga'/></video>".repeat(2), "second <video>"),
        ("<disk><source file='/a'/><target dev='nvme0n1' bus='virtio'/></disk>".into(), "bus='virtio'"),
        ("<disk device='cdrom'><target dev='nvme0n1'/></disk>".into(), "cannot be on this bus"),
        (
            "<disk><source file='/a'/><target dev='sda'/><address type='drive' controller='1'/></disk>"
                .into(),
            "controller",
        ),
    ];
    for (devices, expected) in cases {
        let text = Refusal::from(refused(&small(&devices, ""))).to_string();
        assert!(text.contains(expected), "{expected:?} is not in: {text}");
    }
    for devices in ["<watchdog model='itco'/>", "<controller type='pci' model='pcie-root-port'/>"] {
        let xml = small(devices, "").replace("machine='q35'", "machine='pc'");
        assert!(refused(&xml).to_string().contains("needs a q35"));
    }
}

#[test]
fn a_guest_may_say_where_its_kernels_notes_are() {
    for (feature, on) in [
        ("<vmcoreinfo state='on'/>", true),
        ("<vmcoreinfo/>", true),
        ("<vmcoreinfo state='off'/>", false),
        ("<acpi/>", false),
    ] {
        let domain = accepted(&small("", &format!("<features>{feature}</features>")));
        assert_eq!(domain.features.vmcoreinfo, on, "{feature}");
    }
}

#[test]
fn a_boot_menu_waits_as_long_as_it_says() {
    let with = |menu: &str| small("", "").replace("</os>", &format!("{menu}</os>"));
    let menu = |timeout| Some(BootMenu { timeout });
    for (text, expected) in [
        ("<bootmenu enable='yes'/>", menu(None)),
        ("<bootmenu enable='yes' timeout='0'/>", menu(Some(0))),
        ("<bootmenu enable='yes' timeout='65535'/>", menu(Some(65_535))),
        ("<bootmenu enable='no'/>", None),
    ] {
        assert_eq!(accepted(&with(text)).os.menu, expected, "{text}");
    }
    for (text, expected) in [
        ("<bootmenu enable='yes' timeout='65536'/>", "milliseconds, 0 to 65535"),
        ("<bootmenu enable='yes' timeout='-1'/>", "milliseconds, 0 to 65535"),
        ("<bootmenu enable='maybe'/>", "yes or no"),
        ("<bootmenu enable='no' timeout='3000'/>", "attribute timeout"),
    ] {
        let text = Refusal::from(refused(&with(text))).to_string();
        assert!(text.contains(expected), "{expected:?} is not in: {text}");
    }
}

#[test]
fn names_for_the_guests_firmware_are_its_owners_own() {
    let sysinfo = |entries: &str| small("", &format!("<sysinfo type='fwcfg'>\n{entries}\n</sysinfo>"));
    let entry = |name: &str| format!("<entry name='{name}'>x</entry>");
    let longest = format!("opt/{}", "n".repeat(51));
    let domain = accepted(&sysinfo(
        &(entry(&longest)
            + "<entry name='opt/a' file='/var/lib/svirt/boot/a'/><entry name='opt/b'> two </entry>"),
    ));
    let sources: Vec<&FwCfgSource> = domain.fw_cfg.iter().map(|entry| &entry.source).collect();
    let text = |text: &str| FwCfgSource::Text(text.to_owned());
    assert_eq!(sources, [&text("x"), &FwCfgSource::File("/var/lib/svirt/boot/a".into()), &text(" two ")]);
    let file = |number: u32| format!("<entry name='opt/{number}' file='/a'/>");
    let many = |count: u32, entry: &dyn Fn(u32) -> String| (0..count).map(entry).collect::<String>();
    assert_eq!(accepted(&sysinfo(&many(8, &file))).fw_cfg.len(), 8);
    let numbered = |number: u32| entry(&format!("opt/{number}"));
    assert_eq!(accepted(&sysinfo(&many(16, &numbered))).fw_cfg.len(), 16);
    // As QEMU's argument has it: each comma twice.
    let long =
        |number: u32, commas: usize| format!("<entry name='opt/{number}'>{}</entry>", ",".repeat(commas));
    assert_eq!(accepted(&sysinfo(&many(4, &|number| long(number, 32 << 10)))).fw_cfg.len(), 4);
    let cases = [
        (entry("etc/system-states"), "begins with opt/"),
        (entry("opt/"), "begins with opt/"),
        (entry("OPT/a"), "begins with opt/"),
        (entry(&(longest + "n")), "at most 55"),
        (entry("opt/a b"), "printable"),
        (entry("opt/\u{043e}"), "printable"),
        (entry("opt/ovmf/X-PciMmio64Mb"), "reserved"),
        (entry("opt/org.qemu/virtio"), "reserved"),
        (entry("opt/a").repeat(2), "duplicate"),
        ("<entry name='opt/a'/>".into(), "missing"),
        ("<entry name='opt/a'> </entry>".into(), "missing"),
        ("<entry>x</entry>".into(), "missing"),
        ("<entry name='opt/a' file='/a'>x</entry>".into(), "a value and a file"),
        ("<entry name='opt/a' file='a'/>".into(), "absolute"),
        ("<entry name='opt/a' file='/a\u{7}'/>".into(), "U+0007"),
        ("<entry name='opt/a' secret='yes'>x</entry>".into(), "attribute secret"),
        (format!("<entry name='opt/a'>{}</entry>", "x".repeat((64 << 10) + 1)), "65536 bytes"),
        (format!("<entry name='opt/a'>{}</entry>", ",".repeat((32 << 10) + 1)), "65536 bytes"),
        (many(5, &|number| long(number, 32 << 10)), "262144 bytes together"),
        (many(9, &file), "8 with a file"),
        (many(17, &numbered), "more than 16"),
    ];
    for (entries, expected) in cases {
        let text = Refusal::from(refused(&sysinfo(&entries))).to_string();
        assert!(text.contains(expected), "{expected:?} is not in: {text}");
    }
}

#[test]
fn the_firmware_says_of_the_machine_what_is_asked_for() {
    const UUID: &str = "1b4e28ba-2fa1-4d2e-883f-0016d3cca427";
    let with = |mode: &str, sysinfo: &str| {
        format!(
            "<domain type='qemu'><name>a</name><uuid>{UUID}</uuid><memory>65536</memory>\
             <os><type machine='q35'>hvm</type>{mode}</os>{sysinfo}</domain>"
        )
    };
    let entries = |text: &str| format!("<sysinfo type='smbios'>{text}</sysinfo>");
    let asked = "<smbios mode='sysinfo'/>";
    let nova = entries(&format!(
        "<bios><entry name='release'>1.2</entry></bios><system><entry name='manufacturer'>Open, Stack</entry>\
         <entry name='uuid'>{UUID}</entry></system><baseBoard/><oemStrings><entry>a=b</entry></oemStrings>"
    ));
    let tables = accepted(&with(asked, &nova)).smbios;
    assert_eq!(tables.iter().map(|table| table.number).collect::<Vec<_>>(), [0, 1, 11]);
    assert_eq!(tables[1].values, [("manufacturer", "Open, Stack".to_owned()), ("uuid", UUID.to_owned())]);
    // Nobody asks for it: it is kept, and the machine is QEMU's, as with libvirt.
    for mode in ["", "<smbios mode='emulate'/>"] {
        assert!(accepted(&with(mode, &nova)).smbios.is_empty());
    }
    let one = |element: &str, name: &str, text: &str| {
        entries(&format!("<{element}><entry name='{name}'>{text}</entry></{element}>"))
    };
    let long = "x".repeat(1025);
    for (mode, sysinfo, expected) in [
        ("<smbios mode='host'/>", String::new(), "mode='host'"),
        (asked, String::new(), "without a <sysinfo type='smbios'>"),
        (asked, one("system", "uuid", "2b4e28ba-2fa1-4d2e-883f-0016d3cca427"), "is not the domain's"),
        (asked, one("system", "uuid", "x"), "a uuid"),
        (asked, one("system", "colour", "x"), "name='colour'"),
        (asked, one("bios", "release", "1.256"), "two numbers from 0 to 255"),
        (asked, one("chassis", "serial", &long), "1 to 1024 bytes"),
        (asked, one("chassis", "serial", "a\nb"), "one line"),
        (
            asked,
            entries(&format!("<oemStrings>{}</oemStrings>", "<entry>a</entry>".repeat(65))),
            "more than 64",
        ),
        (asked, entries("<processor/>"), "<processor>"),
    ] {
        let text = Refusal::from(refused(&with(mode, &sysinfo))).to_string();
        assert!(text.contains(expected), "{expected:?} is not in: {text}");
    }
}

#[test]
fn shared_memory_is_read_as_libvirt_writes_it() {
    let shmem = |inside: &str| small(&format!("<shmem name='a'>{inside}</shmem>"), "");
    let plain = "<model type='ivshmem-plain'/>";
    let of = |inside: &str| accepted(&shmem(inside)).devices.shmems.remove(0);
    let four = of(&format!("{plain}<alias name='shmem0'/><address type='pci' slot='0x10'/>"));
    assert_eq!((four.name.as_str(), four.size, four.master), ("a", 4 << 20, None));
    assert_eq!(four.address.unwrap().slot, 0x10);
    assert_eq!(of(&format!("{plain}<size unit='KiB'>2048</size>")).size, 2 << 20);
    assert_eq!(of(&format!("{plain}<size>16</size>")).size, 16 << 20, "libvirt's unit is the MiB here");
    let named = |name: &str| small(&format!("<shmem name='{name}'>{plain}</shmem>"), "");
    let role = small(&format!("<shmem name='a' role='master'>{plain}</shmem>"), "");
    assert_eq!(accepted(&role).devices.shmems[0].master, Some(true));
    let one = |number: u32| format!("<shmem name='{number}'>{plain}</shmem>");
    let many = |count: u32| small(&(0..count).map(one).collect::<String>(), "");
    assert_eq!(accepted(&many(8)).devices.shmems.len(), 8);
    let cases = [
        (shmem(""), "missing"),
        (shmem("<model type='ivshmem'/>"), "type='ivshmem'"),
        (shmem("<model type='ivshmem-doorbell'/>"), "ivshmem-plain"),
        (shmem(&format!("{plain}<server path='/s'/>")), "<server>"),
        (shmem(&format!("{plain}<msi vectors='4'/>")), "<msi>"),
        (shmem(&format!("{plain}<size>3</size>")), "power of two"),
        (shmem(&format!("{plain}<size unit='KiB'>512</size>")), "power of two"),
        (shmem(&format!("{plain}<size>0</size>")), "power of two"),
        (named("../a"), "a name of letters"),
        (named("a/b"), "a name of letters"),
        (named(".a"), "a name of letters"),
        (named(""), "a name of letters"),
        (named("\u{0430}"), "a name of letters"),
        (named(&"n".repeat(65)), "a name of letters"),
        (small(&format!("<shmem>{plain}</shmem>"), ""), "missing"),
        (small(&one(1).repeat(2), ""), "duplicate"),
        (many(9), "more than 8"),
    ];
    for (xml, expected) in cases {
        let text = Refusal::from(refused(&xml)).to_string();
        assert!(text.contains(expected), "{expected:?} is not in: {text}");
    }
}

#[test]
fn memory_is_rounded_up_to_what_qemu_takes() {
    let of = |memory: &str, more: &str| {
        let xml = small("", more).replace("<memory>65536<", &format!("<memory {memory}<"));
        let domain = accepted(&xml);
        (domain.memory >> 10, domain.current_memory >> 10)
    };
    assert_eq!(of(">65536", ""), (65536, 65536));
    assert_eq!(of(">65537", ""), (66560, 66560));
    assert_eq!(of("unit='KB'>100000", ""), (98304, 98304));
    assert_eq!(of("unit='b'>1", ""), (1024, 1024));
    assert_eq!(of(">100001", "<currentMemory>70001</currentMemory>"), (100_352, 70001));
    let cells = "<vcpu>2</vcpu><cpu><numa><cell memory='50001'/><cell memory='50000'/></numa></cpu>";
    assert_eq!(of(">100001", cells), (100_352, 100_352));
    let much = |kib: u64| small("", "").replace("<memory>65536<", &format!("<memory>{kib}<"));
    assert_eq!(accepted(&much((1 << 53) - 1024)).memory, (1 << 63) - (1 << 20));
    let text = Refusal::from(refused(&much((1 << 53) - 1))).to_string();
    assert!(text.contains("below 8 EiB"), "{text}");
}

#[test]
fn nodes_have_their_memory_and_processors() {
    let numa = |cells: &str| {
        small("", &format!("<vcpu>4</vcpu><cpu><numa>{cells}</numa></cpu>"))
            .replace("<memory>65536<", "<memory unit='MiB'>128<")
    };
    let far = "<distances><sibling id='0' value='21'/><sibling id='1' value='10'/></distances>";
    let domain = accepted(&numa(&format!(
        "<cell id='1' cpus='1-2' memory='64' unit='MiB' memAccess='shared'>{far}</cell>\
         <cell id='0' cpus='0' memory='65536'/>"
    )));
    let cells = &domain.cpu.numa;
    assert_eq!((cells[0].cpus.as_slice(), cells[1].cpus.as_slice()), (&[0, 3][..], &[1, 2][..]));
    assert_eq!((cells[0].memory, cells[0].shared, cells[1].shared), (64 << 20, None, Some(true)));
    assert_eq!(cells[1].distances, [(0, 21), (1, 10)]);
    let two = |first: &str, second: &str| {
        numa(&format!("<cell memory='65536' {first}</cell><cell memory='65536' {second}</cell>"))
    };
    let one = |distances: &str| two(&format!("><distances>{distances}</distances>"), ">");
    let cases = [
        (numa(""), "0 nodes"),
        (numa("<cell memory='65536'/>"), "do not make 131072 KiB"),
        (two("id='0'>", "id='0'>"), "twice"),
        (two("id='2'>", ">"), "0 to 1"),
        (two("cpus='0-1'>", "cpus='1'>"), "two nodes"),
        (two("cpus='0,0'>", ">"), "twice in one"),
        (two("cpus='2-1'>", ">"), "each below 4"),
        (two("cpus='4'>", ">"), "each below 4"),
        (two("cpus='0-4294967295'>", ">"), "each below 4"),
        (two("cpus=''>", ">"), "each below 4"),
        (two("cpus='^0'>", ">"), "each below 4"),
        (two("discard='yes'>", ">"), "attribute discard"),
        (two("><cache level='1' associativity='none' policy='none'/>", ">"), "<cache>"),
        (numa("<cell memory='131071'/><cell memory='1'/>"), "at least 1 MiB"),
        (one("<sibling id='0' value='20'/>"), "10 from itself"),
        (one("<sibling id='1' value='10'/>"), "10 from itself"),
        (one("<sibling id='2' value='20'/>"), "number of a node"),
        (one("<sibling id='1' value='255'/>"), "10 to 254"),
        (one(&"<sibling id='1' value='20'/>".repeat(2)), "twice"),
    ];
    for (xml, expected) in cases {
        let text = Refusal::from(refused(&xml)).to_string();
        assert!(text.contains(expected), "{expected:?} is not in: {text}");
    }
}
