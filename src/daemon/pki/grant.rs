//! What a CA grants a node, and how a certificate carries it.
//!
//! The node's name is the certificate's only DNS subject alternative name. Number, overlay addresses,
//! prefixes and roles lie in one private extension, which is *not* critical (the TLS library refuses
//! unknown critical ones): object identifier [`OID`], value a DER `UTF8String` with a JSON object
//! `{"v":1,"node":3,"addresses":["10.77.0.3"],"prefixes":["192.168.5.0/24"],"relay":true}`. JSON keeps
//! it readable with every certificate viewer; unknown members are ignored, so that a newer CA can say
//! more to newer nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use x509_parser::asn1_rs::{FromDer, ToDer, Utf8String};

use crate::config::{NODE_NAME_RULE, is_node_name};
use crate::id::NodeId;

/// The extension's object identifier: a number drawn at random under the UUID arc (X.667), kept
/// below 2^63 since encoders take arcs of that size.
pub const OID: [u64; 3] = [2, 25, 4_870_236_113_582_915_903];

/// [`OID`] as text.
pub const OID_TEXT: &str = "2.25.4870236113582915903";

/// Most overlay addresses of one node: one per family is usual.
pub const MOST_ADDRESSES: usize = 16;

/// Most site prefixes of one node: every other node holds them all.
pub const MOST_PREFIXES: usize = 256;

/// Version of the extension's JSON that we write, and the newest that we read.
const VERSION: u8 = 1;

/// What a CA grants a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its number.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Its site prefixes.
    pub prefixes: Vec<IpNet>,
    /// Whether it may carry others' traffic.
    pub relay: bool,
}

#[derive(Serialize, Deserialize)]
struct Body {
    v: u8,
    node: u16,
    addresses: Vec<IpAddr>,
    prefixes: Vec<IpNet>,
    relay: bool,
}

impl Grant {
    /// Checks what holds for every grant, whoever wrote it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn check(&self) -> Result<(), String> {
        if !is_node_name(&self.name) {
            return Err(format!("\"{}\" is no node name: {NODE_NAME_RULE}", self.name));
        }
        if self.addresses.is_empty() {
            return Err("a node needs at least one overlay address".into());
        }
        if self.addresses.len() > MOST_ADDRESSES || self.prefixes.len() > MOST_PREFIXES {
            return Err(format!(
                "more than {MOST_ADDRESSES} addresses or {MOST_PREFIXES} prefixes"
            ));
        }
        for address in &self.addresses {
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                return Err(format!("{address} cannot be a node's address"));
            }
        }
        for prefix in &self.prefixes {
            let first = prefix.network();
            if first.is_multicast() || first.is_loopback() || prefix.prefix_len() == 0 {
                return Err(format!("{prefix} cannot be a site's prefix"));
            }
            if *prefix != prefix.trunc() {
                return Err(format!("{prefix} has bits set beyond its length"));
            }
        }
        let doubled = |i: usize, net: &IpNet| self.prefixes[..i].iter().any(|n| overlap(n, net));
        if let Some((_, net)) = self.prefixes.iter().enumerate().find(|(i, net)| doubled(*i, net)) {
            return Err(format!("{net} overlaps another prefix of the same node"));
        }
        let twice = |i: usize, a: &IpAddr| self.addresses[..i].contains(a);
        if let Some((_, a)) = self.addresses.iter().enumerate().find(|(i, a)| twice(*i, a)) {
            return Err(format!("{a} is given twice"));
        }
        Ok(())
    }

    /// The value of the extension.
    pub fn encode(&self) -> Vec<u8> {
        let body = Body {
            v: VERSION,
            node: self.node.get(),
            addresses: self.addresses.clone(),
            prefixes: self.prefixes.clone(),
            relay: self.relay,
        };
        let json = serde_json::to_string(&body).expect("plain values always serialise");
        Utf8String::new(&json).to_der_vec().expect("text of a bounded length always encodes")
    }

    /// Reads the value of the extension; the name comes from the certificate itself.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn decode(name: String, value: &[u8]) -> Result<Self, String> {
        let (rest, json) =
            Utf8String::from_der(value).map_err(|_| "its Thalweg extension is not DER text")?;
        if !rest.is_empty() {
            return Err("its Thalweg extension has bytes behind its end".into());
        }
        let body: Body = serde_json::from_str(&json.string())
            .map_err(|e| format!("its Thalweg extension does not parse: {e}"))?;
        if body.v != VERSION {
            return Err(format!(
                "its Thalweg extension has version {}, this program reads {VERSION}",
                body.v
            ));
        }
        let node = NodeId::new(body.node)
            .ok_or_else(|| format!("its node number {} cannot be one", body.node))?;
        let grant = Self {
            node,
            name,
            addresses: body.addresses,
            prefixes: body.prefixes,
            relay: body.relay,
        };
        grant.check()?;
        Ok(grant)
    }
}

/// Whether two prefixes share an address.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant {
            node: NodeId::new(3).unwrap(),
            name: "paris".into(),
            addresses: vec!["10.77.0.3".parse().unwrap(), "fd77::3".parse().unwrap()],
            prefixes: vec!["192.168.5.0/24".parse().unwrap()],
            relay: true,
        }
    }

    #[test]
    fn a_grant_is_readable_json_in_der_text_and_comes_back() {
        let value = grant().encode();
        assert_eq!(value[0], 0x0c, "UTF8String");
        let json = r#"{"v":1,"node":3,"addresses":["10.77.0.3","fd77::3"],"prefixes":["192.168.5.0/24"],"relay":true}"#;
        assert_eq!(&value[2..], json.as_bytes());
        assert_eq!(Grant::decode("paris".into(), &value), Ok(grant()));
    }

    #[test]
    fn absurd_grants_are_refused_in_words() {
        let refused = |change: fn(&mut Grant)| {
            let mut grant = grant();
            change(&mut grant);
            Grant::decode(grant.name.clone(), &grant.encode()).unwrap_err()
        };
        assert!(refused(|g| g.name = "Paris.".into()).contains("is no node name"));
        assert!(refused(|g| g.addresses.clear()).contains("at least one overlay address"));
        assert!(refused(|g| g.addresses[0] = "0.0.0.0".parse().unwrap()).contains("cannot be"));
        assert!(refused(|g| g.addresses[1] = g.addresses[0]).contains("twice"));
        assert!(refused(|g| g.prefixes = vec!["0.0.0.0/0".parse().unwrap()]).contains("cannot be"));
        assert!(
            refused(|g| g.prefixes.push("192.168.0.0/16".parse().unwrap())).contains("overlap")
        );
        assert!(refused(|g| g.prefixes[0] = "10.0.0.1/8".parse().unwrap()).contains("beyond"));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(0_u8.., 0..300)) {
            let _ = Grant::decode("x".into(), &bytes);
            let mut text = vec![0x0c, u8::try_from(bytes.len().min(127)).unwrap()];
            text.extend(&bytes[..bytes.len().min(127)]);
            let _ = Grant::decode("x".into(), &text);
        }
    }
}
