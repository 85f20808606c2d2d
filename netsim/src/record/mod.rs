//! Recorded round trips: what `netsim replay` plays, `netsim score` judges by, and training reads.
//!
//! Two formats, told apart by their first bytes; either may be gzipped, whatever the file is called:
//!
//! ```text
//! matrices   "RTTM" | u32 LE first slice | u32 LE slices T | u32 LE nodes N | T·N·N f32 LE, ms
//!            order [slice][from][to]; 0.0 = no measurement, and the diagonal
//! traces     a line `trace,epoch_s,rtt_ms[,changepoint]`, then one line per sample; rtt_ms is empty
//!            where nothing came back, changepoint is 1 on the first sample of a new level
//! ```
//!
//! Several files are one record: matrices by the numbers of their slices, traces one after the other.
//! What cannot be is an error that names file and place. What real recordings are full of (a pause, a
//! sample a few seconds late) is counted and told, and no reason to stop.

mod matrix;
mod trace;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

pub use matrix::Matrices;
pub use trace::{Sample, Trace, Traces};

/// A file larger than this, unpacked, is refused: a small archive must not fill the memory.
const SIZE_LIMIT: u64 = 4 << 30;

/// A record, whole.
#[derive(Clone, Debug)]
pub enum Record {
    /// Slices of a matrix between nodes.
    Matrices(Matrices),
    /// Series of single links.
    Traces(Traces),
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not readable, or not unpackable.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Not of either format, or against its rules.
    #[error("{}: {what}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        what: String,
    },
    /// The files do not make one record.
    #[error("{0}")]
    Mixed(String),
}

impl Record {
    /// Reads the files of one record.
    pub fn open(paths: &[PathBuf]) -> Result<Self, RecordError> {
        let mut matrices: Vec<Matrices> = Vec::new();
        let mut traces = Traces::default();
        for path in paths {
            let wrong = |what: String| RecordError::Format { path: path.clone(), what };
            let bytes = unpack(path)?;
            if bytes.starts_with(matrix::MAGIC) {
                matrices.push(Matrices::parse(&bytes).map_err(wrong)?);
            } else if bytes.starts_with(trace::HEAD.as_bytes()) {
                let text = std::str::from_utf8(&bytes).map_err(|e| wrong(e.to_string()))?;
                traces.read(text).map_err(wrong)?;
            } else {
                let what = format!(
                    "neither matrices (\"RTTM\") nor traces (a first line `{}`)",
                    trace::HEAD
                );
                return Err(wrong(what));
            }
        }
        match (matrices.is_empty(), traces.list.is_empty()) {
            (false, true) => Ok(Self::Matrices(Matrices::join(matrices)?)),
            (true, false) => Ok(Self::Traces(traces.finish())),
            (true, true) => Err(RecordError::Mixed("no samples at all".into())),
            (false, false) => {
                Err(RecordError::Mixed("matrices and traces do not make one record".into()))
            }
        }
    }
}

/// The bytes of a file, unpacked if it is gzipped.
fn unpack(path: &Path) -> Result<Vec<u8>, RecordError> {
    let wrong = |source| RecordError::Read { path: path.to_path_buf(), source };
    let mut file = BufReader::new(File::open(path).map_err(wrong)?);
    let mut bytes = Vec::new();
    let mut start = [0; 2];
    let got = read_up_to(&mut file, &mut start).map_err(wrong)?;
    let whole = io::Cursor::new(start[..got].to_vec()).chain(file);
    let read = if start == [0x1f, 0x8b] {
        MultiGzDecoder::new(whole).take(SIZE_LIMIT + 1).read_to_end(&mut bytes)
    } else {
        whole.take(SIZE_LIMIT + 1).read_to_end(&mut bytes)
    };
    read.map_err(wrong)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        let what = format!("holds more than {} GiB", SIZE_LIMIT >> 30);
        return Err(RecordError::Format { path: path.to_path_buf(), what });
    }
    Ok(bytes)
}

fn read_up_to(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match from.read(&mut into[got..])? {
            0 => break,
            n => got += n,
        }
    }
    Ok(got)
}
