//! A site of the virtual floor: certificate, configuration and addresses without any file.
//!
//! Certificates are plain bytes that the laboratory's own [`Trust`] reads; keys and signatures are
//! real. The configuration is the daemon's own format, read by the daemon's own reader, so that a
//! scenario's `config` means the same on both floors.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use thalweg::config::Config;
use thalweg::daemon::driver::node_config;
use thalweg::forward::ForwardConfig;
use thalweg::id::{Lane, NodeId};
use thalweg::node::{Identity, NodeConfig, Seed};
use thalweg::session::sign::Ed25519Signer;
use thalweg::session::trust::{Certified, ListNews, Trust, TrustError};

use crate::scenario::{Scenario, lay_over};

/// Unix time at which every virtual run begins, seconds: boot counters start from it.
const EPOCH: u64 = 1_700_000_000;

/// The number of the node at a site.
pub(super) fn node_id(site: usize) -> NodeId {
    // Scenarios have far fewer sites than node numbers.
    u16::try_from(site + 1).ok().and_then(NodeId::new).expect("a scenario's site has a number")
}

/// The site of a node.
pub(super) fn site_of(node: NodeId) -> usize {
    usize::from(node.get()) - 1
}

/// The overlay address of a site's node.
pub(super) fn overlay_address(site: usize) -> Ipv4Addr {
    let [high, low] = node_id(site).get().to_be_bytes();
    Ipv4Addr::new(10, 77, high, low)
}

/// The underlay endpoint of a site's node.
pub(super) fn endpoint(site: usize) -> SocketAddr {
    let [high, low] = node_id(site).get().to_be_bytes();
    SocketAddr::from(([192, 18, high, low], 4600))
}

/// The site at an underlay endpoint.
pub(super) fn site_at(endpoint: SocketAddr) -> Option<usize> {
    match endpoint.ip() {
        IpAddr::V4(ip) => match ip.octets() {
            [192, 18, high, low] => usize::from(u16::from_be_bytes([high, low])).checked_sub(1),
            _ => None,
        },
        IpAddr::V6(_) => None,
    }
}

/// What a node needs to start.
pub(super) struct Plan {
    config: Config,
    seeds: Vec<Seed>,
    certified: Certified,
    certificate: Vec<u8>,
    key: [u8; 32],
}

impl Plan {
    /// The plan of one site.
    ///
    /// # Errors
    /// A configuration the daemon would not take either.
    pub(super) fn new(scenario: &Scenario, site: usize) -> anyhow::Result<Self> {
        let spec = &scenario.sites[site];
        let mut table = toml::toml! {
            [node]
            certificate = "virtual.crt"
            key = "virtual.key"
            ca = ["virtual-ca.crt"]
            state = "virtual"
            [underlay]
        };
        let mut own = toml::Table::new();
        let mut node = toml::Table::new();
        node.insert("name".into(), spec.name.clone().into());
        own.insert("node".into(), node.into());
        let mut underlay = toml::Table::new();
        underlay.insert("listen".into(), endpoint(site).to_string().into());
        own.insert("underlay".into(), underlay.into());
        lay_over(&mut table, &own);
        lay_over(&mut table, &spec.config);
        let text = toml::to_string(&table)?;
        let config = Config::parse(&text, Path::new(&spec.name))
            .with_context(|| format!("site {:?}", spec.name))?;
        let key = seed_of(site);
        let certified = certified(site, &spec.name)?;
        let seeds = spec
            .seeds
            .iter()
            .map(|&s| Seed { name: scenario.sites[s].name.clone(), endpoints: vec![endpoint(s)] })
            .collect();
        Ok(Self { config, seeds, certified, certificate: certificate(site, &spec.name), key })
    }

    /// Who the node is.
    pub(super) fn identity(&self) -> anyhow::Result<Identity> {
        Ok(Identity {
            certified: self.certified.clone(),
            certificate: self.certificate.clone(),
            signer: Box::new(Ed25519Signer::from_seed(&self.key)?),
            trust: Box::new(LabTrust),
        })
    }

    /// The boot counter of a start after `seconds` of the run.
    pub(super) fn boot(seconds: u64, before: u64) -> u64 {
        (EPOCH + seconds).max(before.saturating_add(1))
    }

    pub(super) fn node(&self, boot: u64) -> NodeConfig {
        node_config(&self.config, self.seeds.clone(), boot)
    }

    pub(super) fn forward(&self, boot: u64) -> ForwardConfig {
        ForwardConfig {
            node: self.certified.node,
            boot,
            mtu: self.config.overlay.mtu.into(),
            classes: self.config.classes.clone(),
            networks: self.certified.networks().collect(),
            relay: self.config.relay.relay && self.certified.relay,
            tun_udp: false,
            lane: Lane::ONLY,
            max_rate_bps: self.config.uplink.max_rate_bps,
        }
    }

    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(super) fn certified(&self) -> &Certified {
        &self.certified
    }
}

/// What the key of a site's node is made from: laboratory keys are no secrets.
fn seed_of(site: usize) -> [u8; 32] {
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&(site as u64).to_be_bytes());
    seed
}

/// The public key of a site's node. Remembered: making one takes as long as a signature, and in a mesh of
/// hundreds every node reads every other's certificate.
fn public_key(site: usize) -> anyhow::Result<[u8; 32]> {
    static KEYS: Mutex<BTreeMap<usize, [u8; 32]>> = Mutex::new(BTreeMap::new());
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(key) = keys.get(&site) {
        return Ok(*key);
    }
    let key = Ed25519Signer::from_seed(&seed_of(site))?.public_key();
    keys.insert(site, key);
    Ok(key)
}

fn certified(site: usize, name: &str) -> anyhow::Result<Certified> {
    Ok(Certified {
        node: node_id(site),
        name: name.into(),
        addresses: vec![overlay_address(site).into()],
        prefixes: Vec::new(),
        relay: true,
        public_key: public_key(site)?,
        not_after: EPOCH + 10 * 365 * 86_400,
    })
}

fn certificate(site: usize, name: &str) -> Vec<u8> {
    let mut bytes = b"lab".to_vec();
    bytes.extend_from_slice(&node_id(site).get().to_be_bytes());
    bytes.extend_from_slice(name.as_bytes());
    bytes
}

/// Reads the laboratory's certificates.
pub(super) struct LabTrust;

impl Trust for LabTrust {
    fn verify(&self, bytes: &[u8]) -> Result<Certified, TrustError> {
        let foreign = || TrustError("not issued by the laboratory".into());
        let [b'l', b'a', b'b', high, low, name @ ..] = bytes else { return Err(foreign()) };
        let node = NodeId::new(u16::from_be_bytes([*high, *low])).ok_or_else(foreign)?;
        let name = std::str::from_utf8(name).map_err(|_| foreign())?;
        certified(site_of(node), name).map_err(|_| foreign())
    }

    fn revokes(&self, _: &[u8]) -> bool {
        false
    }

    fn on_list(&self, _: &[u8]) -> Result<ListNews, TrustError> {
        Err(TrustError("the laboratory revokes nothing".into()))
    }

    fn lists(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }
}
