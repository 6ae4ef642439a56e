//! Secrets and files beside the configuration, and arbitrary text.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// A folder of its own that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("forebay-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &[u8], mode: u32) {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Loads a file of this folder whose only user has this password.
    fn load(&self, password: &str) -> Result<Loaded, Diagnostics> {
        self.write(
            "f.toml",
            BASE.replace("\"app\"\n", "\"app\"\n#")
                .replace("#password = \"app\"\n#", &format!("password = {password}\n"))
                .as_bytes(),
            0o600,
        );
        load(&self.0.join("f.toml"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn password(loaded: &Loaded) -> &str {
    &loaded.config.postgres.users[0].password.as_ref().unwrap().0
}

#[test]
fn secrets_come_from_files_and_the_environment() {
    let folder = Folder::new("sources");
    folder.write("good", b"two words\r\n\n", 0o600);
    let loaded = folder.load("{ file = \"good\" }").unwrap();
    assert_eq!(password(&loaded), "two words", "relative to the configuration, newlines trimmed");
    assert_eq!(loaded.warnings, []);
    let absolute = folder.load(&format!("{{ file = {:?} }}", folder.0.join("good"))).unwrap();
    assert_eq!(password(&absolute), "two words");
    // Cargo sets this variable for every test.
    let loaded = folder.load("{ env = \"CARGO_PKG_NAME\" }").unwrap();
    assert_eq!(password(&loaded), "forebay");
}

#[test]
fn a_secret_that_others_can_read_is_warned_of() {
    let folder = Folder::new("open");
    folder.write("open", b"x", 0o640);
    let loaded = folder.load("{ file = \"open\" }").unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    let warning = &loaded.warnings[0];
    assert_eq!((warning.line, warning.column), (6, 21));
    assert!(warning.message.contains("open can be read by its group (mode 0640); run chmod 600"), "{warning}");
}

#[test]
fn a_secret_that_is_not_there_is_named_at_its_place() {
    let folder = Folder::new("missing");
    folder.write("empty", b"\n", 0o600);
    folder.write("binary", b"hidden\xff", 0o600);
    folder.write("large", &vec![b'a'; 70_000], 0o600);
    let refused = |password: &str, column: usize, parts: &[&str]| {
        let found = folder.load(password).unwrap_err().errors;
        assert_eq!((found[0].line, found[0].column), (6, column), "{found:?}");
        for part in parts {
            assert!(found[0].message.contains(part), "{found:?}");
        }
        assert!(!found[0].message.contains("hidden"));
    };
    refused("{ file = \"nowhere\" }", 21, &["postgres.user.password: cannot read ", "/nowhere: "]);
    refused("{ file = \".\" }", 21, &["is not a file"]);
    refused("{ file = \"empty\" }", 12, &["postgres.user.password must not be empty"]);
    refused("{ file = \"binary\" }", 21, &["is not UTF-8"]);
    refused("{ file = \"large\" }", 21, &["is too large for a secret"]);
    refused("{ env = \"FOREBAY_NO_SUCH\" }", 20, &["the environment variable FOREBAY_NO_SUCH is not set"]);
    refused("{ env = \"A=B\" }", 20, &["cannot be the name of an environment variable"]);
    refused("{ fil = \"x\" }", 14, &["unknown key \"fil\" in postgres.user.password"]);
    refused("{ file = \"a\", env = \"b\" }", 12, &["either { file = \"...\" } or { env = \"...\" }"]);
    refused("{ file = 5 }", 21, &["postgres.user.password.file must be a string"]);
    refused("12345", 12, &["(found a number)"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load(Path::new("/nowhere/f.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/f.toml: cannot read it: "), "{error}");
}

const REFERENCE: &str = include_str!("../../../conf/forebay.toml");

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in ".*") {
        let _ = try_load(&text);
    }

    #[test]
    fn text_made_of_toml_never_panics(text in "([\\[\\]{}=\",.#\n a-c0-9é]|\\[\\[?postgres\\.(user|cluster|pool|database)\\]?\\]\n|name = |nodes = |listen = |password = |size = |tls = |\"[a-c:/\\[\\]@.0-9]*\"){0,40}") {
        let _ = try_load(&text);
    }

    #[test]
    fn a_file_with_a_piece_cut_out_or_replaced_never_panics(from in 0usize..REFERENCE.len(), length in 0usize..40, with in "[\\[\\]{}=\"0-9a-zé\n]{0,3}") {
        // Every key active, so that each reader meets damaged text.
        let text: String = REFERENCE.lines().map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ") || line.starts_with('[')).unwrap_or(line)).flat_map(|line| [line, "\n"]).collect();
        let cut = |mut at: usize| {
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let (start, end) = (cut(from.min(text.len())), cut((from + length).min(text.len())));
        let _ = try_load(&format!("{}{with}{}", &text[..start], &text[end..]));
    }
}

#[test]
fn the_shortest_useful_file_needs_no_more() {
    let loaded = try_load(
        "[[postgres.cluster]]\nname = \"main\"\n\
         nodes = [\"127.0.0.1:5432\", \"127.0.0.1:5433\", \"127.0.0.1:5434\"]   # roles are found, not declared\n\
         [[postgres.user]]\nname = \"app\"\npassword = \"app\"\n\
         [[redis.service]]\nname = \"cache\"\nlisten = [\"127.0.0.1:6380\"]\n\
         sentinels = [\"127.0.0.1:26379\", \"127.0.0.1:26380\", \"127.0.0.1:26381\"]\nmaster_name = \"mymaster\"\n",
    )
    .unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.config.postgres.clusters[0].nodes.len(), 3);
    assert_eq!(loaded.config.redis[0].hold, Duration::from_secs(4));
}

#[test]
fn lines_that_end_in_carriage_returns_count_the_same() {
    let text = format!("{BASE}[postgres.pool]\nsize = 0\n").replace('\n', "\r\n");
    assert_eq!(errors(&text), ["f.toml:8:8: postgres.pool.size must be at least 1 (found 0)"]);
}
