//! As much of HTTP/1.1 as the lab needs: one request per connection.

use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;

use super::Handler;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `PUT`, `POST`.
    pub method: String,
    /// The path, with its leading slash.
    pub path: String,
    /// The body.
    pub body: String,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Response {
    /// A 200 with this body.
    #[must_use]
    pub fn ok(body: impl Into<String>) -> Self {
        Self {
            status: 200,
            body: body.into(),
        }
    }

    /// Any other status.
    #[must_use]
    pub fn status(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            body: body.into(),
        }
    }
}

/// Serves HTTP with `answer`.
pub fn handler(
    answer: impl Fn(Request, SocketAddrV4) -> Response + Send + Sync + 'static,
) -> Handler {
    Arc::new(move |mut stream, peer| {
        let (start, body) = read_message(&stream)?;
        let mut words = start.split(' ');
        let mut word = || words.next().unwrap_or_default().to_owned();
        let response = answer(
            Request {
                method: word(),
                path: word(),
                body,
            },
            peer,
        );
        write_message(
            &mut stream,
            &format!("HTTP/1.1 {} {}", response.status, reason(response.status)),
            &response.body,
        )
    })
}

/// Sends one request over a connected stream and reads the response.
pub fn exchange(mut stream: TcpStream, request: &Request) -> io::Result<Response> {
    let host = stream.peer_addr()?;
    let Request { method, path, body } = request;
    write_message(
        &mut stream,
        &format!("{method} {path} HTTP/1.1\r\nHost: {host}"),
        body,
    )?;
    let (start, body) = read_message(&stream)?;
    let status = start
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no HTTP status in {start:?}")))?;
    Ok(Response { status, body })
}

fn write_message(stream: &mut TcpStream, start: &str, body: &str) -> io::Result<()> {
    let mut text = String::new();
    write!(
        text,
        "{start}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .map_err(io::Error::other)?;
    stream.write_all(text.as_bytes())
}

fn read_message(stream: &TcpStream) -> io::Result<(String, String)> {
    let mut reader = BufReader::new(stream);
    let mut start = String::new();
    reader.read_line(&mut start)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8(body).map_err(io::Error::other)?;
    Ok((start.trim().to_owned(), body))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        404 => "Not Found",
        502 => "Bad Gateway",
        _ => "Status",
    }
}
