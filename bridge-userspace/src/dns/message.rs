//! What the relay must see of a DNS message: the header and the bounds of the one question.
//!
//! Everything behind the question (EDNS, cookies, signatures) is never looked at and goes through
//! byte by byte. A message is scanned by hand because the hot path must not decode and encode what
//! it forwards; a property test holds the scan against hickory-proto's decoder.

use std::ops::Range;

/// Length of the fixed header (RFC 1035 section 4.1.1).
pub const HEADER_LEN: usize = 12;

/// Longest name on the wire, its root label included (RFC 1035 section 3.1).
const MAX_NAME_LEN: usize = 255;

/// A length octet above this is a compression pointer or reserved (RFC 1035 section 4.1.4). The
/// first question has nothing before it that a pointer could mean.
const MAX_LABEL_LEN: u8 = 63;

/// QTYPE and QCLASS behind the name.
const QUESTION_TAIL_LEN: usize = 4;

/// QTYPE of IXFR (RFC 1995) and AXFR (RFC 1035 section 3.2.3).
const TRANSFER_TYPES: [u16; 2] = [251, 252];

/// Response codes that the relay gives on its own account (RFC 1035 section 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseCode {
    /// The query can't be read.
    FormatError = 1,
    /// No upstream answered, or too many queries are in flight.
    ServerFailure = 2,
    /// A kind of query that the relay does not carry.
    NotImplemented = 4,
    /// The source may not ask here.
    Refused = 5,
}

/// Why a message is no query that could be forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Shorter than a header: there is not even an id to answer to.
    Runt,
    /// A response; answering one invites two servers to talk for ever.
    Response,
    /// Not exactly one well-formed question (RFC 9619). Holds the answer to give.
    Format(Vec<u8>),
}

/// A query with one well-formed question, ready to be sent upstream under an id of its own.
#[derive(Clone, Debug)]
pub struct Query {
    message: Vec<u8>,
    client_id: [u8; 2],
    question_end: usize,
}

impl Query {
    /// Takes a client's message.
    ///
    /// # Errors
    /// Says why the message can't be forwarded.
    pub fn parse(message: &[u8]) -> Result<Self, Unusable> {
        let Some(header) = message.first_chunk::<HEADER_LEN>() else {
            return Err(Unusable::Runt);
        };
        if is_response(header) {
            return Err(Unusable::Response);
        }
        let question_end = (question_count(header) == 1)
            .then(|| question_end(message))
            .flatten()
            .ok_or_else(|| Unusable::Format(answer(header, &[], ResponseCode::FormatError)))?;
        Ok(Self {
            message: message.to_vec(),
            client_id: [header[0], header[1]],
            question_end,
        })
    }

    /// The message as it goes upstream: the client's but for the id.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.message
    }

    /// The id under which it goes upstream.
    #[must_use]
    pub fn id(&self) -> [u8; 2] {
        [self.message[0], self.message[1]]
    }

    /// The name asked for, in wire format.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.message[self.name_range()]
    }

    /// Whether this asks for a zone transfer, whose answer is a stream of messages.
    #[must_use]
    pub fn is_transfer(&self) -> bool {
        let tail = self.name_range().end;
        let kind = u16::from_be_bytes([self.message[tail], self.message[tail + 1]]);
        TRANSFER_TYPES.contains(&kind)
    }

    /// Gives the query an unpredictable id (RFC 5452 section 9.2).
    pub fn renew_id(&mut self) {
        self.message[..2].copy_from_slice(&rand::random::<[u8; 2]>());
    }

    /// Whether `reply` answers this query: a response with the same id, opcode and question.
    ///
    /// Names are compared without regard to case (RFC 1035 section 2.3.3), because some servers
    /// fold the question that they echo.
    #[must_use]
    pub fn is_answered_by(&self, reply: &[u8]) -> bool {
        let Some(header) = reply.first_chunk::<HEADER_LEN>() else {
            return false;
        };
        let names = self.name_range();
        let tail = names.end..self.question_end;
        header[..2] == self.message[..2]
            && is_response(header)
            && opcode(header[2]) == opcode(self.message[2])
            && question_count(header) == 1
            // Length octets are below any letter, so folding case can't confuse them.
            && reply.get(names.clone()).is_some_and(|name| name.eq_ignore_ascii_case(&self.message[names]))
            && reply.get(tail.clone()) == self.message.get(tail)
    }

    /// Puts the client's own id back into an accepted reply.
    pub fn restore_id(&self, reply: &mut [u8]) {
        if let Some(id) = reply.first_chunk_mut::<2>() {
            *id = self.client_id;
        }
    }

    /// The relay's own answer: header and question, so never longer than the query.
    #[must_use]
    pub fn answer(&self, code: ResponseCode) -> Vec<u8> {
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&self.message[..HEADER_LEN]);
        header[..2].copy_from_slice(&self.client_id);
        answer(&header, &self.message[HEADER_LEN..self.question_end], code)
    }

    fn name_range(&self) -> Range<usize> {
        HEADER_LEN..self.question_end - QUESTION_TAIL_LEN
    }
}

/// The response code in a message's header, 0 to 15.
#[must_use]
pub fn response_code(message: &[u8]) -> Option<u8> {
    message.get(3).map(|flags| flags & 0x0f)
}

fn is_response(header: &[u8; HEADER_LEN]) -> bool {
    header[2] & 0x80 != 0
}

fn opcode(flags: u8) -> u8 {
    flags & 0x78
}

fn question_count(header: &[u8; HEADER_LEN]) -> u16 {
    u16::from_be_bytes([header[4], header[5]])
}

/// Where the first question ends, if it is well formed and inside of the message.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER_LEN;
    loop {
        let len = *message.get(at)?;
        if len > MAX_LABEL_LEN {
            return None;
        }
        at += 1 + usize::from(len);
        if at - HEADER_LEN > MAX_NAME_LEN {
            return None;
        }
        if len == 0 {
            break;
        }
    }
    let end = at + QUESTION_TAIL_LEN;
    (end <= message.len()).then_some(end)
}

/// Keeps the query's id, opcode, RD and CD; every other flag and section is empty.
fn answer(header: &[u8; HEADER_LEN], question: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_LEN + question.len());
    message.extend_from_slice(&header[..2]);
    message.push(0x80 | opcode(header[2]) | header[2] & 0x01);
    message.push(header[3] & 0x10 | code as u8);
    message.extend_from_slice(&[0, u8::from(!question.is_empty()), 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(question);
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    fn query(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
        message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    /// The reply of a server that echoes the question.
    fn reply_to(query: &Query) -> Vec<u8> {
        let mut reply = query.bytes()[..query.question_end].to_vec();
        reply[2] |= 0x80;
        reply
    }

    #[test]
    fn a_reply_counts_only_with_the_id_and_the_question_that_were_sent() {
        let mut query =
            Query::parse(&query("mysql.project-a.svc.cluster.local.", RecordType::A)).unwrap();
        query.renew_id();
        let good = reply_to(&query);
        assert!(query.is_answered_by(&good));
        let end = query.question_end;
        for (what, at) in [
            ("id", 0),
            ("id", 1),
            ("name", 14),
            ("type", end - 3),
            ("class", end - 1),
        ] {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            assert!(!query.is_answered_by(&bad), "wrong {what} at {at}");
        }
        assert!(!query.is_answered_by(query.bytes()), "a query is no reply");
        assert!(!query.is_answered_by(&good[..end - 1]), "cut short");
        assert!(!query.is_answered_by(&[]));
    }

    #[test]
    fn a_reply_may_fold_the_case_of_the_name() {
        let query = Query::parse(&query("MySQL.Cluster.LOCAL.", RecordType::A)).unwrap();
        let mut reply = reply_to(&query);
        let names = query.name_range();
        reply[names].make_ascii_lowercase();
        assert!(query.is_answered_by(&reply));
    }

    #[test]
    fn an_own_answer_is_never_longer_than_its_query_and_reads_well() {
        let sent = query("kube-dns.kube-system.svc.cluster.local.", RecordType::AAAA);
        let answer = Query::parse(&sent).unwrap().answer(ResponseCode::Refused);
        assert!(answer.len() <= sent.len());
        let read = Message::from_vec(&answer).unwrap();
        assert_eq!(read.metadata.id, 0x1234);
        assert_eq!(
            read.metadata.response_code,
            hickory_proto::op::ResponseCode::Refused
        );
        assert_eq!(read.queries, Message::from_vec(&sent).unwrap().queries);
    }

    #[test]
    fn a_response_and_a_runt_get_no_answer() {
        let mut response = query("a.", RecordType::A);
        response[2] |= 0x80;
        assert_eq!(Query::parse(&response).unwrap_err(), Unusable::Response);
        assert_eq!(Query::parse(&response[..11]).unwrap_err(), Unusable::Runt);
    }

    #[test]
    fn no_question_two_questions_and_a_pointer_are_format_errors() {
        let good = query("a.", RecordType::A);
        for (what, at, value) in [("none", 5, 0), ("two", 5, 2), ("pointer", 12, 0xc0)] {
            let mut bad = good.clone();
            bad[at] = value;
            let Err(Unusable::Format(answer)) = Query::parse(&bad) else {
                panic!("{what}: accepted");
            };
            assert_eq!(answer.len(), HEADER_LEN);
            assert_eq!(response_code(&answer), Some(1));
        }
    }

    proptest! {
        #[test]
        fn the_scan_ends_the_question_where_the_decoder_does(
            labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..=63), 0..=6),
            kind in any::<u16>(),
            behind in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let name = Name::from_labels(labels.iter().map(Vec::as_slice));
            let mut wire = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            for label in &labels {
                wire.push(u8::try_from(label.len()).unwrap());
                wire.extend_from_slice(label);
            }
            wire.push(0);
            wire.extend_from_slice(&kind.to_be_bytes());
            wire.extend_from_slice(&[0, 1]);
            let end = wire.len();
            wire.extend_from_slice(&behind);
            match Query::parse(&wire) {
                Ok(query) => {
                    prop_assert_eq!(query.question_end, end);
                    let read = Message::from_vec(&query.answer(ResponseCode::ServerFailure)).unwrap();
                    prop_assert_eq!(&read.queries[0].name, &name.unwrap());
                    prop_assert_eq!(u16::from(read.queries[0].query_type), kind);
                }
                Err(_) => prop_assert!(name.is_err()),
            }
        }

        #[test]
        fn no_bytes_make_the_scan_panic_and_what_it_takes_the_decoder_takes(
            mut wire in prop::collection::vec(any::<u8>(), 0..300),
            other in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            if let Some(flags) = wire.get_mut(2) {
                *flags &= 0x07;
            }
            if let Some(count) = wire.get_mut(4..6) {
                count.copy_from_slice(&[0, 1]);
            }
            if let Ok(query) = Query::parse(&wire) {
                let _ = query.is_answered_by(&other);
                prop_assert!(Message::from_vec(&query.answer(ResponseCode::ServerFailure)).is_ok());
            }
        }
    }
}
