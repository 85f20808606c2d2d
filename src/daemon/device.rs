//! The overlay's network device: made, given its addresses, and made again where somebody took it
//! away.
//!
//! The data thread sees that it vanished and goes on relaying; here it is made anew under the same
//! name, with the same addresses, MTU and routes, at growing intervals until that succeeds.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context as _;
use ipnet::IpNet;
use tokio::time::Instant;

use super::netlink::Netlink;
use super::tun::Tun;

/// From the loss to the first attempt, and between attempts at most: soon enough for a slip of the
/// hand, rare enough for a name that another program keeps.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The device and all that hangs on it.
#[derive(Debug)]
pub struct Device {
    name: String,
    mtu: u16,
    addresses: Vec<IpAddr>,
    queues: u8,
    routes: BTreeSet<IpNet>,
    /// Where peers are.
    underlay: BTreeSet<IpAddr>,
    state: State,
}

#[derive(Debug)]
enum State {
    Up(Netlink),
    /// Vanished: when to try next, and how long to wait after that.
    Gone {
        at: Instant,
        wait: Duration,
    },
}

impl Device {
    /// Makes the device and raises it. Gives its queues: so many, or one where the system does not
    /// let us say which a packet takes.
    ///
    /// # Errors
    /// No privilege, the name is taken, an address or the MTU is refused.
    pub async fn open(
        name: &str,
        queues: u8,
        mtu: u16,
        addresses: &[IpAddr],
    ) -> anyhow::Result<(Self, Vec<Tun>)> {
        let (tuns, netlink) = raise(name, queues, mtu, addresses).await?;
        let device = Self {
            // Where the name was a pattern, the device comes back under the number it had.
            name: tuns[0].name().to_owned(),
            mtu,
            queues: tuns.len() as u8,
            addresses: addresses.to_vec(),
            routes: BTreeSet::new(),
            underlay: BTreeSet::new(),
            state: State::Up(netlink),
        };
        Ok((device, tuns))
    }

    /// Makes the routes over the device exactly these, now or when it is back, but for those that the
    /// way to a peer would follow; `underlay`: where peers are.
    pub async fn install(&mut self, routes: BTreeSet<IpNet>, underlay: BTreeSet<IpAddr>) {
        if routes != self.routes || underlay != self.underlay {
            if let State::Up(netlink) = &mut self.state {
                netlink.on_underlay(&underlay);
                netlink.install(&routes).await;
            }
            (self.routes, self.underlay) = (routes, underlay);
        }
    }

    /// Prefixes that lead elsewhere or may not lead into the device.
    pub fn routes_refused(&self) -> usize {
        match &self.state {
            State::Up(netlink) => netlink.refused().len(),
            State::Gone { .. } => 0,
        }
    }

    /// The device vanished.
    pub fn on_lost(&mut self, error: &io::Error) {
        let gone = State::Gone { at: Instant::now() + WAIT.0, wait: WAIT.0 };
        if let State::Up(netlink) = std::mem::replace(&mut self.state, gone) {
            netlink.end();
        }
        tracing::warn!(
            device = %self.name, %error, retry_ms = WAIT.0.as_millis(),
            "the TUN device is gone; relaying goes on, and it is made anew"
        );
    }

    /// When [`Device::reopen`] wants to be called.
    pub fn reopen_at(&self) -> Option<Instant> {
        match self.state {
            State::Up(_) => None,
            State::Gone { at, .. } => Some(at),
        }
    }

    /// Tries to make the device anew; `None` where it is there, or where that failed and is to be
    /// tried again later.
    pub async fn reopen(&mut self) -> Option<Vec<Tun>> {
        let State::Gone { wait, .. } = self.state else { return None };
        match raise(&self.name, self.queues, self.mtu, &self.addresses).await {
            Ok((tuns, mut netlink)) => {
                netlink.on_underlay(&self.underlay);
                netlink.install(&self.routes).await;
                self.state = State::Up(netlink);
                tracing::info!(device = %self.name, "the TUN device is back");
                Some(tuns)
            }
            Err(error) => {
                let next = (wait * 2).min(WAIT.1);
                let retry_ms = next.as_millis();
                let device = &self.name;
                if wait == WAIT.0 {
                    tracing::warn!(%device, retry_ms, "the TUN device cannot be made: {error:#}");
                } else {
                    tracing::debug!(%device, retry_ms, "still no TUN device: {error:#}");
                }
                self.state = State::Gone { at: Instant::now() + next, wait: next };
                None
            }
        }
    }

    /// Takes routes and addresses away.
    pub async fn withdraw(self) {
        if let State::Up(netlink) = self.state {
            netlink.withdraw(&self.addresses).await;
        }
    }
}

/// Makes a device of this name with its addresses and MTU, and sets it up.
async fn raise(
    name: &str,
    queues: u8,
    mtu: u16,
    addresses: &[IpAddr],
) -> anyhow::Result<(Vec<Tun>, Netlink)> {
    let tuns = Tun::open_queues(name, queues).with_context(|| format!("TUN device {name}"))?;
    let netlink = Netlink::start(tuns[0].name()).await?;
    netlink.raise(addresses, mtu).await?;
    Ok((tuns, netlink))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::namespace::{ip, isolated};

    #[test]
    fn a_device_comes_back_with_its_addresses_mtu_and_the_routes_wanted_by_then() {
        isolated(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let own: [IpAddr; 1] = ["10.77.0.1".parse().unwrap()];
                let (mut device, tun) = Device::open("test%d", 2, 1300, &own).await.unwrap();
                device.install(["10.77.0.2/32".parse().unwrap()].into(), [].into()).await;
                assert!(ip("route").contains("10.77.0.2"));
                assert!(device.reopen_at().is_none() && device.reopen().await.is_none());

                ip("link del test0");
                device.on_lost(&io::Error::other("as a test wants"));
                drop(tun);
                device.install(["10.77.0.3/32".parse().unwrap()].into(), [].into()).await;
                // Somebody else has the name: tried again, later than before.
                let other = Tun::open("test0").unwrap();
                let first = device.reopen_at().unwrap();
                assert!(device.reopen().await.is_none());
                assert!(device.reopen_at().unwrap() > first);
                drop(other);

                let tun = device.reopen().await.unwrap();
                assert_eq!((tun[0].name(), tun.len(), device.reopen_at()), ("test0", 2, None));
                let shown = ip("addr show dev test0");
                for part in ["mtu 1300", "10.77.0.1/32", ",UP"] {
                    assert!(shown.contains(part), "{part} in {shown}");
                }
                let routes = ip("route");
                assert!(routes.contains("10.77.0.3") && !routes.contains("10.77.0.2"), "{routes}");
                device.withdraw().await;
                assert!(!ip("addr show dev test0").contains("10.77"), "addresses are gone");
            });
        });
    }
}
