//! Columns, values and rows, as they are before any protocol.

use std::borrow::Cow;

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// text
    Text,
    /// integer
    Int4,
    /// bigint
    Int8,
    /// numeric; whole numbers only.
    Numeric,
    /// double precision; thousandths at the finest.
    Float8,
    /// boolean
    Bool,
}

impl Kind {
    /// `pg_type.oid`
    pub fn oid(self) -> u32 {
        match self {
            Kind::Bool => 16,
            Kind::Int8 => 20,
            Kind::Int4 => 23,
            Kind::Text => 25,
            Kind::Float8 => 701,
            Kind::Numeric => 1700,
        }
    }

    /// `pg_type.typlen`
    pub fn size(self) -> i16 {
        match self {
            Kind::Bool => 1,
            Kind::Int4 => 4,
            Kind::Int8 | Kind::Float8 => 8,
            Kind::Text | Kind::Numeric => -1,
        }
    }
}

/// A column of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Tools find columns by it.
    pub name: Cow<'static, str>,
    /// See [`Kind`].
    pub kind: Kind,
}

/// A list of columns: `columns![Text "database"; Int4 "port" "pool_size"]`.
macro_rules! columns {
    ($($kind:ident $($name:literal)+);* $(;)?) => {
        &[$($($crate::admin::table::Column {
            name: std::borrow::Cow::Borrowed($name),
            kind: $crate::admin::table::Kind::$kind,
        }),+),*]
    };
}
pub(super) use columns;

/// One field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL
    Null,
    /// For text columns.
    Text(Cow<'static, str>),
    /// For all others; booleans are 0 and 1. Kept within the column's range when it is written.
    Int(i64),
    /// Thousandths, for [`Kind::Float8`].
    Thousandths(i64),
}

/// One row; as many values as there are columns.
pub type Row = Vec<Value>;

/// A row of anything that becomes a [`Value`].
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$($crate::admin::table::Value::from($value)),*] };
}
pub(super) use row;

/// An answer with rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// See [`Column`].
    pub columns: Cow<'static, [Column]>,
    /// See [`Row`].
    pub rows: Vec<Row>,
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Value::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(Cow::Owned(text))
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Value::Text(Cow::Owned(text.clone()))
    }
}

impl From<&std::sync::Arc<str>> for Value {
    fn from(text: &std::sync::Arc<str>) -> Self {
        Value::Text(Cow::Owned(text.to_string()))
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Int(i64::from(value))
    }
}

macro_rules! whole_numbers {
    ($($type:ty)+) => {$(
        impl From<$type> for Value {
            fn from(number: $type) -> Self {
                Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
            }
        }
    )+};
}
whole_numbers!(u16 u32 u64 usize i32 i64);

impl Value {
    /// As PostgreSQL writes it in text format, for a column of `kind`; `None` is NULL.
    pub fn text(&self, kind: Kind) -> Option<Cow<'_, str>> {
        Some(match (self, kind) {
            (Value::Null, _) => return None,
            (Value::Text(text), _) => Cow::Borrowed(text.as_ref()),
            (Value::Thousandths(number), _) => Cow::Owned((*number as f64 / 1e3).to_string()),
            (Value::Int(number), Kind::Bool) => Cow::Borrowed(if *number == 0 { "f" } else { "t" }),
            (Value::Int(number), kind) => Cow::Owned(within(*number, kind).to_string()),
        })
    }

    /// As PostgreSQL writes it in binary format, for a column of `kind`; `None` is NULL.
    pub fn binary(&self, kind: Kind) -> Option<Vec<u8>> {
        let number = match self {
            Value::Null => return None,
            Value::Text(text) => return Some(text.as_bytes().to_vec()),
            Value::Thousandths(number) => return Some((*number as f64 / 1e3).to_be_bytes().to_vec()),
            Value::Int(number) => within(*number, kind),
        };
        Some(match kind {
            Kind::Bool => vec![u8::from(number != 0)],
            Kind::Int4 => i32::try_from(number).unwrap_or(i32::MAX).to_be_bytes().to_vec(),
            Kind::Int8 => number.to_be_bytes().to_vec(),
            Kind::Float8 => (number as f64).to_be_bytes().to_vec(),
            Kind::Numeric => numeric(number),
            Kind::Text => number.to_string().into_bytes(),
        })
    }
}

fn within(number: i64, kind: Kind) -> i64 {
    match kind {
        Kind::Int4 => number.clamp(i32::MIN.into(), i32::MAX.into()),
        _ => number,
    }
}

/// A whole number as `numeric_send` of PostgreSQL writes it: count of digits to base 10000, weight of the first, sign,
/// decimals, digits.
fn numeric(number: i64) -> Vec<u8> {
    let mut digits = Vec::new();
    let mut left = number.unsigned_abs();
    while left > 0 {
        digits.push((left % 10_000) as u16);
        left /= 10_000;
    }
    digits.reverse();
    let weight = digits.len().saturating_sub(1) as u16;
    while digits.last() == Some(&0) {
        digits.pop();
    }
    let sign: u16 = if number < 0 { 0x4000 } else { 0 };
    let head = [digits.len() as u16, weight, sign, 0];
    head.iter().chain(&digits).flat_map(|part| part.to_be_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stays_within_its_column() {
        let big = Value::from(5_000_000_000u64);
        assert_eq!(big.text(Kind::Int4).as_deref(), Some("2147483647"));
        assert_eq!(big.text(Kind::Int8).as_deref(), Some("5000000000"));
        assert_eq!(Value::from(u64::MAX).text(Kind::Numeric).as_deref(), Some("9223372036854775807"));
        assert_eq!(big.binary(Kind::Int4).unwrap(), i32::MAX.to_be_bytes());
    }

    #[test]
    fn numeric_has_digits_to_base_10000() {
        let words = |n: i64| -> Vec<u16> { numeric(n).chunks(2).map(|b| u16::from_be_bytes([b[0], b[1]])).collect() };
        assert_eq!(words(0), [0, 0, 0, 0]);
        assert_eq!(words(7), [1, 0, 0, 0, 7]);
        assert_eq!(words(-12_345_678), [2, 1, 0x4000, 0, 1234, 5678]);
        assert_eq!(words(50_000), [1, 1, 0, 0, 5], "50000 is 5 * 10000 + 0: zeros at the end are not sent");
        assert_eq!(words(50_001), [2, 1, 0, 0, 5, 1]);
    }

    #[test]
    fn thousandths_are_a_float() {
        let value = Value::Thousandths(1_250);
        assert_eq!(value.text(Kind::Float8).as_deref(), Some("1.25"));
        assert_eq!(value.binary(Kind::Float8).unwrap(), 1.25f64.to_be_bytes());
    }

    #[test]
    fn null_is_null_in_both_formats() {
        assert_eq!((Value::Null.text(Kind::Int4), Value::Null.binary(Kind::Text)), (None, None));
        assert_eq!(Value::from(None::<u32>), Value::Null);
    }

    #[test]
    fn a_boolean_is_one_letter_or_one_byte() {
        assert_eq!(Value::from(true).text(Kind::Bool).as_deref(), Some("t"));
        assert_eq!(Value::from(false).binary(Kind::Bool).unwrap(), [0]);
    }
}
