//! Messages with open sockets between two processes of ours on one machine.
//!
//! A message is its length and the number of its sockets (both four bytes, little-endian), then JSON. The sockets go
//! with its first byte (`SCM_RIGHTS`, unix(7)), so that they are here when the message is.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as Blocking;
use std::sync::Arc;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

/// Sockets that one message may have: the kernel takes 253.
pub const MOST_SOCKETS: usize = 250;
/// Bytes of a message; who says more says nonsense.
const LONGEST: usize = 256 * 1024 * 1024;
const HEAD: usize = 8;
const CHUNK: usize = 64 * 1024;

/// The end of a channel that speaks.
#[derive(Debug, Clone)]
pub struct Sender(Arc<UnixStream>);

/// The end of a channel that hears.
#[derive(Debug)]
pub struct Receiver {
    socket: Arc<UnixStream>,
    bytes: Zeroizing<Vec<u8>>,
    sockets: VecDeque<OwnedFd>,
}

/// Both directions of one connected socket, in the runtime of the calling thread.
///
/// # Errors
/// The socket cannot be registered.
pub fn open(socket: Blocking) -> io::Result<(Sender, Receiver)> {
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UnixStream::from_std(socket)?);
    let receiver = Receiver { socket: Arc::clone(&socket), bytes: Zeroizing::default(), sockets: VecDeque::new() };
    Ok((Sender(socket), receiver))
}

/// Says one thing without sockets, on the spot: for a process that ends before it has a runtime.
///
/// # Errors
/// The other side is gone.
pub fn say(mut socket: &Blocking, what: &impl Serialize) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.write_all(&message(what, 0)?)
}

/// May hold secrets.
fn message(what: &impl Serialize, sockets: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; HEAD]);
    serde_json::to_writer(&mut *bytes, what)?;
    let too_long = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let length = u32::try_from(bytes.len() - HEAD).map_err(too_long)?;
    let count = u32::try_from(sockets).map_err(too_long)?;
    let head = [length.to_le_bytes(), count.to_le_bytes()].concat();
    if let Some(front) = bytes.get_mut(..HEAD) {
        front.copy_from_slice(&head);
    }
    Ok(bytes)
}

impl Sender {
    /// Says something and hands over copies of at most [`MOST_SOCKETS`] sockets. Not cancel-safe: half a message may
    /// have been said.
    ///
    /// # Errors
    /// The other side is gone.
    pub async fn send(&self, what: &impl Serialize, sockets: &[OwnedFd]) -> io::Result<()> {
        let bytes = message(what, sockets.len())?;
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let with = if sent == 0 { sockets } else { &[] };
            sent += self.0.async_io(Interest::WRITABLE, || send_some(&self.0, rest, with)).await?;
        }
        Ok(())
    }
}

fn send_some(socket: &impl AsFd, bytes: &[u8], sockets: &[OwnedFd]) -> io::Result<usize> {
    let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

impl Receiver {
    /// What the other side says next; `None` when it is gone. Cancel-safe.
    ///
    /// # Errors
    /// What came is none of our messages.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            if let Some(whole) = self.take()? {
                return Ok(Some(whole));
            }
            let (bytes, sockets) = (&mut self.bytes, &mut self.sockets);
            let socket = &self.socket;
            let read = socket.async_io(Interest::READABLE, || receive_some(socket, bytes, sockets)).await;
            // A process that ends with something unread resets the connection.
            let read = read.or_else(|e| if e.kind() == io::ErrorKind::ConnectionReset { Ok(0) } else { Err(e) })?;
            if read == 0 {
                return match self.bytes.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [a, b, c, d, e, f, g, h] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let count = u32::from_le_bytes([e, f, g, h]) as usize;
        if length > LONGEST || count > MOST_SOCKETS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        if self.sockets.len() < count {
            // The system had no descriptor left for them.
            return Err(io::Error::other("a socket was lost on its way between two processes"));
        }
        let what = serde_json::from_slice(body)?;
        self.bytes.drain(..HEAD + length);
        Ok(Some((what, self.sockets.drain(..count).collect())))
    }
}

fn receive_some(socket: &impl AsFd, bytes: &mut Vec<u8>, sockets: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut chunk = Zeroizing::new(vec![0; CHUNK]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = recvmsg(socket, &mut [IoSliceMut::new(&mut chunk)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(handed) = message {
            sockets.extend(handed);
        }
    }
    bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
    Ok(read)
}

/// Bytes within a message: four letters for three of them, where JSON would have a number for each.
pub mod bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD_NO_PAD as LETTERS;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// For `serde(with)`.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&LETTERS.encode(bytes))
    }

    /// For `serde(with)`.
    ///
    /// # Errors
    /// It is no base64.
    pub fn deserialize<'de, D: Deserializer<'de>, B: From<Vec<u8>>>(from: D) -> Result<B, D::Error> {
        let letters = String::deserialize(from)?;
        LETTERS.decode(letters).map(B::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Duration;

    type Numbered = (u32, String);

    #[tokio::test]
    async fn sockets_come_with_their_message() {
        let (ours, theirs) = Blocking::pair().unwrap();
        let ((sender, _), (_, mut receiver)) = (open(ours).unwrap(), open(theirs).unwrap());
        let mut kept = Vec::new();
        let sending = async {
            for number in 0..300u32 {
                let (near, far) = Blocking::pair().unwrap();
                kept.push(near);
                let far = if number % 3 == 0 { vec![far.into()] } else { Vec::new() };
                // Longer than what the kernel takes at once, now and then.
                let text = "x".repeat(if number % 50 == 0 { 3_000_000 } else { number as usize });
                sender.send(&(number, text), &far).await.unwrap();
            }
        };
        let receiving = async {
            let mut got = Vec::new();
            for number in 0..300 {
                let ((told, _), sockets) = receiver.receive::<Numbered>().await.unwrap().unwrap();
                assert_eq!((told, sockets.len()), (number, usize::from(number % 3 == 0)));
                got.push(sockets);
            }
            got
        };
        let ((), got) = tokio::join!(sending, receiving);
        for (near, sockets) in kept.iter_mut().zip(got) {
            for socket in sockets {
                Blocking::from(socket).write_all(b"!").unwrap();
                near.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                near.read_exact(&mut [0]).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn an_end_and_nonsense_are_told_apart() {
        let (ours, theirs) = Blocking::pair().unwrap();
        let (_, mut receiver) = open(theirs).unwrap();
        say(&ours, &(1, "last")).unwrap();
        drop(ours);
        assert_eq!(receiver.receive::<Numbered>().await.unwrap().unwrap().0, (1, "last".to_owned()));
        assert!(receiver.receive::<Numbered>().await.unwrap().is_none());
        let (mut ours, theirs) = Blocking::pair().unwrap();
        let (_, mut receiver) = open(theirs).unwrap();
        ours.write_all(&[255; 64]).unwrap();
        assert!(receiver.receive::<Numbered>().await.is_err());
    }
}
