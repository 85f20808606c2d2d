//! Papers: renewed, revoked, foreign.

use std::fs;
use std::path::Path;

use thalweg::daemon::clock::unix_seconds;
use thalweg::daemon::pki::ca::{self, Request};
use thalweg::daemon::pki::revoke::revoke;

use crate::lab::*;

#[test]
fn papers_change_while_daemons_run_and_who_is_revoked_is_put_out_by_all() {
    if !allowed() {
        return;
    }
    let mut lab = joins_in_order([0, 1, 2]);
    let sessions = |lab: &Lab| lab.whole_log(0).matches("session up").count();
    let before = sessions(&lab);

    // Another CA takes over: all are told of it, bravo gets a certificate from it, nobody restarts.
    let (authority, next) = (lab.dir.path().join("ca"), lab.dir.path().join("next"));
    ca::succeed(&authority, &next, "next", 30, unix_seconds() - 60).unwrap();
    let both = [&authority, &next].map(|d| fs::read_to_string(d.join("ca.crt")).unwrap()).concat();
    (0..3).for_each(|at| fs::write(lab.home(at).join("ca.crt"), &both).unwrap());
    for at in 0..3 {
        assert!(within(20, || lab.whole_log(at).contains("CAs and revocations taken over")));
    }
    let renewal = Request { name: "bravo".into(), days: 7, renew: true, ..Request::default() };
    let fresh = lab.dir.path().join("fresh");
    ca::issue(&next, &fresh, &renewal, unix_seconds()).unwrap();
    for file in ["bravo.key", "bravo.crt"] {
        fs::copy(fresh.join(file), lab.home(1).join(file)).unwrap();
    }
    assert!(within(20, || lab.whole_log(1).contains("the renewed certificate is in force")));
    assert!(lab.crosses(0, overlay(1)) && lab.crosses(1, overlay(2)), "{}", lab.log(1));
    assert_eq!(sessions(&lab), before, "the sessions go on: {}", lab.log(0));

    // Charlie is revoked; one node is told, by its file.
    let list = revoke(&authority, "charlie", None, unix_seconds()).unwrap().list;
    fs::copy(list, lab.home(0).join("ca.crl")).unwrap();
    for at in [0, 1] {
        lab.until(at, 20, "the end of charlie", |report| {
            report.links.iter().all(|link| link.peer != "charlie")
                && report.paths.iter().all(|path| path.destination != "charlie")
        });
    }
    assert!(!lab.crosses(2, overlay(0)) && !lab.crosses(0, overlay(2)), "nothing crosses");
    assert!(lab.crosses(0, overlay(1)), "{}", lab.log(0));
    // What was kept keeps it out: bravo never had the file.
    lab.signal(1, "TERM");
    assert_eq!(lab.wait(1), Some(0));
    lab.configure(1, Some((2, underlay(2))));
    lab.start(1);
    assert!(within(20, || lab.whole_log(1).contains("is revoked by its CA")), "{}", lab.log(1));
    assert!(!lab.crosses(1, overlay(2)));
    assert!(within(20, || lab.crosses(1, overlay(0))), "{}", lab.log(1));
}

#[test]
fn a_stranger_is_refused_and_the_others_are_served() {
    if !allowed() {
        return;
    }
    let mut lab = Lab::new(&SITES);
    // Charlie's papers come from another operator.
    let foreign = lab.dir.path().join("foreign");
    ca::create(&foreign, "other", 30, unix_seconds() - 60).unwrap();
    let addresses = vec![overlay(2), overlay6(2)];
    let request = Request { name: "charlie".to_owned(), addresses, days: 7, ..Request::default() };
    fs::remove_dir_all(lab.home(2)).unwrap();
    ca::issue(&foreign, &lab.home(2), &request, unix_seconds()).unwrap();
    lab.configure(2, Some((0, underlay(0))));
    (0..3).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1]);
    assert!(lab.crosses(0, overlay(1)));
    lab.until(2, 10, "the refusal", |report| {
        let failed = |peer: &thalweg::report::PeerRow| peer.last_error.is_some();
        report.peers.iter().any(failed) || report.status.peers_connected == 0
    });
    let told = |path: &Path| fs::read_to_string(path.join("log")).unwrap_or_default();
    within(10, || told(&lab.home(2)).contains("signed by no CA"));
    assert!(told(&lab.home(2)).contains("signed by no CA"), "{}", lab.log(2));
    assert!(!lab.crosses(2, overlay(0)), "a stranger's packets go nowhere");
    assert_eq!(lab.report(0).unwrap().status.peers_connected, 1);
}

#[test]
fn a_machine_whose_clock_is_behind_judges_papers_by_when_it_last_started() {
    if !allowed() {
        return;
    }
    const DAY: u64 = 86_400;
    let mut lab = Lab::new(&SITES[..2]);
    // No test sets the clock of its machine back; so papers are of the days after tomorrow.
    let (made, authority) = (unix_seconds() + 2 * DAY, lab.dir.path().join("later"));
    ca::create(&authority, "later", 30, made).unwrap();
    for at in 0..2 {
        let addresses = vec![overlay(at), overlay6(at)];
        let name = lab.names[at].to_owned();
        let request = Request { name, addresses, days: 7, ..Request::default() };
        fs::remove_dir_all(lab.home(at)).unwrap();
        ca::issue(&authority, &lab.home(at), &request, made).unwrap();
        lab.configure(at, (at > 0).then(|| (0, underlay(0))));
    }
    lab.start(0);
    assert_eq!(lab.wait(0), Some(2), "by its clock its certificate is not valid: {}", lab.log(0));
    assert!(lab.whole_log(0).contains("is valid from"), "{}", lab.log(0));

    (0..2).for_each(|at| lab.has_started(at, made + DAY));
    (0..2).for_each(|at| lab.start(at));
    lab.until_meshed(&[0, 1]);
    assert!(lab.crosses(0, overlay(1)), "{}", lab.log(0));
    assert!(lab.whole_log(0).contains("certificates are judged as of then; set the clock"));

    // The other way round: what has ended when it last started is not taken, whatever the clock says.
    lab.signal(1, "TERM");
    assert_eq!(lab.wait(1), Some(0));
    lab.has_started(1, made + 9 * DAY);
    lab.start(1);
    assert_eq!(lab.wait(1), Some(2), "{}", lab.log(1));
    assert!(lab.whole_log(1).contains("expired on"), "{}", lab.log(1));
}
