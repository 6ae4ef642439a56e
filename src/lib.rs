//! Forebay: one endpoint for PostgreSQL and Redis.
//!
//! The rooms, from the top: `cli`; `import` and `init`; `admin` and `ops`; `pg` and `redis`; `topology` and `guard`; `worker` and `pool`;
//! `net`; and the leaves `config`, `wire` and `sql`, which know no socket and no clock. Imports point down only.

// The pages of this crate are read by those who change it: they may link to what is private.
#![allow(rustdoc::private_intra_doc_links)]

pub mod admin;
pub mod cli;
pub mod config;
pub mod guard;
pub mod import;
pub mod init;
pub mod net;
pub mod ops;
pub mod pg;
pub mod pool;
pub mod redis;
pub mod sql;
pub mod topology;
pub mod wire;
pub mod worker;
