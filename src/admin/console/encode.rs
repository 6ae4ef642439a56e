//! Answers as messages, in the formats that the client asked for.

use crate::admin::run::Notice;
use crate::admin::table::{Column, Row};
use crate::wire::pg::build::{self, ErrorFields};

/// The format of each column: `true` is binary. Empty is text for all.
pub(super) type Formats = [bool];

fn is_binary(formats: &Formats, column: usize) -> bool {
    formats.get(column).copied().unwrap_or(false)
}

/// RowDescription. Columns belong to no table.
pub(super) fn row_description(out: &mut Vec<u8>, columns: &[Column], formats: &Formats) {
    let start = out.len();
    out.extend([b'T', 0, 0, 0, 0]);
    out.extend((columns.len() as u16).to_be_bytes());
    for (at, column) in columns.iter().enumerate() {
        let name = column.name.split('\0').next().unwrap_or_default();
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.extend([0; 6]);
        out.extend(column.kind.oid().to_be_bytes());
        out.extend(column.kind.size().to_be_bytes());
        out.extend((-1i32).to_be_bytes());
        out.extend(u16::from(is_binary(formats, at)).to_be_bytes());
    }
    let length = (out.len() - start - 1) as u32;
    if let Some(field) = out.get_mut(start + 1..).and_then(|rest| rest.first_chunk_mut::<4>()) {
        *field = length.to_be_bytes();
    }
}

/// DataRow.
pub(super) fn data_row(out: &mut Vec<u8>, columns: &[Column], formats: &Formats, row: &Row) {
    let fields = columns.iter().zip(row).enumerate().map(|(at, (column, value))| match is_binary(formats, at) {
        true => value.binary(column.kind),
        false => value.text(column.kind).map(|text| text.into_owned().into_bytes()),
    });
    build::data_row(out, &fields.collect::<Vec<_>>());
}

/// NoticeResponse.
pub(super) fn notice(out: &mut Vec<u8>, notice: &Notice) {
    build::notice_response(
        out,
        &ErrorFields {
            severity: notice.severity,
            code: notice.code,
            message: &notice.message,
            detail: notice.detail.as_deref(),
            hint: None,
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::table::{columns, row};
    use crate::wire::pg::message;

    const COLUMNS: &[Column] = columns![Text "name"; Int4 "port"; Numeric "total"];

    #[test]
    fn a_text_description_is_the_one_that_the_builder_makes() {
        let (mut ours, mut built) = (Vec::new(), Vec::new());
        row_description(&mut ours, COLUMNS, &[]);
        build::row_description(&mut built, &[("name", 25), ("port", 23), ("total", 1700)]);
        assert_eq!(ours, built);
    }

    #[test]
    fn each_column_has_the_format_that_was_asked_for() {
        let mut out = Vec::new();
        data_row(&mut out, COLUMNS, &[false, true, false], &row!["a", 5432, 70_000]);
        let fields = message::data_row(&out[5..]).unwrap();
        assert_eq!(fields, [Some(&b"a"[..]), Some(&[0, 0, 0x15, 0x38][..]), Some(&b"70000"[..])]);
    }
}
