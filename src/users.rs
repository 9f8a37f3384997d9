//! From root to an ordinary user, for good (`user`).
//!
//! Names are looked up in /etc/passwd and /etc/group: a static program has no name service. The calls are those of one
//! thread, so this comes before any other is started but the one that reads keys (`keeper`).

use std::os::fd::AsFd;

use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::configure_capability_in_ambient_set;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::disk;

/// Who is taken when root starts the program and no `user` is configured, as nginx does.
const NOBODY: &str = "nobody";

/// Who the program is to become.
#[derive(Clone, Debug)]
pub struct Account {
    name: String,
    uid: Uid,
    gid: Gid,
}

/// Who the program is to become: `user` (and `group`, or the user's own) if it runs as root, otherwise nobody else.
///
/// # Errors
/// An unknown name.
pub fn account(user: Option<&str>, group: Option<&str>) -> Result<Option<Account>, String> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let name = user.unwrap_or(NOBODY);
    let (uid, gid) = match (look_up(name), user) {
        (Some(ids), _) => ids,
        (None, None) => (65534, 65534),
        (None, Some(_)) => return Err(format!("user \"{name}\" is not in /etc/passwd")),
    };
    let gid = match group {
        Some(group) => group_id(group).ok_or_else(|| format!("group \"{group}\" is not in /etc/group"))?,
        None => gid,
    };
    let account = Account { name: name.to_owned(), uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) };
    Ok((uid != 0).then_some(account))
}

impl Account {
    /// Gives an open file to the account, so that it can be written to or opened again later.
    pub fn give(&self, file: impl AsFd) {
        let _ = rustix::fs::fchown(file, Some(self.uid), Some(self.gid));
    }

    /// Becomes the account, for good, with these of root's powers and no others.
    ///
    /// # Errors
    /// A refusal of the kernel: then the program must not go on.
    pub fn assume(&self, powers: CapabilitySet) -> Result<(), String> {
        let mut groups = member_of(&self.name);
        groups.push(self.gid);
        let may_keep = rustix::thread::set_keep_capabilities(true).is_ok();
        let done = set_thread_groups(&groups)
            .and_then(|()| set_thread_res_gid(self.gid, self.gid, self.gid))
            .and_then(|()| set_thread_res_uid(self.uid, self.uid, self.uid))
            .and_then(|()| set_no_new_privs(true));
        if may_keep && done.is_ok() {
            keep(powers);
        }
        done.map_err(|error| format!("becoming user \"{}\" failed ({error})", self.name))
    }
}

/// Keeps what this thread has of these powers, also in the next program, and nothing else.
pub fn keep(powers: CapabilitySet) {
    let had = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    // What the bounding set of a container does not have is not missed.
    let kept = powers & had;
    let _ = set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept });
    for power in kept.iter() {
        let _ = configure_capability_in_ambient_set(power, true);
    }
}

/// Shows the fields of each line of a file.
fn read(path: &str, see: &mut dyn FnMut(&[&str])) {
    let text = disk::text(path.as_ref()).unwrap_or_default();
    for line in text.lines() {
        see(&line.split(':').collect::<Vec<_>>());
    }
}

fn look_up(name: &str) -> Option<(u32, u32)> {
    let mut found = None;
    read("/etc/passwd", &mut |line| match line {
        [known, _, uid, gid, ..] if *known == name && found.is_none() => found = uid.parse().ok().zip(gid.parse().ok()),
        _ => {}
    });
    found
}

fn group_id(name: &str) -> Option<u32> {
    let mut found = None;
    read("/etc/group", &mut |line| match line {
        [known, _, gid, ..] if *known == name && found.is_none() => found = gid.parse().ok(),
        _ => {}
    });
    found
}

/// The groups that list `user` as a member.
fn member_of(user: &str) -> Vec<Gid> {
    let mut groups = Vec::new();
    read("/etc/group", &mut |line| match line {
        [_, _, gid, members, ..] if members.split(',').any(|member| member == user) => {
            groups.extend(gid.parse().ok().map(Gid::from_raw));
        }
        _ => {}
    });
    groups
}
