//! The files of trust while the daemon runs: a renewed certificate, another CA, a newer list of
//! revoked certificates are taken over when their files change. No signal is needed, no restart.
//!
//! Files are looked at every [`LOOK`], by their date, size and number on the disk. What is not good as a
//! whole is not taken: the reason is said once, and what was in force stays in force.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::pki::Identity;
use super::pki::revoke::read_file;
use super::pki::verify::{Anchors, date};
use crate::config::NodeConfig;
use crate::session::trust::{Certified, ListNews};

/// Between two looks at the files: sooner than an operator looks at the log.
pub const LOOK: Duration = Duration::from_secs(5);

/// How long before its end a certificate is worth a warning: two weeks, the usual reminder; a day; none.
const WARN_S: [u64; 3] = [14 * 86_400, 86_400, 0];

/// What a file was like when it was last taken: seconds and nanoseconds of its date, size, number.
type Stamp = Option<(i64, i64, u64, u64)>;

/// What a look at the files brought.
#[derive(Debug, Default)]
pub struct Change {
    /// CAs or lists are others than before.
    pub trust: bool,
    /// This node's own papers are others than before.
    pub identity: Option<Identity>,
}

/// The files, and what was last taken from them.
#[derive(Debug)]
pub struct Papers {
    node: NodeConfig,
    taken: BTreeMap<PathBuf, Stamp>,
    certified: Certified,
    not_after: u64,
    /// Warnings given of the certificate's end.
    warned: usize,
    /// What was said last of files that are not good.
    said: Option<String>,
}

impl Papers {
    /// The files as they are now, all of them taken already.
    pub fn new(node: &NodeConfig, certified: &Certified) -> Self {
        let taken = files(node).map(|file| (file.clone(), stamp(&file))).collect();
        let (certified, not_after) = (certified.clone(), certified.not_after);
        Self { node: node.clone(), taken, certified, not_after, warned: 0, said: None }
    }

    /// Looks whether anything changed, and takes what is good. `now_unix_s`: seconds of Unix time.
    pub fn look(&mut self, anchors: &Anchors, now_unix_s: u64) -> Change {
        self.warn_of_end(now_unix_s);
        let mut change = Change::default();
        let mut failure = None;
        if self.changed(&self.node.ca) {
            let files = self.node.ca.clone();
            let done = anchors.reload(&files).map_err(|error| error.to_string());
            match self.take(&files, done) {
                Ok(()) => change.trust = true,
                Err(why) => failure = Some(why),
            }
        }
        if self.changed(&self.node.crl) {
            let files = self.node.crl.clone();
            let done = take_lists(&files, anchors);
            change.trust |= matches!(done, Ok(true));
            failure = self.take(&files, done.map(|_| ())).err().or(failure);
        }
        let own = [self.node.certificate.clone(), self.node.key.clone()];
        if self.changed(&own) {
            let loaded = Identity::load(&self.node, anchors, now_unix_s);
            match loaded.map_err(|error| error.to_string()).and_then(|new| self.fits(new)) {
                Ok(identity) => {
                    // Taken as they were before they were read at the latest: a change since is seen.
                    let _ = self.take(&own, Ok(()));
                    (self.not_after, self.warned) = (identity.certified.not_after, 0);
                    self.certified = identity.certified.clone();
                    change.identity = Some(identity);
                }
                // A certificate and its key come one after the other: tried again at the next look.
                Err(why) => failure = Some(why),
            }
        }
        if let Some(why) = &failure
            && self.said != failure
        {
            tracing::warn!(%why, "changed files are not taken; what was in force stays so");
        }
        self.said = failure;
        change
    }

    fn fits(&self, new: Identity) -> Result<Identity, String> {
        let (old, certified) = (&self.certified, &new.certified);
        if old.node != certified.node {
            return Err(format!(
                "{} has number {} where this node has {}: a renewal keeps the number",
                self.node.certificate.display(),
                certified.node,
                old.node
            ));
        }
        if (&old.addresses, &old.prefixes) != (&certified.addresses, &certified.prefixes) {
            tracing::warn!(
                "the new certificate grants other addresses or prefixes: the interface takes them at \
                 the next start"
            );
        }
        Ok(new)
    }

    fn changed(&self, files: &[PathBuf]) -> bool {
        files.iter().any(|file| self.taken.get(file).copied().flatten() != stamp(file))
    }

    fn take(&mut self, files: &[PathBuf], done: Result<(), String>) -> Result<(), String> {
        if done.is_ok() {
            self.taken.extend(files.iter().map(|file| (file.clone(), stamp(file))));
        }
        done
    }

    /// Says in time that the certificate ends: at two weeks, at a day, and when it has.
    fn warn_of_end(&mut self, now: u64) {
        let left = self.not_after.saturating_sub(now);
        let due = WARN_S.iter().filter(|&&span| left <= span).count();
        if due > self.warned {
            self.warned = due;
            let (end, clock) = (date(self.not_after), date(now));
            let file = self.node.certificate.display();
            if left == 0 {
                tracing::error!(
                    "this node's certificate {file} expired on {end} and the clock of this machine \
                     says {clock}: no peer takes it; issue a new one with `thalweg cert issue \
                     --renew` and put it in its place, or set the clock"
                );
            } else {
                tracing::warn!(
                    "this node's certificate {file} expires on {end}, the clock says {clock}: issue a \
                     new one with `thalweg cert issue --renew` and put it in its place"
                );
            }
        }
    }
}

/// Takes the lists in these files; whether one of them is newer than what was in force. A file that is
/// not there is that of a CA that has revoked nothing yet.
///
/// # Errors
/// A file that cannot be read or whose list no CA here has signed, with its name.
pub fn take_lists(files: &[PathBuf], anchors: &Anchors) -> Result<bool, String> {
    let mut newer = false;
    for file in files.iter().filter(|file| file.exists()) {
        let list = read_file(file).map_err(|error| error.to_string())?;
        let news = anchors.on_list(&list).map_err(|why| format!("{}: {why}", file.display()))?;
        newer |= news == ListNews::Newer;
    }
    Ok(newer)
}

fn files(node: &NodeConfig) -> impl Iterator<Item = PathBuf> {
    let own = [node.certificate.clone(), node.key.clone()];
    own.into_iter().chain(node.ca.iter().cloned()).chain(node.crl.iter().cloned())
}

fn stamp(file: &PathBuf) -> Stamp {
    let about = fs::metadata(file).ok()?;
    Some((about.mtime(), about.mtime_nsec(), about.size(), about.ino()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::daemon::pki::ca::{self, Request};
    use crate::daemon::pki::revoke::revoke;
    use crate::session::trust::Signer;

    /// 2026-11-21, so that the tests mean the same whenever they run.
    const NOW: u64 = 1_795_219_200;
    const DAY: u64 = 86_400;

    struct Site {
        dir: tempfile::TempDir,
        node: NodeConfig,
    }

    fn site() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        ca::create(&at("ca"), "example", 365, NOW).unwrap();
        let request = Request {
            name: "paris".into(),
            addresses: vec!["10.77.0.1".parse().unwrap()],
            days: 30,
            ..Request::default()
        };
        let issued = ca::issue(&at("ca"), &at("out"), &request, NOW).unwrap();
        let node = NodeConfig {
            name: "paris".into(),
            certificate: issued.certificate,
            key: issued.key,
            ca: vec![at("ca/ca.crt")],
            crl: vec![at("list.crl")],
            state: at("state"),
        };
        Site { dir, node }
    }

    impl Site {
        fn ca(&self) -> PathBuf {
            self.dir.path().join("ca")
        }

        fn renew(&self, out: &Path) {
            let request =
                Request { name: "paris".into(), days: 60, renew: true, ..Request::default() };
            ca::issue(&self.ca(), out, &request, NOW).unwrap();
        }
    }

    #[test]
    fn what_changes_is_taken_once_and_what_is_broken_never() {
        let site = site();
        let anchors = Anchors::load(&site.node.ca).unwrap();
        let own = Identity::load(&site.node, &anchors, NOW).unwrap();
        let mut papers = Papers::new(&site.node, &own.certified);
        let quiet = |change: Change| !change.trust && change.identity.is_none();
        assert!(quiet(papers.look(&anchors, NOW)));

        // A renewal whose key has not come yet waits for it.
        let fresh = site.dir.path().join("fresh");
        site.renew(&fresh);
        fs::copy(fresh.join("paris.crt"), &site.node.certificate).unwrap();
        assert!(quiet(papers.look(&anchors, NOW)));
        fs::copy(fresh.join("paris.key"), &site.node.key).unwrap();
        let renewed = papers.look(&anchors, NOW).identity.unwrap();
        assert_eq!(renewed.certified.not_after, NOW + 60 * DAY);
        assert_ne!(renewed.signer().sign(b"x"), own.signer().sign(b"x"));
        assert!(quiet(papers.look(&anchors, NOW)));

        // A list appears; garbage in its place is not taken.
        let list = revoke(&site.ca(), "paris", None, NOW).unwrap().list;
        fs::copy(&list, &site.node.crl[0]).unwrap();
        assert!(papers.look(&anchors, NOW).trust);
        assert_eq!(anchors.revoked(), 2);
        fs::write(&site.node.crl[0], "no list").unwrap();
        assert!(quiet(papers.look(&anchors, NOW)));
        assert_eq!(anchors.revoked(), 2);

        // A second CA beside the first, in one file.
        ca::succeed(&site.ca(), &site.dir.path().join("next"), "next", 365, NOW).unwrap();
        let both = [site.ca().join("ca.crt"), site.dir.path().join("next/ca.crt")]
            .map(|file| fs::read_to_string(file).unwrap())
            .concat();
        fs::write(&site.node.ca[0], both).unwrap();
        assert!(papers.look(&anchors, NOW).trust);
        assert_eq!(anchors.list().len(), 2);
    }

    #[test]
    fn another_nodes_papers_are_not_taken() {
        let site = site();
        let anchors = Anchors::load(&site.node.ca).unwrap();
        let own = Identity::load(&site.node, &anchors, NOW).unwrap();
        let mut papers = Papers::new(&site.node, &own.certified);
        let lyon = Request {
            name: "lyon".into(),
            addresses: vec!["10.77.0.2".parse().unwrap()],
            days: 30,
            ..Request::default()
        };
        let lyon = ca::issue(&site.ca(), &site.dir.path().join("out"), &lyon, NOW).unwrap();
        fs::copy(lyon.certificate, &site.node.certificate).unwrap();
        fs::copy(lyon.key, &site.node.key).unwrap();
        assert!(papers.look(&anchors, NOW).identity.is_none());
        assert!(papers.said.unwrap().contains("is the certificate of `lyon`"));
    }
}
