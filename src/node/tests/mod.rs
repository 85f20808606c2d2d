//! Meshes of nodes in virtual time.

mod fuzz;
mod mesh;
mod reload;
mod routes;
mod trust;
mod world;
