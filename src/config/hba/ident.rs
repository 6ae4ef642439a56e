//! One record of `pg_ident.conf`: who may log in as whom.

use super::file::{Record, Word};
use super::pattern::{Captured, Pattern};
use super::rule::user;
use super::{Place, UserName, at};
use crate::config::diagnostic::Diagnostic;
use crate::config::setting::quote;

/// What stands for the captured text in the second name.
const CAPTURED: &str = "\\1";

/// A line of a map.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    /// Where it stands.
    pub place: Place,
    /// The map that it belongs to.
    pub map: String,
    /// The name that the certificate or the operating system has told, and as whom it may log in.
    pub names: Names,
}

/// See [`Mapping::names`].
#[derive(Debug, Clone, PartialEq)]
pub enum Names {
    /// This name.
    Name(String, UserName),
    /// Every name with this form.
    Pattern(Pattern, UserName),
    /// Every name with this form, as the user whose name is the captured text between these two.
    Captured(Captured, String, String),
}

/// Reads a record.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse(record: &Record, warnings: &mut Vec<Diagnostic>) -> Result<Mapping, String> {
    let mut fields = record.fields.iter();
    let map = one(fields.next(), "the map's name")?;
    let system = one(fields.next(), "the system's user name")?;
    let database = one(fields.next(), "the database user name")?;
    if fields.next().is_some() {
        let message = "what follows the third column has no meaning".to_owned();
        warnings.push(at(&record.place, message));
    }
    let names = match system.text.strip_prefix('/') {
        None => Names::Name(system.text.clone(), user(database)?),
        Some(pattern) => match database.text.split_once(CAPTURED) {
            Some((before, after)) if !database.text.starts_with('/') => {
                if database.text.starts_with('+') && !database.is_quoted {
                    user(database)?;
                }
                Names::Captured(Captured::new(pattern)?, before.to_owned(), after.to_owned())
            }
            _ => Names::Pattern(Pattern::new(pattern)?, user(database)?),
        },
    };
    if let Names::Name(system, UserName::Name(name)) = &names
        && name.contains(CAPTURED)
    {
        let (name, system) = (quote(name), quote(system));
        let message = format!("\\1 in {name} stands for nothing, as {system} is no regular expression");
        warnings.push(at(&record.place, message));
    }
    Ok(Mapping { place: record.place.clone(), map: map.text.clone(), names })
}

fn one<'a>(field: Option<&'a Vec<Word>>, what: &str) -> Result<&'a Word, String> {
    match field.map(Vec::as_slice) {
        Some([word]) => Ok(word),
        Some(_) => Err(format!("several values for {what}; write a line for each")),
        None => Err(format!("end of line before {what}")),
    }
}

impl Mapping {
    /// Whether whom the certificate or the operating system calls `system` may log in as `user`.
    pub(super) fn lets(&self, system: &str, user: &str) -> bool {
        match &self.names {
            Names::Name(name, users) => name == system && users.fits(user),
            Names::Pattern(pattern, users) => pattern.fits(system) && users.fits(user),
            Names::Captured(pattern, before, after) => pattern.capture(system).is_some_and(|captured| {
                user.strip_prefix(before.as_str()).and_then(|u| u.strip_suffix(after.as_str())) == Some(captured)
            }),
        }
    }
}
