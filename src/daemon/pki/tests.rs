//! From a fresh CA to the verdict over what it issued, all at one fixed date.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use super::ca::{Issued, Ledger, Request, create, issue, succeed};
use super::identity::check_files;
use super::revoke::{read_file, revoke};
use super::*;
use crate::config::Config;
use crate::session::trust::{ListNews, Signer, Trust};

/// 2026-11-21, so that the tests mean the same whenever they run.
const NOW: u64 = 1_795_219_200;
const DAY: u64 = 86_400;

fn request(name: &str, address: &str, prefixes: &[&str]) -> Request {
    Request {
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        prefixes: Some(prefixes.iter().map(|p| p.parse().unwrap()).collect()),
        relay: None,
        days: 30,
        renew: false,
    }
}

struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap() };
        create(&site.ca(), "example", 365, NOW).unwrap();
        site
    }

    fn ca(&self) -> std::path::PathBuf {
        self.dir.path().join("ca")
    }

    fn out(&self) -> std::path::PathBuf {
        self.dir.path().join("out")
    }

    fn issue(&self, request: &Request) -> Result<Issued, String> {
        issue(&self.ca(), &self.out(), request, NOW).map_err(|e| e.to_string())
    }

    fn anchors(&self) -> Anchors {
        Anchors::load(&[self.ca().join("ca.crt")]).unwrap()
    }

    fn config(&self, name: &str, more: &str) -> Config {
        let text = format!(
            "[node]\nname = \"{name}\"\ncertificate = \"out/paris.crt\"\nkey = \"out/paris.key\"\n\
             ca = [\"ca/ca.crt\"]\nstate = \"state\"\n{more}"
        );
        Config::parse(&text, &self.dir.path().join("thalweg.toml")).unwrap()
    }
}

fn der(file: &Path) -> Vec<u8> {
    verify::read_certificates(file).unwrap()[0].to_vec()
}

fn mode(file: &Path) -> u32 {
    fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_issued_verifies_and_grants_what_was_asked() {
    let site = Site::new();
    let mut paris = request("paris", "10.77.0.1", &["192.168.5.0/24", "fd00:5::/48"]);
    paris.addresses.push("fd77::1".parse().unwrap());
    paris.relay = Some(false);
    let issued = site.issue(&paris).unwrap();
    let certified = site.anchors().verify_named(&der(&issued.certificate), "paris", NOW).unwrap();
    assert_eq!((certified.node.get(), certified.name.as_str()), (1, "paris"));
    assert_eq!(certified.addresses, paris.addresses);
    assert_eq!(Some(certified.prefixes), paris.prefixes);
    assert!(!certified.relay);
    assert_eq!(certified.not_after, NOW + 30 * DAY);
    assert_eq!(mode(&issued.key), 0o600);
    assert_eq!(mode(&site.ca().join("ca.key")), 0o600);
    assert_eq!(mode(&site.ca()), 0o700);
    assert_eq!(der(&issued.ca), der(&site.ca().join("ca.crt")));
}

#[test]
fn numbers_are_never_used_twice_and_overlaps_are_refused() {
    let site = Site::new();
    site.issue(&request("paris", "10.77.0.1", &["192.168.5.0/24"])).unwrap();
    let refused = |r: Request| site.issue(&r).unwrap_err();
    assert!(refused(request("paris", "10.77.0.9", &[])).contains("as number 1: use --renew"));
    assert_eq!(
        refused(request("lyon", "10.77.0.1", &[])),
        "10.77.0.1/32 overlaps 10.77.0.1/32 of `paris`"
    );
    assert!(refused(request("lyon", "192.168.5.7", &[])).contains("overlaps 192.168.5.0/24"));
    assert!(refused(request("lyon", "10.77.0.2", &["192.168.0.0/16"])).contains("overlaps"));
    assert!(refused(request("Lyon", "10.77.0.2", &[])).contains("is no node name"));
    let mut long = request("lyon", "10.77.0.2", &[]);
    long.days = 366;
    assert!(refused(long).contains("beyond the CA's end on 2027-11-21"));
    let lyon = site.issue(&request("lyon", "10.77.0.2", &["192.168.6.0/24"])).unwrap();
    assert_eq!(lyon.grant.node.get(), 2, "refused requests use no number");
    let names: Vec<_> =
        Ledger::load(&site.ca()).unwrap().nodes.into_iter().map(|n| n.name).collect();
    assert_eq!(names, ["paris", "lyon"]);
    assert_eq!(mode(&site.ca().join("ledger.json")), 0o600);
}

#[test]
fn a_renewal_keeps_number_and_grant_under_a_new_key() {
    let site = Site::new();
    let first = site.issue(&request("paris", "10.77.0.1", &["192.168.5.0/24"])).unwrap();
    let old = site.anchors().verify(&der(&first.certificate), NOW).unwrap();
    let renewal = Request { name: "paris".into(), days: 60, renew: true, ..Request::default() };
    let second = site.issue(&renewal).unwrap();
    let new = site.anchors().verify(&der(&second.certificate), NOW).unwrap();
    assert_eq!(
        (new.node, &new.addresses, &new.prefixes),
        (old.node, &old.addresses, &old.prefixes)
    );
    assert_ne!(new.public_key, old.public_key);
    assert_eq!(new.not_after, NOW + 60 * DAY);
    let stranger = Request { name: "nice".into(), ..renewal };
    assert!(site.issue(&stranger).unwrap_err().contains("never issued"));
    let next = site.issue(&request("lyon", "10.77.0.2", &[])).unwrap();
    assert_eq!(next.grant.node.get(), 2);
}

#[test]
fn a_second_ca_in_the_same_place_and_a_held_ledger_are_refused() {
    let site = Site::new();
    let again = create(&site.ca(), "example", 365, NOW).unwrap_err().to_string();
    assert!(again.contains("is there already: a second CA needs its own directory"), "{again}");
    fs::write(site.ca().join("ledger.lock"), "").unwrap();
    let held = site.issue(&request("paris", "10.77.0.1", &[])).unwrap_err();
    assert!(held.contains("another `thalweg cert issue` is at work"), "{held}");
    fs::remove_file(site.ca().join("ledger.lock")).unwrap();
    site.issue(&request("paris", "10.77.0.1", &[])).unwrap();
    assert!(!site.ca().join("ledger.lock").exists());
}

#[test]
fn foreign_expired_early_and_wrong_named_certificates_are_refused_in_words() {
    let site = Site::new();
    let other = Site::new();
    let paris = der(&site.issue(&request("paris", "10.77.0.1", &[])).unwrap().certificate);
    let refused = |anchors: &Anchors, now| anchors.verify(&paris, now).unwrap_err().to_string();
    assert_eq!(
        refused(&other.anchors(), NOW),
        "the certificate that names `paris` is signed by no CA that is trusted here: see `ca` in \
         [node]"
    );
    assert_eq!(
        refused(&site.anchors(), NOW + 31 * DAY),
        "the certificate of `paris` expired on 2026-12-21T00:00:00Z and the clock of this machine says \
         2026-12-22T00:00:00Z: issue a new one with `thalweg cert issue --renew`, or set the clock"
    );
    assert!(
        refused(&site.anchors(), NOW + 366 * DAY).contains("CA `example` expired on 2027-11-21")
    );
    let early = refused(&site.anchors(), NOW - DAY);
    assert!(
        early.contains("valid from 2026-11-20T23:00:00Z and the clock of this machine says")
            && early.contains("2026-11-20T00:00:00Z: set the clock"),
        "{early}"
    );
    let named = site.anchors().verify_named(&paris, "lyon", NOW).unwrap_err().to_string();
    assert!(named.starts_with("`paris` answered where `lyon` was expected"), "{named}");
    let ca = der(&site.ca().join("ca.crt"));
    assert!(site.anchors().verify(&ca, NOW).is_err(), "the CA itself is no node");
}

#[test]
fn a_young_certificate_of_an_old_ca_points_at_the_clock() {
    let site = Site::new();
    let made = issue(&site.ca(), &site.out(), &request("paris", "10.77.0.1", &[]), NOW + 9 * DAY);
    let early =
        site.anchors().verify(&der(&made.unwrap().certificate), NOW).unwrap_err().to_string();
    assert!(early.contains("set the clock of this machine"), "{early}");
}

#[test]
fn two_cas_are_valid_at_once() {
    let (old, new) = (Site::new(), Site::new());
    let both = Anchors::load(&[old.ca().join("ca.crt"), new.ca().join("ca.crt")]).unwrap();
    for site in [&old, &new] {
        let issued = site.issue(&request("paris", "10.77.0.1", &[])).unwrap();
        assert_eq!(both.verify(&der(&issued.certificate), NOW).unwrap().name, "paris");
    }
    let node = old.out().join("paris.crt");
    assert!(Anchors::load(&[node]).unwrap_err().to_string().contains("is not a CA's"));
}

#[test]
fn a_successor_ca_keeps_every_nodes_number() {
    let site = Site::new();
    site.issue(&request("paris", "10.77.0.1", &[])).unwrap();
    site.issue(&request("lyon", "10.77.0.2", &[])).unwrap();
    let next = site.dir.path().join("next");
    succeed(&site.ca(), &next, "next", 365, NOW).unwrap();
    let renewal = Request { name: "lyon".into(), days: 30, renew: true, ..Request::default() };
    let lyon = issue(&next, &site.out(), &renewal, NOW).unwrap();
    assert_eq!(lyon.grant.node.get(), 2);
    let anchors = Anchors::load(&[next.join("ca.crt")]).unwrap();
    assert_eq!(anchors.verify(&der(&lyon.certificate), NOW).unwrap().name, "lyon");
    let nobody = site.dir.path().join("nobody");
    let third = site.dir.path().join("third");
    assert!(succeed(&nobody, &third, "third", 365, NOW).is_err());
    assert!(!third.exists());
}

#[test]
fn a_list_puts_out_what_it_names_and_nothing_else() {
    let site = Site::new();
    let [paris, lyon] = ["paris", "lyon"].map(|name| {
        let address = if name == "paris" { "10.77.0.1" } else { "10.77.0.2" };
        der(&site.issue(&request(name, address, &[])).unwrap().certificate)
    });
    let anchors = site.anchors();
    let done = revoke(&site.ca(), "paris", None, NOW).unwrap();
    assert_eq!((done.number, done.added, done.total), (1, 1, 1));
    let list = read_file(&done.list).unwrap();
    assert_eq!(anchors.on_list(&list), Ok(ListNews::Newer));
    assert_eq!(anchors.on_list(&list), Ok(ListNews::Known));
    let why = anchors.verify(&paris, NOW).unwrap_err().to_string();
    assert!(why.contains("`paris` is revoked by its CA"), "{why}");
    assert!(anchors.revokes(&paris) && !anchors.revokes(&lyon));
    assert_eq!(anchors.verify(&lyon, NOW).unwrap().name, "lyon");
    // It may come back under a new certificate; what was stolen stays out.
    let renewal = Request { name: "paris".into(), days: 30, renew: true, ..Request::default() };
    let renewed = der(&site.issue(&renewal).unwrap().certificate);
    assert_eq!(anchors.verify(&renewed, NOW).unwrap().name, "paris");
    // The second list holds the first one's and the new one's.
    let done = revoke(&site.ca(), "paris", None, NOW).unwrap();
    assert_eq!((done.number, done.added, done.total), (2, 1, 2));
    assert_eq!(anchors.on_list(&read_file(&done.list).unwrap()), Ok(ListNews::Newer));
    assert_eq!(anchors.on_list(&list), Ok(ListNews::Older), "an old list undoes nothing");
    assert!(anchors.revokes(&paris) && anchors.revokes(&renewed));
    assert_eq!((anchors.revoked(), anchors.lists().len()), (2, 1));
    // What has expired needs no list.
    let later = NOW + 40 * DAY;
    assert!(revoke(&site.ca(), "paris", None, later).unwrap_err().0.contains("still valid"));
    let nobody = revoke(&site.ca(), "nice", None, NOW).unwrap_err();
    assert_eq!(nobody.to_string(), "`nice` was never issued");
}

#[test]
fn a_certificate_the_ledger_does_not_know_is_revoked_by_its_file() {
    let site = Site::new();
    let issued = site.issue(&request("paris", "10.77.0.1", &[])).unwrap();
    let lyon = site.issue(&request("lyon", "10.77.0.2", &[])).unwrap();
    // A ledger from before serial numbers were noted.
    let file = site.ca().join("ledger.json");
    let text = fs::read_to_string(&file).unwrap();
    let mut ledger: serde_json::Value = serde_json::from_str(&text).unwrap();
    for node in ledger["nodes"].as_array_mut().unwrap() {
        node.as_object_mut().unwrap().remove("certificates");
    }
    let plain = ledger.as_object_mut().unwrap();
    plain.remove("revoked");
    plain.remove("list_number");
    fs::write(&file, ledger.to_string()).unwrap();
    let told = revoke(&site.ca(), "paris", None, NOW).unwrap_err().to_string();
    assert!(told.contains("name its file with --certificate"), "{told}");
    let wrong = revoke(&site.ca(), "paris", Some(&lyon.certificate), NOW).unwrap_err().to_string();
    assert!(wrong.contains("is no certificate that this CA issued to `paris`"), "{wrong}");
    let done = revoke(&site.ca(), "paris", Some(&issued.certificate), NOW).unwrap();
    let anchors = site.anchors();
    anchors.on_list(&read_file(&done.list).unwrap()).unwrap();
    assert!(anchors.revokes(&der(&issued.certificate)));
}

#[test]
fn a_forged_or_broken_list_is_refused_in_words_and_changes_nothing() {
    let (site, other) = (Site::new(), Site::new());
    let paris = der(&site.issue(&request("paris", "10.77.0.1", &[])).unwrap().certificate);
    other.issue(&request("paris", "10.77.0.1", &[])).unwrap();
    let list = read_file(&revoke(&site.ca(), "paris", None, NOW).unwrap().list).unwrap();
    // The other CA has the same name and another key.
    let theirs = read_file(&revoke(&other.ca(), "paris", None, NOW).unwrap().list).unwrap();
    let anchors = site.anchors();
    let forged = anchors.on_list(&theirs).unwrap_err().to_string();
    assert!(forged.contains("its signature is not that of the CA it names"), "{forged}");
    for place in 0..list.len() {
        let mut bad = list.clone();
        bad[place] ^= 0x01;
        assert!(anchors.on_list(&bad).is_err(), "byte {place}");
        assert!(anchors.on_list(&list[..place]).is_err());
    }
    assert!(anchors.on_list(&[&list[..], &[0]].concat()).is_err());
    let long = anchors.on_list(&vec![0x30; 1 << 20]).unwrap_err().to_string();
    assert!(long.contains("longer than"), "{long}");
    assert!(anchors.verify(&paris, NOW).is_ok() && anchors.lists().is_empty());
    let told = anchors.on_list(&paris).unwrap_err().to_string();
    assert!(told.contains("malformed"), "{told}");
}

#[test]
fn lists_are_those_of_their_ca_and_go_with_it() {
    let site = Site::new();
    let issued = der(&site.issue(&request("paris", "10.77.0.1", &[])).unwrap().certificate);
    let next = site.dir.path().join("next");
    succeed(&site.ca(), &next, "next", 365, NOW).unwrap();
    let told = revoke(&next, "paris", None, NOW).unwrap_err().to_string();
    assert!(told.contains("use the CA that issued it"), "{told}");
    let (old_ca, next_ca) = (site.ca().join("ca.crt"), next.join("ca.crt"));
    let anchors = Anchors::load(&[&old_ca, &next_ca]).unwrap();
    let renewal = Request { name: "paris".into(), days: 30, renew: true, ..Request::default() };
    let renewed = der(&issue(&next, &site.out(), &renewal, NOW).unwrap().certificate);
    for ca in [&site.ca(), &next] {
        let list = read_file(&revoke(ca, "paris", None, NOW).unwrap().list).unwrap();
        assert_eq!(anchors.on_list(&list), Ok(ListNews::Newer));
    }
    assert!(anchors.revokes(&issued) && anchors.revokes(&renewed));
    // The roll-over's end, while everything runs.
    anchors.reload(&[&next_ca]).unwrap();
    assert_eq!((anchors.lists().len(), anchors.list().len()), (1, 1));
    assert!(anchors.verify(&issued, NOW).unwrap_err().0.contains("signed by no CA"));
    let gone = site.dir.path().join("gone.crt");
    assert!(anchors.reload(&[&gone]).is_err());
    assert_eq!(anchors.list().len(), 1, "what cannot be read takes nothing away");
}

#[test]
fn no_bytes_make_the_list_reader_panic() {
    let site = Site::new();
    site.issue(&request("paris", "10.77.0.1", &[])).unwrap();
    let good = read_file(&revoke(&site.ca(), "paris", None, NOW).unwrap().list).unwrap();
    let anchors = site.anchors();
    let mut dice = crate::rng::Dice::new(1);
    for _ in 0..2000 {
        let mut bytes = good.clone();
        for _ in 0..1 + dice.below(8) {
            let place = dice.below(bytes.len() as u64) as usize;
            bytes[place] = dice.below(256) as u8;
        }
        bytes.truncate(1 + dice.below(bytes.len() as u64) as usize);
        let taken = anchors.on_list(&bytes);
        assert!(taken.is_err() || bytes == good);
    }
}

#[test]
fn a_certificate_changed_in_any_byte_is_refused() {
    let site = Site::new();
    let anchors = site.anchors();
    let good = der(&site.issue(&request("paris", "10.77.0.1", &[])).unwrap().certificate);
    for place in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[place] ^= 0x01;
        assert!(anchors.verify(&bad, NOW).is_err(), "byte {place}");
    }
    for cut in (0..good.len()).step_by(50) {
        assert!(anchors.verify(&good[..cut], NOW).is_err());
    }
    assert!(anchors.verify(&vec![0x30; verify::LONGEST + 1], NOW).is_err());
}

#[test]
fn a_node_knows_itself_and_signs_what_its_certificate_verifies() {
    let site = Site::new();
    site.issue(&request("paris", "10.77.0.1", &["192.168.0.0/16"])).unwrap();
    let config = site.config("paris", "");
    let identity = Identity::load(&config.node, &site.anchors(), NOW).unwrap();
    let signature = identity.signer().sign(b"record");
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::ED25519,
        identity.certified.public_key,
    );
    key.verify(b"record", &signature).unwrap();
    assert!(key.verify(b"recorD", &signature).is_err());
    let trust = WallTrust::new(Arc::new(site.anchors()), || NOW);
    assert_eq!(trust.verify(&identity.certificate).unwrap(), identity.certified);
}

#[test]
fn everything_wrong_with_the_files_is_told_with_its_fix() {
    let site = Site::new();
    let told = |config: &Config, now| check_files(config, now).unwrap_err().join("\n");
    let missing = told(&site.config("paris", ""), NOW);
    assert!(missing.contains("out/paris.crt: cannot be read"), "{missing}");
    let issued = site.issue(&request("paris", "10.77.0.1", &["192.168.5.0/24"])).unwrap();
    assert_eq!(
        check_files(&site.config("paris", "[[peer]]\nname = \"a\"\nendpoint = \"b:1\""), NOW),
        Ok(vec![])
    );
    let soon = check_files(&site.config("paris", ""), NOW + 20 * DAY).unwrap().join("\n");
    assert!(soon.contains("this node's certificate expires on 2026-12-21"), "{soon}");
    let name = told(&site.config("lyon", ""), NOW);
    assert!(name.contains("is the certificate of `paris`, but [node] name is `lyon`"), "{name}");
    fs::set_permissions(&issued.key, fs::Permissions::from_mode(0o640)).unwrap();
    let open = told(&site.config("paris", ""), NOW);
    assert!(open.contains("has mode 0640, so others can read the key: chmod 0600"), "{open}");
    let other = site.issue(&request("lyon", "10.77.0.2", &[])).unwrap();
    fs::copy(&other.key, &issued.key).unwrap();
    fs::set_permissions(&issued.key, fs::Permissions::from_mode(0o600)).unwrap();
    let strange = told(&site.config("paris", ""), NOW);
    assert!(strange.contains("they were not issued together"), "{strange}");
}
