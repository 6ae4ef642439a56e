//! Running the process: start, reload, drain and stop, logs, signals, and the readers of the databases' catalogs.

mod catalogs;
pub mod instance;
pub mod log;
mod serve;

pub use instance::Instance;
pub use serve::serve;
