//! A build without gzip.
#![expect(clippy::needless_pass_by_ref_mut, reason = "the signatures are those of a build with gzip")]

use crate::config::Window;
use crate::request::gzip_encoder::{EncodeError, Flush};

pub enum Encoder {}

impl Encoder {
    pub fn new(_: u8, _: Window) -> Option<Self> {
        None
    }

    pub fn encode(&mut self, _: &[u8], _: Flush, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        match *self {}
    }

    pub fn release_buffers(&mut self, _: &mut Vec<u8>) -> Result<(), EncodeError> {
        match *self {}
    }

    pub fn is_active(&self) -> bool {
        match *self {}
    }

    pub fn byte_counts(&self) -> (u64, u64) {
        match *self {}
    }
}
