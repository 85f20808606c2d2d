//! `thalweg cert` and `thalweg config`: files in, files and text out, no daemon needed.

use std::path::{Path, PathBuf};

use serde_json::json;
use thalweg::config::Config;
use thalweg::daemon::Kept;
use thalweg::daemon::pki::ca::{self, Request};
use thalweg::daemon::pki::identity::check_files;
use thalweg::daemon::pki::revoke;
use thalweg::daemon::pki::verify::{Anchors, date, describe};
use thalweg::report::SCHEMA_VERSION;

use super::args::CertVerb;
use super::{End, json_text};

pub(crate) fn run(verb: CertVerb, now: u64) -> End {
    match verb {
        CertVerb::Ca { out, name, days, succeeds } => {
            let made = match succeeds {
                Some(old) => ca::succeed(&old, &out, &name, days, now),
                None => ca::create(&out, &name, days, now),
            };
            match made {
                Ok(certificate) => End::Done(format!(
                    "{}: give this to every node; keep {} to yourself\n",
                    certificate.display(),
                    out.join("ca.key").display()
                )),
                Err(error) => End::Wrong(error.to_string()),
            }
        }
        CertVerb::Issue { ca, name, addresses, prefixes, no_relay, days, renew, out, json } => {
            let request = Request {
                name,
                addresses,
                prefixes: if renew && prefixes.is_empty() { None } else { Some(prefixes) },
                relay: if no_relay { Some(false) } else { None },
                days,
                renew,
            };
            match ca::issue(&ca, &out, &request, now) {
                Ok(issued) if json => End::Done(json_text(&json!({
                    "schema_version": SCHEMA_VERSION,
                    "name": issued.grant.name,
                    "node": issued.grant.node.get(),
                    "certificate": issued.certificate,
                    "key": issued.key,
                    "ca": issued.ca,
                    "not_after_unix_s": issued.not_after,
                }))),
                Ok(issued) => End::Done(format!(
                    "{} is node {} until {}\n  {}\n  {} (secret)\n",
                    issued.grant.name,
                    issued.grant.node.get(),
                    date(issued.not_after),
                    issued.certificate.display(),
                    issued.key.display()
                )),
                Err(error) => End::Wrong(error.to_string()),
            }
        }
        CertVerb::Revoke { ca, name, certificate, json } => {
            match revoke::revoke(&ca, &name, certificate.as_deref(), now) {
                Ok(done) if json => End::Done(json_text(&json!({
                    "schema_version": SCHEMA_VERSION,
                    "name": name,
                    "list": done.list,
                    "number": done.number,
                    "added": done.added,
                    "total": done.total,
                }))),
                Ok(done) => End::Done(format!(
                    "{}: list {} names {} certificates, {} of them new: name it in `crl` of one node\n",
                    done.list.display(),
                    done.number,
                    done.total,
                    done.added
                )),
                Err(error) => End::Wrong(error.to_string()),
            }
        }
        CertVerb::Show { file, ca, json } => show(&file, &ca, json, now),
    }
}

fn show(file: &Path, cas: &[PathBuf], json: bool, now: u64) -> End {
    let about = match describe(file) {
        Ok(about) => about,
        Err(error) => return End::Wrong(error.to_string()),
    };
    let verdict = if cas.is_empty() {
        None
    } else {
        match Anchors::load(cas) {
            Ok(anchors) => Some(anchors.verify(&about.der, now)),
            Err(error) => return End::Wrong(error.to_string()),
        }
    };
    let refused = verdict.as_ref().and_then(|v| v.as_ref().err()).map(ToString::to_string);
    let trusted = verdict.is_some().then_some(refused.is_none());
    let grant = about.grant.as_ref();
    let text = if json {
        json_text(&json!({
            "schema_version": SCHEMA_VERSION,
            "name": about.name,
            "is_ca": about.is_ca,
            "issuer": about.issuer,
            "not_before_unix_s": about.not_before,
            "not_after_unix_s": about.not_after,
            "sha256": about.sha256,
            "node": grant.map(|g| g.node.get()),
            "addresses": grant.map(|g| &g.addresses),
            "prefixes": grant.map(|g| &g.prefixes),
            "relay": grant.map(|g| g.relay),
            "trusted": trusted,
            "refused": refused,
        }))
    } else {
        let mut text = format!("name       {}\n", about.name);
        if let Some(grant) = grant {
            let words =
                |items: Vec<String>| if items.is_empty() { "-".into() } else { items.join(" ") };
            let addresses = grant.addresses.iter().map(ToString::to_string).collect();
            let prefixes = grant.prefixes.iter().map(ToString::to_string).collect();
            text += &format!("number     {}\n", grant.node.get());
            text += &format!("addresses  {}\n", words(addresses));
            text += &format!("prefixes   {}\n", words(prefixes));
            text += &format!("may relay  {}\n", if grant.relay { "yes" } else { "no" });
        } else if about.is_ca {
            text += "kind       CA\n";
        } else {
            text += "grants     nothing: no Thalweg extension\n";
        }
        text += &format!("issuer     {}\n", about.issuer);
        text += &format!("valid      {} to {}\n", date(about.not_before), date(about.not_after));
        text += &format!("sha256     {}\n", about.sha256);
        match (&trusted, &refused) {
            (Some(true), _) => text += "verdict    trusted\n",
            (_, Some(why)) => text += &format!("verdict    refused: {why}\n"),
            _ => {}
        }
        text
    };
    if refused.is_some() { End::Unmet(text) } else { End::Done(text) }
}

/// `config check`.
pub(crate) fn check(file: &Path, json: bool) -> End {
    let checked = load(file).and_then(|config| check_files(&config, Kept::of(&config).judged_by()));
    let (problems, remarks) = match checked {
        Ok(remarks) => (Vec::new(), remarks),
        Err(problems) => (problems, Vec::new()),
    };
    if json {
        let text = json_text(&json!({
            "schema_version": SCHEMA_VERSION,
            "ok": problems.is_empty(),
            "problems": problems,
            "remarks": remarks,
        }));
        return if problems.is_empty() { End::Done(text) } else { End::WrongButSaid(text) };
    }
    if !problems.is_empty() {
        return End::Wrong(problems.join("\n"));
    }
    let mut text = format!("{}: good\n", file.display());
    for remark in remarks {
        text += &format!("note: {remark}\n");
    }
    End::Done(text)
}

/// Reads and checks a configuration file, without the files it names.
pub(crate) fn load(file: &Path) -> Result<Config, Vec<String>> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| vec![format!("{}: cannot be read: {e}", file.display())])?;
    Config::parse(&text, file).map_err(|e| e.0.iter().map(ToString::to_string).collect())
}
