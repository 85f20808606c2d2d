//! The hello: proves that a link works in both directions under its keys.
//!
//! ```text
//! |  0: role  |  1: version  |  2: reserved, zero, 2  |  4: capabilities 4
//! |  8: boot 8  |  16: challenge 8  |  24: echo 8  |  32
//! ```
//!
//! A node asks with a challenge it has just rolled; whoever holds the link's keys echoes it. An echo
//! that fits proves that the way there and the way back work, now, whatever was replayed. Question
//! and answer have one size.

use super::{Reader, VERSION, WireError};

/// Question or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Carries a challenge; its echo is zero.
    Request,
    /// Carries the echo; its challenge is zero.
    Response,
}

/// A hello's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Question or answer.
    pub role: Role,
    /// The wire version the sender speaks. A receiver accepts its own and the one before.
    pub version: u8,
    /// What the sender understands beyond the base: [`Hello::CAPABILITIES`]. Unknown bits are
    /// ignored.
    pub capabilities: u32,
    /// Grows with every start of the sender: a greater one ends the session of the life before.
    pub boot: u64,
    /// The question's challenge.
    pub challenge: [u8; 8],
    /// The answer's echo of it.
    pub echo: [u8; 8],
}

impl Hello {
    /// The body's size.
    pub const LEN: usize = 32;
    /// What this version understands beyond the base: nothing yet.
    pub const CAPABILITIES: u32 = 0;

    /// Reads a body.
    ///
    /// # Errors
    /// Wrong size, unknown role or version, reserved bytes set, the other role's field set.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let role = match r.u8("role")? {
            0 => Role::Request,
            1 => Role::Response,
            _ => return Err(WireError::Value("role")),
        };
        let version = r.u8("version")?;
        if version != VERSION {
            return Err(WireError::Value("version"));
        }
        r.zero::<2>("reserved")?;
        let capabilities = r.u32("capabilities")?;
        let boot = r.u64("boot")?;
        let challenge = r.array("challenge")?;
        let echo = r.array("echo")?;
        r.end()?;
        let unused = if role == Role::Request { echo } else { challenge };
        if unused != [0; 8] {
            return Err(WireError::Reserved("challenge or echo"));
        }
        Ok(Self { role, version, capabilities, boot, challenge, echo })
    }

    /// The body as bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0] = match self.role {
            Role::Request => 0,
            Role::Response => 1,
        };
        out[1] = self.version;
        out[4..8].copy_from_slice(&self.capabilities.to_be_bytes());
        out[8..16].copy_from_slice(&self.boot.to_be_bytes());
        out[16..24].copy_from_slice(&self.challenge);
        out[24..32].copy_from_slice(&self.echo);
        out
    }
}
