//! What is wrong with a file, and where.
//!
//! A diagnostic names a place that an editor can jump to and says the way out. It never holds a secret:
//! readers put names and types of values into messages, never the value of a key that may be secret.

use std::fmt;

/// One finding in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file as the user named it.
    pub file: String,
    /// From 1; 0 when the file as a whole is meant (it cannot be read).
    pub line: usize,
    /// From 1, in characters (not bytes); 0 with line 0.
    pub column: usize,
    /// What is wrong and what to do, without the position.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    /// `FILE:LINE:COL: message`, `FILE:LINE: message` without a column, or `FILE: message` without a position.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.message)
        } else if self.column == 0 {
            write!(f, "{}:{}: {}", self.file, self.line, self.message)
        } else {
            write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
        }
    }
}

/// Why a file was refused: every error found, and the warnings beside them, both in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostics {
    /// Never empty.
    pub errors: Vec<Diagnostic>,
    /// What would have been warned of had the file been accepted.
    pub warnings: Vec<Diagnostic>,
}

impl fmt::Display for Diagnostics {
    /// The errors, one a line, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// Line and column, both from 1, of a byte offset. An offset inside a character or past the end is
/// taken back to the nearest one that is not.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before[start..].chars().filter(|&c| c != '\u{feff}').count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_from_one() {
        let text = "a = 1\näö = \"ü\" x\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, text.find('x').unwrap()), (2, 10));
        assert_eq!(position(text, 7), (2, 1), "inside of a character");
        assert_eq!(position(text, 9999), (3, 1));
        assert_eq!(position("\u{feff}a", 3), (1, 1), "a byte order mark has no width");
    }

    #[test]
    fn displays_as_editors_expect() {
        let mut d = Diagnostic { file: "f.toml".into(), line: 14, column: 8, message: "m".into() };
        assert_eq!(d.to_string(), "f.toml:14:8: m");
        (d.line, d.column) = (0, 0);
        assert_eq!(d.to_string(), "f.toml: m");
    }
}
