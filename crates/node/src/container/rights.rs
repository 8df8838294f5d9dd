//! What a container's process may do: user, groups, capabilities.

use std::io;

use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities,
};
use serde::{Deserialize, Serialize};

/// What today's container runtimes leave to a container's root user.
const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// Rights of a process in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Bits of the capability bounding set; `None`: untouched (privileged).
    pub capabilities: Option<u64>,
    /// Neither set-uid programs nor file capabilities give more rights.
    pub no_new_privileges: bool,
    /// Working folder; made if absent.
    pub directory: String,
    /// Make the slave of a pseudo terminal at this path the controlling terminal.
    pub terminal: Option<String>,
}

// === impl Rights ===

impl Rights {
    /// The bounding set for the capability names a pod adds and drops (`ALL`, `NET_ADMIN`, `CAP_NET_ADMIN`).
    pub fn bounding_set(add: &[String], drop: &[String]) -> Result<u64, String> {
        let mut set = DEFAULT;
        for name in drop {
            set = set.difference(named(name)?);
        }
        for name in add {
            set = set.union(named(name)?);
        }
        Ok(set.bits())
    }

    /// Gives the calling process these rights; the last thing before `exec`.
    pub fn apply(&self) -> io::Result<()> {
        if let Some(allowed) = self.capabilities {
            let allowed = CapabilitySet::from_bits_retain(allowed);
            for capability in CapabilitySet::all()
                .iter()
                .filter(|c| !allowed.contains(*c))
            {
                // EINVAL: a capability this kernel does not have.
                match remove_capability_from_bounding_set(capability) {
                    Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let mut sets: CapabilitySets = rustix::thread::capabilities(None)?;
            sets.inheritable = CapabilitySet::empty();
            set_capabilities(None, sets)?;
        }
        let groups: Vec<_> = self.groups.iter().map(|g| Gid::from_raw(*g)).collect();
        setgroups(&groups)?;
        setgid(Gid::from_raw(self.gid))?;
        // From root to another user the kernel clears the permitted and effective sets; for root `exec` fills them
        // from the bounding set.
        setuid(Uid::from_raw(self.uid))?;
        if self.no_new_privileges {
            nix::sys::prctl::set_no_new_privs()?;
        }
        Ok(())
    }
}

fn named(name: &str) -> Result<CapabilitySet, String> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    if name == "ALL" {
        return Ok(CapabilitySet::all());
    }
    CapabilitySet::from_name(name).ok_or_else(|| format!("unknown capability {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_dropped_first_then_added() {
        let set = |add: &[&str], drop: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
            Rights::bounding_set(&owned(add), &owned(drop)).map(CapabilitySet::from_bits_retain)
        };
        assert_eq!(set(&[], &[]), Ok(DEFAULT));
        assert_eq!(set(&["NET_ADMIN"], &["ALL"]), Ok(CapabilitySet::NET_ADMIN));
        assert_eq!(
            set(&["CAP_NET_ADMIN"], &[]),
            Ok(DEFAULT | CapabilitySet::NET_ADMIN)
        );
        assert!(set(&["FLY"], &[]).is_err());
    }
}
