//! `daemon on`: the program leaves who has started it.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use crate::client::Client;
use crate::gate::{Folder, run, wait_for};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// What was started in the background ends with the test.
struct Started(String);

impl Started {
    fn signal(&self, name: &str) {
        let _ = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.0)]).status();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.signal("KILL");
    }
}

fn status(addr: SocketAddr) -> u16 {
    Client::asking(addr, GET).reply().map_or(0, |reply| reply.status)
}

fn config(addr: SocketAddr, status: u16) -> String {
    format!(
        "daemon on; pid gate.pid; error_log error.log notice; access_log off;
         server {{ listen {addr}; return {status}; }}"
    )
}

/// Who starts it can go on at once: it serves. And who starts it in vain is told why.
#[test]
fn whoever_starts_it_learns_whether_it_serves() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = held.local_addr().unwrap();
    let folder = Folder::new();
    folder.write("gate.conf", config(addr, 201));
    let refused = run(&folder, &[], "gate.conf");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("bind()") && said.lines().count() == 1, "{said}");
    assert!(!folder.path("gate.pid").exists());
    drop(held);
    // Its standard streams are not kept open: this comes back.
    let started = run(&folder, &[], "gate.conf");
    assert_eq!(started.status.code(), Some(0), "{}", String::from_utf8_lossy(&started.stderr));
    let gate = Started(fs::read_to_string(folder.path("gate.pid")).unwrap().trim().to_owned());
    assert_eq!(status(addr), 201);
    let stat = fs::read_to_string(format!("/proc/{}/stat", gate.0)).unwrap();
    let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().to_owned();
    assert_eq!(session, gate.0, "it has a session of its own");
    for fd in 0..3 {
        let stream = fs::read_link(format!("/proc/{}/fd/{fd}", gate.0)).unwrap();
        assert_eq!(stream.to_string_lossy(), "/dev/null", "{fd}");
    }
    // It stays the process that it is.
    folder.write("gate.conf", config(addr, 202));
    gate.signal("HUP");
    wait_for("a reload", || status(addr) == 202);
    folder.write("gate.conf", config(addr, 203));
    gate.signal("USR2");
    wait_for("an upgrade", || status(addr) == 203);
    assert_eq!(fs::read_to_string(folder.path("gate.pid")).unwrap().trim(), gate.0);
    folder.write("broken.conf", "daemon on; frobnicate;");
    assert_eq!(run(&folder, &[], "broken.conf").status.code(), Some(2));
}
