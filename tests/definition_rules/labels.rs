//! libvirt's rules of `<seclabel>`, one broken at a time: of the domain, and of each image and channel.

use svirt::conf::ErrorClass::{self, ConfigUnsupported, XmlDetail, XmlError, XmlInvalidSchema};
use svirt::conf::definition::Strictness::{Lenient, Strict};
use svirt::conf::definition::{Definition, View};

use super::{kept, refused, small};

/// The definition's labels, as they are kept.
fn labels(xml: &str) -> Vec<String> {
    let text = kept(xml).0.format(View::default());
    let lines = text.lines().filter(|line| line.starts_with("  <seclabel"));
    lines.map(|line| line.trim().to_owned()).collect()
}

/// The rules of a domain's labels: without validation, and with it.
const LABELS: &[(&str, Option<ErrorClass>, Option<ErrorClass>)] = &[
    ("<seclabel model='selinux'/>", None, None),
    ("<seclabel type='dynamic' model='selinux' relabel='yes'/>", None, None),
    (
        "<seclabel type='dynamic' model='selinux' relabel='no'/>",
        Some(ConfigUnsupported),
        Some(XmlInvalidSchema),
    ),
    (
        "<seclabel type='none' model='selinux' relabel='yes'/>",
        Some(ConfigUnsupported),
        Some(XmlInvalidSchema),
    ),
    ("<seclabel type='none' model='selinux' relabel='no'/>", None, None),
    ("<seclabel type='static' model='selinux'/>", Some(XmlError), Some(XmlInvalidSchema)),
    ("<seclabel type='static' model='selinux'><label/></seclabel>", Some(XmlError), Some(XmlInvalidSchema)),
    ("<seclabel type='static' model='selinux'><label>a:b:c:s0</label></seclabel>", None, None),
    (
        "<seclabel type='static' model='selinux'><label>a</label><baselabel>b</baselabel></seclabel>",
        None,
        Some(XmlInvalidSchema),
    ),
    ("<seclabel type='default' model='selinux'/>", Some(XmlError), Some(XmlInvalidSchema)),
    ("<seclabel type='weird' model='selinux'/>", Some(XmlError), Some(XmlInvalidSchema)),
    ("<seclabel model='selinux' relabel='maybe'/>", Some(XmlError), Some(XmlInvalidSchema)),
    ("<seclabel model='selinux'/><seclabel model='selinux'/>", Some(XmlDetail), Some(XmlDetail)),
    ("<seclabel model='selinux'/><seclabel model='dac'/>", None, None),
    ("<seclabel model='selinux'/><seclabel/>", Some(XmlError), Some(XmlError)),
    ("<seclabel/><seclabel/>", Some(XmlDetail), Some(XmlDetail)),
    ("<seclabel/>", None, None),
    ("<seclabel type='none'/>", None, None),
    ("<seclabel><baselabel>a:b:c:s0</baselabel></seclabel>", Some(XmlError), Some(XmlError)),
    ("<seclabel type='static'><label>a:b:c:s0</label></seclabel>", Some(XmlError), Some(XmlError)),
    ("<seclabel model='smack'/>", None, None),
    ("<seclabel type='dynamic' model='none'/>", None, None),
    (
        "<seclabel model='selinux'><label>x</label><label>y</label></seclabel>",
        Some(XmlError),
        Some(XmlInvalidSchema),
    ),
    (
        "<seclabel model='selinux'><baselabel>b</baselabel><imagelabel>i</imagelabel><label>l</label></seclabel>",
        None,
        None,
    ),
    (
        "<seclabel type='static' model='dac' relabel='yes'><label>+1:+1</label><imagelabel>+1:+1</imagelabel></seclabel>",
        None,
        None,
    ),
    ("<seclabel type='none' model='selinux'><label>x</label></seclabel>", None, Some(XmlInvalidSchema)),
    ("<seclabel type='none' model='dac'><baselabel>x</baselabel></seclabel>", None, Some(XmlInvalidSchema)),
    ("<seclabel type='none' relabel='maybe' model='dac'/>", Some(XmlError), Some(XmlInvalidSchema)),
    (
        "<seclabel type='Static' model='dac'><label>x</label></seclabel>",
        Some(XmlError),
        Some(XmlInvalidSchema),
    ),
    ("<seclabel type='none' relabel='yes' model='none'/>", None, Some(XmlInvalidSchema)),
    ("<seclabel type='static' model='none'><label>x</label></seclabel>", None, Some(XmlInvalidSchema)),
    ("<seclabel type='static' relabel='no'/>", Some(XmlError), Some(XmlInvalidSchema)),
    (
        "<seclabel model='dac'/><seclabel model='selinux'/><seclabel type='none' model='dac'/>",
        Some(XmlDetail),
        Some(XmlDetail),
    ),
    ("<seclabel model='selinux'/><seclabel model='SELinux'/>", None, None),
    ("<seclabel model='selinux'><whatever/></seclabel>", Some(ConfigUnsupported), Some(XmlInvalidSchema)),
    ("<seclabel model='selinux' lable='x'/>", Some(ConfigUnsupported), Some(XmlInvalidSchema)),
];

#[test]
fn the_labels_of_a_domain_follow_libvirt() {
    for (label, lenient, strict) in LABELS {
        let xml = small("", label);
        for (strictness, expected) in [(Lenient, lenient), (Strict, strict)] {
            match (Definition::parse(xml.as_bytes(), strictness), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(class)) => {
                    assert_eq!(error.kind.class(), *class, "{strictness:?} {label}: {error}");
                    assert_eq!(error.line, 8, "{label}: {error}");
                    assert!(error.path.starts_with("/domain/seclabel"), "{error}");
                }
                (Ok(_), Some(class)) => panic!("{strictness:?} {label} should be {class:?}"),
                (Err(error), None) => panic!("{strictness:?} {label}: {error}"),
            }
        }
    }
}

#[test]
fn the_labels_of_a_domain_get_their_defaults() {
    let one = |label: &str| labels(&small("", label)).join("\n");
    assert_eq!(
        one("<seclabel model='selinux'/>"),
        "<seclabel type='dynamic' model='selinux' relabel='yes'/>"
    );
    assert_eq!(one("<seclabel type='dynamic' model='none'/>"), "<seclabel type='none' model='none'/>");
    assert_eq!(
        one("<seclabel type='none' relabel='no' model='dac'/>"),
        "<seclabel type='none' model='dac'/>"
    );
    // What belongs to a running domain is left out.
    assert_eq!(
        one("<seclabel model='dac'><label>+1:+1</label><imagelabel>+1:+1</imagelabel></seclabel>"),
        "<seclabel type='dynamic' model='dac' relabel='yes'/>"
    );
    assert_eq!(
        one("<seclabel type='static' model='dac'><label>+1:+1</label></seclabel>"),
        "<seclabel type='static' model='dac' relabel='no'>"
    );
}

/// An image's labels, the domain's, what is said without validation and with it.
type Override = (&'static str, &'static str, Option<ErrorClass>, Option<ErrorClass>);

/// The rules of an image's labels.
const OVERRIDES: &[Override] = &[
    ("<seclabel model='selinux'><label>x</label></seclabel>", "", None, None),
    ("<seclabel model='selinux' relabel='yes'><label>x</label></seclabel>", "", None, None),
    ("<seclabel model='selinux' relabel='no'/>", "", None, None),
    ("<seclabel relabel='no'/>", "", None, None),
    ("<seclabel relabel='no'/><seclabel relabel='no'/>", "", None, None),
    (
        "<seclabel model='selinux' relabel='no'><label>x</label></seclabel>",
        "",
        Some(XmlError),
        Some(XmlInvalidSchema),
    ),
    ("<seclabel model='selinux' relabel='yes'/>", "", Some(XmlError), Some(XmlInvalidSchema)),
    ("<seclabel relabel='maybe'/>", "", Some(XmlError), Some(XmlInvalidSchema)),
    ("<seclabel model='selinux'/>", "", None, Some(XmlInvalidSchema)),
    ("<seclabel model='dac' type='none' relabel='no'/>", "", Some(ConfigUnsupported), Some(XmlInvalidSchema)),
    (
        "<seclabel model='dac' relabel='no'/><seclabel model='dac' relabel='no'/>",
        "",
        Some(XmlDetail),
        Some(XmlDetail),
    ),
    (
        "<seclabel model='dac' relabel='no'/><seclabel model='dac'><label>x</label></seclabel>",
        "",
        Some(XmlDetail),
        Some(XmlDetail),
    ),
    (
        "<seclabel model='selinux'><label>x</label></seclabel>",
        "<seclabel type='static' model='selinux'><label>a</label></seclabel>",
        Some(ConfigUnsupported),
        Some(ConfigUnsupported),
    ),
    (
        "<seclabel relabel='no'/>",
        "<seclabel type='static' model='selinux'><label>a</label></seclabel>",
        Some(ConfigUnsupported),
        Some(ConfigUnsupported),
    ),
    (
        "<seclabel model='selinux'><label>x</label></seclabel>",
        "<seclabel type='static' model='selinux' relabel='yes'><label>a</label></seclabel>",
        None,
        None,
    ),
    (
        "<seclabel model='selinux'><label>x</label></seclabel>",
        "<seclabel type='none' model='selinux'/>",
        Some(ConfigUnsupported),
        Some(ConfigUnsupported),
    ),
    ("<seclabel model='selinux' relabel='no'/>", "<seclabel type='none' model='selinux'/>", None, None),
    (
        "<seclabel model='dac' relabel='no'/>",
        "<seclabel type='static' model='selinux'><label>a</label></seclabel>",
        None,
        None,
    ),
];

#[test]
fn the_labels_of_an_image_follow_libvirt() {
    for (label, domain, lenient, strict) in OVERRIDES {
        for place in [
            format!("<disk><source file='/a'>{label}</source><target dev='vda'/></disk>"),
            format!(
                "<disk><source file='/a'/><backingStore type='file'><format type='raw'/><source file='/b'>{label}</source><backingStore/></backingStore><target dev='vda'/></disk>"
            ),
            format!("<serial type='file'><source path='/a'>{label}</source></serial>"),
        ] {
            let xml = small(&place, domain);
            for (strictness, expected) in [(Lenient, lenient), (Strict, strict)] {
                match (Definition::parse(xml.as_bytes(), strictness), expected) {
                    (Ok(_), None) => {}
                    (Err(error), Some(class)) => {
                        assert_eq!(error.kind.class(), *class, "{strictness:?} {label}: {error}");
                        assert!(error.path.ends_with("/source/seclabel"), "{error}");
                    }
                    (Ok(_), Some(class)) => panic!("{strictness:?} {label} should be {class:?}"),
                    (Err(error), None) => panic!("{strictness:?} {label}: {error}"),
                }
            }
        }
    }
    let xml = small("<disk><source file='/a'><seclabel model='dac'/></source><target dev='vda'/></disk>", "");
    let (definition, warnings) = kept(&xml);
    assert!(!definition.format(View::default()).contains("seclabel"));
    assert_eq!(warnings.len(), 1);
    assert_eq!(refused(&xml, Strict).kind.class(), XmlInvalidSchema);
}

#[test]
fn a_label_where_nothing_is_labelled_is_never_passed_over() {
    let label = "<seclabel model='selinux'><label>x</label></seclabel>";
    for device in [
        format!(
            "<disk type='network'><source protocol='nbd' name='x'>{label}<host name='h'/></source><target dev='vda'/></disk>"
        ),
        format!("<disk><source file='/a'/><target dev='vda'/>{label}</disk>"),
        format!("<serial type='pty'>{label}</serial>"),
        format!("<interface type='user'>{label}</interface>"),
        format!("<filesystem><source dir='/a'>{label}</source><target dir='t'/></filesystem>"),
        format!("<rng model='virtio'><backend model='random'>/dev/urandom</backend>{label}</rng>"),
        label.to_owned(),
    ] {
        let xml = small(&device, "");
        let error = refused(&xml, Lenient);
        assert_eq!(error.kind.class(), ConfigUnsupported, "{device}: {error}");
        assert!(error.path.ends_with("seclabel"), "{device}: {error}");
        assert_eq!(refused(&xml, Strict).kind.class(), XmlInvalidSchema, "{device}");
    }
}

#[test]
fn texts_have_their_limits() {
    let label = |length: usize| {
        small(
            "",
            &format!("<seclabel type='static' model='dac'><label>{}</label></seclabel>", "a".repeat(length)),
        )
    };
    kept(&label(4096));
    assert_eq!(refused(&label(4097), Lenient).kind.class(), XmlError);
    let image = |length: usize| {
        let label = format!("<seclabel model='dac'><label>{}</label></seclabel>", "a".repeat(length));
        small(&format!("<disk><source file='/a'>{label}</source><target dev='vda'/></disk>"), "")
    };
    kept(&image(4096));
    assert_eq!(refused(&image(4097), Lenient).kind.class(), XmlError);
    let model = |length: usize| small("", &format!("<seclabel model='{}'/>", "a".repeat(length)));
    kept(&model(256));
    assert_eq!(refused(&model(257), Lenient).kind.class(), XmlError);
}
