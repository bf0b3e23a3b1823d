//! `<numa>` of `<cpu>`: nodes that the guest sees.

use super::scalar::{number, scaled_attribute};
use super::view::{Read, View};
use crate::conf::domain::NumaCell;

/// What one node is from itself (ACPI's SLIT).
const LOCAL: u8 = 10;
/// What Linux takes for a node that cannot be reached.
const FARTHEST: u8 = 254;
/// QEMU's `MAX_NODES`.
const CELLS_MAX: usize = 128;
/// The smallest node that this reader lets through, in bytes.
const LEAST: u64 = 1 << 20;

/// Every node, in the order of their numbers; empty where the guest has none.
pub(super) fn cells(cpu: View<'_>, vcpus: u32) -> Read<Vec<NumaCell>> {
    let Some(numa) = cpu.one("numa")? else { return Ok(Vec::new()) };
    numa.only(&[], &["cell"])?;
    let views: Vec<View<'_>> = numa.all("cell").collect();
    if views.is_empty() || views.len() > CELLS_MAX {
        return Err(numa.contradiction(
            format!("{} nodes in <numa>", views.len()),
            format!("give the guest 1 to {CELLS_MAX}, or remove <numa>"),
        ));
    }
    let mut cells: Vec<Option<NumaCell>> = vec![None; views.len()];
    let mut owners: Vec<Option<usize>> = vec![None; usize::try_from(vcpus).unwrap_or(usize::MAX)];
    for (at, view) in views.iter().enumerate() {
        view.only(&["cpus", "id", "memAccess", "memory", "unit"], &["distances"])?;
        let id = match view.attribute("id") {
            None => at,
            Some(text) => number::<usize>(text).filter(|id| *id < views.len()).ok_or_else(|| {
                let expected = format!("0 to {}: nodes are counted from 0", views.len() - 1);
                view.value("attribute id of <cell>", text, expected)
            })?,
        };
        let memory = scaled_attribute(*view, "memory", "unit")?;
        let memory = memory.checked_next_multiple_of(1024).filter(|memory| *memory >= LEAST);
        let memory = memory.ok_or_else(|| {
            let text = view.attribute("memory").unwrap_or_default();
            view.value("attribute memory of <cell>", text, "at least 1 MiB")
        })?;
        claim(*view, id, &mut owners)?;
        let cell = NumaCell {
            cpus: Vec::new(),
            memory,
            shared: view.word("memAccess", &[("private", false), ("shared", true)])?,
            distances: distances(*view, id, views.len())?,
        };
        if cells.get(id).is_some_and(Option::is_some) {
            return Err(view.contradiction(format!("the node {id} stands twice"), "give it another id"));
        }
        if let Some(place) = cells.get_mut(id) {
            *place = Some(cell);
        }
    }
    let mut cells: Vec<NumaCell> = cells.into_iter().flatten().collect();
    for (cpu, owner) in (0_u32..).zip(owners) {
        // What no node names belongs to the first one, as in libvirt.
        if let Some(cell) = cells.get_mut(owner.unwrap_or(0)) {
            cell.cpus.push(cpu);
        }
    }
    Ok(cells)
}

/// Notes which CPUs a node has; each has one node at most.
fn claim(view: View<'_>, id: usize, owners: &mut [Option<usize>]) -> Read<()> {
    let Some(text) = view.attribute("cpus") else { return Ok(()) };
    let wrong = || {
        let expected = format!("CPUs as in 0-1,3, each below {}", owners.len());
        view.value("attribute cpus of <cell>", text, expected)
    };
    let mut taken = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number::<usize>(first), number::<usize>(last));
        let (Some(first), Some(last)) = (first, last) else { return Err(wrong()) };
        if first > last || last >= owners.len() {
            return Err(wrong());
        }
        taken.extend(first..=last);
        if taken.len() > owners.len() {
            return Err(wrong());
        }
    }
    for cpu in taken {
        let Some(owner) = owners.get_mut(cpu) else { continue };
        if owner.replace(id).is_some() {
            let what = format!("the CPU {cpu} stands in two nodes, or twice in one");
            return Err(view.contradiction(what, "name each CPU once"));
        }
    }
    Ok(())
}

/// How far the other nodes are: their numbers, each with a value.
fn distances(cell: View<'_>, own: usize, cells: usize) -> Read<Vec<(usize, u8)>> {
    let Some(view) = cell.one("distances")? else { return Ok(Vec::new()) };
    view.only(&[], &["sibling"])?;
    let mut all: Vec<(usize, u8)> = Vec::new();
    for sibling in view.all("sibling") {
        sibling.only(&["id", "value"], &[])?;
        let (id, value) = (sibling.required("id")?, sibling.required("value")?);
        let to = number::<usize>(id)
            .filter(|to| *to < cells)
            .ok_or_else(|| sibling.value("attribute id of <sibling>", id, "the number of a node"))?;
        let far = number::<u8>(value).filter(|far| (LOCAL..=FARTHEST).contains(far)).ok_or_else(|| {
            sibling.value("attribute value of <sibling>", value, format!("{LOCAL} to {FARTHEST}"))
        })?;
        if (to == own) != (far == LOCAL) {
            let what = format!("a node is {LOCAL} from itself, and farther from all others");
            return Err(sibling.contradiction(what, "correct the value"));
        }
        if all.iter().any(|(other, _)| *other == to) {
            let what = format!("the distance to node {to} stands twice");
            return Err(sibling.contradiction(what, "remove one of the two"));
        }
        all.push((to, far));
    }
    Ok(all)
}
