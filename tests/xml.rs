//! The XML reader against roxmltree, which refuses whatever is not well-formed, and against hostile input.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use svirt::conf::domain_xml;
use svirt::conf::xml::{Document, ElementId, Node, XmlErrorKind};

/// Everything of a document in one line a node: the same text means the same tree.
fn outline(document: &Document<'_>) -> String {
    let mut out = String::new();
    walk(document, document.root(), &mut out);
    out
}

fn walk(document: &Document<'_>, id: ElementId, out: &mut String) {
    let element = document.element(id).unwrap();
    let namespace = document.namespace(&element.name).unwrap_or_default();
    writeln!(out, "<{namespace}|{} line {}", element.name.local, element.line).unwrap();
    for attribute in &element.attributes {
        let namespace = document.namespace(&attribute.name).unwrap_or_default();
        writeln!(out, "@{namespace}|{}={:?}", attribute.name.local, attribute.value).unwrap();
    }
    for child in &element.children {
        match child {
            Node::Element(child) => walk(document, *child, out),
            Node::Text(text) if text.is_empty() => {}
            Node::Text(text) => writeln!(out, "{text:?}").unwrap(),
            Node::Comment(text) => writeln!(out, "#{text:?}").unwrap(),
            Node::Instruction(_) => writeln!(out, "?").unwrap(),
        }
    }
    writeln!(out, ">").unwrap();
}

fn oracle_walk(document: &roxmltree::Document<'_>, node: roxmltree::Node<'_, '_>, out: &mut String) {
    let line = document.text_pos_at(node.range().start).row;
    let name = node.tag_name();
    writeln!(out, "<{}|{} line {line}", name.namespace().unwrap_or_default(), name.name()).unwrap();
    for attribute in node.attributes() {
        let namespace = attribute.namespace().unwrap_or_default();
        writeln!(out, "@{namespace}|{}={:?}", attribute.name(), attribute.value()).unwrap();
    }
    for child in node.children() {
        if child.is_element() {
            oracle_walk(document, child, out);
        } else if child.is_text() {
            writeln!(out, "{:?}", child.text().unwrap()).unwrap();
        } else if child.is_comment() {
            writeln!(out, "#{:?}", child.text().unwrap_or_default()).unwrap();
        } else {
            writeln!(out, "?").unwrap();
        }
    }
    writeln!(out, ">").unwrap();
}

/// Where roxmltree looks less closely than XML 1.0 and its namespaces ask for.
fn lenient(kind: &XmlErrorKind) -> bool {
    match kind {
        XmlErrorKind::Declaration | XmlErrorKind::Encoding | XmlErrorKind::Instruction => true,
        // A name that begins with a colon.
        XmlErrorKind::Name(name) => name.is_empty(),
        XmlErrorKind::Syntax(what) => what.contains("`</:"),
        _ => false,
    }
}

/// Whether both readers agree; where both accept, on the whole tree.
fn agree(text: &str) -> Result<(), TestCaseError> {
    let ours = Document::parse(text.as_bytes());
    let theirs = roxmltree::Document::parse(text);
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => {
            let mut expected = String::new();
            oracle_walk(theirs, theirs.root_element(), &mut expected);
            prop_assert_eq!(outline(ours), expected, "{}", text);
        }
        (Err(_), Err(_)) => {}
        (Err(error), Ok(_)) if lenient(&error.kind) => {}
        (Ok(_), Err(error)) => prop_assert!(false, "only we accept ({}): {:?}", error, text),
        (Err(error), Ok(_)) => prop_assert!(false, "only we refuse ({}): {:?}", error, text),
    }
    Ok(())
}

#[test]
fn well_formed_documents_become_the_same_tree() {
    for text in [
        include_str!("data/domain/typical.xml"),
        "<a/>",
        "<?xml version='1.0'?>\n<!-- c --><a>\n<b x=\"1\" y = '2'/>t&amp;&#65;&#x42;<![CDATA[<&]]>u</a>\n<!-- d -->",
        "<a xmlns='u' xmlns:p='v' p:x='1' x='2'><p:b/><c xmlns=''/></a>",
        "<a x='1&#10;2\n3\t4'>a\r\nb\rc</a>",
        "<a xml:lang='de'>\u{e9}\u{1F600}</a>",
        "<\u{e9}\u{b7}/>",
        "<a><?target data?></a>",
        "\u{feff}<a/>",
    ] {
        agree(text).unwrap();
        assert!(Document::parse(text.as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn what_the_tokenizer_lets_through_is_refused() {
    for text in [
        "",
        " ",
        "a",
        "<a/><b/>",
        "<a/>text",
        "text<a/>",
        "<a>&unknown;</a>",
        "<a x='&unknown;'/>",
        "<p:a/>",
        "<a p:x='1'/>",
        "<a x='<'/>",
        "<a>]]></a>",
        "<a>\u{1}</a>",
        "<a>\0</a>",
        "<a>&#0;</a>",
        "<a>&#xFFFE;</a>",
        "<a>&#+65;</a>",
        "<a>&#x110000;</a>",
        "<a>&</a>",
        "<a>& b;</a>",
        "<a></b>",
        "<a>",
        "</a>",
        "<a/",
        "<a x=1/>",
        "<a x/>",
        "<a x='1' x='2'/>",
        "<a x='1'y='2'/>",
        "<a xmlns:p='u' xmlns:q='u' p:x='1' q:x='2'/>",
        "<a xmlns:p=''/>",
        "<a xmlns:xmlns='u'/>",
        "<a xmlns:xml='u'/>",
        "<1/>",
        "<a:b:c xmlns:a='u'/>",
        "<a:/>",
        "<:a/>",
        "<a><!-- -- --></a>",
        "<a><!-- --->",
        "<!DOCTYPE a><a/>",
        "<a/><!DOCTYPE a>",
        " <?xml version='1.0'?><a/>",
        "<?xml version='1.0'?><?xml version='1.0'?><a/>",
        "<?xml encoding='utf-8'?><a/>",
        "<a><?xml version='1.0'?></a>",
        "<a><![CDATA[</a>",
        "<![CDATA[a]]><a/>",
        "<a>&lt</a>",
        "< a/>",
        "<a / >",
    ] {
        assert!(Document::parse(text.as_bytes()).is_err(), "accepted {text:?}");
        assert!(domain_xml::parse(text.as_bytes()).is_err(), "accepted {text:?}");
    }
}

#[test]
fn an_error_has_the_line_of_its_cause() {
    let error = Document::parse(b"<a>\n<b>\n&x;</b></a>").unwrap_err();
    assert_eq!((error.line, error.kind), (3, XmlErrorKind::Entity("x".to_owned())));
    let error = Document::parse(b"<a>\n\xff</a>").unwrap_err();
    assert_eq!((error.line, error.kind), (2, XmlErrorKind::Encoding));
    let error = Document::parse(b"<a>\n\n\x07</a>").unwrap_err();
    assert_eq!((error.line, error.kind), (3, XmlErrorKind::Control(7)));
    let error = Document::parse(b"<a/>\n<!DOCTYPE x>").unwrap_err();
    assert_eq!((error.line, error.kind), (2, XmlErrorKind::Doctype));
}

/// Entity bombs, depth, width, and size: an error each, in time that a test on a slow machine can promise.
#[test]
fn hostile_documents_cost_little() {
    let bomb = "<!DOCTYPE a [<!ENTITY b 'bbbb'><!ENTITY c '&b;&b;&b;'>]><a>&c;</a>";
    let wide = |element: &str| format!("<domain>{}</domain>", element.repeat((8 << 20) / element.len()));
    let attributes: String = (0..100_000).map(|n| format!(" a{n}='1'")).collect();
    let namespaces: String = (0..100_000).map(|n| format!(" xmlns:a{n}='u'")).collect();
    let disks: String = (0..20_000)
        .map(|n| {
            let letters: String =
                [n / 676 % 26, n / 26 % 26, n % 26].iter().map(|d| char::from(b'a' + *d as u8)).collect();
            format!("<disk><source file='/a'/><target dev='vd{letters}'/></disk>")
        })
        .collect();
    let features: String = (0..90_000).map(|n| format!("<feature name='f{n}'/>")).collect();
    let domain = "<domain type='kvm'><name>a</name><memory>1</memory><os><type>hvm</type></os>";
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("an entity bomb", bomb.into()),
        ("nested elements", "<a>".repeat(1_000_000).into()),
        ("nested and closed", ("<a>".repeat(400_000) + &"</a>".repeat(400_000)).into()),
        ("100 MB", vec![b' '; 100 << 20]),
        ("100 MB of elements", "<a/>".repeat(25 << 20).into()),
        ("wide", wide("<a/>").into()),
        ("wide with comments", wide("<!---->x").into()),
        ("many attributes", format!("<domain{attributes}/>").into()),
        ("many namespaces", format!("<domain{namespaces}/>").into()),
        ("many references", wide("&amp;").into()),
        ("many known elements", wide("<metadata/>").into()),
        ("many disks", format!("{domain}<devices>{disks}</devices></domain>").into()),
        ("many features", format!("{domain}<cpu mode='maximum'>{features}</cpu></domain>").into()),
        ("a long name", format!("<{}/>", "a".repeat(8 << 20)).into()),
        ("an open comment", format!("<a><!--{}", "-".repeat(4 << 20)).into()),
        ("open tags", "<".repeat(4 << 20).into()),
        ("bad UTF-8", vec![0xff; 4 << 20]),
        ("NULs", vec![0; 4 << 20]),
    ];
    for (name, bytes) in cases {
        let started = Instant::now();
        let error = domain_xml::parse(&bytes).expect_err(name);
        let spent = started.elapsed();
        assert!(spent < Duration::from_secs(5), "{name} took {spent:?}");
        assert!(error.to_string().len() < 1000, "{name}: the error has {} bytes", error.to_string().len());
        assert!(!error.remedy.is_empty(), "{name}");
    }
}

/// Pieces that together make documents near the edge of well-formedness.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("<a>".to_owned()),
        4 => Just("</a>".to_owned()),
        2 => Just("<b x='1'/>".to_owned()),
        1 => Just("<b x='1' x='2'/>".to_owned()),
        1 => Just("<b\ny = \"a&lt;b\"\t/>".to_owned()),
        1 => Just("<p:b xmlns:p='u' p:x=''/>".to_owned()),
        1 => Just("<p:b/>".to_owned()),
        1 => Just("<!--c-->".to_owned()),
        1 => Just("<![CDATA[]] >]]>".to_owned()),
        1 => Just("&amp;".to_owned()),
        1 => Just("&#xe9;".to_owned()),
        1 => Just("&e;".to_owned()),
        1 => Just("]]>".to_owned()),
        1 => Just("<?p i?>".to_owned()),
        1 => Just("\r\n".to_owned()),
        2 => "[ -~\u{e9}\u{b7}\u{300}]{0,3}",
    ]
}

proptest! {
    #[test]
    fn both_readers_agree_on_pieces(pieces in prop::collection::vec(piece(), 0..12)) {
        agree(&format!("<a>{}</a>", pieces.concat()))?;
        agree(&pieces.concat())?;
    }

    #[test]
    fn both_readers_agree_on_mutations(at in 0usize..3000, with in "[<>&'\"/=!? \\-\\[\\]a-z:\u{e9}]{0,3}", cut in 0usize..4) {
        let text = include_str!("data/domain/typical.xml");
        let start = at.min(text.len());
        let end = (start + cut).min(text.len());
        let mutated = format!("{}{with}{}", &text[..start], &text[end..]);
        agree(&mutated)?;
        let _ = domain_xml::parse(mutated.as_bytes());
    }

    #[test]
    fn no_bytes_make_the_readers_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
        svirt::conf::xml::fuzz_xml(&data);
        domain_xml::fuzz_domain(&data);
    }
}
