//! What happened lately, for people: a ring that forgets the oldest, and a door to follow it.
//!
//! Events are numbered without gaps, so a reader sees what it missed. Nobody who reads slowly can
//! hold anybody up: who is too far behind is told how many events are lost to it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::report::{EventRow, Events};

/// Events held: some hours of a quiet mesh, and the last minutes of a wild one, in about 200 KiB.
pub const HELD: usize = 1024;

/// The ring. Copies are the same ring.
#[derive(Clone, Debug, Default)]
pub struct EventLog(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ring: Mutex<Ring>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Ring {
    rows: VecDeque<EventRow>,
    last: u64,
}

impl EventLog {
    /// Something happened, at a time in seconds of Unix time.
    pub fn push(&self, at_unix_s: f64, kind: &str, node: Option<String>, text: String) {
        let mut ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.last += 1;
        let row = EventRow { number: ring.last, at_unix_s, kind: kind.to_owned(), node, text };
        if ring.rows.len() >= HELD {
            ring.rows.pop_front();
        }
        ring.rows.push_back(row);
        drop(ring);
        self.0.news.notify_waiters();
    }

    /// What came after this number, as far as it is held.
    pub fn after(&self, number: u64) -> Events {
        let ring = self.0.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.rows.front().map_or(ring.last + 1, |row| row.number);
        Events {
            lost: first.saturating_sub(number + 1),
            events: ring.rows.iter().filter(|row| row.number > number).cloned().collect(),
        }
    }

    /// As [`EventLog::after`], and waits until there is something.
    pub async fn next(&self, number: u64) -> Events {
        loop {
            // Asked for before looking, so that nothing between the two is missed.
            let news = self.0.news.notified();
            let events = self.after(number);
            if !events.events.is_empty() {
                return events;
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(events: &Events) -> Vec<u64> {
        events.events.iter().map(|row| row.number).collect()
    }

    #[test]
    fn the_ring_forgets_the_oldest_and_says_how_many() {
        let log = EventLog::default();
        assert_eq!(log.after(0), Events::default());
        for n in 0..HELD as u64 + 5 {
            log.push(n as f64, "link_up", None, n.to_string());
        }
        let all = log.after(0);
        assert_eq!((all.lost, all.events.len(), all.events[0].number), (5, HELD, 6));
        let last = HELD as u64 + 5;
        assert_eq!(
            (log.after(last - 2).lost, numbers(&log.after(last - 2))),
            (0, vec![last - 1, last])
        );
        assert_eq!(log.after(last), Events::default());
    }

    #[test]
    fn who_follows_gets_each_event_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let log = EventLog::default();
            log.push(1.0, "a", None, String::new());
            let writer = log.clone();
            let reader = tokio::spawn(async move {
                let mut seen = Vec::new();
                while seen.len() < 3 {
                    let news = log.next(seen.last().copied().unwrap_or(0)).await;
                    seen.extend(numbers(&news));
                }
                seen
            });
            tokio::task::yield_now().await;
            writer.push(2.0, "b", Some("lyon".into()), String::new());
            tokio::task::yield_now().await;
            writer.push(3.0, "c", None, String::new());
            assert_eq!(reader.await.unwrap(), [1, 2, 3]);
        });
    }
}
