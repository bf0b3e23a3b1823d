//! A plug is about its own objects: what the domain has already it may neither name nor take the name of.
//!
//! Within the plug [`check`](crate::privsep::plug::check) has seen to that; this is about what runs.

use serde::Deserialize;
use serde_json::Value;

use super::super::domain::Domain;
use crate::base::{Layer, Refusal};
use crate::privsep::op::{Op, Spawn};
use crate::privsep::plug::{Plug, Top, backend};

/// What a domain has by now.
#[derive(Debug, Default)]
struct Taken {
    aliases: Vec<String>,
    nodes: Vec<String>,
    sets: Vec<u32>,
}

/// The names in one of QEMU's objects: a domain has a hundred of these, and nothing else is kept of them here.
#[derive(Deserialize)]
struct Names {
    id: Option<Value>,
    #[serde(rename = "node-name")]
    node: Option<Value>,
}

impl Names {
    fn of(object: &Value) -> Self {
        let name = |key: &str| object.get(key).cloned();
        Self { id: name("id"), node: name("node-name") }
    }
}

impl Taken {
    fn object(&mut self, text: &str) {
        // Where a name is there twice, the last counts, as for everybody else who reads it.
        let whole = |text: &str| serde_json::from_str::<Value>(text).map(|object| Names::of(&object));
        let Ok(Names { id, node }) = serde_json::from_str(text).or_else(|_| whole(text)) else { return };
        let word = |value: Option<Value>| value?.as_str().map(str::to_owned);
        self.aliases.extend(word(id));
        self.nodes.extend(word(node));
    }

    fn spawn(&mut self, spawn: &Spawn) {
        for text in &spawn.argv {
            if text.starts_with('{') {
                self.object(text);
            } else if text.starts_with("fd=") {
                let sets = text.split(',').filter_map(|word| word.strip_prefix("set=")?.parse::<u32>().ok());
                self.sets.extend(sets);
            }
        }
    }

    fn plug(&mut self, plug: &Plug) {
        self.sets.extend(plug.steps.sets.iter().map(|grant| grant.set));
        plug.steps.nodes.iter().for_each(|node| self.object(node));
        if let Top::Device { .. } | Top::Interface { .. } = plug.steps.top {
            self.aliases.push(plug.alias.clone());
        }
    }
}

/// Refuses a plug that names what the domain has.
pub(super) fn check(plug: &Plug, domain: &Domain) -> Result<(), Refusal> {
    let refuse = |rule: String, remedy: &str| {
        Err(Refusal::new(Layer::Lease, "plug in", plug.alias.clone(), rule, remedy))
    };
    let which = plug.gone();
    if domain.leftovers.iter().any(|left| left.which == which) {
        let rule = "what the last device of this alias held is not given back yet";
        return refuse(rule.into(), "see the labeller's log for what it cannot undo");
    }
    let mut taken = Taken::default();
    if let Some(spawn) = domain.spawn() {
        taken.spawn(spawn);
    }
    // What of the plan has gone leaves its names free.
    taken.aliases.retain(|alias| !domain.gone.iter().any(|gone| !gone.medium && gone.alias == *alias));
    let left = domain.gone.iter().filter_map(|gone| super::own(&domain.plan, gone));
    for own in left.collect::<Vec<_>>() {
        taken.nodes.retain(|node| !own.nodes.contains(node));
        taken.sets.retain(|set| !own.sets.contains(set));
    }
    domain.plugs.iter().for_each(|plugged| taken.plug(&plugged.plug));
    let is_there = taken.aliases.contains(&plug.alias);
    let twice = domain.plugs.iter().any(|plugged| plugged.gone() == which);
    match plug.steps.top {
        Top::Device { .. } | Top::Interface { .. } if is_there || twice => {
            return refuse("a device of this alias is there".into(), "take it out first");
        }
        Top::Medium { .. } if twice => {
            return refuse("a medium is in this drive".into(), "take it out first");
        }
        Top::Medium { .. } if !is_there => {
            return refuse("the domain has no such drive".into(), "see its live definition");
        }
        _ => {}
    }
    if matches!(plug.steps.top, Top::Interface { .. }) {
        // The descriptor's name and the back-end's.
        let backend = backend(&plug.alias);
        if taken.aliases.contains(&backend) {
            return refuse(format!("the domain has a {backend} already"), "plan again");
        }
        let lacks_passt = !domain.plan.ops.iter().any(|op| matches!(op, Op::SpawnPasst { .. }));
        let wants_passt = plug.ops.iter().any(|op| matches!(op, Op::SpawnPasst { .. }));
        if domain.is_profiled() && wants_passt && lacks_passt {
            let rule = "the domain's AppArmor profile was loaded without one for passt";
            return refuse(
                rule.into(),
                "start it with an interface of type user, or attach one with --config",
            );
        }
    }
    let mut own = Taken::default();
    own.plug(plug);
    if let Some(node) = own.nodes.iter().find(|node| taken.nodes.contains(node)) {
        return refuse(format!("the domain has a node {node} already"), "plan again");
    }
    if let Some(set) = own.sets.iter().find(|set| taken.sets.contains(set)) {
        return refuse(format!("the domain has a set {set} of descriptors already"), "plan again");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_that_everybody_else_reads() {
        let mut taken = Taken::default();
        for text in [
            r#"{"driver":"file","node-name":"a","drive":"b","id":"x"}"#,
            r#"{"node-name":"z","node-name":"c","id":7}"#,
            r#"{"node-name":"#,
            "no object",
        ] {
            taken.object(text);
        }
        assert_eq!((taken.nodes, taken.aliases), (vec!["a".to_owned(), "c".into()], vec!["x".to_owned()]));
    }
}
