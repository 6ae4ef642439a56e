//! Asking for a password without showing it.

use std::fs::OpenOptions;
use std::io::{self, BufRead as _, BufReader, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// Puts the terminal back as it was, however this ends.
struct Quiet<'a>(&'a std::fs::File, Termios);

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(self.0, OptionalActions::Flush, &self.1);
    }
}

/// Asks on the terminal of the process; `None` if there is none, or nothing was typed.
pub(super) fn ask(prompt: &str) -> Option<String> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
    let answer = ask_on(&terminal, prompt).ok()?;
    (!answer.is_empty()).then(|| answer.to_string())
}

fn ask_on(terminal: &std::fs::File, prompt: &str) -> io::Result<Zeroizing<String>> {
    let before = tcgetattr(terminal)?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    (&mut &*terminal).write_all(prompt.as_bytes())?;
    tcsetattr(terminal, OptionalActions::Flush, &quiet)?;
    let restored = Quiet(terminal, before);
    let mut line = Zeroizing::new(String::new());
    BufReader::new(terminal).read_line(&mut line)?;
    drop(restored);
    (&mut &*terminal).write_all(b"\n")?;
    let end = line.trim_end_matches(['\n', '\r']).len();
    line.truncate(end);
    Ok(line)
}
