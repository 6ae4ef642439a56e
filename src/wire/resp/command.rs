//! What each command means for somebody who shares connections between clients.

/// What a command does to the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only reads, and means the same on every node that has the data: a replica can answer.
    Read,
    /// Only reads, but what it says belongs to one node (cursors, access times, scripts that were loaded): the primary
    /// answers, and it may be run twice.
    Pinned,
    /// Changes something, or nobody knows: the primary answers, and it must not run twice.
    Write,
}

/// How a command has to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// On a shared connection.
    Lane,
    /// On a shared connection for what may take long or answer much.
    Slow,
    /// It blocks its connection until it is answered: on one of its own, which is clean again then.
    Block,
    /// As [`Path::Block`] if the word BLOCK stands among its options, otherwise as [`Path::Lane`].
    MayBlock,
    /// Nobody knows what it does to its connection: on one of its own, which must be reset before others share it.
    Own,
    /// Changes the client's own session, or is answered without a server.
    Session(Verb),
}

/// Commands that Forebay itself carries out or watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Verb {
    Auth,
    Hello,
    Select,
    Ping,
    Quit,
    Reset,
    Client,
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
    Subscribe,
    Psubscribe,
    Ssubscribe,
    Unsubscribe,
    Punsubscribe,
    Sunsubscribe,
    Monitor,
    Wait,
    Script,
}

/// One command, or one subcommand of a container such as CONFIG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// In small letters; a subcommand's has its container's in front, `config|get`.
    pub name: Box<str>,
    /// Number of words, the command's own included; negative: at least as many.
    pub arity: i32,
    /// What it does to the data.
    pub access: Access,
    /// How it has to be carried out.
    pub path: Path,
    /// Belongs to the administrator: refused to ordinary clients.
    pub is_admin: bool,
}
