//! The state that the old binary hands over to the new one in the same process: numbers, texts and open descriptors.
//!
//! The bytes are in a memory file. The descriptors travel as messages in sockets of this process (SCM_RIGHTS), and
//! the last of these sockets becomes standard input of the new binary. So no descriptor numbers are passed on, and on
//! any failure the kernel closes what was not received.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;
use std::vec::IntoIter;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};

use crate::runtime::executor;

/// The version of the format. Binaries of different versions can't read each other's state; the old one checks first.
pub const VERSION: u32 = 2;

/// The kinds of entries: a listening socket, a connection of which nothing was read, a tunnel, a socket bound by
/// systemd, the health of a peer.
pub const LISTENER: u8 = 1;
pub const CONNECTION: u8 = 2;
pub const TUNNEL: u8 = 3;
pub const INHERITED_SOCKET: u8 = 4;
pub const PEER_HEALTH: u8 = 5;

const MAGIC: &[u8; 8] = b"smolgate";
/// Descriptors in one message; the kernel allows 253.
const FDS_PER_MESSAGE: usize = 250;
/// Upper bound of the bytes that are read.
const BYTES_MAX: u64 = 1 << 30;

/// Writes state to hand over.
#[derive(Default)]
pub struct HandoverEncoder {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl HandoverEncoder {
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub fn option_u64(&mut self, value: Option<u64>) {
        self.u8(value.is_some().into());
        self.u64(value.unwrap_or(0));
    }

    pub fn duration(&mut self, value: Option<Duration>) {
        self.option_u64(value.map(executor::millis));
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u64(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    pub fn string(&mut self, text: &dyn Display) {
        self.bytes(text.to_string().as_bytes());
    }

    pub fn fd(&mut self, fd: OwnedFd) {
        self.fds.push(fd);
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.fds.is_empty()
    }

    /// Appends `content` as one entry.
    pub fn entry(&mut self, kind: u8, mut content: Self) {
        self.u8(kind);
        self.u64(content.fds.len() as u64);
        self.bytes(&content.bytes);
        self.fds.append(&mut content.fds);
    }

    /// Appends the entries of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.bytes.append(&mut other.bytes);
        self.fds.append(&mut other.fds);
    }

    /// Reads the state in this process.
    pub fn into_decoder(self) -> HandoverDecoder {
        HandoverDecoder { bytes: self.bytes, position: 0, fds: self.fds.into_iter() }
    }

    /// Sends the state to the owner of the returned socket.
    pub fn send(&self) -> io::Result<OwnedFd> {
        self.send_with(&Self::default())
    }

    /// Sends this state followed by `other`.
    pub fn send_with(&self, other: &Self) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create("smolgate", MemfdFlags::CLOEXEC)?);
        let fds = raw_fds([&self.fds, &other.fds]);
        let header = [MAGIC, &VERSION.to_le_bytes()[..], &(fds.len() as u64).to_le_bytes()].concat();
        for bytes in [&header, &self.bytes, &other.bytes] {
            file.write_all(bytes)?;
        }
        // A socket buffers some hundred messages: there are as many sockets as it takes, which travel in the first
        // one.
        let mut sockets: Vec<OwnedFd> = vec![file.into()];
        let mut left = fds.as_slice();
        while !left.is_empty() {
            let (sender, receiver) = socket_pair()?;
            left = send_fds(&sender, left)?;
            sockets.push(receiver);
        }
        let (sender, receiver) = socket_pair()?;
        send_all_fds(&sender, &raw_fds([&sockets, &[]]))?;
        Ok(receiver)
    }
}

fn raw_fds(fds: [&[OwnedFd]; 2]) -> Vec<RawFd> {
    fds.iter().flat_map(|fds| fds.iter()).map(AsRawFd::as_raw_fd).collect()
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

/// Sends descriptors, one byte per message. Returns those that are left when the socket buffer is full.
fn send_fds<'f>(socket: &OwnedFd, mut fds: &'f [RawFd]) -> io::Result<&'f [RawFd]> {
    while !fds.is_empty() {
        let (some, rest) = fds.split_at(fds.len().min(FDS_PER_MESSAGE));
        let (byte, rights) = ([io::IoSlice::new(b"+")], [ControlMessage::ScmRights(some)]);
        match sendmsg::<()>(socket.as_raw_fd(), &byte, &rights, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => fds = rest,
            Err(Errno::EAGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(fds)
}

fn send_all_fds(socket: &OwnedFd, fds: &[RawFd]) -> io::Result<()> {
    match send_fds(socket, fds)? {
        [] => Ok(()),
        _ => Err(io::Error::other("too many descriptors to hand over")),
    }
}

/// Reads state in the order in which it was written. Missing values are `None`.
pub struct HandoverDecoder {
    bytes: Vec<u8>,
    position: usize,
    fds: IntoIter<OwnedFd>,
}

impl HandoverDecoder {
    /// Receives the state that was sent to this socket.
    pub fn receive(socket: impl AsFd) -> io::Result<Self> {
        let mut sockets = receive_fds(socket.as_fd())?.into_iter();
        let mut file = File::from(sockets.next().ok_or_else(|| invalid("empty"))?);
        file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes)?;
        let mut fds = Vec::new();
        for socket in sockets {
            fds.append(&mut receive_fds(socket.as_fd())?);
        }
        let mut decoder = Self { bytes, position: 0, fds: fds.into_iter() };
        if decoder.take(MAGIC.len()) != Some(MAGIC) {
            return Err(invalid("not written by smolgate"));
        }
        match decoder.array().map_or(0, u32::from_le_bytes) {
            VERSION => {}
            version => return Err(invalid(&format!("unknown version {version}"))),
        }
        match decoder.u64() {
            Some(count) if count == decoder.fds.len() as u64 => Ok(decoder),
            _ => Err(invalid("descriptors were lost")),
        }
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let from = self.position;
        let bytes = self.bytes.get(from..from.checked_add(count)?)?;
        self.position += count;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Reads what [`HandoverEncoder::entry`] wrote: kind and content.
    pub fn entry(&mut self) -> Option<(u8, Self)> {
        let (kind, count) = (self.u8()?, usize::try_from(self.u64()?).ok()?);
        let bytes = self.bytes()?;
        let fds: Vec<OwnedFd> = self.fds.by_ref().take(count).collect();
        (fds.len() == count).then(|| (kind, Self { bytes, position: 0, fds: fds.into_iter() }))
    }

    /// Converts back, to be written again unchanged.
    pub fn into_encoder(self) -> HandoverEncoder {
        HandoverEncoder { bytes: self.bytes, fds: self.fds.collect() }
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.position >= self.bytes.len()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn option_u64(&mut self) -> Option<Option<u64>> {
        let is_some = self.u8()? != 0;
        let value = self.u64()?;
        Some(is_some.then_some(value))
    }

    pub fn duration(&mut self) -> Option<Option<Duration>> {
        Some(self.option_u64()?.map(Duration::from_millis))
    }

    pub fn bytes(&mut self) -> Option<Vec<u8>> {
        let count = usize::try_from(self.u64()?).ok()?;
        self.take(count).map(<[u8]>::to_vec)
    }

    pub fn string(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?).ok()
    }

    pub fn fd(&mut self) -> Option<OwnedFd> {
        self.fds.next()
    }
}

/// Makes owned descriptors of inherited numbers, by sending them to this process. They must be open, and have no
/// other owner.
pub fn adopt_fds(fds: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let (sender, receiver) = socket_pair()?;
    send_all_fds(&sender, fds)?;
    let owned = receive_fds(receiver.as_fd());
    for fd in fds {
        let _ = nix::unistd::close(*fd);
    }
    owned
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid handed-over state: {why}"))
}

/// Receives all pending descriptors of a socket.
fn receive_fds(socket: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    let mut all = Vec::new();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
    loop {
        let mut messages = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0; 1];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        match recvmsg(socket, &mut [io::IoSliceMut::new(&mut byte)], &mut messages, flags) {
            Ok(message) if message.bytes == 0 => return Ok(all),
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(all),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        for message in messages.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                all.extend(fds);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn sent_state_is_received() {
        let mut encoder = HandoverEncoder::default();
        const FILES: u64 = 2000;
        for number in 0..FILES {
            let mut file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
            file.write_all(&number.to_le_bytes()).unwrap();
            encoder.u64(number);
            encoder.fd(file.into());
        }
        encoder.option_u64(None);
        encoder.duration(Some(Duration::from_secs(3)));
        encoder.bytes(b"text");
        let mut decoder = HandoverDecoder::receive(encoder.send().unwrap()).unwrap();
        for number in 0..FILES {
            assert_eq!(decoder.u64(), Some(number));
            let mut file = File::from(decoder.fd().unwrap());
            file.seek(SeekFrom::Start(0)).unwrap();
            let mut bytes = [0; 8];
            file.read_exact(&mut bytes).unwrap();
            assert_eq!(u64::from_le_bytes(bytes), number);
        }
        assert_eq!(decoder.option_u64(), Some(None));
        assert_eq!(decoder.duration(), Some(Some(Duration::from_secs(3))));
        assert_eq!(decoder.string().unwrap(), "text");
        assert!(decoder.is_empty() && decoder.u8().is_none() && decoder.fd().is_none());
    }

    #[test]
    fn invalid_state_is_rejected() {
        let (_sender, receiver) = socket_pair().unwrap();
        assert!(HandoverDecoder::receive(receiver).is_err());
        let mut file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(b"smolgate\x07\0\0\0\0\0\0\0\0\0\0\0").unwrap();
        let (sender, receiver) = socket_pair().unwrap();
        send_all_fds(&sender, &[file.as_raw_fd()]).unwrap();
        let error = HandoverDecoder::receive(receiver).err().unwrap().to_string();
        assert!(error.contains("unknown version 7"), "{error}");
    }
}
