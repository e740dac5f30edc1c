//! Arbitrary bytes into every decoder, and as frames into both sides of mux/2.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tungstenite::Bytes;
use tunnel_agent::unversioned::http1::{
    Decoder, Framing, HEAD_MAX, ResponseHead, mend_head, parse_response,
};
use tunnel_agent::unversioned::mux::{
    Closing, DataBuffer, Fin, Frame, MuxEvent, MuxLimits, RequestHead, Reset, ResetCode, Side, Streams,
    Welcome, decode_response_head,
};
use tunnel_agent::unversioned::protocol::{DecodedAnswer, Envelope, Handshake, request};

const LIMITS: MuxLimits = MuxLimits { window: 16 << 10, max_streams: 4, max_frame: 1 << 10 };

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    match choice % 4 {
        0 => texts(data),
        1 => heads(data),
        2 => body(data),
        _ => frames(data),
    }
});

fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Handshake::decode(text);
    let _ = Welcome::decode(text);
    if let Some(envelope) = Envelope::parse(text) {
        let payload = envelope.payload();
        let _ = request::decode(&envelope, payload.as_deref());
        let _ = DecodedAnswer::decode(&envelope);
    }
}

fn heads(data: &[u8]) {
    let _ = RequestHead::parse(data);
    let _ = decode_response_head(data);
    let mut head = data.to_vec();
    if mend_head(&mut head).is_ok() {
        if let Ok(Some((length, response))) = parse_response(&head, HEAD_MAX) {
            assert!(length <= head.len());
            let _ = ResponseHead::judge(response, &http::Method::GET);
        }
    }
}

/// The body is the same however it arrives.
fn body(data: &[u8]) {
    let decode = |piece: usize| {
        let mut decoder = Decoder::new(Framing::Chunked);
        let (mut body, mut used, mut there) = (Vec::new(), 0, 0);
        loop {
            let step = decoder.decode(&data[used..there], 7).ok()?;
            body.extend_from_slice(&data[used + step.skip..used + step.skip + step.take]);
            used += step.skip + step.take;
            if decoder.is_done() || (step.take == 0 && there == data.len()) {
                return Some((body, decoder.is_done()));
            }
            if step.take == 0 {
                there = data.len().min(there + piece);
            }
        }
    };
    let (whole, pieces) = (decode(data.len().max(1)), decode(1));
    // In pieces more may be seen before what is wrong.
    if let (Some(whole), Some(pieces)) = (whole, pieces) {
        assert_eq!(whole, pieces);
    }
}

/// Messages, each behind its length in one byte, to either side; with calls in between.
fn frames(mut data: &[u8]) {
    let mut streams: [Streams<()>; 2] =
        [Streams::new(Side::Agent, LIMITS), Streams::new(Side::Gateway, LIMITS)];
    while let [to, length, rest @ ..] = data {
        let (message, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        data = rest;
        let side = &mut streams[usize::from(to & 1)];
        let stream = u32::from(to >> 4);
        match (to >> 1) & 7 {
            0 => side.reset(stream, Reset::new(ResetCode::Internal, "")),
            1 => drop(side.read(stream, &mut [0; 100])),
            2 if to & 1 == 1 => {
                // Without an end: below, more is sent on it.
                let closing = if to & 0x80 == 0 { Closing::WithResponse } else { Closing::WithBoth };
                let _ = side.open((), Bytes::copy_from_slice(message), Fin::More, closing);
            }
            3 => {
                if let Ok(room) = side.capacity(stream)
                    && to & 1 == 1
                {
                    let length = room.min(message.len());
                    let _ =
                        side.send_data(stream, DataBuffer::copy_of(&message[..length]), length, Fin::More);
                }
            }
            _ => {
                let message = Bytes::copy_from_slice(message);
                if let Ok(frame) = Frame::decode(&message) {
                    let again = Frame::decode(&frame.encode());
                    assert!(
                        matches!(frame, Frame::Malformed { .. } | Frame::Unknown)
                            || again.as_ref() == Ok(&frame)
                    );
                }
                match side.receive(&message) {
                    Ok(MuxEvent::Opened { stream, fin, .. }) => {
                        side.accept(stream, (), fin);
                    }
                    Ok(_) => {}
                    // The connection does not survive it.
                    Err(_) => return,
                }
            }
        }
        assert!(side.open_count() <= 64 * 1024);
        while side.next_message().is_some() {}
        assert!(side.is_idle());
        assert_eq!(side.control_bytes(), 0);
    }
}
