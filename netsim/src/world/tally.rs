//! What nodes say to each other beside their users' packets, counted by what it is for.

use thalweg::wire::Kind;

/// What a control message costs beside its own bytes: UDP and IPv4 28, QUIC's short header with an
/// eight-byte connection ID and the packet number 13, its tag 16, the stream frame's head 8; and a share of
/// the acknowledgement that comes back, a datagram of 65 bytes for every second one.
pub(super) const MESSAGE_OVERHEAD: u64 = 28 + 13 + 16 + 8 + 32;

/// The topic of digests and wants that speak of link state.
const LINK_STATE: u8 = 1;

/// Datagrams and messages of all nodes so far, by kind. Bytes as they are on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Probes and their answers.
    pub probes: u64,
    /// Their bytes.
    pub probe_bytes: u64,
    /// Questions whether a link works, and their answers.
    pub hellos: u64,
    /// Their bytes.
    pub hello_bytes: u64,
    /// Messages of link state: records, and digests and wants of them.
    pub link_state: u64,
    /// Their bytes, with `MESSAGE_OVERHEAD` each.
    pub link_state_bytes: u64,
    /// Of the messages of link state: records.
    pub records: u64,
    /// Other messages: introductions, members, farewells.
    pub others: u64,
    /// Their bytes, with `MESSAGE_OVERHEAD` each.
    pub other_bytes: u64,
}

impl Said {
    /// A node sent a datagram.
    pub(super) fn on_datagram(&mut self, bytes: &[u8], outer: usize) {
        let whole = (bytes.len() + outer) as u64;
        match bytes.first().map(|kind| Kind::parse(*kind)) {
            Some(Ok(Kind::Probe)) => {
                self.probes += 1;
                self.probe_bytes += whole;
            }
            Some(Ok(Kind::Hello)) => {
                self.hellos += 1;
                self.hello_bytes += whole;
            }
            _ => {}
        }
    }

    /// A node said something on a stream.
    pub(super) fn on_message(&mut self, bytes: &[u8]) {
        let whole = bytes.len() as u64 + MESSAGE_OVERHEAD;
        let about = bytes.get(2).copied();
        let digest = matches!(bytes.first(), Some(4 | 5));
        let record = bytes.first() == Some(&3);
        if record || digest && about == Some(LINK_STATE) {
            self.link_state += 1;
            self.link_state_bytes += whole;
            self.records += u64::from(record);
        } else {
            self.others += 1;
            self.other_bytes += whole;
        }
    }

    /// What was said since an earlier count.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            probes: self.probes - earlier.probes,
            probe_bytes: self.probe_bytes - earlier.probe_bytes,
            hellos: self.hellos - earlier.hellos,
            hello_bytes: self.hello_bytes - earlier.hello_bytes,
            link_state: self.link_state - earlier.link_state,
            link_state_bytes: self.link_state_bytes - earlier.link_state_bytes,
            records: self.records - earlier.records,
            others: self.others - earlier.others,
            other_bytes: self.other_bytes - earlier.other_bytes,
        }
    }
}
