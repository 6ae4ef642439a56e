//! Running the process: start, reload, drain and stop, logs, signals, and the readers of the databases' catalogs.

mod catalogs;
mod event_command;
pub mod instance;
mod listeners;
pub mod log;
mod logins;
mod others;
pub mod otlp;
pub mod redis;
mod serve;
pub mod sockets;
pub mod upgrade;
mod webhook;

pub use instance::Instance;
pub use serve::serve;
