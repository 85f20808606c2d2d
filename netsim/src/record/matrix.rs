//! Slices of a round-trip matrix.

use thalweg::id::NodeId;

use super::RecordError;

/// The first bytes of the file.
pub(super) const MAGIC: &[u8] = b"RTTM";
const HEAD: usize = 16;
/// As many as there are numbers for nodes.
const NODES: usize = NodeId::MAX as usize;
/// A round trip above this (ms, a day) was never measured.
const RTT_LIMIT: f32 = 86_400_000.0;
/// A row is measured anew where more than this share of it differs from the slice before.
///
/// A node measures all its links in one sweep, so a new row differs nearly everywhere.
const RENEWED: f64 = 0.2;

/// Round trips between nodes, slice after slice.
#[derive(Clone, Debug)]
pub struct Matrices {
    nodes: usize,
    /// Numbers of the slices, as in the files, rising.
    numbers: Vec<u32>,
    /// Values of each slice, ms, `[from][to]`.
    slices: Vec<Vec<f32>>,
    /// For each slice: which rows were measured anew in it.
    renewed: Vec<Vec<bool>>,
}

impl Matrices {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() < HEAD {
            return Err(format!("{} bytes where the head alone has {HEAD}", bytes.len()));
        }
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (first, count, nodes) = (word(4), word(8), word(12) as usize);
        if !(2..=NODES).contains(&nodes) {
            return Err(format!("{nodes} nodes; 2 to {NODES} can be"));
        }
        if count == 0 || first.checked_add(count).is_none() {
            return Err(format!("{count} slices from {first} on cannot be"));
        }
        let wants = u128::from(count) * (nodes as u128).pow(2) * 4 + HEAD as u128;
        if bytes.len() as u128 != wants {
            let has = bytes.len();
            return Err(format!("{has} bytes where {count} slices of {nodes} nodes take {wants}"));
        }
        let mut matrices = Self {
            nodes,
            numbers: (first..first + count).collect(),
            slices: Vec::with_capacity(count as usize),
            renewed: Vec::new(),
        };
        for (at, slice) in bytes[HEAD..].chunks_exact(nodes * nodes * 4).enumerate() {
            let cells = slice.chunks_exact(4);
            let values: Vec<f32> =
                cells.map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
            if let Some(place) = values.iter().position(|v| !(0.0..=RTT_LIMIT).contains(v)) {
                let (from, to) = (place / nodes, place % nodes);
                let (slice, value) = (first as usize + at, values[place]);
                return Err(format!(
                    "slice {slice}, from {from} to {to}: {value} is no round trip in ms"
                ));
            }
            matrices.slices.push(values);
        }
        Ok(matrices)
    }

    /// One record out of several files' slices, in order of their numbers.
    pub(super) fn join(mut files: Vec<Self>) -> Result<Self, RecordError> {
        files.sort_by_key(|m| m.numbers.first().copied());
        let mut files = files.into_iter();
        let Some(mut all) = files.next() else {
            return Err(RecordError::Mixed("no matrices".into()));
        };
        for next in files {
            if next.nodes != all.nodes {
                let (a, b) = (all.nodes, next.nodes);
                return Err(RecordError::Mixed(format!("matrices of {a} and of {b} nodes")));
            }
            if let (Some(last), Some(first)) = (all.numbers.last(), next.numbers.first())
                && first <= last
            {
                return Err(RecordError::Mixed(format!("slice {first} stands in two files")));
            }
            all.numbers.extend(next.numbers);
            all.slices.extend(next.slices);
        }
        for at in 0..all.slices.len() {
            let rows = (0..all.nodes).map(|row| all.is_new(at, row)).collect();
            all.renewed.push(rows);
        }
        Ok(all)
    }

    /// Whether a row is more than the repetition of the slice before.
    fn is_new(&self, at: usize, row: usize) -> bool {
        let Some(before) = at.checked_sub(1) else { return true };
        let cells = row * self.nodes..(row + 1) * self.nodes;
        let pairs = self.slices[at][cells.clone()].iter().zip(&self.slices[before][cells]);
        let differ = pairs.filter(|(new, old)| new != old).count();
        differ as f64 > RENEWED * (self.nodes - 1) as f64
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The numbers of the slices, rising; those missing between files are not among them.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Where a slice stands in [`Matrices::numbers`].
    pub fn position(&self, number: u32) -> Option<usize> {
        self.numbers.binary_search(&number).ok()
    }

    /// What stands in a slice, ms; `None` where nothing was measured.
    pub fn value(&self, at: usize, from: usize, to: usize) -> Option<f64> {
        let value = self.slices[at][from * self.nodes + to];
        (from != to && value > 0.0).then_some(f64::from(value))
    }

    /// Whether a row was measured anew in a slice.
    pub fn renewed(&self, at: usize, row: usize) -> bool {
        self.renewed[at][row]
    }

    /// Mean number of slices from one measurement of a row to the next.
    pub fn between(&self) -> f64 {
        let slices = self.slices.len().saturating_sub(1) * self.nodes;
        let fresh = self.renewed.iter().skip(1).flatten().filter(|new| **new).count();
        if fresh == 0 { 1.0 } else { slices as f64 / fresh as f64 }
    }
}
