//! Addresses and routes of the TUN device, by netlink.
//!
//! Everything hangs on the device, so the kernel removes it with the device even where the daemon
//! dies without a word; a clean exit removes it itself. A prefix that already has a route elsewhere
//! is left alone and reported: nobody's LAN is cut off because a site announces the same numbers. So is
//! one that the way to a peer's underlay address would follow: the overlay would be carried in itself.
//! Linux `rtnetlink(7)`.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

/// The device's side of netlink.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
    device: String,
    index: u32,
    installed: BTreeSet<IpNet>,
    /// Reported, so that each is reported once.
    refused: BTreeSet<IpNet>,
    /// Where peers are on the underlay, and whether that changed since routes were looked at.
    underlay: BTreeSet<IpAddr>,
    moved: bool,
}

/// Marks our routes in `ip route` (as `proto 84`); numbers above 4 are free for daemons.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(84);
/// Packets the device may hold for us: its default of 500 is half a millisecond at full rate.
const QUEUE: u32 = 2000;
/// Routes at most: beyond it the table is somebody's mistake.
const ROUTES: usize = 16_384;

impl Netlink {
    /// Finds the device.
    ///
    /// # Errors
    /// No netlink, or no such device.
    pub async fn start(device: &str) -> anyhow::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("netlink")?;
        let connection = tokio::spawn(connection);
        let found = handle.link().get().match_name(device.to_owned()).execute().try_next().await;
        let link = found.with_context(|| format!("interface {device}"))?;
        let index = link.with_context(|| format!("no interface {device}"))?.header.index;
        Ok(Self {
            handle,
            connection,
            device: device.to_owned(),
            index,
            installed: BTreeSet::new(),
            refused: BTreeSet::new(),
            underlay: BTreeSet::new(),
            moved: false,
        })
    }

    /// Gives the device its addresses (each alone, as a host prefix) and MTU, and sets it up.
    ///
    /// # Errors
    /// What the kernel refuses, with the address or MTU in question.
    pub async fn raise(&self, addresses: &[IpAddr], mtu: u16) -> anyhow::Result<()> {
        for &address in addresses {
            let host = IpNet::from(address);
            let request = self.handle.address().add(self.index, address, host.prefix_len());
            let added = request.execute().await.map_err(plain);
            added.with_context(|| format!("address {address} on {}", self.device))?;
        }
        let link =
            LinkUnspec::new_with_index(self.index).mtu(mtu.into()).txqueuelen(QUEUE).up().build();
        let raised = self.handle.link().set(link).execute().await.map_err(plain);
        raised.with_context(|| format!("{} up with MTU {mtu}", self.device))
    }

    /// Peers are at these addresses of the underlay; counts with the next [`Netlink::install`].
    pub fn on_underlay(&mut self, underlay: &BTreeSet<IpAddr>) {
        if self.underlay != *underlay {
            self.underlay.clone_from(underlay);
            self.moved = true;
        }
    }

    /// Makes the routes over the device exactly these. What cannot be is reported and left out.
    pub async fn install(&mut self, wanted: &BTreeSet<IpNet>) {
        self.refused.retain(|net| wanted.contains(net));
        let gone: Vec<_> = self.installed.difference(wanted).copied().collect();
        for net in gone {
            self.installed.remove(&net);
            if let Err(error) = self.remove(net).await {
                tracing::warn!(%net, %error, "route not removed");
            } else {
                tracing::info!(%net, device = %self.device, "route removed");
            }
        }
        let mut new: Vec<_> = wanted.difference(&self.installed).copied().collect();
        if new.is_empty() && !self.moved {
            return;
        }
        let elsewhere = match self.elsewhere().await {
            Ok(nets) => nets,
            Err(error) => {
                tracing::warn!(%error, "routes cannot be listed; none installed");
                return;
            }
        };
        self.moved = false;
        let looped = |net: &IpNet| swallows(*net, &self.underlay, &elsewhere);
        let bad: Vec<_> =
            self.installed.iter().filter(|net| looped(net).is_some()).copied().collect();
        for net in bad {
            self.installed.remove(&net);
            if let Err(error) = self.remove(net).await {
                tracing::warn!(%net, %error, "route not removed");
            }
            new.push(net);
        }
        for net in new {
            let result = if let Some(peer) = swallows(net, &self.underlay, &elsewhere) {
                Err(io::Error::other(format!(
                    "the way to the peer at {peer} would lead into the overlay itself; give that \
                     address a route of its own, or take it out of the prefix"
                )))
            } else if elsewhere.contains(&net) {
                Err(io::Error::from(io::ErrorKind::AlreadyExists))
            } else if self.installed.len() >= ROUTES {
                Err(io::Error::other(format!("more than {ROUTES} routes")))
            } else {
                self.add(net).await
            };
            match result {
                Ok(()) => {
                    tracing::info!(%net, device = %self.device, "route installed");
                    self.installed.insert(net);
                    self.refused.remove(&net);
                }
                Err(error) if !self.refused.insert(net) => {
                    tracing::debug!(%net, %error, "route still not installed");
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => tracing::warn!(
                    %net,
                    "there is a route to this prefix already; its traffic does not enter the overlay"
                ),
                Err(error) => tracing::warn!(%net, %error, "route not installed"),
            }
        }
    }

    /// Prefixes wanted but routed elsewhere, or refused by the kernel.
    pub fn refused(&self) -> &BTreeSet<IpNet> {
        &self.refused
    }

    /// Removes every route and address, and ends netlink.
    pub async fn withdraw(mut self, addresses: &[IpAddr]) {
        self.install(&BTreeSet::new()).await;
        let mut found = self.handle.address().get().set_link_index_filter(self.index).execute();
        while let Some(Ok(message)) = found.next().await {
            let ours = addresses.iter().any(|&address| {
                use rtnetlink::packet_route::address::AddressAttribute as A;
                message.attributes.iter().any(|a| matches!(a, A::Address(b) if *b == address))
            });
            if ours && let Err(error) = self.handle.address().del(message).execute().await {
                tracing::warn!(%error, "address not removed");
            }
        }
        self.end();
    }

    /// Ends netlink for a device that took addresses and routes with it.
    pub fn end(self) {
        self.connection.abort();
    }

    async fn add(&self, net: IpNet) -> io::Result<()> {
        self.handle.route().add(self.route(net)).execute().await.map_err(plain)
    }

    async fn remove(&self, net: IpNet) -> io::Result<()> {
        self.handle.route().del(self.route(net)).execute().await.map_err(plain)
    }

    fn route(&self, net: IpNet) -> RouteMessage {
        match net.trunc() {
            IpNet::V4(n) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(n.network(), n.prefix_len())
                .output_interface(self.index)
                .protocol(PROTOCOL)
                .scope(rtnetlink::packet_route::route::RouteScope::Link)
                .build(),
            IpNet::V6(n) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(n.network(), n.prefix_len())
                .output_interface(self.index)
                .protocol(PROTOCOL)
                .build(),
        }
    }

    /// Prefixes in the main table that leave by another device.
    async fn elsewhere(&self) -> io::Result<BTreeSet<IpNet>> {
        let mut nets = BTreeSet::new();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for filter in [v4, v6] {
            let mut found = self.handle.route().get(filter).execute();
            while let Some(route) = found.try_next().await.map_err(plain)? {
                nets.extend(self.other_prefix(&route));
            }
        }
        Ok(nets)
    }

    fn other_prefix(&self, route: &RouteMessage) -> Option<IpNet> {
        let (mut address, mut device, mut table) = (None, None, u32::from(route.header.table));
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(a)) => address = Some((*a).into()),
                RouteAttribute::Destination(RouteAddress::Inet6(a)) => address = Some((*a).into()),
                RouteAttribute::Oif(index) => device = Some(*index),
                RouteAttribute::Table(number) => table = *number,
                _ => {}
            }
        }
        if table != u32::from(RouteHeader::RT_TABLE_MAIN) || device == Some(self.index) {
            return None;
        }
        let unspecified = match route.header.address_family {
            AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let address = address.unwrap_or(unspecified);
        IpNet::new(address, route.header.destination_prefix_length).ok()
    }
}

/// A peer whose underlay address would be reached by a route to this prefix over our own device: one
/// that no longer prefix elsewhere leads to.
fn swallows(
    net: IpNet,
    underlay: &BTreeSet<IpAddr>,
    elsewhere: &BTreeSet<IpNet>,
) -> Option<IpAddr> {
    let spared = |address: &IpAddr| {
        let better = |other: &IpNet| other.prefix_len() > net.prefix_len();
        elsewhere.iter().any(|other| better(other) && other.contains(address))
    };
    underlay.iter().find(|address| net.contains(*address) && !spared(address)).copied()
}

/// The kernel's answer as an error number.
fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::namespace::{ip, isolated};
    use crate::daemon::tun::Tun;

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn routes() -> Vec<String> {
        let list = ip("route") + &ip("-6 route");
        list.lines().filter(|l| l.contains("proto 84")).map(str::to_owned).collect()
    }

    #[test]
    fn routes_follow_what_is_wanted_and_nothing_remains() {
        isolated(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let tun = Tun::open("test%d").unwrap();
                let mut netlink = Netlink::start(tun.name()).await.unwrap();
                let own: Vec<IpAddr> =
                    vec!["10.77.0.1".parse().unwrap(), "fd77::1".parse().unwrap()];
                netlink.raise(&own, 1340).await.unwrap();
                let shown = ip("addr show dev test0");
                for part in ["mtu 1340", "qlen 2000", "10.77.0.1/32", "fd77::1/128", ",UP"] {
                    assert!(shown.contains(part), "{part} in {shown}");
                }

                netlink.install(&nets(&["10.77.0.2/32", "192.168.7.0/24", "fd77::2/128"])).await;
                assert_eq!(routes().len(), 3, "{:?}", routes());
                netlink.install(&nets(&["10.77.0.2/32", "10.77.0.3/32"])).await;
                let left = routes();
                assert_eq!(left.len(), 2, "{left:?}");
                assert!(left.iter().all(|r| r.starts_with("10.77.0.") && r.contains("dev test0")));

                // A prefix that lives elsewhere is left alone, whatever its metric.
                let _other = Tun::open("lan0").unwrap();
                ip("link set lan0 up");
                ip("route add 192.168.9.0/24 dev lan0 metric 100");
                netlink.install(&nets(&["10.77.0.2/32", "192.168.9.0/24"])).await;
                assert_eq!(routes().len(), 1);
                assert_eq!(netlink.refused(), &nets(&["192.168.9.0/24"]));
                ip("route del 192.168.9.0/24");
                netlink.install(&nets(&["10.77.0.2/32", "192.168.9.0/24"])).await;
                assert_eq!(routes().len(), 2, "free again");
                assert!(netlink.refused().is_empty());

                netlink.withdraw(&own).await;
                assert_eq!(routes(), Vec::<String>::new());
                // Not those the kernel gives by itself, which are random.
                let shown = ip("addr show dev test0");
                assert!(!own.iter().any(|a| shown.contains(&a.to_string())), "{shown}");
            });
        });
    }

    #[test]
    fn a_route_that_would_carry_the_overlay_in_itself_is_left_out() {
        isolated(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let tun = Tun::open("test%d").unwrap();
                let mut netlink = Netlink::start(tun.name()).await.unwrap();
                netlink.raise(&["10.77.0.1".parse().unwrap()], 1340).await.unwrap();
                let _other = Tun::open("wan0").unwrap();
                ip("addr add 198.51.100.2/24 dev wan0");
                ip("link set wan0 up");
                ip("route add default via 198.51.100.1");
                let wanted = nets(&["10.77.0.2/32", "203.0.113.0/24"]);
                netlink.install(&wanted).await;
                assert_eq!(routes().len(), 2);
                // A peer turns up within what another announces.
                netlink.on_underlay(&["203.0.113.9".parse().unwrap()].into());
                netlink.install(&wanted).await;
                assert_eq!(routes().len(), 1, "{:?}", routes());
                assert_eq!(netlink.refused(), &nets(&["203.0.113.0/24"]));
                assert!(!ip("route get 203.0.113.9").contains("test0"));
                // With a way of its own it harms nobody.
                ip("route add 203.0.113.9/32 via 198.51.100.1");
                netlink.install(&nets(&["10.77.0.2/32"])).await;
                netlink.install(&wanted).await;
                assert_eq!(routes().len(), 2, "{:?}", routes());
                assert!(ip("route get 203.0.113.9").contains("wan0"));
            });
        });
    }

    #[test]
    fn a_missing_device_is_named() {
        isolated(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let error = runtime.unwrap().block_on(Netlink::start("nowhere0")).unwrap_err();
            assert!(format!("{error:#}").contains("nowhere0"), "{error:#}");
        });
    }
}
