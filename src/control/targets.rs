//! Targets and their listeners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::io::Errno;

use super::hold::Hold;
use super::listeners::{ListenError, Listener, Listeners, TRTYPES};
use super::luns::{DRAIN_WAIT_MAX, Mapping};
use super::{Control, Desk, Refused};
use crate::shard::message::Action;
use crate::shard::names::TargetSpec;

/// How long adding or removing a listener waits for the system.
const LISTEN_WAIT_MAX: Duration = Duration::from_secs(10);

/// What an operator asks for with `srpt_create_target`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRequest {
    /// Unique name.
    pub name: String,
    /// Service GUID; when absent that of [`super::Options`], or derived from host and name.
    pub service_guid: Option<u64>,
    /// Relative target port identifier; the lowest free one when absent.
    pub relative_port: Option<u16>,
}

/// An SRP target.
#[derive(Debug)]
pub struct Target {
    pub(super) spec: Arc<TargetSpec>,
    /// The service GUID was given, not derived.
    pub(super) guid_given: bool,
    pub(super) luns: BTreeMap<u16, Mapping>,
    /// All LUNs below are mapped.
    pub(super) full_to: u16,
    pub(super) listeners: Vec<Listener>,
}

impl Target {
    /// Unique name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Service GUID, both halves of the target port identifier (SRP Annex B).
    pub fn service_guid(&self) -> u64 {
        self.spec.service_guid
    }

    /// True when the operator chose the service GUID.
    pub fn guid_given(&self) -> bool {
        self.guid_given
    }

    /// Relative target port identifier, from 1.
    pub fn relative_port(&self) -> u16 {
        self.spec.relative_port
    }

    /// The LUN map, in ascending order.
    pub fn luns(&self) -> &BTreeMap<u16, Mapping> {
        &self.luns
    }

    /// Where the target is reached, in the order of creation.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }
}

impl Desk {
    /// Creates a target; initiators can't reach it before [`Desk::add_listener`].
    pub async fn create_target(&self, request: &TargetRequest) -> Result<(), Refused> {
        let name = &request.name;
        let _hold = self.hold_target(name, "being created").await?;
        let target = self.with(|control| control.new_target(request))?;
        let (spec, service_guid) = (Arc::clone(&target.spec), target.service_guid());
        // Nobody else takes its GUID and its port while the cores are asked.
        self.with(|control| control.unsettled.push(Arc::clone(&spec)));
        let create = Action::CreateTarget(Arc::clone(&spec));
        let created =
            self.all_or_undo(&create, &Action::DeleteTarget { target: name.clone() }).await;
        self.with(|control| {
            control.settle(&spec);
            if created.is_ok() {
                tracing::info!("target {name}: created, service GUID {service_guid:016x}");
                control.targets.push(target);
            }
        });
        created
    }

    /// Removes a target's listeners, takes its LUNs away, ends its sessions and forgets it. A
    /// listener that can't be removed is a refusal; after that the deletion does not fail any more.
    /// Answers when all has ended, or after [`DRAIN_WAIT_MAX`]: then the rest ends in the
    /// background, and the name is busy until it has.
    pub async fn delete_target(&self, name: &str) -> Result<(), Refused> {
        let hold = self.hold_target(name, "being deleted").await?;
        let mut hold = hold;
        for listener in
            self.with(|control| Ok::<_, Refused>(control.target(name)?.listeners.clone()))?
        {
            hold = self.stop_listening(hold, name, &listener).await?;
        }
        hold.now("being deleted");
        let luns: Vec<u16> =
            self.with(|control| control.target(name).map(|t| t.luns.keys().copied().collect()))?;
        let drained: Vec<_> = luns.into_iter().map(|lun| self.take_away(name, lun)).collect();
        let spec = self.with(|control| control.forget_target(name))?;
        tracing::info!("target {name}: deleted");
        let (desk, delete) = (self.clone(), Action::DeleteTarget { target: name.to_owned() });
        let ended = Box::pin(async move {
            join_all(drained).await;
            // What the cores were asked they do; there is nobody to tell more.
            let _ = desk.ask_all(&delete).await;
            desk.with(|control| control.settle(&spec));
        });
        if let Err(ended) = self.within(DRAIN_WAIT_MAX, ended).await {
            tracing::warn!("target {name}: its last commands drain in the background");
            hold.now("its last commands drain");
            self.spawn(async move {
                ended.await;
                drop(hold);
            });
        }
        Ok(())
    }

    /// Lets initiators reach a target.
    pub async fn add_listener(&self, target: &str, listener: &Listener) -> Result<(), Refused> {
        let hold = self.hold_target(target, "a listener is being added").await?;
        let transport = self.with(|control| control.new_listener(target, listener))?;
        let (late, name, at) = (Arc::clone(&transport), target.to_owned(), listener.clone());
        let add = move || transport.add(&name, &at.traddr, at.trsvcid.as_deref());
        let (name, at) = (target.to_owned(), listener.clone());
        let remove = move |added: Result<(), ListenError>| {
            if added.is_ok()
                && let Err(error) = late.remove(&name, &at.traddr, at.trsvcid.as_deref())
            {
                tracing::warn!("target {name}: {at} was late and stays: {error}");
            }
        };
        let doing = format!("a listener is being added at {}", listener.traddr);
        let (_hold, added) = self.work(hold, &doing, LISTEN_WAIT_MAX, add, remove).await?;
        added?;
        tracing::info!("target {target}: listening on {listener}");
        self.with(|control| {
            control.target_mut(target)?.listeners.push(listener.clone());
            control.show_controllers();
            Ok(())
        })
    }

    /// Ends a listener. Sessions that came through it stay.
    pub async fn remove_listener(&self, target: &str, listener: &Listener) -> Result<(), Refused> {
        let hold = self.hold_target(target, "a listener is being removed").await?;
        self.stop_listening(hold, target, listener).await.map(drop)
    }

    /// A listener whose removal takes longer than [`LISTEN_WAIT_MAX`] is still there for whoever
    /// asks; the removal can be repeated when the target is no longer busy.
    async fn stop_listening(
        &self,
        hold: Hold,
        target: &str,
        listener: &Listener,
    ) -> Result<Hold, Refused> {
        let transport = self.with(|control| control.known_listener(target, listener))?;
        let (name, at) = (target.to_owned(), listener.clone());
        let remove = move || transport.remove(&name, &at.traddr, at.trsvcid.as_deref());
        let doing = format!("a listener is being removed at {}", listener.traddr);
        let (hold, removed) = self.work(hold, &doing, LISTEN_WAIT_MAX, remove, drop).await?;
        match removed {
            // Nothing listens there any more: an earlier removal was late.
            Err(ListenError::Os { errno: Errno::NODEV, .. }) => {}
            removed => removed?,
        }
        tracing::info!("target {target}: no longer listening on {listener}");
        self.with(|control| {
            control.target_mut(target)?.listeners.retain(|other| other != listener);
            control.show_controllers();
            Ok(hold)
        })
    }
}

impl Control {
    fn new_target(&self, request: &TargetRequest) -> Result<Target, Refused> {
        let name = &request.name;
        if self.target(name).is_ok() {
            return Err(Refused::exists(format!("target {name}")));
        }
        let given = request.service_guid.or(self.options().srpt_service_guid);
        let service_guid = given.unwrap_or_else(|| self.derived_guid(name));
        if let Some(other) = self.specs().find(|spec| spec.service_guid == service_guid) {
            let other = &other.name;
            return Err(Refused::exists(format!(
                "service_guid {service_guid:016x} is that of target {other}"
            )));
        }
        let relative_port = self.relative_port(request.relative_port)?;
        let spec = Arc::new(TargetSpec { name: name.clone(), service_guid, relative_port });
        Ok(Target {
            spec,
            guid_given: given.is_some(),
            luns: BTreeMap::new(),
            full_to: 0,
            listeners: Vec::new(),
        })
    }

    /// Of all targets that a core may have.
    fn specs(&self) -> impl Iterator<Item = &TargetSpec> {
        let settled = self.targets.iter().map(|target| &target.spec);
        settled.chain(&self.unsettled).map(Arc::as_ref)
    }

    fn settle(&mut self, spec: &Arc<TargetSpec>) {
        self.unsettled.retain(|other| !Arc::ptr_eq(other, spec));
    }

    /// What the cores have yet to forget.
    fn forget_target(&mut self, name: &str) -> Result<Arc<TargetSpec>, Refused> {
        let spec = Arc::clone(&self.target(name)?.spec);
        self.unsettled.push(Arc::clone(&spec));
        self.targets.retain(|target| target.name() != name);
        self.show_controllers();
        Ok(spec)
    }

    fn relative_port(&self, wanted: Option<u16>) -> Result<u16, Refused> {
        let user = |port: u16| self.specs().find(|spec| spec.relative_port == port);
        match wanted {
            Some(port) => match user(port) {
                None => Ok(port),
                Some(other) => Err(Refused::exists(format!(
                    "relative_port {port} is that of target {}",
                    other.name
                ))),
            },
            None => (1..=u16::MAX)
                .find(|port| user(*port).is_none())
                .ok_or_else(|| Refused::new(Errno::NOSPC, "all 65535 relative ports are in use")),
        }
    }

    /// The listener with the port that is meant when an rdma listener names none.
    pub fn with_default_port(&self, mut listener: Listener) -> Listener {
        let port = self.options().rdma_cm_port;
        if listener.trtype == "rdma" && listener.trsvcid.is_none() && port != 0 {
            listener.trsvcid = Some(port.to_string());
        }
        listener
    }

    fn new_listener(
        &self,
        target: &str,
        listener: &Listener,
    ) -> Result<Arc<dyn Listeners>, Refused> {
        self.target(target)?;
        let same = |other: &Listener| {
            other.trtype == listener.trtype
                && other.traddr == listener.traddr
                && other.trsvcid == listener.trsvcid
        };
        if let Some(other) = self.targets.iter().find(|t| t.listeners.iter().any(same)) {
            let other = other.name();
            return Err(Refused::new(
                Errno::ADDRINUSE,
                format!("listener {listener} is that of target {other}"),
            ));
        }
        self.transport(listener.trtype)
    }

    fn known_listener(
        &self,
        target: &str,
        listener: &Listener,
    ) -> Result<Arc<dyn Listeners>, Refused> {
        if !self.target(target)?.listeners.contains(listener) {
            return Err(Refused::missing(format!("listener {listener} of target {target}")));
        }
        self.transport(listener.trtype)
    }

    fn transport(&self, trtype: &'static str) -> Result<Arc<dyn Listeners>, Refused> {
        debug_assert!(TRTYPES.contains(&trtype));
        self.listeners.get(trtype).cloned().ok_or_else(|| {
            Refused::new(
                Errno::PROTONOSUPPORT,
                format!("trtype {trtype}: this build or machine has no {trtype} listener"),
            )
        })
    }
}
