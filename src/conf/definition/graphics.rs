//! Displays, `<graphics>`: what they ask of those who come to them, and which changes of them are only that.

use super::Definition;
use super::labels::Place;
use super::node::Node;
use crate::base::Secret;
use crate::conf::DefinitionError;
use crate::conf::password::{self, ATTRIBUTES};
use crate::conf::xml::Document;
use crate::conf::xml::walk::At;
use crate::privsep::password::Password;
use crate::privsep::supervisor::Graphics;

/// What a display asks of those who come to it, as it stands in its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    protocol: Graphics,
    values: Vec<(&'static str, Secret)>,
    password: Option<Password>,
}

impl Asked {
    fn of(display: &Node) -> Result<Option<Self>, DefinitionError> {
        let Some(protocol) = protocol(display) else { return Ok(None) };
        let password =
            password::read(protocol, |name| display.attribute(name)).map_err(|(kind, remedy)| {
                Place { line: display.line, path: "/domain/devices/graphics".into() }.error(kind, &remedy)
            })?;
        let value = |name: &'static str| Some((name, Secret::new(display.attribute(name)?)));
        Ok(Some(Self { protocol, values: ATTRIBUTES.into_iter().filter_map(value).collect(), password }))
    }

    /// The password, where there is one.
    #[must_use]
    pub fn password(&self) -> Option<&Password> {
        self.password.as_ref()
    }
}

/// A display of a domain, and the one that a client wants in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisplayChange {
    /// What it asks.
    pub before: Asked,
    /// What it is to ask.
    pub after: Asked,
    /// What else would change that cannot while the domain runs, in libvirt's words.
    pub refused: Option<String>,
}

fn protocol(display: &Node) -> Option<Graphics> {
    match display.attribute("type") {
        Some("spice") => Some(Graphics::Spice),
        Some("vnc") => Some(Graphics::Vnc),
        _ => None,
    }
}

/// What libvirt refuses to change of a display that runs. `address` is where that listens by now.
fn refused(old: &Node, new: &Node, kind: &str, address: Option<&str>) -> Option<String> {
    let listens = |node: &Node| node.all("listen").count();
    if listens(old) != listens(new) {
        return Some(format!("cannot change the number of listen addresses on '{kind}' graphics"));
    }
    for (old, new) in old.all("listen").zip(new.all("listen")) {
        let differs = |name| old.attribute(name) != new.attribute(name);
        if differs("type") {
            return Some(format!("cannot change the type of listen address on '{kind}' graphics"));
        }
        if address.or(old.attribute("address")) != new.attribute("address") || differs("network") {
            return Some(format!("cannot change listen address setting on '{kind}' graphics"));
        }
        if differs("socket") {
            return Some(format!("cannot change listen socket setting on '{kind}' graphics"));
        }
    }
    let differs = |name| old.attribute(name) != new.attribute(name);
    let chosen = |node: &Node| node.attribute("autoport") == Some("yes");
    let ports = differs("port") || differs("tlsPort");
    if chosen(old) != chosen(new) || (!chosen(new) && ports) {
        return Some(format!("cannot change port settings on {kind} graphics"));
    }
    differs("keymap").then(|| format!("cannot change keymap setting on {kind} graphics"))
}

impl Definition {
    fn displays(&self) -> impl Iterator<Item = &Node> {
        self.root.child("devices").into_iter().flat_map(|devices| devices.all("graphics"))
    }

    fn display_mut(&mut self, kind: &str) -> Option<&mut Node> {
        let mut devices = self.root.child_mut("devices")?.children_mut();
        devices.find(|child| child.name() == "graphics" && child.attribute("type") == Some(kind))
    }

    /// Refuses what no display can ask of those who come to it.
    pub fn check_passwords(&self) -> Result<(), DefinitionError> {
        self.displays().try_for_each(|display| Asked::of(display).map(drop))
    }

    /// The type of a client's display, where its XML is one of a display.
    pub fn named_display(xml: &str) -> Result<Option<String>, DefinitionError> {
        let document = Document::parse(xml.as_bytes())?;
        let root = At::root(&document);
        let display = Some(root).filter(|root| root.name() == "graphics" && root.namespace().is_none());
        Ok(display.map(|display| display.attribute("type").unwrap_or_default().to_owned()))
    }

    /// A client's display, as it would stand in this definition.
    fn display(&self, xml: &str) -> Result<Option<Node>, DefinitionError> {
        let mut without = self.clone();
        if let Some(devices) = without.root.child_mut("devices") {
            devices.remove_children("graphics");
        }
        let with = without.with_device(xml)?;
        let display = with.displays().next().cloned();
        display.iter().try_for_each(|display| Asked::of(display).map(drop))?;
        Ok(display)
    }

    /// The same with a client's display in the place of the one of its type; nothing where there is none.
    pub fn with_display(&self, xml: &str) -> Result<Option<Self>, DefinitionError> {
        let Some(new) = self.display(xml)? else { return Ok(None) };
        let mut with = self.clone();
        let kind = new.attribute("type").unwrap_or_default().to_owned();
        let Some(old) = with.display_mut(&kind) else { return Ok(None) };
        *old = new;
        Ok(Some(with))
    }

    /// What a client's display would change of the one of its type, which listens at `address` by now; nothing where there
    /// is none of VNC or SPICE.
    pub fn display_change(
        &self,
        xml: &str,
        address: Option<&str>,
    ) -> Result<Option<DisplayChange>, DefinitionError> {
        let Some(new) = self.display(xml)? else { return Ok(None) };
        let kind = new.attribute("type").unwrap_or_default();
        let Some(old) = self.displays().find(|old| old.attribute("type") == Some(kind)) else {
            return Ok(None);
        };
        let (Some(before), Some(after)) = (Asked::of(old)?, Asked::of(&new)?) else { return Ok(None) };
        Ok(Some(DisplayChange { before, after, refused: refused(old, &new, kind, address) }))
    }

    /// Has the display of that kind ask this.
    pub fn set_asked(&mut self, asked: &Asked) {
        let Some(display) = self.display_mut(asked.protocol.word()) else { return };
        for name in ATTRIBUTES {
            display.remove_attribute(name);
        }
        for (name, value) in &asked.values {
            display.set(name, value.reveal());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::conf::definition::{Strictness, View};

    fn with(graphics: &str) -> Definition {
        let xml = format!(
            "<domain type='qemu'><name>a</name><memory>65536</memory><os><type>hvm</type></os>\
             <devices>{graphics}</devices></domain>"
        );
        Definition::parse(xml.as_bytes(), Strictness::Lenient).unwrap().0
    }

    const VNC: &str = "<graphics type='vnc' port='-1' passwd='alt'/>";

    fn refusal(old: &str, new: &str, address: Option<&str>) -> Option<String> {
        with(old).display_change(new, address).unwrap().unwrap().refused
    }

    #[test]
    fn a_password_is_changed_and_nothing_else() {
        let here = Some("127.0.0.1");
        let new = |more: &str| format!("<graphics type='vnc' port='-1' passwd='neu' {more}/>");
        assert_eq!(refusal(VNC, &new("listen='127.0.0.1'"), here), None);
        // As it is shown while it runs.
        let shown = "<graphics type='vnc' port='5900' autoport='yes' listen='127.0.0.1' passwd='neu'>\
                     <listen type='address' address='127.0.0.1'/></graphics>";
        assert_eq!(refusal(VNC, shown, here), None);
        let address = Some("cannot change listen address setting on 'vnc' graphics".into());
        assert_eq!(refusal(VNC, &new(""), here), address);
        assert_eq!(refusal(VNC, &new("listen='0.0.0.0'"), here), address);
        let port = "<graphics type='vnc' port='5901' listen='127.0.0.1'/>";
        assert_eq!(refusal(VNC, port, here), Some("cannot change port settings on vnc graphics".into()));
        let socket = "<graphics type='vnc' socket='/run/a'/>";
        let kind = Some("cannot change the type of listen address on 'vnc' graphics".into());
        assert_eq!(refusal(VNC, socket, here), kind);
        assert_eq!(refusal(socket, socket, None), None);
        let other = "<graphics type='vnc' socket='/run/b'/>";
        let path = Some("cannot change listen socket setting on 'vnc' graphics".into());
        assert_eq!(refusal(socket, other, None), path);
        let keys = Some("cannot change keymap setting on vnc graphics".into());
        assert_eq!(refusal(VNC, &new("listen='127.0.0.1' keymap='de'"), here), keys);
        assert_eq!(with(VNC).display_change("<graphics type='spice'/>", None).unwrap(), None);
    }

    #[test]
    fn what_is_asked_is_set_and_set_back() {
        let mut tree =
            with("<graphics type='vnc' port='-1' passwd='alt' passwdValidTo='2030-01-01T00:00:00'/>");
        let before = tree.clone();
        let change = tree.display_change("<graphics type='vnc' passwd='neu' connected='keep'/>", None);
        let change = change.unwrap().unwrap();
        assert!(!format!("{change:?}").contains("neu") && !format!("{change:?}").contains("alt"));
        tree.set_asked(&change.after);
        let text = tree.format(View { secure: true, migratable: false });
        assert!(text.contains("passwd='neu' connected='keep'") && !text.contains("passwdValidTo"), "{text}");
        assert!(!tree.format(View::default()).contains("neu"));
        tree.set_asked(&change.before);
        assert_eq!(tree, before);
    }

    #[test]
    fn a_display_is_replaced_by_one_of_its_type() {
        let tree = with(VNC);
        let other = tree.with_display("<graphics type='vnc' port='5901'/>").unwrap().unwrap();
        let text = other.format(View { secure: true, migratable: false });
        assert!(text.contains("port='5901'") && !text.contains("alt"), "{text}");
        assert!(tree.with_display("<graphics type='spice'/>").unwrap().is_none());
        assert!(tree.with_display("<graphics type='vnc' passwd='123456789'/>").is_err());
        assert!(with("<graphics type='vnc' passwd='123456789'/>").check_passwords().is_err());
        assert_eq!(Definition::named_display("<graphics type='vnc'/>").unwrap().as_deref(), Some("vnc"));
        assert_eq!(Definition::named_display("<disk/>").unwrap(), None);
    }
}
