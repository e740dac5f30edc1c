//! mux/2 without sockets: hand-written bytes for one side alone, so that both cannot be wrong together; tables
//! of wrong frames; and both sides against each other under arbitrary schedules.

use proptest::prelude::*;
use tungstenite::Bytes;
use tunnel_agent::unversioned::mux::{
    Closing, DataBuffer, Fin, Frame, MuxEvent, MuxLimits, OpenError, ProtocolError, ReadOutcome, Reset,
    ResetCode, Side, StreamEnd, Streams,
};

const LIMITS: MuxLimits = MuxLimits { window: 16 << 10, max_streams: 4, max_frame: 1 << 10 };

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
const SWITCH: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: chat\r\n\r\n";

fn agent() -> Streams<()> {
    Streams::new(Side::Agent, LIMITS)
}

fn gateway() -> Streams<()> {
    Streams::new(Side::Gateway, LIMITS)
}

/// Type, flags, stream and payload, as the wire has them.
fn bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Bytes {
    let mut bytes = vec![kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes.into()
}

#[track_caller]
fn receives(streams: &mut Streams<()>, message: Bytes, event: MuxEvent) {
    assert_eq!(streams.receive(&message), Ok(event), "{message:?}");
}

#[track_caller]
fn sends(streams: &mut Streams<()>, message: Bytes) {
    assert_eq!(streams.next_message().map(|(message, _)| Bytes::from(message)), Some(message));
}

#[track_caller]
fn send(streams: &mut Streams<()>, stream: u32, body: &[u8], fin: Fin) {
    streams.send_data(stream, DataBuffer::copy_of(body), body.len(), fin).unwrap();
}

#[track_caller]
fn reads(streams: &mut Streams<()>, stream: u32, expected: Result<&[u8], ReadOutcome>) {
    let mut buffer = [0; 4096];
    match (streams.read(stream, &mut buffer).unwrap(), expected) {
        (ReadOutcome::Data(read), Ok(expected)) => assert_eq!(&buffer[..read], expected),
        (other, expected) => assert_eq!(Err(other), expected),
    }
}

/// An agent with one stream, whose request is its head alone, or more.
fn agent_with_stream(fin: Fin) -> Streams<()> {
    let mut streams = agent();
    let flags = u8::from(fin == Fin::Last);
    let opened = MuxEvent::Opened { stream: 1, head: Bytes::from_static(GET), fin };
    receives(&mut streams, bytes(1, flags, 1, GET), opened);
    streams.accept(1, (), fin);
    streams
}

// ---------------------------------------------------------------------------------------------- transcripts

#[test]
fn an_agent_answers_a_request() {
    let mut streams = agent_with_stream(Fin::Last);
    assert_eq!((streams.last(), streams.open_count()), (1, 1));
    reads(&mut streams, 1, Err(ReadOutcome::Eof));
    streams.send_head(1, Bytes::from_static(OK), Fin::More).unwrap();
    send(&mut streams, 1, b"hello", Fin::Last);
    sends(&mut streams, Bytes::from_static(b"\x01\x00\x00\x00\x00\x01HTTP/1.1 200 OK\r\n\r\n"));
    sends(&mut streams, Bytes::from_static(b"\x02\x01\x00\x00\x00\x01hello"));
    assert_eq!((streams.next_message(), streams.open_count()), (None, 0));
    // What crossed on the wire is ignored.
    receives(&mut streams, bytes(3, 0, 1, b"\x01"), MuxEvent::Nothing);
    receives(&mut streams, bytes(2, 0, 1, b"late"), MuxEvent::Nothing);
}

#[test]
fn a_gateway_asks() {
    let mut streams = gateway();
    let stream = streams.open((), Bytes::from_static(GET), Fin::More, Closing::WithResponse).unwrap();
    send(&mut streams, stream, b"body", Fin::More);
    send(&mut streams, stream, b"", Fin::Last);
    sends(&mut streams, Bytes::from_static(b"\x01\x00\x00\x00\x00\x01GET / HTTP/1.1\r\nhost: x\r\n\r\n"));
    sends(&mut streams, Bytes::from_static(b"\x02\x00\x00\x00\x00\x01body"));
    sends(&mut streams, Bytes::from_static(b"\x02\x01\x00\x00\x00\x01"));
    assert_eq!(streams.take_head(1), Ok(None));
    receives(&mut streams, bytes(1, 0, 1, OK), MuxEvent::Changed(1));
    receives(&mut streams, bytes(2, 1, 1, b"hello"), MuxEvent::Changed(1));
    assert_eq!(streams.open_count(), 0);
    // All of it can be read after the end.
    assert_eq!(streams.take_head(1), Ok(Some(Bytes::from_static(OK))));
    reads(&mut streams, 1, Ok(b"hello"));
    reads(&mut streams, 1, Err(ReadOutcome::Eof));
    streams.release(1, Reset::new(ResetCode::Cancelled, ""));
    assert_eq!(streams.next_message(), None);
}

#[test]
fn the_agents_end_alone_ends_a_stream_that_is_no_upgrade() {
    let mut streams = gateway();
    streams.open((), Bytes::from_static(GET), Fin::More, Closing::WithResponse).unwrap();
    send(&mut streams, 1, b"half of it", Fin::More);
    receives(&mut streams, bytes(1, 1, 1, OK), MuxEvent::Changed(1));
    assert_eq!(streams.capacity(1), Err(StreamEnd::Ended));
    sends(&mut streams, bytes(1, 0, 1, GET));
    assert_eq!(streams.next_message(), None);

    let mut streams = agent_with_stream(Fin::More);
    streams.send_head(1, Bytes::from_static(OK), Fin::Last).unwrap();
    assert_eq!((streams.open_count(), streams.read(1, &mut [0])), (0, Err(StreamEnd::Ended)));
}

#[test]
fn an_upgrade_ends_in_halves() {
    let mut streams = agent_with_stream(Fin::More);
    streams.send_head(1, Bytes::from_static(SWITCH), Fin::More).unwrap();
    send(&mut streams, 1, b"bye", Fin::Last);
    while streams.next_message().is_some() {}
    assert_eq!(streams.open_count(), 1);
    receives(&mut streams, bytes(2, 0, 1, b"on and on"), MuxEvent::Changed(1));
    reads(&mut streams, 1, Ok(b"on and on"));
    receives(&mut streams, bytes(2, 1, 1, b""), MuxEvent::Changed(1));
    reads(&mut streams, 1, Err(ReadOutcome::Eof));
    assert_eq!(streams.open_count(), 0);

    let mut streams = gateway();
    streams.open((), Bytes::from_static(GET), Fin::More, Closing::WithBoth).unwrap();
    receives(&mut streams, bytes(1, 0, 1, SWITCH), MuxEvent::Changed(1));
    receives(&mut streams, bytes(2, 1, 1, b"bye"), MuxEvent::Changed(1));
    send(&mut streams, 1, b"on and on", Fin::Last);
    assert_eq!(streams.open_count(), 1);
    while streams.next_message().is_some() {}
    assert_eq!(streams.open_count(), 0);
    // Any other answer to the same question is an ordinary one.
    let mut streams = gateway();
    streams.open((), Bytes::from_static(GET), Fin::More, Closing::WithBoth).unwrap();
    receives(&mut streams, bytes(1, 0, 1, OK), MuxEvent::Changed(1));
    receives(&mut streams, bytes(2, 1, 1, b"no"), MuxEvent::Changed(1));
    assert_eq!(streams.open_count(), 0);
}

#[test]
fn control_goes_before_data_and_streams_take_turns() {
    let mut streams = gateway();
    for _ in 0..2 {
        streams.open((), Bytes::from_static(GET), Fin::More, Closing::WithResponse).unwrap();
    }
    while streams.next_message().is_some() {}
    for body in [b"a", b"b"] {
        send(&mut streams, 1, body, Fin::More);
    }
    send(&mut streams, 2, b"c", Fin::More);
    streams.open((), Bytes::from_static(GET), Fin::Last, Closing::WithResponse).unwrap();
    streams.go_away(0, "bye");
    sends(&mut streams, bytes(1, 1, 3, GET));
    sends(&mut streams, bytes(5, 0, 0, b"bye"));
    sends(&mut streams, bytes(2, 0, 1, b"a"));
    sends(&mut streams, bytes(2, 0, 2, b"c"));
    sends(&mut streams, bytes(2, 0, 1, b"b"));
    assert_eq!((streams.next_message(), streams.control_bytes()), (None, 0));
}

#[test]
fn the_first_data_of_a_stream_does_not_wait_behind_what_lasts() {
    let mut streams = gateway();
    for _ in 0..3 {
        streams.open((), Bytes::from_static(GET), Fin::More, Closing::WithResponse).unwrap();
    }
    while streams.next_message().is_some() {}
    for body in [b"a", b"b", b"c", b"d"] {
        send(&mut streams, 1, body, Fin::More);
    }
    sends(&mut streams, bytes(2, 0, 1, b"a"));
    send(&mut streams, 2, b"x", Fin::More);
    send(&mut streams, 3, b"y", Fin::More);
    send(&mut streams, 2, b"z", Fin::More);
    for (stream, body) in [(2, b"x"), (3, b"y"), (1, b"b"), (2, b"z"), (1, b"c"), (1, b"d")] {
        sends(&mut streams, bytes(2, 0, stream, body));
    }
}

#[test]
fn frames_become_as_small_as_they_are_wanted_and_no_larger_than_the_other_side_takes() {
    let mut streams = gateway();
    streams.open((), Bytes::from_static(GET), Fin::More, Closing::WithResponse).unwrap();
    let usual = streams.capacity(1).unwrap();
    streams.limit_frames(100);
    assert_eq!(streams.capacity(1), Ok(100));
    streams.limit_frames(usize::MAX);
    assert_eq!(streams.capacity(1), Ok(usual));
}

#[test]
fn a_reset_discards_what_waits_and_goes_both_ways() {
    let mut streams = gateway();
    streams.open((), Bytes::from_static(GET), Fin::More, Closing::WithResponse).unwrap();
    send(&mut streams, 1, b"never sent", Fin::More);
    streams.reset(1, Reset::new(ResetCode::Cancelled, "the client left"));
    sends(&mut streams, bytes(1, 0, 1, GET));
    sends(&mut streams, bytes(3, 0, 1, b"\x01the client left"));
    assert_eq!(streams.next_message(), None);

    let mut streams = agent_with_stream(Fin::More);
    receives(&mut streams, bytes(2, 0, 1, b"never read"), MuxEvent::Changed(1));
    receives(&mut streams, bytes(3, 0, 1, b"\x04cut"), MuxEvent::Reset(1));
    let over = StreamEnd::ByPeer(Reset::new(ResetCode::Truncated, "cut"));
    assert_eq!(streams.read(1, &mut [0]), Err(over.clone()));
    assert_eq!(streams.send_head(1, Bytes::from_static(OK), Fin::Last), Err(over));
    streams.release(1, Reset::new(ResetCode::Internal, ""));
    assert_eq!(streams.next_message(), None);
}

#[test]
fn windows_are_granted_in_halves_as_their_reader_consumes() {
    let mut streams = agent_with_stream(Fin::More);
    let half = LIMITS.window as usize / 2;
    for _ in 0..LIMITS.window / LIMITS.max_frame {
        receives(&mut streams, bytes(2, 0, 1, &[0; 1 << 10]), MuxEvent::Changed(1));
    }
    assert_eq!(streams.read(1, &mut vec![0; half - 1]), Ok(ReadOutcome::Data(half - 1)));
    assert_eq!(streams.next_message(), None);
    assert_eq!(streams.read(1, &mut [0]), Ok(ReadOutcome::Data(1)));
    sends(&mut streams, bytes(4, 0, 1, &(half as u32).to_be_bytes()));
    assert_eq!(streams.next_message(), None);
}

#[test]
fn nothing_is_sent_past_the_window() {
    let mut streams = gateway();
    streams.open((), Bytes::from_static(GET), Fin::More, Closing::WithResponse).unwrap();
    let mut sent = 0;
    while let Ok(room @ 1..) = streams.capacity(1) {
        send(&mut streams, 1, &vec![0; room], Fin::More);
        sent += room;
        while streams.next_message().is_some() {}
    }
    assert_eq!(sent, LIMITS.window as usize);
    receives(&mut streams, bytes(4, 0, 1, b"\0\0\0\x05"), MuxEvent::Changed(1));
    assert_eq!(streams.capacity(1), Ok(5));
    // The end needs no credit.
    send(&mut streams, 1, b"12345", Fin::More);
    send(&mut streams, 1, b"", Fin::Last);
}

#[test]
fn what_is_released_still_goes_out_when_it_is_complete() {
    let given_up = || Reset::new(ResetCode::Internal, "given up");
    let mut streams = agent_with_stream(Fin::Last);
    streams.send_head(1, Bytes::from_static(OK), Fin::More).unwrap();
    send(&mut streams, 1, b"hello", Fin::Last);
    streams.release(1, given_up());
    assert_eq!(streams.open_count(), 1);
    sends(&mut streams, bytes(1, 0, 1, OK));
    sends(&mut streams, bytes(2, 1, 1, b"hello"));
    assert_eq!((streams.next_message(), streams.open_count()), (None, 0));
    // What is not complete is ended.
    let mut streams = agent_with_stream(Fin::Last);
    streams.send_head(1, Bytes::from_static(OK), Fin::More).unwrap();
    send(&mut streams, 1, b"hello", Fin::More);
    streams.release(1, given_up());
    sends(&mut streams, bytes(1, 0, 1, OK));
    sends(&mut streams, bytes(3, 0, 1, b"\x08given up"));
    assert_eq!((streams.next_message(), streams.open_count()), (None, 0));
}

// ---------------------------------------------------------------------------------------------- wrong frames

#[test]
fn what_a_connection_does_not_survive() {
    for message in [
        Bytes::from_static(b""),
        Bytes::from_static(b"\x01\x00\x00\x00\x00"),
        bytes(1, 0, 0, GET),
        bytes(2, 0, 0, b"x"),
        bytes(3, 0, 0, b"\x01"),
        bytes(4, 0, 0, b"\0\0\0\x01"),
        bytes(2, 0, 9, b"x"),
        bytes(3, 0, 9, b"\x01"),
        bytes(4, 0, 9, b"\0\0\0\x01"),
    ] {
        assert!(agent().receive(&message).is_err(), "{message:?}");
        assert!(gateway().receive(&message).is_err(), "{message:?}");
    }
    // A gateway's streams are its own to open; an agent's numbers count up.
    assert!(gateway().receive(&bytes(1, 0, 1, OK)).is_err());
    let mut streams = agent_with_stream(Fin::Last);
    receives(
        &mut streams,
        bytes(1, 1, 7, GET),
        MuxEvent::Opened { stream: 7, head: Bytes::from_static(GET), fin: Fin::Last },
    );
    streams.refuse(7, Reset::new(ResetCode::Refused, "full"));
    sends(&mut streams, bytes(3, 0, 7, b"\x05full"));
    for stream in [7, 5] {
        let error = streams.receive(&bytes(1, 1, stream, GET)).unwrap_err();
        assert_eq!(error, ProtocolError("a new stream whose number is not above the last"));
    }
}

#[test]
fn unknown_types_and_flags_are_ignored_whatever_their_stream() {
    for kind in [0, 6, 255] {
        for stream in [0, 1, 99] {
            receives(&mut agent(), bytes(kind, 0xff, stream, b"x"), MuxEvent::Nothing);
        }
    }
    let opened = MuxEvent::Opened { stream: 1, head: Bytes::from_static(GET), fin: Fin::More };
    receives(&mut agent(), bytes(1, 0xfe, 1, GET), opened);
}

#[test]
fn what_a_stream_does_not_survive() {
    let whole = vec![0; LIMITS.max_frame as usize + 1];
    let cases: [(&[Bytes], &str); 6] = [
        (&[bytes(2, 1, 1, b""), bytes(2, 0, 1, b"x")], "data after the end"),
        (&[bytes(1, 0, 1, GET)], "a second head"),
        (&[bytes(2, 0, 1, &whole)], "more data than the window or a frame takes"),
        (&[bytes(4, 0, 1, b"\x7f\xff\xff\xff")], "a window above 2^31-1"),
        (&[bytes(4, 0, 1, b"\0\0\0")], "a frame that cannot be read"),
        (&[bytes(3, 0, 1, b"")], "a frame that cannot be read"),
    ];
    for (messages, text) in cases {
        let mut streams = agent_with_stream(Fin::More);
        let events: Vec<_> = messages.iter().map(|message| streams.receive(message).unwrap()).collect();
        assert_eq!(events.last(), Some(&MuxEvent::Reset(1)), "{text}");
        sends(&mut streams, bytes(3, 0, 1, &[b"\x06", text.as_bytes()].concat()));
        assert_eq!(streams.open_count(), 0);
    }
    let mut streams = gateway();
    streams.open((), Bytes::from_static(GET), Fin::Last, Closing::WithResponse).unwrap();
    receives(&mut streams, bytes(2, 0, 1, b"x"), MuxEvent::Reset(1));
}

#[test]
fn no_more_streams_are_opened_than_may_be() {
    let mut streams = gateway();
    for number in 1..=LIMITS.max_streams {
        assert_eq!(streams.open((), Bytes::from_static(GET), Fin::Last, Closing::WithResponse), Ok(number));
    }
    assert_eq!(
        streams.open((), Bytes::from_static(GET), Fin::Last, Closing::WithResponse),
        Err(OpenError::Full)
    );
    receives(&mut streams, bytes(1, 1, 2, OK), MuxEvent::Changed(2));
    assert_eq!(
        streams.open((), Bytes::from_static(GET), Fin::Last, Closing::WithResponse),
        Ok(LIMITS.max_streams + 1)
    );
}

#[test]
fn an_agent_refuses_streams_beyond_the_limit() {
    let mut streams = agent();
    let opened = |stream| MuxEvent::Opened { stream, head: Bytes::from_static(GET), fin: Fin::Last };
    for stream in 1..=4 {
        receives(&mut streams, bytes(1, 1, stream, GET), opened(stream));
        streams.accept(stream, (), Fin::Last);
    }
    receives(&mut streams, bytes(1, 0, 5, GET), MuxEvent::Reset(5));
    sends(&mut streams, bytes(3, 0, 5, b"\x05more streams than `max_streams`"));
    // Its body crossed on the wire.
    receives(&mut streams, bytes(2, 1, 5, b"body"), MuxEvent::Nothing);
    assert_eq!((streams.next_message(), streams.open_count()), (None, 4));
    // The end of a response makes room.
    streams.send_head(2, Bytes::from_static(OK), Fin::Last).unwrap();
    receives(&mut streams, bytes(1, 1, 6, GET), opened(6));
}

#[test]
fn streams_that_an_agent_does_not_serve_any_more_are_refused() {
    let mut streams = gateway();
    for _ in 0..2 {
        streams.open((), Bytes::from_static(GET), Fin::Last, Closing::WithResponse).unwrap();
    }
    let event = MuxEvent::GoAway { last: 1, text: "stopping".to_owned() };
    receives(&mut streams, bytes(5, 0, 1, b"stopping"), event);
    assert!(matches!(streams.end(2), Some(StreamEnd::ByPeer(Reset { code: ResetCode::Refused, .. }))));
    assert_eq!(streams.end(1), None);
    receives(&mut streams, bytes(1, 1, 1, OK), MuxEvent::Changed(1));
}

#[test]
fn nothing_is_opened_after_the_agent_has_taken_leave_however_far_away_the_last_stream_is() {
    let mut streams = gateway();
    streams.open((), Bytes::from_static(GET), Fin::Last, Closing::WithResponse).unwrap();
    let event = MuxEvent::GoAway { last: u32::MAX, text: String::new() };
    receives(&mut streams, bytes(5, 0, u32::MAX, b""), event);
    assert_eq!(streams.end(1), None);
    assert_eq!(
        streams.open((), Bytes::from_static(GET), Fin::Last, Closing::WithResponse),
        Err(OpenError::GoesAway)
    );
}

#[test]
fn a_lost_connection_ends_what_has_not_ended() {
    let mut streams = gateway();
    for _ in 0..2 {
        streams.open((), Bytes::from_static(GET), Fin::Last, Closing::WithResponse).unwrap();
    }
    receives(&mut streams, bytes(1, 0, 1, OK), MuxEvent::Changed(1));
    receives(&mut streams, bytes(2, 1, 1, b"whole"), MuxEvent::Changed(1));
    assert_eq!(streams.lose(), [2]);
    assert_eq!(streams.take_head(1), Ok(Some(Bytes::from_static(OK))));
    reads(&mut streams, 1, Ok(b"whole"));
    assert_eq!(streams.take_head(2), Err(StreamEnd::Lost));
    assert_eq!(
        streams.open((), Bytes::from_static(GET), Fin::Last, Closing::WithResponse),
        Err(OpenError::Lost)
    );
    receives(&mut streams, bytes(2, 1, 2, b"late"), MuxEvent::Nothing);
    assert_eq!((streams.next_message(), streams.is_idle(), streams.open_count()), (None, true, 0));
}

// ---------------------------------------------------------------------------------------------- properties

/// What happens next, on one of four streams.
#[derive(Debug, Clone)]
enum Act {
    Open,
    Send {
        side: Side,
        index: usize,
        bytes: usize,
        end: bool,
    },
    Read {
        side: Side,
        index: usize,
        bytes: usize,
    },
    Reset {
        side: Side,
        index: usize,
    },
    /// So many messages reach the other side.
    Deliver {
        side: Side,
        messages: usize,
    },
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Agent), Just(Side::Gateway)]
}

fn act() -> impl Strategy<Value = Act> {
    let index = 0..4usize;
    prop_oneof![
        1 => Just(Act::Open),
        6 => (side(), index.clone(), 0..2000usize, prop::bool::weighted(0.1))
            .prop_map(|(side, index, bytes, end)| Act::Send { side, index, bytes, end }),
        4 => (side(), index.clone(), 1..6000usize)
            .prop_map(|(side, index, bytes)| Act::Read { side, index, bytes }),
        1 => (side(), index).prop_map(|(side, index)| Act::Reset { side, index }),
        6 => (side(), 1..20usize).prop_map(|(side, messages)| Act::Deliver { side, messages }),
    ]
}

/// One side, and what its callers know.
struct End {
    streams: Streams<()>,
    /// Bytes sent and received on each stream, and whether each direction has ended.
    sent: Vec<(usize, bool)>,
    read: Vec<(usize, bool)>,
}

impl End {
    fn new(side: Side) -> Self {
        // Small enough to be reached often.
        let limits = MuxLimits { window: 2000, ..LIMITS };
        End { streams: Streams::new(side, limits), sent: Vec::new(), read: Vec::new() }
    }

    fn add(&mut self) {
        self.sent.push((0, false));
        self.read.push((0, false));
    }
}

/// The byte at a place of a stream's body.
fn pattern(stream: usize, at: usize) -> u8 {
    (stream * 7 + at * 13) as u8
}

#[derive(Default)]
struct Wire(std::collections::VecDeque<Bytes>);

struct World {
    gateway: End,
    agent: End,
    to_agent: Wire,
    to_gateway: Wire,
    is_reset: Vec<bool>,
}

impl World {
    fn new() -> Self {
        World {
            gateway: End::new(Side::Gateway),
            agent: End::new(Side::Agent),
            to_agent: Wire::default(),
            to_gateway: Wire::default(),
            is_reset: Vec::new(),
        }
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Gateway => &mut self.gateway,
            Side::Agent => &mut self.agent,
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Open => {
                if self
                    .gateway
                    .streams
                    .open((), Bytes::from_static(GET), Fin::More, Closing::WithBoth)
                    .is_ok()
                {
                    self.gateway.add();
                    self.is_reset.push(false);
                }
            }
            Act::Send { side, index, bytes, end } => {
                let party = self.end(side);
                let stream = index as u32 + 1;
                let Some(&(sent, ended)) = party.sent.get(index) else { return };
                let Ok(room) = party.streams.capacity(stream) else { return };
                let length = bytes.min(room);
                if ended || (length == 0 && !end) {
                    return;
                }
                let mut buffer = DataBuffer::new(length);
                for (at, byte) in buffer.space().iter_mut().enumerate() {
                    *byte = pattern(index, sent + at);
                }
                let fin = if end { Fin::Last } else { Fin::More };
                party.streams.send_data(stream, buffer, length, fin).unwrap();
                party.sent[index] = (sent + length, end);
            }
            Act::Read { side, index, bytes } => {
                let party = self.end(side);
                let Some(&(read, ended)) = party.read.get(index) else { return };
                let mut buffer = vec![0; bytes];
                match party.streams.read(index as u32 + 1, &mut buffer) {
                    Ok(ReadOutcome::Data(length)) => {
                        assert!(!ended, "bytes after the end");
                        for (at, byte) in buffer[..length].iter().enumerate() {
                            assert_eq!(*byte, pattern(index, read + at));
                        }
                        party.read[index].0 += length;
                    }
                    Ok(ReadOutcome::Eof) => party.read[index].1 = true,
                    Ok(ReadOutcome::WouldBlock) | Err(_) => {}
                }
            }
            Act::Reset { side, index } => {
                let party = self.end(side);
                if party.sent.len() > index {
                    party.streams.reset(index as u32 + 1, Reset::new(ResetCode::Cancelled, ""));
                    self.is_reset[index] = true;
                }
            }
            Act::Deliver { side, messages } => (0..messages).for_each(|_| {
                self.deliver(side);
            }),
        }
    }

    /// Lets one message reach this side. False when there was none.
    fn deliver(&mut self, side: Side) -> bool {
        let (from, to, wire) = if side == Side::Gateway {
            (&mut self.agent, &mut self.gateway, &mut self.to_gateway)
        } else {
            (&mut self.gateway, &mut self.agent, &mut self.to_agent)
        };
        while let Some((message, _)) = from.streams.next_message() {
            wire.0.push_back(message.into());
        }
        let Some(message) = wire.0.pop_front() else { return false };
        match to.streams.receive(&message).expect("neither side breaks the protocol") {
            MuxEvent::Opened { stream, fin, .. } => {
                to.streams.accept(stream, (), fin);
                to.add();
                to.streams.send_head(stream, Bytes::from_static(SWITCH), Fin::More).unwrap();
            }
            MuxEvent::Reset(stream) => assert!(self.is_reset[stream as usize - 1], "nobody reset it"),
            _ => {}
        }
        true
    }

    /// Delivers and reads until nothing moves any more.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for side in [Side::Gateway, Side::Agent] {
                while self.deliver(side) {
                    moved = true;
                }
                for index in 0..self.end(side).read.len() {
                    let before = self.end(side).read[index];
                    self.act(&Act::Read { side, index, bytes: 100_000 });
                    moved |= self.end(side).read[index] != before;
                }
            }
            if !moved {
                return;
            }
        }
    }
}

proptest! {
    /// Whatever the order of things: no side ever breaks the protocol, every byte arrives in its place, and
    /// what was ended in good order arrives whole.
    #[test]
    fn two_sides_understand_each_other(acts in prop::collection::vec(act(), 0..300)) {
        let mut world = World::new();
        acts.iter().for_each(|act| world.act(act));
        world.settle();
        for index in (0..world.agent.sent.len()).filter(|&index| !world.is_reset[index]) {
            prop_assert_eq!(world.agent.read[index], world.gateway.sent[index]);
            prop_assert_eq!(world.gateway.read[index], world.agent.sent[index]);
        }
    }

    /// Arbitrary messages change nothing that they should not: no panic, no more memory than the windows.
    #[test]
    fn arbitrary_messages_are_survived(
        messages in prop::collection::vec((0..7u8, any::<u8>(), 0..5u32, prop::collection::vec(any::<u8>(), 0..40)), 0..200),
        is_gateway in any::<bool>(),
    ) {
        let mut streams = if is_gateway { gateway() } else { agent() };
        if is_gateway {
            for _ in 0..3 {
                let _ = streams.open((), Bytes::from_static(GET), Fin::More, Closing::WithResponse);
            }
        }
        for (kind, flags, stream, payload) in messages {
            match streams.receive(&bytes(kind, flags, stream, &payload)) {
                Ok(MuxEvent::Opened { stream, fin, .. }) => {
                    streams.accept(stream, (), fin);
                }
                Ok(_) => {}
                Err(ProtocolError(what)) => prop_assert!(!what.is_empty()),
            }
            prop_assert!(streams.open_count() <= 4);
        }
    }

    /// What is written can be read again, and no bytes make the decoder panic.
    #[test]
    fn frames_are_read_as_they_were_written(stream in 1..u32::MAX, end in any::<bool>(), body in prop::collection::vec(any::<u8>(), 0..100), grant in any::<u32>(), text in ".{0,50}") {
        let (body, fin) = (Bytes::from(body), if end { Fin::Last } else { Fin::More });
        prop_assert!(Frame::decode(&body).is_ok() || body.len() < 6 || body[2..6] == [0; 4]);
        for frame in [
            Frame::Head { stream, fin, head: body.clone() },
            Frame::Data { stream, fin, body },
            Frame::Reset { stream, reset: Reset::new(ResetCode::TooLarge, text.clone()) },
            Frame::Window { stream, grant },
            Frame::GoAway { last: stream, text },
        ] {
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }
    }
}
