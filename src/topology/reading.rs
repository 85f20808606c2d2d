//! Who reads link state: each node by itself, or a process of many nodes once for all of them.
//!
//! A record is verified and read the same way wherever it comes, so a laboratory with hundreds of
//! nodes in one process may answer from memory: what one has read the others need not read again, nor
//! keep a second time. A daemon has one node and reads everything itself ([`Plain`]).

use std::sync::Arc;

use bytes::Bytes;

use crate::topology::lsa::{Lsa, LsaError};

/// Opens records. Must say what [`Plain`] says.
pub trait Reader: std::fmt::Debug + Send + Sync {
    /// Verifies a record's signature, then reads it.
    ///
    /// # Errors
    /// A signature that is not this key's; bytes that are no record.
    fn open(&self, record: &Bytes, public_key: &[u8; 32]) -> Result<Arc<Lsa>, LsaError>;

    /// What is known once a difference is laid over a whole record, both opened before; `None` where
    /// it differs from another one.
    fn lay_over(&self, difference: &Bytes, whole: &Bytes) -> Option<Arc<Lsa>>;
}

/// Reads each record when it comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Reader for Plain {
    fn open(&self, record: &Bytes, public_key: &[u8; 32]) -> Result<Arc<Lsa>, LsaError> {
        Lsa::open(record, public_key).map(Arc::new)
    }

    fn lay_over(&self, difference: &Bytes, whole: &Bytes) -> Option<Arc<Lsa>> {
        let (difference, whole) = (Lsa::reopen(difference).ok()?, Lsa::reopen(whole).ok()?);
        difference.over(&whole).map(Arc::new)
    }
}
