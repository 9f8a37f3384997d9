//! A configuration in force, with the state of its upstreams. A reload makes a new one beside it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::balance::{self, Group};
use crate::config::{Config, Place, Upstream};

/// Upstreams that `proxy_pass` made of variables and that are remembered.
const MADE_MAX: usize = 256;

pub struct Running {
    pub config: Arc<Config>,
    groups: Vec<Arc<Group>>,
    /// By host and port, as requests named them.
    made: Mutex<HashMap<String, Arc<Group>>>,
}

impl Running {
    pub fn new(config: Arc<Config>) -> Self {
        Self { groups: balance::groups(&config), config, made: Mutex::default() }
    }

    pub fn group(&self, number: u32) -> Option<Arc<Group>> {
        self.groups.get(number as usize).cloned()
    }

    /// The upstream that the configuration knows by this name, or host and port.
    pub fn group_named(&self, authority: &str) -> Option<Arc<Group>> {
        self.config.upstream_names.get(authority).and_then(|number| self.group(*number))
    }

    /// The upstream for a place that only a request named.
    pub fn made_group(&self, authority: &str, place: Place) -> Arc<Group> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = made.get(authority) {
            return group.clone();
        }
        let group = Arc::new(Group::new(Arc::new(Upstream::single(authority.to_owned(), place))));
        if made.len() >= MADE_MAX {
            made.clear();
        }
        made.insert(authority.to_owned(), group.clone());
        group
    }
}
