//! The views that a daemon serves, each with a manager of its own.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::start::{Domains, Machine, ServerError, step};
use super::watch;
use crate::base::DomainUuid;
use crate::conf::definition::Choices;
use crate::conf::facts::HostFacts;
use crate::host;
use crate::manager::{Labelled, Manager, Memory};
use crate::remote::{Events, Kind, Node, View, ViewEvents};
use crate::settings::Settings;
use crate::storage::Pools;
use crate::store::{Contents, Store};

/// The made-up host of libvirt's test driver: CPUs and bytes of memory.
const TEST_CPUS: u32 = 16;
const TEST_MEMORY: u64 = 3_145_728 << 10;

/// Domains that nothing runs, for people who write tools.
pub(super) fn test(settings: &Settings, hostname: &str, events: &Arc<Events>) -> Result<View, ServerError> {
    let facts = HostFacts { cpus: TEST_CPUS, memory: TEST_MEMORY, ..HostFacts::default() };
    let sink = Arc::new(ViewEvents(events.clone(), Kind::Test));
    let manager = Manager::new(settings.clone(), facts, Box::new(Memory), None, sink, |_, _| {});
    manager.furnish().map_err(ServerError::Test)?;
    let node = Node::test(hostname.into(), host::test());
    Ok(View::new(Kind::Test, Arc::new(manager), node)
        .with_pools(Arc::new(Pools::furnished(settings.clone()))))
}

/// The domains of this machine.
pub(super) fn machine(
    kind: Kind,
    settings: Settings,
    machine: Machine,
    store: Store,
    contents: Contents,
    events: &Arc<Events>,
) -> Result<View, ServerError> {
    let Machine { facts, node, autostarted } = machine;
    let (watch, watched) = mpsc::unbounded_channel();
    let sink = Arc::new(ViewEvents(events.clone(), kind));
    let booted = autostarted.metadata().map_err(step("look at what was started with the host"))?.len() == 0;
    let pools = Pools::new(settings.clone(), store.clone(), &contents.objects, booted, sink.clone());
    let pools = Arc::new(pools);
    let manager = Manager::new(settings, facts, Box::new(Labelled), Some(store), sink, move |uuid, id| {
        // Once nobody receives, the daemon is ending.
        let _ = watch.send((uuid, id));
    });
    let manager: Domains =
        Arc::new(manager.with_choices(Choices::of(&node.emulators)).with_volumes(pools.clone()));
    manager.recover(contents);
    watch::start(&manager, autostarted).map_err(step("start its survey"))?;
    tokio::spawn(wait_for_ends(manager.clone(), watched));
    Ok(View::new(kind, manager, node).with_pools(pools))
}

async fn wait_for_ends(manager: Domains, mut watched: mpsc::UnboundedReceiver<(DomainUuid, i32)>) {
    while let Some((uuid, id)) = watched.recv().await {
        tokio::spawn(watch::wait(manager.clone(), uuid, id));
        tokio::spawn(watch::listen(manager.clone(), uuid, id));
    }
}
