//! Messages on a TCP connection: each has its length before it (RFC 1035 section 4.2.2).

use std::io;

use tokio::io::AsyncReadExt;

/// Longest message over either transport (RFC 1035 section 4.2.2 has 16 bits for its length).
pub const MAX_MESSAGE_LEN: usize = 65_535;

/// Room to read into, at least: most queries need a tenth of it.
const READ_CHUNK: usize = 1024;

/// A message with its length before it, as one buffer so that it leaves
/// in one segment (RFC 7766 section 8).
pub fn frame(message: &[u8]) -> Vec<u8> {
    // No message is longer: they come out of buffers and frames of that size.
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut frame = Vec::with_capacity(2 + usize::from(len));
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(&message[..usize::from(len)]);
    frame
}

/// Cuts a stream of bytes into messages, and loses nothing when a read is given up half-way.
#[derive(Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// The next message; none if the client has closed its side.
    pub async fn next(
        &mut self,
        reader: &mut (impl AsyncReadExt + Unpin),
    ) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut missing = READ_CHUNK;
            if let Some(len) = self
                .bytes
                .first_chunk()
                .map(|len| usize::from(u16::from_be_bytes(*len)))
            {
                if self.bytes.len() >= 2 + len {
                    let rest = self.bytes.split_off(2 + len);
                    let mut message = std::mem::replace(&mut self.bytes, rest);
                    message.drain(..2);
                    return Ok(Some(message));
                }
                missing = missing.max(2 + len - self.bytes.len());
            }
            self.bytes.reserve(missing);
            if reader.read_buf(&mut self.bytes).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn messages_are_cut_out_however_the_bytes_arrive() {
        let sent: Vec<Vec<u8>> = [0, 1, 12, 255, 256, 5000, 65_535]
            .map(|len| vec![0xa5; len])
            .to_vec();
        let stream: Vec<u8> = sent.iter().flat_map(|message| frame(message)).collect();
        for piece in [1, 7, 1024, 100_000] {
            let (mut client, mut server) = tokio::io::duplex(1 << 17);
            let pieces: Vec<Vec<u8>> = stream.chunks(piece).map(<[u8]>::to_vec).collect();
            let writing = tokio::spawn(async move {
                for piece in pieces {
                    client.write_all(&piece).await.unwrap();
                }
            });
            let mut frames = Frames::default();
            for message in &sent {
                assert_eq!(
                    frames.next(&mut server).await.unwrap().as_ref(),
                    Some(message)
                );
            }
            assert_eq!(frames.next(&mut server).await.unwrap(), None);
            writing.await.unwrap();
        }
    }
}
