//! Control messages: what the kernel notes beside received bytes, and what it is asked beside sent
//! ones. Linux `cmsg(3)`, `udp(7)`.

#![allow(unsafe_code)]

use std::mem::zeroed;

/// Space for the control messages of one datagram or run; aligned as `cmsghdr` wants.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; 128]);

impl Default for Control {
    fn default() -> Self {
        Self([0; 128])
    }
}

/// What the kernel noted beside received bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notes {
    pub(super) tos: u8,
    pub(super) segment: Option<usize>,
    pub(super) drops: Option<u32>,
}

pub(super) fn read_control(header: &libc::msghdr) -> Notes {
    let mut notes = Notes::default();
    // SAFETY: the kernel filled `msg_control` up to `msg_controllen`; the CMSG macros stay inside,
    // and each value is read unaligned, with the size its kind has.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while let Some(message) = at.as_ref() {
            let data = libc::CMSG_DATA(at);
            match (message.cmsg_level, message.cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_TOS) => notes.tos = data.read(),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    notes.tos = data.cast::<libc::c_int>().read_unaligned() as u8;
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    let size = data.cast::<libc::c_int>().read_unaligned();
                    notes.segment = usize::try_from(size).ok();
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    notes.drops = Some(data.cast::<u32>().read_unaligned());
                }
                _ => {}
            }
            at = libc::CMSG_NXTHDR(header, at);
        }
    }
    notes
}

/// Writes the control messages a send needs; returns how many bytes of `space` they take.
pub(super) fn write_control(space: &mut Control, v6: bool, tos: u8, segment: Option<u16>) -> usize {
    let mut used = 0;
    let mut push = |level, kind, value: &[u8]| {
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute; CMSG_DATA of the header written at `used`
        // lies inside `space`, which has room for both messages (2 × 24 bytes of 128).
        unsafe {
            let at = space.0.as_mut_ptr().add(used).cast::<libc::cmsghdr>();
            let mut header: libc::cmsghdr = zeroed();
            header.cmsg_level = level;
            header.cmsg_type = kind;
            header.cmsg_len = libc::CMSG_LEN(value.len() as u32) as _;
            at.write(header);
            std::ptr::copy_nonoverlapping(value.as_ptr(), libc::CMSG_DATA(at), value.len());
            used += libc::CMSG_SPACE(value.len() as u32) as usize;
        }
    };
    if tos != 0 {
        let value = libc::c_int::from(tos).to_ne_bytes();
        if v6 {
            push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &value);
        } else {
            push(libc::IPPROTO_IP, libc::IP_TOS, &value);
        }
    }
    if let Some(segment) = segment {
        push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    used
}
