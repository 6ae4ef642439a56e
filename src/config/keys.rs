//! What a section is: a table of keys, each with its name, type, default and doc.
//!
//! The tables (in `keys/`) are the one definition of every key. Loading, `show`, `diff`, `SHOW CONFIG`, `SET`
//! and the test that compares `conf/forebay.toml` and `docs/configuration.md` with the program all run over them.

use super::reader::Reader;
use super::setting::{At, Rules, Secrets, Value};

mod pool;
mod postgres;
mod redis;
mod service;

/// How a section is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `[general]`, at most once.
    One,
    /// `[[postgres.cluster]]`, any number.
    Many,
    /// `{ ... }` as an element of another key's list.
    Inline,
}

/// A part of the model that is one table of the file.
pub(super) trait Section: Sized {
    /// `postgres.pool`
    const PATH: &'static str;
    const SHAPE: Shape;
    /// To be overwritten by the defaults and the file.
    fn blank() -> Self;
    fn keys() -> Vec<Key<Self>>;
}

/// One key of a section whose values are kept in a `T`.
pub(super) struct Key<T> {
    /// Within the section: `size`, `log.level`.
    pub name: &'static str,
    /// One or two sentences for an operator.
    pub doc: &'static str,
    /// As TOML; `None` when the key is absent by default.
    pub default: Option<&'static str>,
    /// The file must have it.
    pub is_required: bool,
    /// A reload cannot apply it.
    pub needs_restart: bool,
    /// The console may not set it: it holds a secret, or a command that the process would run.
    pub file_only: bool,
    /// Inherited from `[postgres.pool]` or `[postgres.routing]`, whose name this is.
    pub inherited: Option<&'static str>,
    pub rules: Rules,
    pub form: fn(Rules) -> String,
    pub load: fn(&mut T, &Value<'_>, &At, &mut Reader<'_>),
    pub literal: fn(&T, Rules, Secrets) -> Option<String>,
}

impl<T> Key<T> {
    pub(super) fn required(mut self) -> Self {
        self.is_required = true;
        self
    }
    pub(super) fn restart(mut self) -> Self {
        self.needs_restart = true;
        self
    }
    pub(super) fn file_only(mut self) -> Self {
        self.file_only = true;
        self
    }
    pub(super) fn at_least(mut self, least: u64) -> Self {
        self.rules.at_least = least;
        self
    }
    pub(super) fn zero_is_refused(mut self) -> Self {
        self.rules.zero_is_off = false;
        self
    }
    pub(super) fn command(mut self) -> Self {
        self.rules.command = true;
        self.file_only = true;
        self
    }
    pub(super) fn beside(mut self) -> Self {
        self.rules.beside = true;
        self
    }
    pub(super) fn not_empty(mut self) -> Self {
        self.rules.not_empty = true;
        self
    }
    pub(super) fn urls(mut self) -> Self {
        self.rules.urls = true;
        self.file_only = true;
        self
    }
    pub(super) fn words(mut self, no: &'static str, yes: &'static str) -> Self {
        self.rules.words = Some((no, yes));
        self
    }
}

/// Implements [`Section`] for a struct of the model. Every field of the struct must be named, as a key or in
/// `also`; the compiler refuses a field that has been forgotten.
macro_rules! section {
    (
        $shape:ident $type:ident = $path:literal {
            $(
                $(#[doc = $doc:literal])+
                $field:ident $(as $name:literal)? : $kind:ty $(= $default:literal)? $([$($rule:ident($($arg:expr),*)),+])? ;
            )*
        }
        $(also { $($also:tt)* })?
        $(plus { $($plus:expr),* })?
    ) => {
        impl $crate::config::keys::Section for $type {
            const PATH: &'static str = $path;
            const SHAPE: $crate::config::keys::Shape = $crate::config::keys::Shape::$shape;
            fn blank() -> Self {
                Self {
                    $($field: <$kind as $crate::config::setting::Setting>::blank(),)*
                    $($($also)*)?
                }
            }
            fn keys() -> Vec<$crate::config::keys::Key<Self>> {
                #[allow(unused_mut, reason = "only sections with a plus add to it")]
                let mut keys = vec![$(
                    $crate::config::keys::key!(
                        $type, $field, $kind, [$($name)?], [$($default)?], concat!($($doc, "\n"),+),
                        |t: &mut $type, v| t.$field = v, |t: &$type| Some(&t.$field)
                    )
                    $($(.$rule($($arg),*))+)?
                ),*];
                $($(keys.extend($plus);)*)?
                keys
            }
        }
    };
}

/// One [`Key`]: `$store` keeps a value in the section, `$fetch` answers it if it is there.
macro_rules! key {
    ($type:ty, $field:ident, $kind:ty, [$($name:literal)?], [$($default:literal)?], $doc:expr, $store:expr, $fetch:expr) => {
        $crate::config::keys::Key::<$type> {
            name: {
                let name: Option<&'static str> = None;
                $(let name = name.or(Some($name));)?
                name.unwrap_or(stringify!($field))
            },
            doc: $doc,
            default: {
                let default: Option<&'static str> = None;
                $(let default = default.or(Some($default));)?
                default
            },
            is_required: false,
            needs_restart: false,
            file_only: false,
            inherited: None,
            rules: $crate::config::setting::Rules::default(),
            form: <$kind as $crate::config::setting::Setting>::form,
            load: |section, value, at, reader| {
                let store: fn(&mut $type, $kind) = $store;
                if let Some(value) = <$kind as $crate::config::setting::Setting>::parse(value, at, reader) {
                    store(section, value);
                }
            },
            literal: |section, rules, secrets| {
                let fetch: fn(&$type) -> Option<&$kind> = $fetch;
                $crate::config::setting::Setting::literal(fetch(section)?, rules, secrets)
            },
        }
    };
}
use key;
use section;

/// One key of the reference: what the docs say of it.
#[derive(Debug, Clone)]
pub struct KeyInfo {
    /// `postgres.pool`
    pub section: &'static str,
    /// How the section is written.
    pub shape: Shape,
    /// `size`
    pub name: &'static str,
    /// `number, at least 1`
    pub form: String,
    /// As TOML; `None` when there is none.
    pub default: Option<&'static str>,
    /// The file must have it.
    pub is_required: bool,
    /// A reload cannot apply it.
    pub needs_restart: bool,
    /// The section whose key this one overrides.
    pub inherited: Option<&'static str>,
    /// What it is for; lines end with a newline.
    pub doc: &'static str,
}

impl KeyInfo {
    /// `postgres.pool.size`
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// Calls `$visit::<T>()` for every section, in the order in which the reference shows them.
macro_rules! each_section {
    ($visit:ident) => {
        $visit!(General, Admin, AdminUser, Postgres, Listen, PoolSettings, RoutingSettings, Failover);
        $visit!(Cluster, Node, Database, User, RedisService, Security, Coordination, Notify, Telemetry);
    };
}

/// Every key there is, inherited ones included, section by section.
pub fn reference() -> &'static [KeyInfo] {
    use super::model::*;
    static REFERENCE: std::sync::LazyLock<Vec<KeyInfo>> = std::sync::LazyLock::new(|| {
        let mut all = Vec::new();
        macro_rules! add {
            ($($type:ident),*) => { $(add_section::<$type>(&mut all);)* };
        }
        each_section!(add);
        all
    });
    &REFERENCE
}

fn add_section<T: Section>(all: &mut Vec<KeyInfo>) {
    for key in T::keys() {
        all.push(KeyInfo {
            section: T::PATH,
            shape: T::SHAPE,
            name: key.name,
            form: (key.form)(key.rules),
            default: key.default,
            is_required: key.is_required,
            needs_restart: key.needs_restart,
            inherited: key.inherited,
            doc: key.doc,
        });
    }
}

/// The names of the sections, in the order of the reference.
pub(super) fn section_paths() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    reference().iter().filter(|key| key.shape != Shape::Inline).filter_map(move |key| {
        let is_new = key.section != last;
        last = key.section;
        is_new.then_some(key.section)
    })
}
