//! Frames on a connection between replicas: `length u32 · crc32 u32 · payload`, little-endian.
//!
//! The checksum is needed because TCP's misses some corruption, and a corrupt entry would make the replicas
//! diverge. Lengths are bounded before memory is allocated.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum payload of a frame, in bytes.
pub(in crate::raft) const FRAME_BYTES_MAX: usize = 16 << 20;
/// Maximum payload of a frame before the handshake, in bytes.
pub(in crate::raft) const HELLO_BYTES_MAX: usize = 4 << 10;
const HEADER_BYTES: usize = 8;
const READ_BYTES: usize = 64 << 10;

/// Reads frames.
pub(in crate::raft) struct FrameReader<R> {
    inner: R,
    buffer: BytesMut,
    max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// A reader that accepts only short frames until [`Self::trust`].
    pub(in crate::raft) fn new(inner: R) -> Self {
        Self { inner, buffer: BytesMut::new(), max: HELLO_BYTES_MAX }
    }

    /// Accepts frames up to the maximum from now on.
    pub(in crate::raft) fn trust(&mut self) {
        self.max = FRAME_BYTES_MAX;
    }

    /// The next payload; `None` when the peer closed between frames. Cancel-safe.
    pub(in crate::raft) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(payload) = self.take()? {
                return Ok(Some(payload));
            }
            self.buffer.reserve(READ_BYTES.min(self.max));
            if self.inner.read_buf(&mut self.buffer).await? == 0 {
                let clean = self.buffer.is_empty();
                return if clean { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The next payload; an error if the connection is closed.
    pub(in crate::raft) async fn expect(&mut self) -> io::Result<Bytes> {
        self.next().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn take(&mut self) -> io::Result<Option<Bytes>> {
        let Some(mut header) = self.buffer.get(..HEADER_BYTES) else { return Ok(None) };
        let length = header.get_u32_le() as usize;
        let crc = header.get_u32_le();
        if length > self.max {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {length} bytes is longer than {}", self.max),
            ));
        }
        if self.buffer.len() < HEADER_BYTES + length {
            if self.max == FRAME_BYTES_MAX {
                self.buffer.reserve(HEADER_BYTES + length - self.buffer.len());
            }
            return Ok(None);
        }
        self.buffer.advance(HEADER_BYTES);
        let payload = self.buffer.split_to(length).freeze();
        if crc32fast::hash(&payload) != crc {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame's checksum is wrong"));
        }
        Ok(Some(payload))
    }
}

/// Writes frames; several can be pushed before one flush.
pub(in crate::raft) struct FrameWriter<W> {
    inner: W,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(in crate::raft) fn new(inner: W) -> Self {
        Self { inner, buffer: BytesMut::new() }
    }

    /// Queues a frame whose payload `put` writes.
    ///
    /// # Errors
    /// When the payload is too long; nothing is queued then.
    pub(in crate::raft) fn push(&mut self, put: impl FnOnce(&mut BytesMut)) -> io::Result<()> {
        let at = self.buffer.len();
        self.buffer.put_u64_le(0);
        put(&mut self.buffer);
        let payload = self.buffer.get(at + HEADER_BYTES..).unwrap_or_default();
        let (length, crc) = (payload.len(), crc32fast::hash(payload));
        match u32::try_from(length) {
            Ok(short) if length <= FRAME_BYTES_MAX => {
                if let Some(mut header) = self.buffer.get_mut(at..at + HEADER_BYTES) {
                    header.put_u32_le(short);
                    header.put_u32_le(crc);
                }
                Ok(())
            }
            _ => {
                self.buffer.truncate(at);
                let why = format!("a frame of {length} bytes is longer than {FRAME_BYTES_MAX}");
                Err(io::Error::new(io::ErrorKind::InvalidInput, why))
            }
        }
    }

    /// Sends the queued frames.
    pub(in crate::raft) async fn flush(&mut self) -> io::Result<()> {
        self.inner.write_all_buf(&mut self.buffer).await?;
        if self.buffer.capacity() > 4 << 20 {
            self.buffer = BytesMut::new();
        }
        self.inner.flush().await
    }

    /// Sends one frame.
    pub(in crate::raft) async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        self.push(|out| out.extend_from_slice(payload))?;
        self.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order() {
        let (near, far) = tokio::io::duplex(64);
        let mut writer = FrameWriter::new(near);
        writer.push(|out| out.extend_from_slice(b"one")).unwrap();
        writer.push(|out| out.extend_from_slice(&[7; 500])).unwrap();
        let sent = tokio::spawn(async move { writer.flush().await });
        let mut reader = FrameReader::new(far);
        reader.trust();
        assert_eq!(reader.expect().await.unwrap(), &b"one"[..]);
        assert_eq!(reader.expect().await.unwrap(), &[7; 500][..]);
        sent.await.unwrap().unwrap();
        assert!(reader.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn strangers_send_short_frames_only() {
        let mut bytes = BytesMut::new();
        bytes.put_u32_le(u32::try_from(HELLO_BYTES_MAX + 1).unwrap());
        bytes.put_u32_le(0);
        let error = FrameReader::new(&bytes[..]).expect().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        // Buffering for an unauthenticated peer is bounded, however its bytes are split.
        let mut reader = FrameReader::new(&[0; 64 << 10][..]);
        _ = reader.next().await;
        assert!(reader.buffer.capacity() <= 2 * (HELLO_BYTES_MAX + HEADER_BYTES));
        let mut trusted = FrameReader::new(&bytes[..]);
        trusted.trust();
        let error = trusted.expect().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn damage_and_giants_are_errors() {
        for bytes in [&[1, 0, 0, 0, 9, 9, 9, 9, 5][..], &[0xff; 8][..], &[1, 0, 0][..]] {
            let error = FrameReader::new(bytes).expect().await.unwrap_err();
            assert_ne!(error.kind(), io::ErrorKind::WouldBlock);
        }
        let mut writer = FrameWriter::new(tokio::io::sink());
        assert!(writer.push(|out| out.resize(out.len() + FRAME_BYTES_MAX + 1, 0)).is_err());
    }
}
