//! Longest-prefix match over IPv4 and IPv6 in one map.
//!
//! Sites announce few prefixes, so a table per prefix length (longest first) in ordered maps is
//! small and exact. Reading costs one ordered lookup per length in use.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// A map from prefixes to values.
#[derive(Clone, Debug)]
pub struct PrefixMap<T> {
    v4: BTreeMap<u8, BTreeMap<u32, T>>,
    v6: BTreeMap<u8, BTreeMap<u128, T>>,
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> PrefixMap<T> {
    /// An empty map.
    pub fn new() -> Self {
        Self { v4: BTreeMap::new(), v6: BTreeMap::new() }
    }

    /// Puts a value under a prefix (host bits are ignored); returns what was there.
    pub fn insert(&mut self, net: IpNet, value: T) -> Option<T> {
        match net.trunc() {
            IpNet::V4(n) => {
                self.v4.entry(n.prefix_len()).or_default().insert(n.network().to_bits(), value)
            }
            IpNet::V6(n) => {
                self.v6.entry(n.prefix_len()).or_default().insert(n.network().to_bits(), value)
            }
        }
    }

    /// The value of exactly this prefix.
    pub fn exact(&self, net: IpNet) -> Option<&T> {
        match net.trunc() {
            IpNet::V4(n) => self.v4.get(&n.prefix_len())?.get(&n.network().to_bits()),
            IpNet::V6(n) => self.v6.get(&n.prefix_len())?.get(&n.network().to_bits()),
        }
    }

    /// The value of the longest prefix that holds this address.
    pub fn longest(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(a) => {
                let bits = a.to_bits();
                let mut lengths = self.v4.iter().rev();
                lengths.find_map(|(&len, nets)| {
                    nets.get(&(bits & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)))
                })
            }
            IpAddr::V6(a) => {
                let bits = a.to_bits();
                let mut lengths = self.v6.iter().rev();
                lengths.find_map(|(&len, nets)| {
                    nets.get(&(bits & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)))
                })
            }
        }
    }

    /// Every prefix with its value, IPv4 first, in order of length and address.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        let v4 = self.v4.iter().flat_map(|(&len, nets)| {
            nets.iter().filter_map(move |(&bits, value)| {
                Some((IpNet::new(IpAddr::V4(bits.into()), len).ok()?, value))
            })
        });
        let v6 = self.v6.iter().flat_map(|(&len, nets)| {
            nets.iter().filter_map(move |(&bits, value)| {
                Some((IpNet::new(IpAddr::V6(bits.into()), len).ok()?, value))
            })
        });
        v4.chain(v6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_the_default_catches_the_rest() {
        let mut map = PrefixMap::new();
        for (net, value) in [("0.0.0.0/0", 0), ("10.1.0.0/16", 1), ("10.1.2.3/32", 2), ("::/0", 3)]
        {
            map.insert(net.parse().unwrap(), value);
        }
        let find = |a: &str| map.longest(a.parse().unwrap()).copied();
        assert_eq!(find("10.1.2.3"), Some(2));
        assert_eq!(find("10.1.2.4"), Some(1));
        assert_eq!(find("192.0.2.1"), Some(0));
        assert_eq!(find("2001:db8::1"), Some(3));
        assert_eq!(map.exact("10.1.9.9/16".parse().unwrap()), Some(&1));
        assert_eq!(map.iter().count(), 4);
    }
}
