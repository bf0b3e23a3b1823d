//! Devices that come to a running domain and leave it: opened and labelled here, handed to its supervisor, taken back.
//!
//! ```text
//!  admitted ─▶ journal: begin ─▶ opened, labelled ─▶ supervisor ─▶ journal: done
//!                  │                                  └─ refused, or gone ─▶ taken back
//!                  └─ the labeller dies ─▶ the next one has the supervisor take it out, then takes it back
//! ```
//!
//! Which files belong to an alias is known from the plan or from the plug itself, never from whoever asks.

mod leftover;
mod own;
mod talk;
mod ties;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::admit;
use super::apply::{Applied, Apply, journal_refusal, kernel};
use super::connection::ConnectionId;
use super::domain::{Domain, Phase};
use super::fault;
use super::journal::{Entry, Undo};
use super::lease::ObjectId;
use super::places::Places;
use super::serve::PAUSE;
use super::server::{Server, refused};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::privsep::apparmor::profile_name;
use crate::privsep::plug::{Gone, Plug, Top, UnplugSteps};
use crate::privsep::request::{NOT_RUNNING, Reply};
use crate::privsep::supervisor::{Answer, Verb};

pub(super) use leftover::Leftover;
use own::{own, split_own};
pub(super) use talk::Talk;

/// How soon what could not be taken out is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Devices of one domain that were plugged in.
const PLUGS_MAX: usize = 64;

/// One device that was plugged in.
#[derive(Clone, Debug)]
pub(super) struct Plugged {
    /// What was admitted.
    pub(super) plug: Plug,
    /// How to take it back.
    pub(super) undos: Vec<Undo>,
    /// Files and devices that it holds.
    pub(super) held: Vec<ObjectId>,
    /// Whether it is there; one that is not certain to be is taken out.
    pub(super) certain: bool,
}

impl Plugged {
    /// Which it is.
    pub(super) fn gone(&self) -> Gone {
        self.plug.gone()
    }
}

impl Server {
    /// Plugs a device into a running domain. The reply comes when it is there, or when everything is undone.
    pub(super) fn plug(&mut self, client: ConnectionId, uuid: DomainUuid, plug: Plug) -> Option<Reply> {
        match self.begin_plug(client, uuid, plug) {
            Ok(()) => None,
            Err(refusal) => Some(refused(refusal)),
        }
    }

    fn running_domain(&mut self, uuid: DomainUuid) -> Result<&mut Domain, Refusal> {
        let busy = self.talks.iter().any(|talk| talk.uuid == uuid);
        let dumped = self.is_being_dumped(uuid);
        let domain = self.domains.get_mut(&uuid).filter(|domain| domain.phase == Phase::Running);
        let refuse = |rule: &str, remedy: &str| {
            Err(Refusal::new(Layer::Policy, "plug a device of", uuid.to_string(), rule, remedy))
        };
        match domain {
            None => refuse(NOT_RUNNING, "start it first"),
            Some(_) if busy => refuse("another device is on its way", "try again in a moment"),
            Some(_) if dumped => refuse("its memory is written down", "wait until it is, or abort that"),
            Some(domain) if domain.saving.is_some() => {
                refuse("it is being saved", "wait until it is saved, or abort that")
            }
            Some(domain) => Ok(domain),
        }
    }

    fn begin_plug(&mut self, client: ConnectionId, uuid: DomainUuid, plug: Plug) -> Result<(), Refusal> {
        let (selinux, which) = (self.selinux, plug.gone());
        let domain = self.running_domain(uuid)?;
        if domain.plugs.len() + domain.leftovers.len() >= PLUGS_MAX {
            let rule = "64 devices are plugged in";
            return Err(Refusal::new(Layer::Lease, "plug in", plug.alias, rule, "take one out first"));
        }
        ties::check(&plug, domain)?;
        self.check_uids(&plug)?;
        let domain = self.domains.get(&uuid).map(|domain| &domain.plan);
        domain.map_or(Ok(()), |plan| admit::plug(&plug, plan, &self.settings, selinux))?;
        let begun = self.apply_plug(client, uuid, plug);
        if begun.is_err() {
            // Nobody but the labeller had its descriptors.
            self.take_back_plug(uuid, &which);
        }
        begun
    }

    /// Opens and labels what is plugged in, and hands it over.
    fn apply_plug(&mut self, client: ConnectionId, uuid: DomainUuid, plug: Plug) -> Result<(), Refusal> {
        let places = Places::of(&self.settings);
        let Some(domain) = self.domains.get_mut(&uuid) else { return Ok(()) };
        let begin = Entry::PlugBegin { plug: Box::new(plug.clone()) };
        domain.journal.write(&begin).map_err(|error| journal_refusal(&error))?;
        let before = self.leases.since(uuid, &[]);
        let profile = domain.is_profiled().then(|| profile_name(uuid));
        let mut out = Applied { profile, cgroups: domain.cgroups().to_vec(), ..Applied::default() };
        let applied = Apply {
            settings: &self.settings,
            places: &places,
            leases: &mut self.leases,
            journal: &mut domain.journal,
            launcher: &mut *self.launcher,
            domain: &domain.plan.domain,
            ops: &plug.ops,
            passwords: &[],
            out: &mut out,
        }
        .run();
        let held = self.leases.since(uuid, &before);
        let text = serde_json::to_vec(&plug.steps).unwrap_or_default();
        let sets = plug.steps.sets.iter().map(|set| &set.slot);
        let own = match &plug.steps.top {
            Top::Interface { slot, .. } => Some(slot),
            _ => None,
        };
        let slots: Vec<_> = sets.chain(own).filter_map(|slot| out.slots.get(slot)).collect();
        let fds: Vec<BorrowedFd<'_>> = slots.iter().map(|fd| fd.as_fd()).collect();
        let gone = plug.gone();
        domain.helpers.append(&mut out.helpers);
        domain.channels.append(&mut out.channels);
        domain.plugs.push(Plugged { plug, undos: std::mem::take(&mut out.undos), held, certain: false });
        applied.map_err(|(_, refusal)| refusal)?;
        domain.journal.write(&Entry::PlugApplied).map_err(|error| journal_refusal(&error))?;
        fault::step("plug")?;
        let talk = Talk::begin(domain, Some(client), &Verb::Plug, gone, &text, &fds);
        self.talks.push(talk.map_err(|error| unreachable(&error))?);
        self.prepare_at = None;
        Ok(())
    }

    /// A uid that is leased already is refused before anything is written down: what is plugged in by the journal may
    /// end whoever has its uid.
    fn check_uids(&self, plug: &Plug) -> Result<(), Refusal> {
        let leased = self.leases.uids();
        let taken = plug.uids().find(|uid| leased.iter().any(|(_, other)| other == uid));
        taken.map_or(Ok(()), |uid| {
            let object = format!("uid {uid}");
            Err(Refusal::new(Layer::Lease, "lease", object, "it is in use", "plan again"))
        })
    }

    /// Takes a device out of a running domain.
    pub(super) fn unplug(
        &mut self,
        client: Option<ConnectionId>,
        uuid: DomainUuid,
        which: Gone,
        force: bool,
    ) -> Option<Reply> {
        match self.begin_unplug(client, uuid, which, force) {
            Ok(()) => None,
            Err(refusal) => Some(refused(refusal)),
        }
    }

    fn begin_unplug(
        &mut self,
        client: Option<ConnectionId>,
        uuid: DomainUuid,
        which: Gone,
        force: bool,
    ) -> Result<(), Refusal> {
        let domain = self.running_domain(uuid)?;
        let steps = unplug_steps(domain, &which, force)?;
        fault::step("unplug")?;
        let text = serde_json::to_vec(&steps).unwrap_or_default();
        let talk = Talk::begin(domain, client, &Verb::Unplug, which, &text, &[]);
        self.talks.push(talk.map_err(|error| unreachable(&error))?);
        Ok(())
    }

    /// Goes on with every conversation, and with what has to be tried again.
    pub(super) fn advance_plugs(&mut self, now: Instant) {
        for mut talk in std::mem::take(&mut self.talks) {
            match talk.answer(now) {
                Ok(None) => self.talks.push(talk),
                Ok(Some(answer)) => self.answered(&talk, answer),
                Err(rule) => {
                    let runs = self.domains.get(&talk.uuid).is_some_and(|it| it.phase == Phase::Running);
                    let rule = if runs { rule } else { NOT_RUNNING.into() };
                    let remedy = "look at the domain's devices, then try again";
                    let refusal = Refusal::new(Layer::DeviceModel, "plug", &*talk.which.alias, rule, remedy);
                    self.reply(&talk, refused(refusal));
                }
            }
        }
        self.take_out_doubtful(now);
        self.give_back_due(now);
    }

    /// Takes out what is not certain to be plugged in.
    fn take_out_doubtful(&mut self, now: Instant) {
        let waiting = self.domains.iter().filter(|(uuid, domain)| {
            domain.phase == Phase::Running
                && domain.plug_again.is_none_or(|at| at <= now)
                && !self.talks.iter().any(|talk| talk.uuid == **uuid)
        });
        let doubtful = waiting.filter_map(|(uuid, domain)| {
            Some((*uuid, domain.plugs.iter().find(|plugged| !plugged.certain)?.gone()))
        });
        let doubtful: Vec<(DomainUuid, Gone)> = doubtful.collect();
        for (uuid, which) in doubtful {
            if let Some(domain) = self.domains.get_mut(&uuid) {
                domain.plug_again = Some(now + AGAIN);
            }
            if let Err(refusal) = self.begin_unplug(None, uuid, which, true) {
                tracing::warn!(%uuid, %refusal, "what may be plugged in cannot be taken out yet");
            }
        }
    }

    /// When [`Server::advance_plugs`] has something to do next.
    pub(super) fn plug_deadline(&self) -> Option<Instant> {
        let again = self.domains.iter().filter(|(uuid, domain)| {
            domain.phase == Phase::Running
                && domain.plugs.iter().any(|plugged| !plugged.certain)
                && !self.talks.iter().any(|talk| talk.uuid == **uuid)
        });
        let again = again.map(|(_, domain)| domain.plug_again.unwrap_or_else(Instant::now));
        self.talks.iter().filter_map(Talk::deadline).chain(again).chain(self.give_back_deadline()).min()
    }

    fn answered(&mut self, talk: &Talk, answer: Answer) {
        let reply = match (answer, talk.plugs) {
            (Answer::Done, true) => self.plugged(talk),
            (Answer::Done, false) => {
                fault::undo_step("a device was let go");
                self.take_back_plug(talk.uuid, &talk.which);
                fault::noted("a device is gone");
                Reply::Done
            }
            (Answer::Pending, false) => Reply::Pending,
            (Answer::Refused(refusal), true) => {
                // The supervisor has undone what it had done.
                self.take_back_plug(talk.uuid, &talk.which);
                refused(refusal)
            }
            (Answer::Refused(refusal), false) => refused(refusal),
            // It stays uncertain, and is taken out again.
            _ => {
                let rule = "QEMU did not say whether it took it";
                refused(Refusal::new(
                    Layer::Policy,
                    "plug",
                    &*talk.which.alias,
                    rule,
                    "try again in a moment",
                ))
            }
        };
        self.reply(talk, reply);
    }

    fn reply(&mut self, talk: &Talk, reply: Reply) {
        if let Some(client) = talk.client {
            self.outbox.push_back((client, reply));
            self.prepare_at = Some(Instant::now() + PAUSE);
        } else if let Reply::Refused(refused) = reply {
            tracing::warn!(uuid = %talk.uuid, refusal = %refused.refusal, "not taken out yet");
        }
    }

    fn plugged(&mut self, talk: &Talk) -> Reply {
        let Some(domain) = self.domains.get_mut(&talk.uuid) else { return Reply::NoDomain };
        if talk.client.is_some_and(|client| !self.connections.contains_key(&client)) {
            // Nobody has heard of it, and nobody would show it: it is taken out again.
            return Reply::NoDomain;
        }
        let Gone { alias, medium } = talk.which.clone();
        let done = Entry::PlugDone { alias, medium };
        if let Err(error) = fault::step("plugged")
            .map_err(|r| r.to_string())
            .and_then(|()| domain.journal.write(&done).map_err(|error| error.to_string()))
        {
            // It stays uncertain, and is taken out again.
            let remedy = "see that paths.state has room and can be written";
            return refused(Refusal::new(Layer::Kernel, "write", "the journal", error, remedy));
        }
        fault::noted("a device was plugged in");
        if let Some(plugged) = domain.plugs.iter_mut().find(|plugged| plugged.gone() == talk.which) {
            plugged.certain = true;
        }
        tracing::info!(domain = %domain.plan.domain.name, alias = talk.which.alias, "a device was plugged in");
        if let Some(store) = self.store.as_ref().filter(|_| !domain.channels.is_empty()) {
            store.keep(talk.uuid, &domain.lasting());
        }
        Reply::Done
    }

    /// The domain is gone; whoever waits for a device of it hears that.
    pub(super) fn end_talks(&mut self, uuid: DomainUuid) {
        let (ended, rest) =
            std::mem::take(&mut self.talks).into_iter().partition(|talk: &Talk| talk.uuid == uuid);
        self.talks = rest;
        let ended: Vec<Talk> = ended;
        for talk in ended {
            self.reply(&talk, Reply::NoDomain);
        }
    }
}

fn unreachable(error: &std::io::Error) -> Refusal {
    kernel("reach", "the domain's supervisor", error, "try again in a moment")
}

/// How a device is taken out: by what it was plugged in with, or started with.
fn unplug_steps(domain: &Domain, which: &Gone, force: bool) -> Result<UnplugSteps, Refusal> {
    let Gone { alias, medium } = which.clone();
    let plugged = domain.plugs.iter().find(|plugged| plugged.gone() == *which);
    let interface = plugged.map_or_else(
        || own(&domain.plan, which).is_some_and(|own| own.interface),
        |plugged| matches!(plugged.plug.steps.top, Top::Interface { .. }),
    );
    let (nodes, sets) = if let Some(Plugged { plug, .. }) = plugged {
        let name = |node: &String| {
            let node: Value = serde_json::from_str(node).ok()?;
            node.get("node-name")?.as_str().map(str::to_owned)
        };
        let nodes = plug.steps.nodes.iter().rev().filter_map(name).collect();
        (nodes, plug.steps.sets.iter().map(|grant| grant.set).collect())
    } else if domain.gone.contains(which) {
        (Vec::new(), Vec::new())
    } else if let Some(own) = own(&domain.plan, which) {
        (own.nodes, own.sets)
    } else {
        let rule = "the domain has no such device, or none that can be taken out";
        return Err(Refusal::new(Layer::Policy, "take out", alias, rule, "see its live definition"));
    };
    Ok(UnplugSteps { alias, medium, force, nodes, sets, interface })
}
