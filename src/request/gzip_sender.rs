//! Compresses a local response while it is sent.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;

use crate::request::body_relay::{ENCODER_IDLE, TransferCoding, TransferError};
use crate::request::gzip_encoder::{Encoder, Flush};
use crate::request::send_queue::SendQueue;
use crate::runtime::executor::{self, Timer};
use crate::runtime::stream::Stream;

/// Bytes of a body that are compressed in one tick.
const COMPRESS_BYTES_MAX: u64 = executor::SCRATCH_BYTES as u64;

/// Writes the next part of a body.
pub type BodyWriter<'b> = Box<dyn FnMut(&mut Vec<u8>) + 'b>;

/// The body of a local response.
pub enum BodySource<'b> {
    Bytes(&'b [u8]),
    /// `count` bytes of a file.
    File {
        fd: &'b OwnedFd,
        from: u64,
        count: u64,
    },
    /// Part by part; an empty part ends it.
    Generated(BodyWriter<'b>),
}

impl BodySource<'_> {
    /// Reads the next bytes, and whether they are the last. Of a file that was truncated meanwhile there are none.
    pub fn read_part<R>(&mut self, with: impl FnOnce(&[u8], bool) -> R) -> io::Result<R> {
        match self {
            BodySource::Bytes(bytes) => {
                let (part, rest) = bytes.split_at(bytes.len().min(COMPRESS_BYTES_MAX as usize));
                *bytes = rest;
                Ok(with(part, rest.is_empty()))
            }
            BodySource::Generated(write) => {
                let mut part = Vec::new();
                write(&mut part);
                Ok(with(&part, part.is_empty()))
            }
            BodySource::File { fd, from, count } => executor::with_scratch(|scratch| {
                let room = scratch.get_mut(..COMPRESS_BYTES_MAX.min(*count) as usize).unwrap_or_default();
                let read = rustix::io::pread(*fd, &mut *room, *from)?;
                *from += read as u64;
                *count -= read as u64;
                Ok(with(room.get(..read).unwrap_or_default(), *count == 0))
            }),
        }
    }
}

/// An encoder in front of a [`SendQueue`].
pub struct GzipSender<'q> {
    pub encoder: Encoder,
    pub coding: TransferCoding,
    pub queue: &'q mut SendQueue,
}

impl GzipSender<'_> {
    /// Sends what is queued and all of `source`.
    pub async fn send(&mut self, to: &Stream, mut source: BodySource<'_>) -> Result<(), TransferError> {
        loop {
            let mut out = Vec::new();
            let encode = |part: &[u8], last| {
                self.encoder.encode(part, if last { Flush::Finish } else { Flush::None }, &mut out)?;
                Ok::<_, TransferError>((part.is_empty() && !last, last))
            };
            let (truncated, last) = source.read_part(encode).map_err(TransferError::Source)??;
            if truncated {
                return Err(TransferError::Truncated);
            }
            self.coding.frame(0, &mut out);
            self.queue.push(&out);
            if last {
                self.queue.push(self.coding.terminator());
            }
            self.flush(to).await?;
            if last {
                return Ok(());
            }
            executor::yield_now().await;
        }
    }

    /// Sends what is queued. While the receiver is slow the encoder gives its memory back.
    async fn flush(&mut self, to: &Stream) -> Result<(), TransferError> {
        let sent = Timer::new().within(ENCODER_IDLE, pin!(self.queue.send(to))).await;
        if let Ok(sent) = sent {
            return sent;
        }
        let mut out = Vec::new();
        self.encoder.release_buffers(&mut out)?;
        self.coding.frame(0, &mut out);
        self.queue.push(&out);
        self.queue.send(to).await
    }
}
