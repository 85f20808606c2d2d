//! The state file: what the node wants to know again after a restart.
//!
//! Its bytes are the node's affair. A file that cannot be read or written must not keep a node from
//! working: it then starts as if it were new, or goes on with what the file held before, and says so
//! once until it works again.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::clock::machine_seconds;
use super::file;
use crate::config::Config;
use crate::probe::model::{FILE_LIMIT, Model};
use crate::topology::member::Restored;

/// Longest state that is read, bytes: certificates of 500 nodes are about half a megabyte.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Where the state lies.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    failing: bool,
}

impl StateFile {
    /// Takes a directory, made with mode 0700 if it is not there.
    ///
    /// # Errors
    /// A directory that cannot be made, with its name in the text.
    pub fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| {
            io::Error::new(e.kind(), format!("{}: {e}; see `state` in [node]", dir.display()))
        })?;
        Ok(Self::at(dir))
    }

    /// The one that lies in a directory, if that is there.
    pub fn at(dir: &Path) -> Self {
        Self { path: dir.join("node.state"), failing: false }
    }

    /// What was saved last; `None` where there is nothing or nothing readable.
    pub fn load(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let read =
            fs::File::open(&self.path).and_then(|f| f.take(LONGEST + 1).read_to_end(&mut bytes));
        match read {
            Ok(length) if length as u64 <= LONGEST => Some(bytes),
            Ok(_) => {
                tracing::warn!(file = %self.path.display(), "the state file is too long, starting without");
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %self.path.display(), %error, "the state file cannot be read, starting without");
                None
            }
        }
    }

    /// The forecast model that lies beside the state, if one does and is whole.
    pub fn model(&self) -> Option<Model> {
        let file = self.path.with_file_name("forecast.model");
        let mut text = String::new();
        let read = fs::File::open(&file)
            .and_then(|f| f.take(FILE_LIMIT as u64 + 1).read_to_string(&mut text));
        let model = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
            Ok(_) => Model::parse(&text).map_err(|error| error.to_string()),
        };
        match model {
            Ok(model) => Some(model),
            Err(why) => {
                let file = file.display();
                tracing::warn!(%file, why, "not a model to forecast by, going on with the shipped one");
                None
            }
        }
    }

    /// Replaces what was saved. Returns whether that worked; the log names the reason once.
    pub fn save(&mut self, bytes: &[u8]) -> bool {
        match file::replace(&self.path, bytes, 0o600) {
            Ok(()) => {
                if self.failing {
                    tracing::info!(file = %self.path.display(), "the state file can be written again");
                }
                self.failing = false;
            }
            Err(error) => {
                if !self.failing {
                    tracing::warn!(file = %self.path.display(), %error, "the state file cannot be written");
                }
                self.failing = true;
            }
        }
        !self.failing
    }
}

/// What a node's state file held, read once at a start.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// What the node is given back.
    pub restored: Restored,
}

impl Kept {
    /// Reads it. A file that is damaged or not there holds nothing: peers are then found by seeds alone.
    pub fn of(config: &Config) -> Self {
        let Some(bytes) = StateFile::at(&config.node.state).load() else { return Self::default() };
        let restored = Restored::read(&bytes).unwrap_or_else(|error| {
            tracing::warn!(%error, "the state file is not used");
            Restored::default()
        });
        Self { restored }
    }

    /// The latest time that is known to have been: the last start, which the boot counter notes, and the
    /// making of this program. Seconds of Unix time.
    pub fn known_time(&self) -> u64 {
        let program = std::env::current_exe().and_then(|file| file.metadata());
        let made = program.map_or(0, |about| u64::try_from(about.mtime()).unwrap_or(0));
        self.restored.boot.max(made)
    }

    /// By which time a daemon that starts now judges certificates, seconds of Unix time: the clock's, or the
    /// latest that is known to have been.
    pub fn judged_by(&self) -> u64 {
        machine_seconds().max(self.known_time())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_a_failure_keeps_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("a/b");
        let mut state = StateFile::open(&home).unwrap();
        assert_eq!(state.load(), None);
        assert!(state.save(b"one"));
        assert_eq!(StateFile::open(&home).unwrap().load().as_deref(), Some(&b"one"[..]));
        // Nothing can be written where the directory is gone, not even by root.
        let aside = dir.path().join("aside");
        fs::rename(&home, &aside).unwrap();
        assert!(!state.save(b"two"));
        assert!(!state.save(b"two"));
        fs::rename(&aside, &home).unwrap();
        assert_eq!(state.load().as_deref(), Some(&b"one"[..]));
        assert!(state.save(b"three"));
        assert_eq!(state.load().as_deref(), Some(&b"three"[..]));
        assert!(StateFile::open(&home.join("node.state")).is_err());
    }

    #[test]
    fn a_model_beside_the_state_is_taken_and_a_torn_or_foreign_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateFile::open(dir.path()).unwrap();
        assert_eq!(state.model(), None);
        let whole = Model::shipped().write();
        let file = dir.path().join("forecast.model");
        fs::write(&file, &whole).unwrap();
        assert_eq!(state.model(), Some(Model::shipped()));
        for wrong in [&whole.as_bytes()[..whole.len() / 2], b"\x7fELF\xff\xfe", b""] {
            fs::write(&file, wrong).unwrap();
            assert_eq!(state.model(), None);
        }
    }
}
