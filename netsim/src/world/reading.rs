//! Link state read once for all nodes of a world: hundreds of nodes verify the same record and keep what
//! it says, which would be most of the time and nearly all of the memory that a large mesh takes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use thalweg::session::sign::SIGNATURE_LEN;
use thalweg::topology::lsa::{Lsa, LsaError};
use thalweg::topology::reading::{Plain, Reader};

/// Records remembered. A record reaches everyone within a second of its making; later each node has its
/// own hold on what it says.
const REMEMBERED: usize = 2048;

type Signature = [u8; SIGNATURE_LEN];

/// What was read of one record.
#[derive(Debug)]
struct Opened {
    record: Bytes,
    public_key: [u8; 32],
    said: Result<Arc<Lsa>, LsaError>,
    /// The same laid over the whole record with this signature.
    laid: Option<(Signature, Option<Arc<Lsa>>)>,
}

#[derive(Debug, Default)]
struct Memory {
    opened: BTreeMap<Signature, Opened>,
    order: VecDeque<Signature>,
}

/// Reads each record once.
#[derive(Debug, Default)]
pub(super) struct Once(Mutex<Memory>);

impl Reader for Once {
    fn open(&self, record: &Bytes, public_key: &[u8; 32]) -> Result<Arc<Lsa>, LsaError> {
        let Some(signature) = record.last_chunk::<SIGNATURE_LEN>() else {
            return Plain.open(record, public_key);
        };
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = memory.opened.get(signature) {
            if known.public_key == *public_key && known.record == *record {
                return known.said.clone();
            }
            return Plain.open(record, public_key);
        }
        let said = Plain.open(record, public_key);
        let (record, public_key) = (record.clone(), *public_key);
        let signature = *signature;
        let opened = Opened { record, public_key, said: said.clone(), laid: None };
        memory.opened.insert(signature, opened);
        memory.order.push_back(signature);
        if memory.order.len() > REMEMBERED
            && let Some(oldest) = memory.order.pop_front()
        {
            memory.opened.remove(&oldest);
        }
        said
    }

    fn lay_over(&self, difference: &Bytes, whole: &Bytes) -> Option<Arc<Lsa>> {
        let signatures = difference.last_chunk().zip(whole.last_chunk());
        let (difference_by, whole_by): (&Signature, &Signature) = signatures?;
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = memory.opened.get_mut(difference_by) else {
            return Plain.lay_over(difference, whole);
        };
        match &known.laid {
            Some((over, laid)) if over == whole_by && known.record == *difference => laid.clone(),
            _ => {
                let laid = Plain.lay_over(difference, whole);
                known.laid = Some((*whole_by, laid.clone()));
                laid
            }
        }
    }
}
