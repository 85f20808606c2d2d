//! Meshes of nodes in virtual time.

mod fuzz;
mod mesh;
mod routes;
mod world;
