//! The responder of one request in an envelope.

use http::Method;

use super::SessionEnd;
use super::handle::{EncodedReply, SessionHandle, WireEvent};
use crate::guard::{Recipient, Refusal};
use crate::protocol::{RequestId, RequestName, ResponseMessage, answer};
use crate::service::FORWARD_FAILED;

/// The responder of one request in an envelope, which answers it exactly once.
///
/// Answering consumes the ticket; dropping it unanswered answers with an `error`, so that no request is ever without an
/// answer. It holds the queue of its own session: an answer cannot reach another one.
#[derive(Debug)]
pub(crate) struct Ticket {
    session: SessionHandle,
    id: Option<RequestId>,
    name: RequestName,
    place: Option<u64>,
    is_answered: bool,
}

impl Ticket {
    /// Records a request that came in. The ticket is the means of its one answer.
    pub(super) fn issue(session: &SessionHandle, id: Option<RequestId>) -> Self {
        let (count, place) = session.count_request(id.as_ref());
        let name = session.name(id.as_ref().and_then(RequestId::as_u64).unwrap_or(count));
        Ticket { session: session.clone(), id, name, place, is_answered: false }
    }

    /// Whether the session has ended, and with it the wait for this answer.
    pub(super) fn is_dead(&self) -> bool {
        !self.session.is_alive()
    }

    /// The session that waits for the answer.
    pub(super) fn session(&self) -> &SessionHandle {
        &self.session
    }

    /// The request's ID, which its answer must carry.
    pub(super) fn id(&self) -> Option<&RequestId> {
        self.id.as_ref()
    }

    /// The request's name, for people.
    pub(super) fn name(&self) -> RequestName {
        self.name
    }

    /// Takes the room for an encoded envelope. Blocks while there is none. `None` when the session has ended.
    pub(super) fn reserve(&self, envelope: Vec<u8>) -> Option<EncodedReply> {
        let room = self.session.credits().reserve(self.place, envelope.len())?;
        Some(EncodedReply { place: self.place, text: envelope.into(), room: Some(room) })
    }

    /// Answers with an envelope that has its room.
    pub(super) fn send(mut self, reply: EncodedReply) {
        self.is_answered = true;
        self.session.tell(WireEvent::Answer(reply));
    }

    /// Answers with an encoded envelope. Blocks while there is no room for it. False when the session has ended.
    pub(super) fn answer(self, envelope: Vec<u8>) -> bool {
        let reply = self.reserve(envelope);
        let is_sent = reply.is_some();
        if let Some(reply) = reply {
            self.send(reply);
        }
        is_sent
    }

    /// Answers with the agent's own response, as [`answer`](Self::answer) does: for threads that may wait.
    pub(super) fn answer_refusal(self, refusal: &Refusal, method: &Method, recipient: &Recipient) -> bool {
        let envelope = refusal_envelope(self.id.as_ref(), recipient, refusal, method);
        self.answer(envelope)
    }

    /// Answers with the agent's own response. Never blocks. Fails when too many such answers wait: the session has to
    /// end then.
    pub(super) fn refuse(
        mut self,
        refusal: &Refusal,
        method: &Method,
        recipient: &Recipient,
    ) -> Result<(), SessionEnd> {
        let envelope = refusal_envelope(self.id.as_ref(), recipient, refusal, method);
        self.answer_as_control(envelope)
    }

    fn answer_as_control(&mut self, envelope: Vec<u8>) -> Result<(), SessionEnd> {
        self.is_answered = true;
        // Answers with a place are limited by number, and may have to wait for it for long.
        let (room, fits) = match self.place {
            Some(_) => (None, Ok(())),
            None => {
                let (room, fits) = self.session.credits().reserve_control(envelope.len());
                (Some(room), fits)
            }
        };
        self.session.tell(WireEvent::Answer(EncodedReply { place: self.place, text: envelope.into(), room }));
        fits
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_answered {
            let text = format!("{FORWARD_FAILED}: the agent failed while answering it");
            let envelope = answer::encode_error(self.id.as_ref(), &text);
            // A gateway that does not read is noticed by the next message that it sends.
            let _ = self.answer_as_control(envelope);
        }
    }
}

/// The envelope of a response that the agent itself makes, to a request with this method.
fn refusal_envelope(
    id: Option<&RequestId>,
    recipient: &Recipient,
    refusal: &Refusal,
    method: &Method,
) -> Vec<u8> {
    let message = refusal.message();
    let (head, body) = refusal.response(recipient).into_parts();
    let body = body.as_bytes().filter(|_| *method != Method::HEAD).unwrap_or_default();
    let now = time::OffsetDateTime::now_utc();
    ResponseMessage { id, head: &head, body, message: Some(&message) }
        .encode(now, usize::MAX)
        .unwrap_or_else(|error| answer::encode_error(id, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tungstenite::Bytes;

    use super::*;
    use crate::session::credit::Reservation;
    use crate::session::handle::{Inbox, channel};

    /// The next answer's text.
    #[track_caller]
    fn next(inbox: &Inbox) -> (Bytes, Option<Reservation>) {
        match inbox.events.recv() {
            Ok(WireEvent::Answer(answer)) => (answer.text, answer.room),
            other => panic!("{other:?}"),
        }
    }

    /// A program of which nothing is known.
    fn recipient() -> Recipient {
        Recipient::unknown(RequestName { connection: 1, number: 1 })
    }

    #[test]
    fn who_waits_for_room_goes_on_when_there_is_some() {
        let inbox = channel(10);
        let session = inbox.session.clone();
        let id = RequestId::from(1);
        assert!(Ticket::issue(&session, Some(id.clone())).answer(vec![b'a'; 20]));
        let waiting = Ticket::issue(&session, Some(id));
        let waiter = thread::spawn(move || waiting.answer(vec![b'b'; 20]));
        let (text, room) = next(&inbox);
        assert_eq!(text, [b'a'; 20].as_slice());
        drop(room);
        assert_eq!(next(&inbox).0, [b'b'; 20].as_slice());
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn who_waits_for_room_is_woken_when_the_session_dies() {
        let inbox = channel(10);
        let session = inbox.session.clone();
        let ticket = || Ticket::issue(&session, Some(RequestId::from(1)));
        let (first, second, third) = (ticket(), ticket(), ticket());
        assert!(first.answer(vec![0; 20]));
        let waiter = thread::spawn(move || second.answer(vec![0; 20]));
        drop(inbox);
        assert!(!waiter.join().unwrap());
        assert!(third.is_dead() && !third.answer(Vec::new()));
    }

    #[test]
    fn a_refusal_by_a_worker_waits_for_room_as_any_answer_does() {
        let inbox = channel(10);
        let session = inbox.session.clone();
        let ticket = || Ticket::issue(&session, Some(RequestId::from(1)));
        assert!(ticket().answer(vec![0; 20]));
        let waiting = ticket();
        let waiter =
            thread::spawn(move || waiting.answer_refusal(&Refusal::QueueFull, &Method::GET, &recipient()));
        let (_, room) = next(&inbox);
        assert!(room.as_ref().is_some_and(|room| !room.is_control()));
        drop(room);
        let (_, room) = next(&inbox);
        assert!(room.is_some_and(|room| !room.is_control()));
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn a_ticket_that_is_dropped_answers() {
        let inbox = channel(10);
        let session = inbox.session.clone();
        drop(Ticket::issue(&session, Some(RequestId::from(7))));
        let (text, room) = next(&inbox);
        assert!(text.starts_with(br#"{"message_type":"error","id":7,"payload":"Failed to forward"#));
        assert!(room.is_some_and(|room| room.is_control()));
    }

    #[test]
    fn refusals_that_have_a_place_are_limited_by_number_alone() {
        let inbox = channel(10);
        let session = inbox.session.clone();
        for _ in 0..20_000 {
            assert!(
                Ticket::issue(&session, None).refuse(&Refusal::QueueFull, &Method::GET, &recipient()).is_ok()
            );
        }
        assert!(next(&inbox).1.is_none());
        let refuse = || {
            Ticket::issue(&session, Some(RequestId::from(1))).refuse(
                &Refusal::QueueFull,
                &Method::GET,
                &recipient(),
            )
        };
        assert!((0..20_000).any(|_| refuse().is_err()));
    }
}
