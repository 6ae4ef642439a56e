//! The extended protocol: prepared statements without parameters, and portals.

use std::sync::Arc;

use super::session::{Over, Session, parse};
use super::{MOST_NAMES, encode};
use crate::admin::Refusal;
use crate::admin::run;
use crate::admin::statement::Statement;
use crate::admin::table::{Column, Row};
use crate::wire::pg::body::{Body, Malformed};
use crate::wire::pg::build;
use crate::wire::pg::message::{self, Bind, Execute, Parse, Target};

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Prepared {
    /// `None` for an empty text.
    statement: Option<Statement>,
    /// `None` if it has no rows.
    columns: Option<std::borrow::Cow<'static, [Column]>>,
}

/// A bound statement, before, during and after its execution.
#[derive(Debug)]
pub(super) struct Portal {
    prepared: Arc<Prepared>,
    formats: Vec<bool>,
    /// Rows that were not asked for yet, and the tag for their end; `None` before the execution.
    left: Option<(std::vec::IntoIter<Row>, String)>,
}

/// What becomes of a message: it was answered, or this is the error.
type Done = Result<(), Refusal>;

fn name(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn bad(malformed: Malformed) -> Refusal {
    Refusal::Protocol(malformed.to_string())
}

impl Session {
    /// Parse, Bind, Describe, Execute or Close.
    pub(super) async fn extended(&mut self, kind: u8, body: &[u8]) -> Result<Done, Over> {
        Ok(match kind {
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' => self.describe(body),
            b'C' => self.close(body),
            b'E' => return self.execute(body).await,
            other => Err(Refusal::Protocol(format!("unexpected message type \"{}\"", other.escape_ascii()))),
        })
    }

    fn parse(&mut self, body: &[u8]) -> Done {
        let message = Parse::read(body).map_err(bad)?;
        if message.oids().len() > 0 {
            return Err(Refusal::Parameters);
        }
        let mut statements = parse(message.text)?;
        if statements.len() > 1 {
            return Err(Refusal::Syntax {
                near: name(message.text),
                expected: "one statement in a prepared statement",
            });
        }
        let statement = statements.pop();
        let columns = statement.as_ref().and_then(run::columns);
        if !message.name.is_empty() {
            if self.statements.contains_key(message.name) {
                return Err(Refusal::StatementExists(name(message.name)));
            }
            if self.statements.len() >= MOST_NAMES {
                return Err(Refusal::TooMany(MOST_NAMES));
            }
        }
        self.statements.insert(message.name.to_vec(), Arc::new(Prepared { statement, columns }));
        build::parse_complete(&mut self.out);
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Done {
        let bind = Bind::read(body).map_err(bad)?;
        let formats = formats(body.get(bind.rest..).unwrap_or_default())?;
        let prepared = self.statements.get(bind.statement).ok_or_else(|| Refusal::NoStatement(name(bind.statement)))?;
        let prepared = Arc::clone(prepared);
        let columns = prepared.columns.as_ref().map_or(0, |c| c.len());
        let formats = match formats.as_slice() {
            [] => Vec::new(),
            [one] => vec![*one; columns],
            many if many.len() == columns => formats,
            many => {
                let what = format!("bind message has {} result formats but query has {columns} columns", many.len());
                return Err(Refusal::Protocol(what));
            }
        };
        if self.portals.len() >= MOST_NAMES && !self.portals.contains_key(bind.portal) {
            return Err(Refusal::TooMany(MOST_NAMES));
        }
        self.portals.insert(bind.portal.to_vec(), Portal { prepared, formats, left: None });
        build::bind_complete(&mut self.out);
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Done {
        let (target, called) = message::describe(body).map_err(bad)?;
        let (columns, formats) = match target {
            Target::Statement => {
                let prepared = self.statements.get(called).ok_or_else(|| Refusal::NoStatement(name(called)))?;
                build::parameter_description(&mut self.out, &[]);
                (&prepared.columns, &[][..])
            }
            Target::Portal => {
                let portal = self.portals.get(called).ok_or_else(|| Refusal::NoPortal(name(called)))?;
                (&portal.prepared.columns, portal.formats.as_slice())
            }
        };
        match columns {
            Some(columns) => encode::row_description(&mut self.out, columns, formats),
            None => build::no_data(&mut self.out),
        }
        Ok(())
    }

    fn close(&mut self, body: &[u8]) -> Done {
        let (target, called) = message::close(body).map_err(bad)?;
        match target {
            Target::Statement => drop(self.statements.remove(called)),
            Target::Portal => drop(self.portals.remove(called)),
        }
        build::close_complete(&mut self.out);
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> Result<Done, Over> {
        let message = match Execute::read(body) {
            Ok(message) => message,
            Err(malformed) => return Ok(Err(bad(malformed))),
        };
        let Some(mut portal) = self.portals.remove(message.portal) else {
            return Ok(Err(Refusal::NoPortal(name(message.portal))));
        };
        let Some(statement) = &portal.prepared.statement else {
            build::empty_query_response(&mut self.out);
            self.portals.insert(message.portal.to_vec(), portal);
            return Ok(Ok(()));
        };
        let mut left = match portal.left.take() {
            Some(left) => left,
            None => {
                let answer = match self.answer(statement).await? {
                    Ok(answer) => answer,
                    Err(refusal) => return Ok(Err(refusal)),
                };
                self.before(&answer);
                (answer.table.map(|t| t.rows).unwrap_or_default().into_iter(), answer.tag.into_owned())
            }
        };
        let columns = portal.prepared.columns.as_deref().unwrap_or_default();
        let mut more = usize::try_from(message.max_rows).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
        while more > 0
            && let Some(row) = left.0.next()
        {
            encode::data_row(&mut self.out, columns, &portal.formats, &row);
            more -= 1;
            if self.is_full() {
                self.flush().await?;
            }
        }
        if left.0.len() > 0 {
            // PortalSuspended
            self.out.extend([b's', 0, 0, 0, 4]);
        } else {
            build::command_complete(&mut self.out, &left.1);
        }
        portal.left = Some(left);
        self.portals.insert(message.portal.to_vec(), portal);
        Ok(Ok(()))
    }
}

/// The result formats of a Bind message, from behind its names: `true` is binary.
fn formats(rest: &[u8]) -> Result<Vec<bool>, Refusal> {
    let mut body = Body::new("Bind", rest);
    let of_parameters = body.u16("the number of parameter formats").map_err(bad)?;
    body.take(usize::from(of_parameters) * 2, "a format for each parameter").map_err(bad)?;
    if body.u16("the number of parameters").map_err(bad)? > 0 {
        return Err(Refusal::Parameters);
    }
    let count = body.u16("the number of result formats").map_err(bad)?;
    let mut formats = Vec::new();
    for _ in 0..count {
        match body.u16("a format for each result").map_err(bad)? {
            0 => formats.push(false),
            1 => formats.push(true),
            other => return Err(Refusal::Protocol(format!("unsupported format code: {other}"))),
        }
    }
    body.end().map_err(bad)?;
    Ok(formats)
}
