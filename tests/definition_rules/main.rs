//! Each rule of a definition broken one at a time: which of libvirt's errors, which line, which name.
#![cfg(feature = "frontend")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod labels;

use svirt::conf::definition::{Definition, Running, RunningLabel, Strictness, View, Warning};
use svirt::conf::domain::VncListen;
use svirt::conf::{DefinitionError, DefinitionErrorKind as Kind, ErrorClass};

use ErrorClass::{XmlError, XmlInvalidSchema};
use Strictness::{Lenient, Strict};

/// A small definition with `devices` in it, and `rest` behind the devices.
fn small(devices: &str, rest: &str) -> String {
    format!(
        "<domain type='qemu'>\n<name>a</name>\n<memory>65536</memory>\n<os><type>hvm</type></os>\n<devices>\n{devices}\n</devices>\n{rest}\n</domain>"
    )
}

fn kept(xml: &str) -> (Definition, Vec<Warning>) {
    Definition::parse(xml.as_bytes(), Lenient).unwrap_or_else(|error| panic!("{error}\n{xml}"))
}

fn refused(xml: &str, strictness: Strictness) -> DefinitionError {
    match Definition::parse(xml.as_bytes(), strictness) {
        Ok((definition, _)) => panic!("accepted:\n{xml}\nas {}", definition.format(View::default())),
        Err(error) => error,
    }
}

#[test]
fn unknown_names_are_reported_and_refused_under_validation() {
    let xml = small(
        "<disk><source file='/a'/><target dev='vda' buss='virtio'/><sourc/></disk>\n<flavour/>",
        "<mood/>",
    );
    let (definition, warnings) = kept(&xml);
    let shown: Vec<_> = warnings.iter().map(|w| (w.line, &*w.path, w.kind.to_string())).collect();
    assert_eq!(
        shown,
        [
            (
                6,
                "/domain/devices/disk/target",
                "attribute buss of <target> is unknown here; did you mean bus?".to_owned()
            ),
            (
                6,
                "/domain/devices/disk/sourc",
                "<sourc> in <disk> is unknown here; did you mean source?".to_owned()
            ),
            (7, "/domain/devices/flavour", "<flavour> in <devices> is unknown here".to_owned()),
            (9, "/domain/mood", "<mood> in <domain> is unknown here".to_owned()),
        ]
    );
    assert!(!definition.format(View::default()).contains("flavour"));
    let error = refused(&xml, Strict);
    assert_eq!((error.line, error.kind.class()), (6, XmlInvalidSchema));
    assert!(matches!(error.kind, Kind::Unknown { nearest: Some("bus"), .. }));
}

#[test]
fn what_weakens_isolation_is_never_dropped() {
    let disk =
        |inside: &str| small(&format!("<disk><source file='/a'/><target dev='vda'/>{inside}</disk>"), "");
    for xml in [
        disk("<readOnly/>"),
        disk("<read-only/>"),
        disk("<shareabel/>"),
        disk("<transiant/>"),
        small("", "<launchsecurity type='sev'/>"),
        small("", "<launchSecurity type='sev' policy='3'/>"),
        small("", "<seclable model='dac'/>"),
        small("<iommu model='intel'><drivers/></iommu>", ""),
        small("<iomu model='intel'/>", ""),
        small("<serial type='pty'><readonly/></serial>", ""),
        small("<interface type='user' trustguestrxfilters='no'/>", ""),
        small("<interface type='user'><filterrefs filter='x'/></interface>", ""),
        small("<graphics type='vnc' password='x' passwd='y' listn='127.0.0.1'/>", ""),
    ] {
        let error = refused(&xml, Lenient);
        assert!(matches!(error.kind, Kind::Weakening { .. }), "{error}\n{xml}");
        assert!(!error.remedy.is_empty());
    }
}

#[test]
fn no_name_that_weakens_isolation_is_dropped_where_nobody_expects_it() {
    for name in [
        "accessmode",
        "baselabel",
        "blkiotune",
        "cachetune",
        "capabilities",
        "cputune",
        "dumpCore",
        "encryption",
        "filterref",
        "imagelabel",
        "iommu",
        "iotune",
        "isolated",
        "label",
        "launchSecurity",
        "listen",
        "memtune",
        "nosharepages",
        "passwd",
        "readonly",
        "relabel",
        "resource",
        "sandbox",
        "seclabel",
        "secure",
        "sgio",
        "shareable",
        "smm",
        "stateless",
        "tls",
        "transient",
        "trustGuestRxFilters",
        "vlan",
        "writeFiltering",
    ] {
        for device in [
            format!("<watchdog model='i6300esb' {name}='yes'/>"),
            format!("<watchdog model='i6300esb'><{name}/></watchdog>"),
        ] {
            let error = refused(&small(&device, ""), Lenient);
            assert!(matches!(error.kind, Kind::Weakening { .. }), "{error}\n{device}");
        }
    }
}

#[test]
fn names_are_held_to_what_can_be_a_file_name() {
    let named = |name: &str| small("", "").replace("<name>a</name>", &format!("<name>{name}</name>"));
    let (long, wide) = ("x".repeat(255), "\u{f6}".repeat(127) + "x");
    let looks = ["\u{430}dmin", "a\u{2215}b", "a\u{ff0f}b", "\u{2024}\u{2024}"];
    for good in
        ["a", "a b", "50%", "%s%n", "a*[b]?", "{a,b}", "~", "$(a)", "d\u{f6}main", "..a", "-a", &long, &wide]
            .into_iter()
            .chain(looks)
    {
        let (definition, _) = kept(&named(good));
        assert_eq!(definition.name().as_str(), good);
    }
    let (long, wide) = ("x".repeat(256), "\u{f6}".repeat(128));
    for bad in [
        "", " ", "\n", ".", "..", "../a", "a/b", "a/../b", "/", "a\nb", "a&#10;b", "a&#x2f;b", "a&#7;b",
        "a&#9;b", "a\u{85}b", "a&#127;b", "a\0b", "<b/>", &long, &wide,
    ] {
        for strictness in [Lenient, Strict] {
            let error = refused(&named(bad), strictness);
            let class = error.kind.class();
            assert!(matches!(class, XmlError | XmlInvalidSchema), "{bad:?}: {error}");
            assert!(!error.remedy.is_empty() && error.line >= 2, "{bad:?}: {error}");
        }
    }
}

#[test]
fn a_uuid_is_one_whatever_its_case() {
    let with =
        |uuid: &str| small("", "").replace("<name>a</name>", &format!("<name>a</name><uuid>{uuid}</uuid>"));
    let wanted = "1b4e28ba-2fa1-4d2e-883f-0016d3cca427";
    for same in [
        wanted,
        "1B4E28BA-2FA1-4D2E-883F-0016D3CCA427",
        "1b4E28bA-2fA1-4d2e-883f-0016D3cCA427",
        "1b4e28ba2fa14d2e883f0016d3cca427",
    ] {
        let (definition, _) = kept(&with(same));
        assert_eq!(definition.uuid().unwrap().to_string(), wanted);
        assert!(definition.format(View::default()).contains(&format!("<uuid>{wanted}</uuid>")));
    }
    for bad in [
        "",
        "1b4e28ba",
        "00000000-0000-0000-0000-000000000000",
        "{1b4e28ba-2fa1-4d2e-883f-0016d3cca427}",
        "urn:uuid:1b4e28ba-2fa1-4d2e-883f-0016d3cca427",
        "1b4e28ba-2fa1-4d2e-883f-0016d3cca42g",
        "1b4e28ba-2fa1-4d2e-883f-0016d3cca4270",
        "1b4e28ba-2fa1-4d2e-883f-0016d3cca42\u{0667}",
    ] {
        assert_eq!(refused(&with(bad), Lenient).kind.class(), XmlError, "{bad}");
    }
}

#[test]
fn nothing_stands_in_two_places() {
    let disk =
        |dev: &str, more: &str| format!("<disk><source file='/a'/><target dev='{dev}'/>{more}</disk>\n");
    let pci = "<address type='pci' slot='0x05'/>";
    let drive = "<address type='drive' unit='1'/>";
    for devices in [
        disk("vda", "") + &disk("vda", ""),
        disk("vda", pci) + &disk("vdb", "<address type='pci' domain='0' bus='0' slot='5' function='0'/>"),
        disk("sda", drive) + &disk("sdb", drive),
        disk("vda", pci) + "<sound model='ich9'><address type='pci' slot='0x5'/></sound>",
        disk("vda", "<address type='pci' bus='0x10' slot='5'/>")
            + &disk("vdb", "<address type='pci' bus='16' slot='0x05' multifunction='on'/>"),
        // The only slot of a root port.
        disk("vda", "<address type='pci' bus='6' slot='0'/>")
            + "<sound model='ich9'><address type='pci' bus='0x06' slot='0x00'/></sound>",
        "<input type='tablet' bus='usb'><address type='usb' bus='0' port='1.2'/></input>\n\
         <input type='mouse' bus='usb'><address type='usb' bus='0' port='1.2'/></input>"
            .to_owned(),
        "<channel type='pty'><target type='virtio'/><address type='virtio-serial' port='1'/></channel>\n\
         <channel type='pty'><target type='virtio'/><address type='virtio-serial' controller='0' bus='0' port='1'/></channel>"
            .to_owned(),
        disk("vda", "<boot order='1'/>") + &disk("vdb", "<boot order='1'/>"),
        disk("vda", "<alias name='ua-x'/>") + &disk("vdb", "<alias name='ua-x'/>"),
        "<controller type='scsi' index='1'/>\n<controller type='scsi' index='1'/>".to_owned(),
        "<filesystem><source dir='/a'/><target dir='t'/></filesystem>\n<filesystem><source dir='/b'/><target dir='t'/></filesystem>"
            .to_owned(),
        "<memballoon model='none'/>\n<memballoon model='none'/>".to_owned(),
    ] {
        let error = refused(&small(&devices, ""), Lenient);
        assert!(matches!(error.kind, Kind::Duplicate { first: 6, .. }), "{error}");
        assert_eq!(error.line, 7, "{error}");
    }
    // All of it 0: both are still to be placed.
    let nowhere = "<address type='pci' domain='0' bus='0' slot='0' function='0'/>";
    kept(&small(&(disk("vda", nowhere) + &disk("vdb", nowhere)), ""));
    // Two functions of one slot, and what libvirt makes itself.
    kept(&small(
        &(disk("vda", "<address type='pci' slot='5' multifunction='on'/><alias name='virtio-disk0'/>")
            + &disk("vdb", "<address type='pci' slot='5' function='1'/><alias name='virtio-disk0'/>")),
        "",
    ));
}

#[test]
fn values_out_of_range_are_refused_by_name() {
    for (devices, what) in [
        ("<disk type='tape'><source file='/a'/><target dev='vda'/></disk>", "attribute type of <disk>"),
        ("<disk><source file='/a'/><target dev='../vda'/></disk>", "attribute dev of <target>"),
        ("<disk><source file='/a&#10;b'/><target dev='vda'/></disk>", "attribute file of <source>"),
        (
            "<disk><source file='/a'/><target dev='vda'/><address type='pci' slot='0x20'/></disk>",
            "attribute slot of <address>",
        ),
        (
            "<interface type='user'><mac address='01:00:00:00:00:00'/></interface>",
            "attribute address of <mac>",
        ),
        ("<interface type='user'><mtu size='65536'/></interface>", "attribute size of <mtu>"),
        ("<vsock><cid address='2'/></vsock>", "attribute address of <cid>"),
        ("<graphics type='vnc' port='65536'/>", "attribute port of <graphics>"),
        ("<watchdog model='i6300esb' action='explode'/>", "attribute action of <watchdog>"),
        ("<rng model='virtio'><backend model='dice'/></rng>", "attribute model of <backend>"),
    ] {
        let error = refused(&small(devices, ""), Lenient);
        assert!(error.kind.to_string().starts_with(what), "{error}");
        assert_eq!((error.kind.class(), error.line), (XmlError, 6));
        assert_eq!(refused(&small(devices, ""), Strict).kind.class(), XmlInvalidSchema);
    }
}

#[test]
fn passwords_are_shown_only_to_those_who_may_see_them() {
    let (definition, _) = kept(&small("<graphics type='vnc' passwd='open sesame'/>", ""));
    assert!(!definition.format(View::default()).contains("sesame"));
    assert!(definition.format(View { secure: true, migratable: false }).contains("passwd='open sesame'"));
    assert!(definition.format(View { secure: false, migratable: true }).contains("sesame"));
}

#[test]
fn a_host_that_a_guest_moves_to_is_told_no_labels_that_it_makes_itself() {
    let (definition, _) = kept(&small("", "<seclabel type='dynamic' model='selinux' relabel='yes'/>"));
    let label = |model: &str, label: &str| RunningLabel {
        model: model.into(),
        label: label.into(),
        imagelabel: None,
    };
    let labels = vec![label("selinux", "u:r:t:s0:c1,c2"), label("dac", "+70000:+70000")];
    let running = Running { id: 1, labels, ..Running::default() };
    let of = |migratable| definition.format_running(&running, View { secure: true, migratable });
    assert!(of(false).contains("model='dac'") && of(false).contains("+70000"));
    assert!(!of(true).contains("model='dac'") && !of(true).contains("+70000"), "{}", of(true));
    assert!(of(true).contains("u:r:t:s0:c1,c2"));
}

#[test]
fn ports_that_were_chosen_for_what_ran_are_chosen_anew() {
    let display = |attributes: &str, inside: &str| {
        let (definition, _) = kept(&small(&format!("<graphics {attributes}>{inside}</graphics>"), ""));
        // The text holds when it is read again, and starts.
        let text = definition.format(View::default());
        assert_eq!(kept(&text).0.format(View::default()), text);
        let domain = definition.domain().unwrap();
        let at = text.find("<graphics").unwrap();
        (text[at..at + text[at..].find('>').unwrap() + 1].to_owned(), domain.devices)
    };
    let address = "<listen type='address' address='127.0.0.1'/>";
    let (text, devices) = display("type='vnc' port='5900' autoport='yes' listen='127.0.0.1'", address);
    assert_eq!(text, "<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'>");
    assert!(matches!(devices.vncs[0].listen, VncListen::Address(_, None)), "{devices:?}");
    let (text, devices) = display("type='spice' port='5901' tlsPort='5902' autoport='yes'", address);
    assert_eq!(text, "<graphics type='spice' autoport='yes' listen='127.0.0.1'>");
    assert!(devices.spice.is_some());
    let (text, _) = display("type='vnc' port='5900' autoport='yes'", "<listen type='none'/>");
    assert_eq!(text, "<graphics type='vnc'>");
    let (text, devices) = display("type='vnc' port='5900' autoport='no'", address);
    assert_eq!(text, "<graphics type='vnc' port='5900' autoport='no' listen='127.0.0.1'>");
    assert!(matches!(devices.vncs[0].listen, VncListen::Address(_, Some(5900))));
}

#[test]
fn metadata_comes_out_as_it_went_in() {
    let inside = "<a:x xmlns:a=\"urn:a\" k=\"it's\">\n\t<!-- kept --><a:y><![CDATA[<&]]></a:y> text </a:x>";
    let xml = small("", "").replace("<memory>", &format!("<metadata>\n{inside}\n  </metadata>\n<memory>"));
    let (definition, _) = kept(&xml);
    let wanted = inside.replace("<![CDATA[<&]]>", "&lt;&amp;");
    assert_eq!(definition.metadata("urn:a"), Some(wanted.as_str()));
    assert!(definition.format(View::default()).contains(&format!("<metadata>\n    {wanted}\n  </metadata>")));
    // A prefix of an outer element is declared again.
    let xml = xml.replace(" xmlns:a=\"urn:a\"", "").replace("<domain ", "<domain xmlns:a='urn:a' ");
    assert!(kept(&xml).0.metadata("urn:a").unwrap().starts_with("<a:x xmlns:a=\"urn:a\" k="));
}

#[test]
fn what_libvirt_fills_in_is_filled_in() {
    let text = |xml: &str| kept(xml).0.format(View::default());
    let bare = text(&small("<video/>", ""));
    assert!(bare.contains("<model type='vga' heads='1' primary='yes'/>"), "{bare}");
    // The companions of a USB 2 controller share its number, with or without a <master>.
    let companions = "<controller type='usb' index='0' model='ich9-ehci1'/>\
        <controller type='usb' index='0' model='ich9-uhci1'/><controller type='usb' index='0' model='ich9-uhci2'/>";
    assert_eq!(text(&small(companions, "")).matches("type='usb' index='0'").count(), 3);
    let twice = "<controller type='usb' index='0' model='ich9-ehci1'/><controller type='usb' index='0' model='ehci'/>";
    assert_eq!(refused(&small(twice, ""), Lenient).kind.class(), XmlError);
    // The cells of a guest may say alone how much memory it has.
    let cells = |unit: &str| {
        format!(
            "<domain type='qemu'><name>n</name><os><type>hvm</type></os><vcpu>2</vcpu><cpu><numa>\
             <cell cpus='0' memory='1024' unit='{unit}'/><cell cpus='1' memory='2048'/></numa></cpu></domain>"
        )
    };
    assert!(text(&cells("KiB")).contains("<memory unit='KiB'>3072</memory>"));
    assert_eq!(refused(&cells("MiB"), Lenient).kind.class(), XmlError);
    // An override says what it means, as libvirt writes it.
    let disk = |label: &str| {
        format!("<disk type='file'><source file='/d'>{label}</source><target dev='vda' bus='virtio'/></disk>")
    };
    let named = text(&small(&disk("<seclabel model='selinux'><label>x</label></seclabel>"), ""));
    assert!(named.contains("<seclabel model='selinux' relabel='yes'>"), "{named}");
}
