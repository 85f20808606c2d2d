//! Other programs in the daemon's place, where they are installed: each with its own defaults.
//!
//! boringtun and wireguard-go are told their keys through the WireGuard socket
//! (<https://www.wireguard.com/xplatform/>). The keys stand here in the open: what they protect is
//! the benchmark's own filler, inside namespaces of its own.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;

use super::ground::{A, B, Case, Ground, Program, lay, wait_for};
use crate::netns::SiteNet;
use crate::netns::fleet::overlay_address;

/// Everything that is installed and came up; the rest is named on standard error, a line each.
pub fn installed() -> Vec<Ground> {
    let candidates: [(&str, &str, Start); 4] = [
        ("boringtun-cli", "--version", |sites| wireguard("boringtun_", "boringtun-cli", sites)),
        ("wireguard-go", "--version", |sites| wireguard("wireguard_go_", "wireguard-go", sites)),
        ("nebula", "-version", nebula),
        ("tincd", "--version", tinc),
    ];
    let mut grounds = Vec::new();
    for (program, ask, start) in candidates {
        let Some(version) = version(program, ask) else {
            eprintln!("peers: {program} is not installed");
            continue;
        };
        eprintln!("peers: {version}");
        match lay(Case::Direct, "peer").and_then(start) {
            Ok(ground) => grounds.push(ground),
            Err(error) => eprintln!("peers: {program} did not come up: {error:#}"),
        }
    }
    grounds
}

type Start = fn(Vec<SiteNet>) -> anyhow::Result<Ground>;

/// The first line a program says of itself.
fn version(program: &str, ask: &str) -> Option<String> {
    let output = Command::new(program).arg(ask).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next().unwrap_or_default().trim();
    Some(if line.contains(program) { line.to_owned() } else { format!("{program}: {line}") })
}

/// Private and public X25519 keys of A and B.
const KEYS: [[&str; 2]; 2] = [
    [
        "1011111111111111111111111111111111111111111111111111111111111151",
        "7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13",
    ],
    [
        "2022222222222222222222222222222222222222222222222222222222222262",
        "0faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20",
    ],
];
const WIREGUARD_PORT: u16 = 51820;
/// WireGuard's own default.
const WIREGUARD_MTU: u32 = 1420;
const COME_UP: Duration = Duration::from_secs(5);

fn wireguard(prefix: &'static str, program: &str, sites: Vec<SiteNet>) -> anyhow::Result<Ground> {
    let (mut programs, mut devices) = (Vec::new(), Vec::new());
    for (own, other) in [(A, B), (B, A)] {
        // The sockets of all namespaces lie in one directory, so the names must differ; no device's
        // may be longer than 15.
        let name = format!("{}{own}-{}", &prefix[..2], std::process::id());
        let mut command = Command::new(program);
        command.arg("-f").arg(&name).env("WG_SUDO", "true");
        let socket = format!("/var/run/wireguard/{name}.sock");
        let started = Program::start(&sites[own].ns, &mut command)?.leaving(&socket);
        wait_for(COME_UP, || Path::new(&socket).exists()).context("no control socket")?;
        let mut stream = UnixStream::connect(&socket).context("control socket")?;
        stream.set_read_timeout(Some(COME_UP))?;
        let ask = format!(
            "set=1\nprivate_key={}\nlisten_port={WIREGUARD_PORT}\npublic_key={}\nendpoint={}:{WIREGUARD_PORT}\n\
             allowed_ip={}/32\n\n",
            KEYS[own][0],
            KEYS[other][1],
            sites[other].address,
            overlay_address(other),
        );
        stream.write_all(ask.as_bytes())?;
        let mut answer = [0; 256];
        let n = stream.read(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer[..n]).into_owned();
        anyhow::ensure!(answer.contains("errno=0"), "control socket says {:?}", answer.trim());
        drop(stream);
        programs.push((own, started));
        devices.push(name);
    }
    Ground::programs(prefix, sites, programs, &[&devices[0], &devices[1]], WIREGUARD_MTU)
}

/// The daemon's own default, so that packets of 1,300 bytes need no fragments: theirs are 1,300 and 1,500.
const OVERLAY_MTU: u32 = 1340;

fn home() -> anyhow::Result<Arc<TempDir>> {
    Ok(Arc::new(tempfile::Builder::new().prefix("thalweg-peers-").tempdir()?))
}

/// Runs a program that prepares something, to its end.
fn prepare(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}

fn nebula(sites: Vec<SiteNet>) -> anyhow::Result<Ground> {
    let home = home()?;
    let cert =
        |args: &[&str]| prepare(Command::new("nebula-cert").current_dir(home.path()).args(args));
    cert(&["ca", "-name", "bench", "-duration", "24h"])?;
    let mut programs = Vec::new();
    for (own, other) in [(A, B), (B, A)] {
        let (name, dir) = (["a", "b"][own], home.path().display());
        cert(&["sign", "-name", name, "-ip", &format!("{}/24", overlay_address(own))])?;
        let config = format!(
            "pki: {{ca: {dir}/ca.crt, cert: {dir}/{name}.crt, key: {dir}/{name}.key}}\n\
             static_host_map: {{\"{}\": [\"{}:4242\"]}}\n\
             lighthouse: {{am_lighthouse: false}}\n\
             listen: {{host: 0.0.0.0, port: 4242}}\n\
             tun: {{dev: nebula0, mtu: {OVERLAY_MTU}}}\n\
             firewall:\n  \
               outbound: [{{port: any, proto: any, host: any}}]\n  \
               inbound: [{{port: any, proto: any, host: any}}]\n",
            overlay_address(other),
            sites[other].address,
        );
        let file = home.path().join(format!("{name}.yml"));
        std::fs::write(&file, config)?;
        let mut command = Command::new("nebula");
        command.arg("-config").arg(&file);
        let program = Program::start(&sites[own].ns, &mut command)?.at_home(home.clone());
        programs.push((own, program));
    }
    Ground::programs("nebula_", sites, programs, &["nebula0"; 2], OVERLAY_MTU)
}

fn tinc(sites: Vec<SiteNet>) -> anyhow::Result<Ground> {
    let home = home()?;
    let at = |own: usize| home.path().join(["a", "b"][own]);
    let host = |of: usize, own: usize| at(own).join("hosts").join(["a", "b"][of]);
    for own in [A, B] {
        std::fs::create_dir_all(at(own).join("hosts"))?;
        let conf =
            ["Name = a\nInterface = tinc0\nConnectTo = b\n", "Name = b\nInterface = tinc0\n"][own];
        std::fs::write(at(own).join("tinc.conf"), conf)?;
        let card =
            format!("Address = {}\nSubnet = {}/32\n", sites[own].address, overlay_address(own));
        std::fs::write(host(own, own), card)?;
        // Puts the public key behind what stands there.
        prepare(Command::new("tincd").arg("-c").arg(at(own)).args(["-K", "2048"]))?;
    }
    let mut programs = Vec::new();
    for (own, other) in [(A, B), (B, A)] {
        std::fs::copy(host(other, other), host(other, own))?;
        let mut command = Command::new("tincd");
        command.arg("-D").arg("-c").arg(at(own)).arg("--pidfile").arg(at(own).join("pid"));
        let program = Program::start(&sites[own].ns, &mut command)?.at_home(home.clone());
        programs.push((own, program));
    }
    Ground::programs("tinc_", sites, programs, &["tinc0"; 2], OVERLAY_MTU)
}
