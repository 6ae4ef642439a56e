//! `auth = "hba"`: the files of rules and maps, and what they need of the rest of the configuration.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::diagnostic::Diagnostic;
use crate::config::exposed;
use crate::config::hba::{self, ClientCertificate, Connection, Disk, Encryption, Files, Method, Rule};
use crate::config::model::{AuthMethod, ChannelBinding, Postgres, TlsMode};
use crate::config::reader::Reader;

/// What stands for the file of rules with `auth = "cert"`.
const CERT: &str = "auth = \"cert\"";

/// The file system, and the one rule that `auth = "cert"` is.
struct WithCert(String);

impl Files for WithCert {
    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        if file == Path::new(CERT) { Ok(self.0.clone().into_bytes()) } else { Disk.read(file) }
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        Disk.list(folder)
    }
}

pub(super) fn read(postgres: &mut Postgres, reader: &mut Reader<'_>) {
    let auth = postgres.auth;
    let unused = [
        ("hba_file", postgres.hba_file.is_some(), auth == AuthMethod::Hba, "auth = \"hba\""),
        ("ident_file", postgres.ident_file.is_some(), auth.has_rules(), "auth = \"hba\" or \"cert\""),
        ("cert_map", postgres.cert_map.is_some(), auth == AuthMethod::Cert, "auth = \"cert\""),
        ("ldap.ca", postgres.ldap_ca.is_some(), auth == AuthMethod::Hba, "auth = \"hba\""),
    ];
    for (key, _, _, without) in unused.iter().filter(|(_, is_set, is_used, _)| *is_set && !is_used) {
        let key = format!("postgres.{key}");
        reader.warning_in(&key, format!("{key} has no effect without {without}"));
    }
    let hba_file = match (auth, &postgres.hba_file) {
        (AuthMethod::Hba, Some(file)) => file.clone(),
        (AuthMethod::Hba, None) => {
            let message = "postgres.auth = \"hba\" needs postgres.hba_file; name the file of rules".to_owned();
            return reader.error_in("postgres.auth", message);
        }
        (AuthMethod::Cert, _) => PathBuf::from(CERT),
        _ => return,
    };
    if auth == AuthMethod::Cert && (postgres.tls_mode == TlsMode::Disable || postgres.tls_ca.is_none()) {
        let message =
            "postgres.auth = \"cert\" needs postgres.tls.mode and the authorities in postgres.tls.ca".to_owned();
        return reader.error_in("postgres.auth", message);
    }
    if let Some(kept) = reader.kept_rules() {
        postgres.hba = Some(kept);
        return;
    }
    let map = postgres.cert_map.as_ref().map(|map| format!(" \"map={map}\"")).unwrap_or_default();
    let files = WithCert(format!("hostssl all,replication all all cert{map}\n"));
    let mut read = hba::load(&hba_file, postgres.ident_file.as_deref(), &files);
    for rule in &read.rules.rules {
        let told = |message: &str| Diagnostic {
            file: rule.place.file.to_string(),
            line: rule.place.line,
            column: 0,
            message: message.to_owned(),
        };
        let needs_authority = rule.certificate != ClientCertificate::No && postgres.tls_mode != TlsMode::Disable;
        if needs_authority && postgres.tls_ca.is_none() {
            let message = "clients' certificates can be checked only with postgres.tls.ca; name the file";
            read.errors.push(told(message));
        }
        read.warnings.extend(doubt(rule, postgres.tls_mode).map(told));
        let Some(ldap) = &rule.ldap else { continue };
        if postgres.tls_channel_binding == ChannelBinding::Require {
            let message = "ldap cannot be used with postgres.tls.channel_binding = \"require\": its logins send the \
                           password and can be bound to nothing";
            read.errors.push(told(message));
        }
        let longest = postgres.ldap_timeout.saturating_mul(ldap.hosts.len().try_into().unwrap_or(u32::MAX));
        if let Some(limit) = postgres.pool.client_login_timeout.filter(|limit| *limit <= longest) {
            let message = format!(
                "client_login_timeout ({limit:?}) ends before all LDAP servers have been tried for \
                 postgres.ldap.timeout ({:?}) each",
                postgres.ldap_timeout
            );
            read.warnings.push(told(&message));
        }
        if let Some(why) = ldap.secret_file.as_deref().and_then(|file| exposed::by_others(Path::new(file))) {
            read.warnings.push(told(&format!("ldapbindpasswd stands here, and {why}")));
        }
    }
    if postgres.ldap_ca.is_some() && !read.rules.rules.iter().any(|rule| rule.ldap.is_some()) {
        reader.warning_in("postgres.ldap.ca", "ldap.ca has no effect without a rule with the method ldap".to_owned());
    }
    postgres.hba = Some(Arc::new(read.rules));
    reader.elsewhere(read.errors, read.warnings);
}

/// What is right, and yet not what its author can want, or open to whoever is on the way.
fn doubt(rule: &Rule, tls: TlsMode) -> Option<&'static str> {
    let Connection::Tcp(encryption, address) = &rule.connection else { return None };
    match (rule.method, encryption) {
        (_, Encryption::Gss) => Some("a hostgssenc record fits no connection: GSSAPI is not spoken"),
        (_, Encryption::Tls) if tls == TlsMode::Disable => {
            Some("a hostssl record fits no connection, as postgres.tls.mode is \"disable\"")
        }
        (_, Encryption::NoTls) if tls.is_required() => {
            Some("a hostnossl record fits no connection, as postgres.tls.mode asks everybody for TLS")
        }
        _ if address.is_of_this_machine() => None,
        (Method::Password, Encryption::Any | Encryption::NoTls | Encryption::NoGss) if !tls.is_required() => {
            Some("password without TLS sends the password as it is over the network; write hostssl, or scram-sha-256")
        }
        (Method::Ldap, Encryption::Any | Encryption::NoTls | Encryption::NoGss) if !tls.is_required() => {
            Some("ldap without TLS sends the password as it is over the network; write hostssl")
        }
        (Method::Trust, _) if rule.certificate == ClientCertificate::No => {
            Some("trust lets in whoever comes from these addresses, as any of these users")
        }
        _ => None,
    }
}
