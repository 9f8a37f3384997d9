//! What systemd is told: that the program is ready, reloads, stops, and lives (sd_notify(3)). Without it nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;

/// It serves; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It has begun to read its configuration; [`ready`] follows.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        let _ = sd_notify::notify(&[NotifyState::Reloading, now]);
    }
}

pub fn stopping(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// It lives; and what it does.
pub fn alive(status: &str) {
    let _ = sd_notify::notify(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// How often systemd wants to hear that it lives: twice as often as it has to.
pub fn interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}
