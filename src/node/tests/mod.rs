//! Meshes of nodes in virtual time.

mod mesh;
mod world;
