//! The directives of the configuration language by name, as the program itself lists them.

use std::collections::BTreeMap;

use smolgate::config::{self, KnownDirective};

pub(crate) fn known() -> BTreeMap<&'static str, KnownDirective> {
    config::directives().map(|directive| (directive.name, directive)).collect()
}
