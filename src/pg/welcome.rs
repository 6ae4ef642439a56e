//! What a client is told at login: the parameters that a server would report to it.
//!
//! A server is asked once for each set of startup settings; the answer is kept by the pool for everybody who comes
//! with the same. `application_name` is left out of the comparison, since it differs from client to client and is
//! reported as it was given.

use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::control::{self, Failure};
use super::core::Core;
use super::errors::Trouble;
use super::pool::{PgPool, Welcome};
use super::settings::{Settings, Value};
use crate::pool::{Choice, Class, Refusal, Take};
use crate::worker::clock::now_ns;

const APPLICATION_NAME: &str = "application_name";

/// The parameters for a client with these startup settings. The first one with new settings waits for a server.
///
/// # Errors
/// The server refused a setting, in its own words; or there is no server in time.
pub async fn welcome(core: &Rc<Core>, pool: &Rc<PgPool>, settings: &Arc<Settings>) -> Result<Welcome, Trouble> {
    let common = settings.without(APPLICATION_NAME);
    let name = match settings.value(APPLICATION_NAME) {
        Some(Value::Text(name)) => printable(name),
        _ => String::new(),
    };
    let digest = common.digest();
    let known = pool.shared.welcomes.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
    let welcome = match known {
        Some(welcome) => welcome,
        None => {
            let learned = Arc::new(learn(core, pool, &common).await?);
            let mut all = pool.shared.welcomes.lock().unwrap_or_else(PoisonError::into_inner);
            // Settings are the client's to choose: what is remembered of them is bounded.
            if all.len() >= 256 {
                all.clear();
            }
            all.insert(digest, Arc::clone(&learned));
            learned
        }
    };
    let mut welcome = Welcome::clone(&welcome);
    welcome.learn(APPLICATION_NAME.as_bytes(), name.as_bytes());
    Ok(welcome)
}

/// As PostgreSQL shows a name: other characters than printable ASCII become question marks.
fn printable(name: &str) -> String {
    name.chars().take(63).map(|c| if (' '..='~').contains(&c) { c } else { '?' }).collect()
}

async fn learn(core: &Rc<Core>, pool: &Rc<PgPool>, settings: &Arc<Settings>) -> Result<Welcome, Trouble> {
    loop {
        let mut backend = connection(core, pool).await?;
        let base = pool.shared.base.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut welcome = base.map(|base| Welcome::clone(&base)).unwrap_or_default();
        if settings.is_plain() {
            core.give_back(pool, backend);
            return Ok(welcome);
        }
        // From the server's own defaults, so that what it reports is all that differs from them.
        let reset = Settings::default().difference(&backend.settings);
        let done = match control::run(&mut backend, &reset).await {
            Ok(_) => control::run(&mut backend, &settings.difference(&Settings::default())).await,
            Err(e) => Err(e),
        };
        match done {
            Ok(said) => {
                for (name, value) in &said.params {
                    welcome.learn(name.as_bytes(), value.as_bytes());
                }
                backend.settings = Arc::clone(settings);
                core.give_back(pool, backend);
                return Ok(welcome);
            }
            Err(failure) => {
                backend.is_dirty = true;
                let is_said = matches!(failure, Failure::Said { .. });
                if is_said {
                    core.give_back(pool, backend);
                    return Err(failure.into_trouble());
                }
                core.close(pool, backend);
            }
        }
    }
}

/// A connection, from the queue if none is idle.
async fn connection(core: &Rc<Core>, pool: &Rc<PgPool>) -> Result<Box<super::backend::Backend>, Trouble> {
    // Without a primary a replica can tell as well.
    let class = if core.has_primary(pool) { Class::Primary } else { Class::Replica };
    let taken = pool.state.borrow_mut().take(class, Choice::LeastConnections);
    if let Take::Connection(mut backend) = taken {
        if !backend.has_news() || core.read_news(&mut backend) {
            return Ok(backend);
        }
        core.close(pool, backend);
    }
    let began = now_ns();
    let waiter = pool.state.borrow_mut().enqueue(class, began);
    let Some(waiter) = waiter else {
        let length = pool.config.borrow().settings.queue_length.unwrap_or_default();
        return Err(Trouble::QueueFull { pool: pool.name(), length });
    };
    core.open_wanted(pool);
    loop {
        let config = Rc::clone(&pool.config.borrow());
        let waited = now_ns() - began;
        let left = core.wait_limit(pool, &config).map(|limit| limit.saturating_sub(waited));
        if left == Some(0) {
            if let Some(backend) = waiter.leave() {
                core.put(pool, backend);
            }
            return Err(core.why_waited(pool, waited));
        }
        // Looks again every second: whether there is a primary changes how long to wait.
        let step = left.map_or(Duration::from_secs(1), Duration::from_nanos).min(Duration::from_secs(1));
        let granted = core.wheel.timeout(Some(step), std::future::poll_fn(|cx| waiter.poll(cx))).await;
        match granted {
            Ok(Ok(backend)) => return Ok(backend),
            Ok(Err(Refusal::Closed(why))) => return Err(Trouble::Ended(why)),
            Ok(Err(Refusal::Server { code, message })) => return Err(Trouble::ServerRefused { code, message }),
            Err(_) => {}
        }
    }
}
