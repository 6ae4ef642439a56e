//! As whom a client speaks to the servers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What a client said, or the configuration says; nothing is left of it in memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Box<[u8]>>);

impl Password {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Password(Zeroizing::new(bytes.into()))
    }

    /// As servers want it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A user and the password that the servers know; connections are shared by those who have the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Number of this login in its thread's [`Logins`].
    pub id: u32,
    /// Name of the ACL user.
    pub user: Box<[u8]>,
    /// `None`: the default user where it has no password, for whom nothing is said.
    password: RefCell<Option<Password>>,
}

impl Login {
    /// The password that new connections say.
    pub fn password(&self) -> Option<Password> {
        self.password.borrow().clone()
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.user.escape_ascii())
    }
}

/// Name of the user of who has not said AUTH.
pub const DEFAULT_USER: &[u8] = b"default";

/// The logins that a thread has to do with.
#[derive(Debug, Default)]
pub struct Logins {
    known: RefCell<Vec<Rc<Login>>>,
    /// How many there have been.
    count: Cell<u32>,
    /// At so many, those that nobody uses are forgotten.
    most: Cell<usize>,
}

/// Logins that are known before any is forgotten.
const FEW: usize = 64;

impl Logins {
    /// The login of these, the same for the same.
    pub fn of(&self, user: &[u8], password: Option<&[u8]>) -> Rc<Login> {
        let mut known = self.known.borrow_mut();
        let found = known.iter().find(|login| {
            *login.user == *user && same(login.password.borrow().as_ref().map(Password::as_bytes), password)
        });
        if let Some(login) = found {
            return Rc::clone(login);
        }
        if known.len() >= self.most.get().max(FEW) {
            // Wrong passwords, above all: anybody can say as many as he likes.
            known.retain(|login| Rc::strong_count(login) > 1);
            self.most.set(known.len() * 2);
        }
        let id = self.count.get();
        self.count.set(id.wrapping_add(1));
        let password = RefCell::new(password.map(Password::new));
        let login = Rc::new(Login { id, user: user.into(), password });
        known.push(Rc::clone(&login));
        login
    }

    /// A user's password is another one now. Whoever has logged in with the old one stays so, as with Redis itself, and
    /// its connections are shared with those that the new one opens.
    pub fn renew(&self, user: &[u8], old: &[u8], new: &[u8]) {
        for login in self.known.borrow().iter() {
            if *login.user == *user && same(login.password.borrow().as_ref().map(Password::as_bytes), Some(old)) {
                *login.password.borrow_mut() = Some(Password::new(new));
            }
        }
    }
}

/// Whether two passwords are the same, in a time that does not tell how much of them is.
fn same(one: Option<&[u8]>, other: Option<&[u8]>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.ct_eq(other).into(),
        (None, None) => true,
        _ => false,
    }
}
