//! The committed piece of real data: round-trip times between PlanetLab nodes.
//!
//! `data/planetlab.csv`: lines of `#` comment, then one line per node: its number in the source,
//! followed by its RTT in ms to every node of the lines before (a lower triangle; the source is
//! exactly symmetric). Source, licence and the rule of the piece: `data/README.md`.

use std::collections::BTreeMap;
use std::path::Path;

/// Round-trip times between numbered nodes. Symmetric, without gaps.
#[derive(Clone, Debug, PartialEq)]
pub struct RttMatrix {
    nodes: Vec<u32>,
    place: BTreeMap<u32, usize>,
    rows: Vec<Vec<f64>>,
}

/// Why there is no matrix, or no value in it.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not of this format.
    #[error("line {line}: {what}")]
    Format {
        /// Counted from one.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// A node it does not hold.
    #[error("the matrix holds no node {0}")]
    NoNode(u32),
}

const PLANETLAB: &str = include_str!("../data/planetlab.csv");

impl RttMatrix {
    /// The committed piece of PlanetLab.
    pub fn planetlab() -> Result<Self, DataError> {
        Self::parse(PLANETLAB)
    }

    /// `"planetlab"` is the committed piece, anything else a file in the folder `beside`.
    pub fn named(name: &str, beside: &Path) -> Result<Self, DataError> {
        if name == "planetlab" {
            return Self::planetlab();
        }
        let path = beside.join(name);
        let text = std::fs::read_to_string(&path)
            .map_err(|source| DataError::Read { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// Reads the text of a matrix file.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let mut matrix = Self { nodes: Vec::new(), place: BTreeMap::new(), rows: Vec::new() };
        for (i, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let wrong = |what: String| DataError::Format { line: i + 1, what };
            let mut cells = line.split(',').map(str::trim);
            let node = cells.next().unwrap_or_default();
            let node: u32 = node.parse().map_err(|_| wrong(format!("{node:?} is no node")))?;
            let row = cells
                .map(|cell| match cell.parse::<f64>() {
                    Ok(ms) if ms > 0.0 && ms.is_finite() => Ok(ms),
                    _ => Err(wrong(format!("{cell:?} is no RTT in ms"))),
                })
                .collect::<Result<Vec<_>, _>>()?;
            if row.len() != matrix.rows.len() {
                let (has, wants) = (row.len(), matrix.rows.len());
                return Err(wrong(format!("{has} values where the triangle wants {wants}")));
            }
            if matrix.place.insert(node, matrix.nodes.len()).is_some() {
                return Err(wrong(format!("node {node} stands there twice")));
            }
            matrix.nodes.push(node);
            matrix.rows.push(row);
        }
        Ok(matrix)
    }

    /// The nodes, in the file's order.
    pub fn nodes(&self) -> &[u32] {
        &self.nodes
    }

    /// Round-trip time between two nodes, ms; zero from a node to itself.
    pub fn rtt_ms(&self, a: u32, b: u32) -> Result<f64, DataError> {
        let place = |n| self.place.get(&n).copied().ok_or(DataError::NoNode(n));
        let (a, b) = (place(a)?, place(b)?);
        let (early, late) = (a.min(b), a.max(b));
        Ok(if early == late { 0.0 } else { self.rows[late][early] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_piece_is_whole() {
        let m = RttMatrix::planetlab().unwrap();
        assert!(m.nodes().len() >= 100);
        let (a, b) = (m.nodes()[0], m.nodes()[57]);
        assert_eq!(m.rtt_ms(a, b).unwrap(), m.rtt_ms(b, a).unwrap());
        assert!(m.rtt_ms(a, b).unwrap() > 0.0);
        assert_eq!(m.rtt_ms(a, a).unwrap(), 0.0);
        assert!(PLANETLAB.len() <= 200_000, "the piece stays small");
    }

    #[test]
    fn a_broken_file_is_refused_with_its_line() {
        for (text, says) in [
            ("# c\n1\n2,x", "line 3: \"x\" is no RTT"),
            ("1\n2,-4", "is no RTT"),
            ("1\n2,NaN", "is no RTT"),
            ("1\n2,4,5", "2 values where the triangle wants 1"),
            ("1\n1,4", "stands there twice"),
            ("one", "is no node"),
        ] {
            let error = RttMatrix::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        assert!(matches!(
            RttMatrix::planetlab().unwrap().rtt_ms(1, 99_999),
            Err(DataError::NoNode(_))
        ));
    }
}
