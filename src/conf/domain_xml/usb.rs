//! `<controller type='usb'>`: one controller, or one for USB 2 with its companions.

use super::address;
use super::scalar::{alias, number_attribute};
use super::view::{Read, View};
use crate::conf::domain::{Controller, ControllerModel, UsbModel};

/// The words of `<controller type='usb' model>`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Model {
    Companion(u8),
    Ehci,
    None,
    Piix3,
    Xhci,
}

const MODELS: [(&str, Model); 7] = [
    ("ich9-ehci1", Model::Ehci),
    ("ich9-uhci1", Model::Companion(1)),
    ("ich9-uhci2", Model::Companion(2)),
    ("ich9-uhci3", Model::Companion(3)),
    ("none", Model::None),
    ("piix3-uhci", Model::Piix3),
    ("qemu-xhci", Model::Xhci),
];

/// All of them: one bus. A controller that names no model comes with the first device that needs it.
pub(super) fn controllers(views: &[View<'_>]) -> Read<Vec<Controller>> {
    let mut first: Option<(u32, Option<Model>)> = None;
    let mut all: Vec<Controller> = Vec::new();
    for view in views {
        let (controller, model) = controller(*view)?;
        let companion = matches!(model, Some(Model::Companion(_)));
        match first {
            Some((line, _)) if !companion => return Err(view.duplicate("<controller type='usb'>", line)),
            None if !companion => first = Some((view.line(), model)),
            _ => {}
        }
        if let Some(twin) = all.iter().find(|other| Some(other.model) == controller.as_ref().map(|c| c.model))
        {
            return Err(view.duplicate("<controller type='usb'> of this model", twin.line));
        }
        all.extend(controller);
    }
    let companion = |one: &&Controller| matches!(one.model, ControllerModel::Usb(UsbModel::Ich9Uhci { .. }));
    let led = matches!(first, Some((_, Some(Model::Ehci))));
    if let (Some(view), Some(alone)) = (views.first().filter(|_| !led), all.iter().find(companion)) {
        let what = "an ich9-uhci <controller> without the ich9-ehci1 that it belongs to";
        let mut error = view.contradiction(what, "add <controller type='usb' model='ich9-ehci1'/>");
        error.line = alone.line;
        return Err(error);
    }
    Ok(all)
}

fn controller(view: View<'_>) -> Read<(Option<Controller>, Option<Model>)> {
    view.only(&["index", "model", "ports", "type"], &["address", "alias", "master"])?;
    alias(view)?;
    view.fixed("index", &["0"])?;
    let wanted = view.word("model", &MODELS)?;
    let model = match wanted {
        Some(Model::Companion(number)) => {
            Some(ControllerModel::Usb(UsbModel::Ich9Uhci { number, first_port: first_port(view, number)? }))
        }
        Some(Model::Ehci) => Some(ControllerModel::Usb(UsbModel::Ich9Ehci1)),
        Some(Model::Piix3) => Some(ControllerModel::Usb(UsbModel::Piix3Uhci)),
        Some(Model::Xhci) => Some(ControllerModel::Xhci { ports: ports(view)? }),
        Some(Model::None) | None => None,
    };
    if wanted != Some(Model::Xhci) && view.attribute("ports").is_some() {
        return Err(view.unsupported("attribute ports of this <controller>"));
    }
    if !matches!(wanted, Some(Model::Companion(_)))
        && let Some(master) = view.one("master")?
    {
        return Err(master.unsupported("<master> of this <controller>"));
    }
    let address = address::pci(view)?;
    Ok((model.map(|model| Controller { model, index: 0, address, line: view.line() }), wanted))
}

fn ports(view: View<'_>) -> Read<Option<u8>> {
    let ports = number_attribute::<u8>(view, "ports", 1)?;
    if ports.is_some_and(|ports| ports > 15) {
        let text = view.attribute("ports").unwrap_or_default();
        return Err(view.value("attribute ports of <controller>", text, "a number from 1 to 15"));
    }
    Ok(ports)
}

/// The first of the two ports of the other controller that a companion looks after.
fn first_port(view: View<'_>, number: u8) -> Read<u8> {
    let usual = number.saturating_sub(1).saturating_mul(2);
    let Some(master) = view.one("master")? else { return Ok(usual) };
    master.only(&["startport"], &[])?;
    master.required("startport")?;
    master.fixed("startport", &[&usual.to_string()])?;
    Ok(usual)
}
