//! Enough of the `MySQL` client/server protocol for a session: the server greets first (protocol
//! version 10), takes any login, and answers every query with one row.
//!
//! Packet layouts: "Client/Server Protocol" of the `MySQL` internals manual, for clients without
//! `CLIENT_DEPRECATE_EOF`.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use super::Handler;

/// The version that the server tells.
pub const VERSION: &str = "8.0.36";

const COM_QUIT: u8 = 0x01;
const COM_QUERY: u8 = 0x03;
const COM_PING: u8 = 0x0e;
/// `CLIENT_LONG_PASSWORD`, `CLIENT_PROTOCOL_41`, `CLIENT_SECURE_CONNECTION`, `CLIENT_PLUGIN_AUTH`.
const CAPABILITIES: u32 = 0x0000_0001 | 0x0000_0200 | 0x0000_8000 | 0x0008_0000;
const CHARSET_UTF8MB4: u8 = 45;
const OK: [u8; 7] = [0x00, 0, 0, 0x02, 0, 0, 0];
const EOF: [u8; 5] = [0xfe, 0, 0, 0x02, 0];

/// A server that answers the query `SELECT <text>` with a row that holds `<text>`.
#[must_use]
pub fn handler() -> Handler {
    Arc::new(|mut stream, _| {
        send(&mut stream, 0, &greeting())?;
        let (sequence, _login) = receive(&mut stream)?;
        send(&mut stream, sequence.wrapping_add(1), &OK)?;
        loop {
            let (_, command) = receive(&mut stream)?;
            match command.split_first() {
                Some((&COM_QUERY, query)) => result(&mut stream, query)?,
                Some((&COM_PING, _)) => send(&mut stream, 1, &OK)?,
                Some((&COM_QUIT, _)) | None => return Ok(()),
                Some(_) => send(&mut stream, 1, b"\xff\x17\x04#08S01Unknown command")?,
            }
        }
    })
}

/// A client's session.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    /// The version that the server told.
    pub version: String,
}

impl Session {
    /// Reads the greeting and logs in.
    pub fn start(mut stream: TcpStream) -> io::Result<Self> {
        let (_, greeting) = receive(&mut stream)?;
        let Some((10, rest)) = greeting.split_first() else {
            return Err(io::Error::other(
                "the greeting is not of protocol version 10",
            ));
        };
        let version: Vec<u8> = rest
            .iter()
            .copied()
            .take_while(|&octet| octet != 0)
            .collect();
        let version = String::from_utf8(version).map_err(io::Error::other)?;
        let mut login = Vec::from(CAPABILITIES.to_le_bytes());
        login.extend((1_u32 << 24).to_le_bytes());
        login.push(CHARSET_UTF8MB4);
        login.extend([0; 23]);
        login.extend(b"developer\0\0mysql_native_password\0");
        send(&mut stream, 1, &login)?;
        match receive(&mut stream)? {
            (2, answer) if answer.first() == Some(&0) => Ok(Self { stream, version }),
            (_, answer) => Err(io::Error::other(format!("the login failed: {answer:?}"))),
        }
    }

    /// Asks one query and returns the first column of its row.
    pub fn query(&mut self, query: &str) -> io::Result<String> {
        let mut command = vec![COM_QUERY];
        command.extend(query.as_bytes());
        send(&mut self.stream, 0, &command)?;
        // Column count, one column, end of columns, one row, end of rows.
        let mut packets = Vec::new();
        for _ in 0..5 {
            packets.push(receive(&mut self.stream)?.1);
        }
        let row = packets.swap_remove(3);
        let text = row.get(1..).unwrap_or_default().to_vec();
        String::from_utf8(text).map_err(io::Error::other)
    }
}

fn greeting() -> Vec<u8> {
    let [low, low2, high, high2] = CAPABILITIES.to_le_bytes();
    let mut packet = vec![10];
    packet.extend(VERSION.as_bytes());
    packet.push(0);
    packet.extend(7_u32.to_le_bytes());
    packet.extend(b"saltsalt\0");
    packet.extend([low, low2, CHARSET_UTF8MB4, 0x02, 0x00, high, high2]);
    packet.push(21);
    packet.extend([0; 10]);
    packet.extend(b"saltsaltsalt\0");
    packet.extend(b"mysql_native_password\0");
    packet
}

fn result(stream: &mut TcpStream, query: &[u8]) -> io::Result<()> {
    let query = String::from_utf8_lossy(query);
    let value = query.trim().trim_end_matches(';');
    let value = value.strip_prefix("SELECT ").unwrap_or(value);
    let mut column = Vec::new();
    for text in ["def", "", "", "", "value", ""] {
        text_to(&mut column, text);
    }
    // Length of what follows, character set, column length, VARCHAR, flags, decimals, filler.
    column.extend([0x0c, CHARSET_UTF8MB4, 0, 0xff, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0]);
    let mut row = Vec::new();
    text_to(&mut row, value);
    for (sequence, packet) in [&[1][..], &column, &EOF, &row, &EOF]
        .into_iter()
        .enumerate()
    {
        send(
            stream,
            u8::try_from(sequence + 1).map_err(io::Error::other)?,
            packet,
        )?;
    }
    Ok(())
}

/// A length-encoded string of at most 250 octets.
fn text_to(packet: &mut Vec<u8>, text: &str) {
    let text = &text.as_bytes()[..text.len().min(250)];
    packet.push(u8::try_from(text.len()).unwrap_or(250));
    packet.extend(text);
}

fn send(stream: &mut TcpStream, sequence: u8, packet: &[u8]) -> io::Result<()> {
    let length = u32::try_from(packet.len()).map_err(io::Error::other)?;
    let [low, middle, high, _] = length.to_le_bytes();
    let mut whole = vec![low, middle, high, sequence];
    whole.extend(packet);
    stream.write_all(&whole)
}

fn receive(stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 4];
    stream.read_exact(&mut header)?;
    let [low, middle, high, sequence] = header;
    let mut packet = vec![0; u32::from_le_bytes([low, middle, high, 0]) as usize];
    stream.read_exact(&mut packet)?;
    Ok((sequence, packet))
}
