//! The records within their budget: the oldest go first. Pure.

use std::collections::VecDeque;

use super::entry::RecordEntry;

/// The records that are kept in any case of memory, at most.
const ENTRIES_MAX: usize = 10_000;

/// Records whose memory is kept for new ones, at most.
const SPARES_MAX: usize = 16;

/// Records that made room, and are to be dropped.
#[derive(Default)]
pub(super) struct Gone(VecDeque<Box<RecordEntry>>);

/// Records, by their numbers.
pub(super) struct Ring {
    /// Boxed: they are large, and move.
    entries: VecDeque<Box<RecordEntry>>,
    spares: VecDeque<Box<RecordEntry>>,
    /// The number of the oldest record, or of the next one where there is none.
    first: u64,
    used: usize,
    max: usize,
    evicted: u64,
    version: u64,
}

impl Ring {
    /// A ring whose records take up at most so many bytes.
    pub(super) fn new(max: usize) -> Self {
        Ring {
            entries: VecDeque::new(),
            spares: VecDeque::new(),
            first: 1,
            used: 0,
            max,
            evicted: 0,
            version: 0,
        }
    }

    /// Memory of a record that made room, for a new one.
    pub(super) fn take_spare(&mut self) -> Option<Box<RecordEntry>> {
        self.spares.pop_back()
    }

    /// Adds a record. Returns its number, and the records that made room: to be dropped where nothing waits for that.
    pub(super) fn push(&mut self, mut entry: Box<RecordEntry>) -> (u64, Gone) {
        let id = self.first + self.entries.len() as u64;
        entry.edit().id = id;
        self.version += 1;
        entry.version = self.version;
        self.used += entry.bytes();
        self.entries.push_back(entry);
        (id, self.make_room())
    }

    /// Changes a record, if it is still there. Returns the records that made room.
    pub(super) fn change(&mut self, id: u64, change: impl FnOnce(&mut RecordEntry)) -> Gone {
        let Some(index) = self.index(id) else { return Gone::default() };
        let entry = &mut self.entries[index];
        let before = entry.bytes();
        change(entry);
        self.version += 1;
        entry.version = self.version;
        self.used = self.used + entry.bytes() - before;
        self.make_room()
    }

    /// Forgets all records. Numbers go on.
    pub(super) fn clear(&mut self) {
        self.first += self.entries.len() as u64;
        self.entries.clear();
        self.used = 0;
        self.version += 1;
    }

    /// The record with this number.
    pub(super) fn get(&self, id: u64) -> Option<&RecordEntry> {
        self.index(id).map(|index| &*self.entries[index])
    }

    /// All records, the oldest first.
    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &RecordEntry> {
        self.entries.iter().map(|entry| &**entry)
    }

    /// The records with lower numbers than this, the newest first.
    #[cfg(feature = "inspect")]
    pub(super) fn entries_before(&self, id: u64) -> impl Iterator<Item = &RecordEntry> {
        let end =
            usize::try_from(id.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.entries.len());
        self.entries.range(..end).rev().map(|entry| &**entry)
    }

    fn index(&self, id: u64) -> Option<usize> {
        let index = usize::try_from(id.checked_sub(self.first)?).ok()?;
        (index < self.entries.len()).then_some(index)
    }

    fn make_room(&mut self) -> Gone {
        let mut gone = Gone::default();
        while self.used > self.max || self.entries.len() > ENTRIES_MAX {
            let Some(mut oldest) = self.entries.pop_front() else { break };
            self.used -= oldest.bytes();
            self.first += 1;
            self.evicted += 1;
            if self.spares.len() < SPARES_MAX {
                oldest.recycle();
                self.spares.push_back(oldest);
            } else {
                gone.0.push_back(oldest);
            }
        }
        gone
    }
}

#[cfg_attr(not(feature = "inspect"), allow(dead_code, reason = "the admin server asks"))]
impl Ring {
    /// The number of changes so far.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The number of the oldest record, or of the next one where there is none.
    pub(super) fn first_id(&self) -> u64 {
        self.first
    }

    /// Bytes that the records take up.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Records that went to make room.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::inspect::entry::{BodySide, ResponseContent};
    use crate::inspect::record::InspectedBody;

    const SECOND: Duration = Duration::from_secs(1);

    fn exchange(url: &str) -> Box<RecordEntry> {
        let mut entry = Box::new(RecordEntry::empty());
        entry.begin(|exchange| exchange.url.push_str(url));
        entry
    }

    fn urls(ring: &Ring) -> Vec<&str> {
        ring.entries().map(|entry| entry.peek().url.as_str()).collect()
    }

    /// The bytes that the records take up, counted anew.
    fn counted(ring: &Ring) -> usize {
        ring.entries().map(RecordEntry::bytes).sum()
    }

    #[test]
    fn the_oldest_records_make_room() {
        let one = exchange("/1").bytes();
        let mut ring = Ring::new(3 * one + 200);
        for url in ["/1", "/2", "/3"] {
            ring.push(exchange(url));
        }
        assert_eq!(urls(&ring), ["/1", "/2", "/3"]);
        assert_eq!(ring.push(exchange("/4")).0, 4);
        assert_eq!((urls(&ring), ring.first_id(), ring.evicted()), (vec!["/2", "/3", "/4"], 2, 1));
        // A record that grows pushes out older ones, and in the end itself.
        ring.change(4, |entry| entry.append(BodySide::Request, &[7; 400], 400, SECOND));
        assert_eq!(urls(&ring), ["/3", "/4"]);
        ring.change(3, |entry| entry.append(BodySide::Request, &vec![7; one], one, SECOND));
        assert_eq!(urls(&ring), ["/4"]);
        // One that is gone records nothing more.
        ring.change(3, |entry| entry.append(BodySide::Request, &vec![7; one], one, SECOND));
        ring.change(4, |entry| entry.append(BodySide::Response, &vec![7; 3 * one], 3 * one, SECOND));
        assert_eq!((urls(&ring), ring.used(), ring.first_id()), (vec![], 0, 5));
        assert_eq!(ring.push(exchange("/5")).0, 5);
        ring.clear();
        assert_eq!((ring.push(exchange("/6")).0, ring.used()), (6, counted(&ring)));
    }

    #[test]
    fn memory_of_records_that_made_room_is_used_again_and_counted() {
        let mut ring = Ring::new(4000);
        for round in 0..100 {
            let mut entry = ring.take_spare().unwrap_or_else(|| exchange(""));
            assert!(entry.peek().url.is_empty() && entry.peek().response_body == InspectedBody::default());
            entry.begin(|exchange| exchange.url.push_str("/some/path"));
            let (id, _) = ring.push(entry);
            let size = if round % 3 == 0 { 2000 } else { 10 };
            ring.change(id, |entry| entry.append(BodySide::Response, &vec![7; size], 4000, SECOND));
            assert!(ring.used() == counted(&ring) && ring.used() <= 4000, "{round}");
        }
    }

    #[test]
    fn a_body_is_kept_up_to_its_limit_and_counted_beyond() {
        let mut ring = Ring::new(1 << 20);
        let (id, _) = ring.push(exchange("/"));
        for _ in 0..3 {
            ring.change(id, |entry| entry.append(BodySide::Response, b"hello", 12, SECOND));
        }
        let body = &ring.get(id).unwrap().peek().response_body;
        assert_eq!((body.bytes.as_slice(), body.length, body.is_cut()), (&b"hellohellohe"[..], 15, true));
        assert_eq!(ring.used(), counted(&ring));
    }

    #[test]
    fn of_messages_the_newest_are_kept() {
        let mut ring = Ring::new(1 << 20);
        let (id, _) = ring.push(exchange("/"));
        ring.change(id, |entry| entry.expect(ResponseContent::WebSocket, 400));
        for message in [b"\x81\x01a", b"\x81\x01b", b"\x81\x01c", b"\x81\x01d"] {
            ring.change(id, |entry| entry.append(BodySide::Response, message, 400, SECOND));
        }
        let kept = ring.get(id).unwrap().exchange();
        let texts: Vec<_> = kept.messages.iter().map(|message| message.data.as_slice()).collect();
        assert_eq!((texts, kept.messages_dropped), (vec![&b"b"[..], b"c", b"d"], 1));
        assert_eq!(ring.used(), counted(&ring));
    }

    #[test]
    fn each_change_has_a_version() {
        let mut ring = Ring::new(1 << 20);
        let (one, two) = (ring.push(exchange("/1")).0, ring.push(exchange("/2")).0);
        let seen = ring.version();
        ring.change(one, |entry| entry.edit().status = Some(200));
        let changed = |id| ring.get(id).unwrap().version > seen;
        assert!(changed(one) && !changed(two));
    }
}
