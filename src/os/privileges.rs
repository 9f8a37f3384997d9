//! From root to an ordinary user, for good (`user`).
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

/// Who is taken when root starts the program and no `user` is configured, as nginx does.
const DEFAULT_USER: &str = "nobody";
/// Bytes of the stack of a thread that acts as the account.
const STACK_BYTES: usize = 128 * 1024;
/// Capabilities that a kernel may have; the last one today is the 41st.
const CAPABILITIES_MAX: u32 = 64;

/// Who the program is to become.
#[derive(Clone, Debug)]
pub struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
    /// All groups, that one included.
    groups: Vec<Gid>,
}

/// Who the program is to become: `user` (and `group`, or the user's own) if it runs as root, otherwise nobody else.
pub fn find_account(user: Option<&str>, group: Option<&str>) -> Result<Option<Account>, String> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let name = user.unwrap_or(DEFAULT_USER);
    let found = User::from_name(name).map_err(|error| format!("getpwnam(\"{name}\") failed ({error})"))?;
    let (uid, gid) = match (found, user) {
        (Some(found), _) => (found.uid.as_raw(), found.gid.as_raw()),
        (None, None) => (65534, 65534),
        (None, Some(_)) => return Err(format!("there is no user \"{name}\": add it, or name another one")),
    };
    let gid = match group {
        Some(name) => Group::from_name(name)
            .map_err(|error| format!("getgrnam(\"{name}\") failed ({error})"))?
            .ok_or_else(|| format!("there is no group \"{name}\": add it, or name another one"))?
            .gid
            .as_raw(),
        None => gid,
    };
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let account = Account { name: name.to_owned(), uid, gid, groups: group_list(name, gid) };
    Ok((!uid.is_root()).then_some(account))
}

impl Account {
    /// Gives an open file to the account, so that it can be written to or opened again later. Root of a container may not
    /// have the power to do so (CAP_CHOWN); then what is open stays in use.
    pub fn chown(&self, file: impl AsFd) {
        let _ = rustix::fs::fchown(file, Some(self.uid), Some(self.gid));
    }

    /// Does something as the account, while the calling thread stays root: in a thread that becomes the account for good
    /// and ends. So there is no way back that could fail.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> io::Result<R> {
        let account = self.clone();
        run_in_thread(move || account.assume(CapabilitySet::empty()).map(|()| work()))
    }

    /// Becomes the account, for good, with these of root's powers and no others.
    ///
    /// # Errors
    /// A refusal of the kernel: then the program must not go on.
    pub fn assume(&self, kept: CapabilitySet) -> Result<(), String> {
        // The bounding set comes first: it takes a power that is gone with the user ID of root.
        let done = limit_bounding_set(kept)
            .and_then(|()| set_keep_capabilities(true))
            .and_then(|()| set_thread_groups(&self.groups))
            .and_then(|()| set_thread_res_gid(self.gid, self.gid, self.gid))
            .and_then(|()| set_thread_res_uid(self.uid, self.uid, self.uid))
            .and_then(|()| set_no_new_privs(true));
        done.map_err(|error| error.to_string())
            .and_then(|()| keep_capabilities(kept))
            .map_err(|why| format!("becoming user \"{}\" failed ({why})", self.name))
    }
}

/// Does something in a thread of its own, for which the caller waits.
pub fn run_in_thread<R: Send + 'static>(work: impl FnOnce() -> Result<R, String> + Send + 'static) -> io::Result<R> {
    let thread = Builder::new().name("account".to_owned()).stack_size(STACK_BYTES).spawn(work)?;
    let result = thread.join().map_err(|_| io::Error::from(io::ErrorKind::Other))?;
    result.map_err(io::Error::other)
}

/// Removes all other powers from the bounding set of this thread: no program that it executes can get them again.
///
/// A container may have left root without the power to do so (CAP_SETPCAP). Then its own bounding set stays, and
/// `no_new_privs` alone keeps programs from getting more.
fn limit_bounding_set(kept: CapabilitySet) -> rustix::io::Result<()> {
    if !capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for capability in (0..CAPABILITIES_MAX).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
        match capability_is_in_bounding_set(capability) {
            Ok(true) if !kept.contains(capability) => remove_capability_from_bounding_set(capability)?,
            Ok(_) => {}
            Err(Errno::INVAL) => break, // the kernel has no more of them
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Keeps what this thread has of these powers, also in the next program, and nothing else.
///
/// # Errors
/// A refusal of the kernel: then this thread may have kept more.
pub fn keep_capabilities(kept: CapabilitySet) -> Result<(), String> {
    let had = capabilities(None).map_err(|error| format!("capget() failed: {error}"))?.permitted;
    // What the bounding set of a container does not have is not missed.
    let kept = kept & had;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })
        .map_err(|error| format!("capset() failed: {error}"))?;
    for capability in kept.iter() {
        // Without it (before Linux 4.3, or where a sandbox forbids it) the next program has less power, never more.
        let _ = configure_capability_in_ambient_set(capability, true);
    }
    Ok(())
}

/// The groups of a user, its own included.
fn group_list(user: &str, own: Gid) -> Vec<Gid> {
    let found = CString::new(user).ok().and_then(|user| getgrouplist(&user, own.as_raw().into()).ok());
    found.map_or(vec![own], |groups| groups.into_iter().map(|group| Gid::from_raw(group.as_raw())).collect())
}
