//! Questions and answers as messages: RFC 1035, EDNS (RFC 6891), truncation (RFC 2181, section 9). Pure.

use hickory_proto::op::{
    Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode, emit_message_parts,
};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

use crate::zone::Answer;

/// Size of an answer by UDP to a client that does not say what it takes (RFC 1035, 4.2.1).
pub const UDP_BYTES: u16 = 512;
/// Largest message that we say we take, and send, by UDP: it is not fragmented (DNS flag day 2020).
pub const UDP_BYTES_MAX: u16 = 1_232;
/// Size of a header.
const HEADER_BYTES: usize = 12;

/// A packet that has been understood, or what it gets instead of an answer.
#[derive(Debug)]
pub enum Request {
    /// A question.
    Question(Box<Question>),
    /// An error to send back.
    Reply(Vec<u8>),
    /// Nothing is sent: it is no request.
    Nothing,
}

/// A question, and what its answer must respect.
#[derive(Clone, Debug)]
pub struct Question {
    /// The header.
    pub metadata: Metadata,
    /// Name, type and class, in the spelling of the client.
    pub query: Query,
    /// The client's EDNS, if it has sent one.
    pub edns: Option<Edns>,
}

impl Question {
    /// The name as it was asked.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.query.name
    }

    /// The type of records asked for.
    #[must_use]
    pub fn kind(&self) -> RecordType {
        self.query.query_type
    }

    /// Whether the client wants DNSSEC records (RFC 3225).
    #[must_use]
    pub fn wants_dnssec(&self) -> bool {
        self.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// The most bytes that an answer by UDP may have.
    #[must_use]
    pub fn udp_bytes(&self) -> u16 {
        let said = self.edns.as_ref().map_or(UDP_BYTES, Edns::max_payload);
        said.clamp(UDP_BYTES, UDP_BYTES_MAX)
    }

    /// An empty answer.
    fn response(&self, code: ResponseCode) -> Message {
        let mut response = Message::new(self.metadata.id, MessageType::Response, OpCode::Query);
        response.metadata = Metadata::response_from_request(&self.metadata);
        response.metadata.response_code = code;
        response.add_query(self.query.clone());
        if let Some(asked) = &self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_BYTES_MAX);
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            response.set_edns(edns);
        }
        response
    }

    /// An answer with nothing but a code. `recursion`: whether this client may ask for any name.
    #[must_use]
    pub fn refusal(&self, code: ResponseCode, recursion: bool) -> Message {
        let mut response = self.response(code);
        response.metadata.recursion_available = recursion;
        response
    }

    /// The answer of a zone of ours.
    #[must_use]
    pub fn authoritative(&self, answer: Answer, recursion: bool) -> Message {
        let code = if answer.exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
        let mut response = self.response(code);
        response.metadata.authoritative = true;
        response.metadata.recursion_available = recursion;
        response.answers = answer.answers;
        response.authorities = answer.authorities;
        response.additionals = answer.additionals;
        response
    }

    /// The answer of another server, as ours.
    #[must_use]
    pub fn forwarded(&self, from: &Message) -> Message {
        let mut response = self.response(from.metadata.response_code);
        response.metadata.recursion_available = true;
        // Only to those who know the bit (RFC 6840, section 5.8).
        let understands = self.wants_dnssec() || self.metadata.authentic_data;
        response.metadata.authentic_data = from.metadata.authentic_data && understands;
        let ours = |records: &[Record]| {
            let respelled = records.iter().cloned().map(|mut record| {
                // The upstream may have been asked in another case.
                if record.name == self.query.name {
                    record.name = self.query.name.clone();
                }
                record
            });
            respelled.collect::<Vec<_>>()
        };
        response.answers = ours(&from.answers);
        response.authorities = ours(&from.authorities);
        response.additionals = ours(&from.additionals);
        response
    }
}

/// Reads a packet.
#[must_use]
pub fn read(packet: &[u8]) -> Request {
    let Some(header) = packet.get(..HEADER_BYTES) else { return Request::Nothing };
    // Answers to answers would never end.
    if header[2] & 0x80 != 0 {
        return Request::Nothing;
    }
    let (id, code) = (u16::from_be_bytes([header[0], header[1]]), (header[2] >> 3) & 0xf);
    let reply = |code| Request::Reply(bare(id, header[2], code));
    if code != 0 {
        return reply(ResponseCode::NotImp);
    }
    // Exactly one question (RFC 9619); a request has no answers.
    if header[4..8] != [0, 1, 0, 0] {
        return reply(ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::read(&mut BinDecoder::new(packet)) else {
        return reply(ResponseCode::FormErr);
    };
    let Some(query) = message.queries.pop() else { return reply(ResponseCode::FormErr) };
    let question = Question { metadata: message.metadata, query, edns: message.edns };
    match refuses(&question) {
        Some(code) => {
            let message = question.refusal(code, false);
            encode(message, UDP_BYTES).map_or(Request::Nothing, Request::Reply)
        }
        None => Request::Question(Box::new(question)),
    }
}

/// Why a question is not answered, whatever its name is.
fn refuses(question: &Question) -> Option<ResponseCode> {
    if question.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Some(ResponseCode::BADVERS);
    }
    if !matches!(question.query.query_class, DNSClass::IN | DNSClass::ANY) {
        return Some(ResponseCode::Refused);
    }
    match question.kind() {
        // No transfers of zones: everything there is can be asked of the API server.
        RecordType::AXFR | RecordType::IXFR => Some(ResponseCode::Refused),
        RecordType::OPT | RecordType::TSIG => Some(ResponseCode::FormErr),
        _ => None,
    }
}

/// A header alone: the question could not be read.
fn bare(id: u16, flags: u8, code: ResponseCode) -> Vec<u8> {
    let mut packet = vec![0; HEADER_BYTES];
    packet[..2].copy_from_slice(&id.to_be_bytes());
    // Operation and RD as asked, QR set.
    packet[2] = 0x80 | (flags & 0x79);
    packet[3] = code.low();
    packet
}

/// Writes a message of at most `max` bytes; `None` if not even an empty one can be written.
///
/// What does not fit is left out: additional records without a word, answers with TC set, whole records at a time.
#[must_use]
pub fn encode(mut message: Message, max: u16) -> Option<Vec<u8>> {
    let whole = write(&message);
    if let Some(whole) = whole.filter(|bytes| bytes.len() <= usize::from(max)) {
        return Some(whole);
    }
    message.additionals.clear();
    let shorter = write(&message)?;
    if shorter.len() <= usize::from(max) {
        return Some(shorter);
    }
    message.metadata.truncation = true;
    message.authorities.clear();
    let fitting = fitting(&message, max);
    message.answers.truncate(fitting);
    write(&message).filter(|bytes| bytes.len() <= usize::from(max))
}

fn write(message: &Message) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::from(UDP_BYTES));
    message.emit(&mut BinEncoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

/// How many answers fit into `max` bytes, beside the question and EDNS.
fn fitting(message: &Message, max: u16) -> usize {
    let mut edns = Vec::new();
    let written = message
        .edns
        .as_ref()
        .map(|edns_of| Record::from(edns_of).emit(&mut BinEncoder::new(&mut edns)));
    if written.is_some_and(|written| written.is_err()) {
        return 0;
    }
    let taken = u16::try_from(edns.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(max.saturating_sub(taken));
    let none = || [].iter() as std::slice::Iter<'_, Record>;
    let header = emit_message_parts(
        &message.metadata,
        &mut message.queries.iter(),
        &mut message.answers.iter(),
        &mut none(),
        &mut none(),
        None,
        None,
        &mut encoder,
    );
    header.map_or(0, |header| usize::from(header.counts.answers))
}
