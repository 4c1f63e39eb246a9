//! Targets and their listeners.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustix::io::Errno;

use super::listeners::{Listener, TRTYPES};
use super::luns::Mapping;
use super::{Control, Refused};
use crate::shard::lun::TargetSpec;
use crate::shard::message::Action;

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
    /// The cores were told to forget it, and not all have done so.
    deleting: bool,
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

impl Control {
    /// Creates a target; initiators can't reach it before [`Control::add_listener`].
    pub fn create_target(&mut self, request: &TargetRequest) -> Result<(), Refused> {
        let name = &request.name;
        if self.target(name).is_ok() {
            return Err(Refused::exists(format!("target {name}")));
        }
        let given = request.service_guid.or(self.options().srpt_service_guid);
        let service_guid = given.unwrap_or_else(|| self.derived_guid(name));
        if let Some(other) = self.targets.iter().find(|t| t.service_guid() == service_guid) {
            let other = other.name();
            return Err(Refused::exists(format!(
                "service_guid {service_guid:016x} is that of target {other}"
            )));
        }
        let relative_port = self.relative_port(request.relative_port)?;
        let spec = Arc::new(TargetSpec { name: name.clone(), service_guid, relative_port });
        self.all_or_undo(
            &Action::CreateTarget(Arc::clone(&spec)),
            &Action::DeleteTarget { target: name.clone() },
        )?;
        tracing::info!("target {name}: created, service GUID {service_guid:016x}");
        self.targets.push(Target {
            spec,
            guid_given: given.is_some(),
            luns: BTreeMap::new(),
            full_to: 0,
            listeners: Vec::new(),
            deleting: false,
        });
        Ok(())
    }

    fn relative_port(&self, wanted: Option<u16>) -> Result<u16, Refused> {
        let user = |port: u16| self.targets.iter().find(|target| target.relative_port() == port);
        match wanted {
            Some(port) => match user(port) {
                None => Ok(port),
                Some(other) => Err(Refused::exists(format!(
                    "relative_port {port} is that of target {}",
                    other.name()
                ))),
            },
            None => (1..=u16::MAX)
                .find(|port| user(*port).is_none())
                .ok_or_else(|| Refused::new(Errno::NOSPC, "all 65535 relative ports are in use")),
        }
    }

    /// Removes a target's listeners, takes its LUNs away, ends its sessions and forgets it. When a
    /// step fails the target is still there, without what was removed before, and the call can be
    /// repeated; in the last step nothing else can be done with it.
    pub fn delete_target(&mut self, name: &str) -> Result<(), Refused> {
        for listener in self.target(name)?.listeners.clone() {
            self.remove_listener(name, &listener)?;
        }
        let luns: Vec<u16> = self.target(name)?.luns.keys().copied().collect();
        for lun in luns {
            self.all(&Action::UnmapLun { target: name.to_owned(), lun })?;
            self.forget_lun(name, lun)?;
        }
        self.target_mut(name)?.deleting = true;
        self.all(&Action::DeleteTarget { target: name.to_owned() })?;
        self.targets.retain(|target| target.name() != name);
        tracing::info!("target {name}: deleted");
        Ok(())
    }

    /// A target that every core has.
    pub(super) fn whole_target(&self, name: &str) -> Result<&Target, Refused> {
        let target = self.target(name)?;
        if target.deleting {
            return Err(Refused::busy(format!(
                "target {name} is being deleted: repeat srpt_delete_target"
            )));
        }
        Ok(target)
    }

    /// The listener with the port that is meant when an rdma listener names none.
    pub fn with_default_port(&self, mut listener: Listener) -> Listener {
        let port = self.options().rdma_cm_port;
        if listener.trtype == "rdma" && listener.trsvcid.is_none() && port != 0 {
            listener.trsvcid = Some(port.to_string());
        }
        listener
    }

    /// Lets initiators reach a target.
    pub fn add_listener(&mut self, target: &str, listener: &Listener) -> Result<(), Refused> {
        self.whole_target(target)?;
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
        let transport = self.transport(listener.trtype)?;
        transport.add(target, &listener.traddr, listener.trsvcid.as_deref())?;
        tracing::info!("target {target}: listening on {listener}");
        self.target_mut(target)?.listeners.push(listener.clone());
        self.show_controllers();
        Ok(())
    }

    /// Ends a listener. Sessions that came through it stay.
    pub fn remove_listener(&mut self, target: &str, listener: &Listener) -> Result<(), Refused> {
        if !self.target(target)?.listeners.contains(listener) {
            return Err(Refused::missing(format!("listener {listener} of target {target}")));
        }
        let transport = self.transport(listener.trtype)?;
        transport.remove(target, &listener.traddr, listener.trsvcid.as_deref())?;
        tracing::info!("target {target}: no longer listening on {listener}");
        self.target_mut(target)?.listeners.retain(|other| other != listener);
        self.show_controllers();
        Ok(())
    }

    fn transport(
        &mut self,
        trtype: &'static str,
    ) -> Result<&mut Box<dyn super::Listeners>, Refused> {
        debug_assert!(TRTYPES.contains(&trtype));
        self.listeners.get_mut(trtype).ok_or_else(|| {
            Refused::new(
                Errno::PROTONOSUPPORT,
                format!("trtype {trtype}: this build or machine has no {trtype} listener"),
            )
        })
    }
}
