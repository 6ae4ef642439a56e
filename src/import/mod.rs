//! Configurations of other tools, made into one of Forebay's.
//!
//! A tool's files are read by its own folder here and told to a [`Draft`]: what has an equal becomes a key,
//! all else a comment that names it, its place, and why. Nothing that was written is dropped silently, and what comes out
//! is accepted by `forebay check`: what would not be is commented out with the reason, and told of.
//!
//! The command line calls [`import`]; nothing here touches the network but the resolver that it is given.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod draft;
mod haproxy;
mod pgbouncer;
mod pgpool;
mod source;
mod table;

use std::fmt;
use std::path::PathBuf;

use crate::config::Resolve;
use crate::config::hba::Files;
use draft::Draft;
use source::Source;

/// Whose files they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `pgbouncer.ini` and what it names.
    PgBouncer,
    /// `pgpool.conf`, `pool_passwd`, `pool_hba.conf`, `pcp.conf`.
    Pgpool,
    /// `haproxy.cfg`, in one or several files.
    HaProxy,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// A configuration that is accepted as it is.
    pub text: String,
    /// What its reader has to do before it is of use; one line each.
    pub notes: Vec<String>,
}

/// A file that could not be read, or is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportError {
    /// As it was named.
    pub file: String,
    /// From 1; 0 when the file as a whole is meant.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for ImportError {
    /// `FILE:LINE: what`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.what),
            line => write!(f, "{}:{line}: {}", self.file, self.what),
        }
    }
}

impl std::error::Error for ImportError {}

/// Reads a tool's files and says the same in Forebay's words.
///
/// # Errors
/// The first thing that cannot be read; or that what was made of it would not be accepted, which is our mistake.
pub fn import(tool: Tool, files: &[PathBuf], from: &dyn Files, resolve: Resolve) -> Result<Imported, ImportError> {
    let mut draft = Draft::default();
    let mut source = Source::new(from);
    match tool {
        Tool::PgBouncer => pgbouncer::read(files, &mut source, &mut draft)?,
        Tool::Pgpool => pgpool::read(files, &mut source, &mut draft)?,
        Tool::HaProxy => haproxy::read(files, &mut source, &mut draft)?,
    }
    let title = match tool {
        Tool::PgBouncer => "PgBouncer",
        Tool::Pgpool => "Pgpool-II",
        Tool::HaProxy => "HAProxy",
    };
    draft.settle(title, &source.names(), resolve)
}

#[cfg(test)]
mod tests;
