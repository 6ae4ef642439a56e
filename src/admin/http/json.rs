//! Rows as JSON.

use serde_json::{Map, Value as Json, json};

use crate::admin::table::{Column, Kind, Row, Table, Value};
use crate::admin::{Answer, run::Notice};

/// A list with one object a row, by the names of the columns.
pub(super) fn rows(table: &Table) -> Json {
    let row = |row: &Row| Json::Object(table.columns.iter().zip(row).map(field).collect::<Map<_, _>>());
    table.rows.iter().map(row).collect()
}

fn field((column, value): (&Column, &Value)) -> (String, Json) {
    let value = match (value, column.kind) {
        (Value::Null, _) => Json::Null,
        (Value::Text(text), _) => Json::from(text.as_ref()),
        (Value::Thousandths(number), _) => Json::from(*number as f64 / 1e3),
        (Value::Int(number), Kind::Bool) => Json::from(*number != 0),
        (Value::Int(number), _) => Json::from(*number),
    };
    (column.name.to_string(), value)
}

/// Tag, rows if it has any, and messages.
pub(super) fn answer(answer: &Answer) -> Json {
    let notice = |notice: &Notice| json!({ "code": notice.code, "message": notice.message, "detail": notice.detail });
    let mut whole = Map::new();
    whole.insert("tag".to_owned(), Json::from(answer.tag.as_ref()));
    if let Some(table) = &answer.table {
        whole.insert("rows".to_owned(), rows(table));
    }
    whole.insert("notices".to_owned(), answer.notices.iter().map(notice).collect());
    Json::Object(whole)
}
