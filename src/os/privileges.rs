//! Drops root's privileges for good (`user`).
//!
//! The calls change one thread, so they come before any other thread is started, except the one that reads keys
//! (`privileged_reader`).

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::thread::Builder;

use nix::unistd::{Group, User, getgrouplist};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use rustix::thread::{capability_is_in_bounding_set, remove_capability_from_bounding_set};
use rustix::thread::{configure_capability_in_ambient_set, set_keep_capabilities, set_no_new_privs};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The user if root starts the program and no `user` is configured, as in nginx.
const DEFAULT_USER: &str = "nobody";
/// Bytes of the stack of a thread that acts as the account.
const STACK_BYTES: usize = 128 * 1024;
/// Upper bound of a kernel's capabilities; Linux 6 has 41.
const CAPABILITIES_MAX: u32 = 64;

/// The user and groups that the process switches to.
#[derive(Clone, Debug)]
pub struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
    /// All groups, `gid` included.
    groups: Vec<Gid>,
}

/// Looks up the account: `user`, and `group` or the user's own group. `None` if the process does not run as root, or
/// the account is root.
pub fn find_account(user: Option<&str>, group: Option<&str>) -> Result<Option<Account>, String> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let name = user.unwrap_or(DEFAULT_USER);
    let found = User::from_name(name).map_err(|error| format!("getpwnam(\"{name}\") failed ({error})"))?;
    let (uid, gid) = match (found, user) {
        (Some(found), _) => (found.uid.as_raw(), found.gid.as_raw()),
        (None, None) => (65534, 65534),
        (None, Some(_)) => return Err(format!("user \"{name}\" does not exist: create it, or configure another one")),
    };
    let gid = match group {
        Some(name) => Group::from_name(name)
            .map_err(|error| format!("getgrnam(\"{name}\") failed ({error})"))?
            .ok_or_else(|| format!("group \"{name}\" does not exist: create it, or configure another one"))?
            .gid
            .as_raw(),
        None => gid,
    };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let account = Account { name: name.to_owned(), uid, gid, groups: group_list(name, gid) };
    Ok((!uid.is_root()).then_some(account))
}

impl Account {
    /// Makes the account the owner of an open file, so that it can be opened again later. Root of a container may
    /// lack the capability (CAP_CHOWN); the open descriptor stays usable then.
    pub fn chown(&self, file: impl AsFd) {
        let _ = rustix::fs::fchown(file, Some(self.uid), Some(self.gid));
    }

    /// Runs `work` as the account while the calling thread stays root: in a thread that switches for good and ends,
    /// so that no switching back can fail.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> io::Result<R> {
        let account = self.clone();
        run_in_thread(move || account.assume(CapabilitySet::empty()).map(|()| work()))
    }

    /// Switches this thread to the account for good, with no other capabilities than `kept`.
    ///
    /// # Errors A refusal of the kernel: the program must not continue then.
    pub fn assume(&self, kept: CapabilitySet) -> Result<(), String> {
        // The bounding set comes first: changing it takes a capability that is lost with the user id of root.
        let done = limit_bounding_set(kept)
            .and_then(|()| set_keep_capabilities(true))
            .and_then(|()| set_thread_groups(&self.groups))
            .and_then(|()| set_thread_res_gid(self.gid, self.gid, self.gid))
            .and_then(|()| set_thread_res_uid(self.uid, self.uid, self.uid))
            .and_then(|()| set_no_new_privs(true));
        done.map_err(|error| error.to_string())
            .and_then(|()| keep_capabilities(kept))
            .map_err(|why| format!("switching to user \"{}\" failed ({why})", self.name))
    }
}

/// Runs `work` in a new thread and waits for it.
pub fn run_in_thread<R: Send + 'static>(work: impl FnOnce() -> Result<R, String> + Send + 'static) -> io::Result<R> {
    let thread = Builder::new().name("account".to_owned()).stack_size(STACK_BYTES).spawn(work)?;
    let result = thread.join().map_err(|_| io::Error::from(io::ErrorKind::Other))?;
    result.map_err(io::Error::other)
}

/// Removes all other capabilities from the bounding set of this thread, so that no program it executes can regain
/// them.
///
/// Root of a container may lack the capability to do so (CAP_SETPCAP). The container's own bounding set stays then,
/// and `no_new_privs` alone keeps executed programs from gaining more.
fn limit_bounding_set(kept: CapabilitySet) -> rustix::io::Result<()> {
    if !capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for capability in (0..CAPABILITIES_MAX).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => remove_capability_from_bounding_set(capability)?,
            Ok(_) => {}
            Err(Errno::INVAL) => break, // beyond the kernel's last one
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Drops all capabilities but those of `kept` that this thread has; executed programs inherit these.
///
/// # Errors A refusal of the kernel: this thread may have kept more then.
pub fn keep_capabilities(kept: CapabilitySet) -> Result<(), String> {
    let had = capabilities(None).map_err(|error| format!("capget() failed: {error}"))?.permitted;
    // One that a container's bounding set lacks is not an error.
    let kept = kept & had;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })
        .map_err(|error| format!("capset() failed: {error}"))?;
    for capability in kept.iter() {
        // Without ambient capabilities (before Linux 4.3, or in some sandboxes) an executed program has fewer
        // capabilities, never more.
        let _ = configure_capability_in_ambient_set(capability, true);
    }
    Ok(())
}

/// Returns the groups of a user, the primary one included.
fn group_list(user: &str, own: Gid) -> Vec<Gid> {
    let found = CString::new(user).ok().and_then(|user| getgrouplist(&user, own.as_raw().into()).ok());
    found.map_or(vec![own], |groups| groups.into_iter().map(|group| Gid::from_raw(group.as_raw())).collect())
}
