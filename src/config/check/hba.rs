//! `auth = "hba"`: the files of rules and maps, and what they need of the rest of the configuration.

use std::sync::Arc;

use crate::config::diagnostic::Diagnostic;
use crate::config::hba::{self, ClientCertificate, Connection, Disk, Encryption, Method, Rule};
use crate::config::model::{AuthMethod, Postgres, TlsMode};
use crate::config::reader::Reader;

pub(super) fn read(postgres: &mut Postgres, reader: &mut Reader<'_>) {
    if postgres.auth != AuthMethod::Hba {
        for (key, file) in [("hba_file", &postgres.hba_file), ("ident_file", &postgres.ident_file)] {
            if file.is_some() {
                let key = format!("postgres.{key}");
                reader.warning_in(&key, format!("{key} has no effect without auth = \"hba\""));
            }
        }
        return;
    }
    let Some(hba_file) = &postgres.hba_file else {
        let message = "postgres.auth = \"hba\" needs postgres.hba_file; name the file of rules".to_owned();
        return reader.error_in("postgres.auth", message);
    };
    if let Some(kept) = reader.kept_rules() {
        postgres.hba = Some(kept);
        return;
    }
    let mut read = hba::load(hba_file, postgres.ident_file.as_deref(), &Disk);
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
        (Method::Trust, _) if rule.certificate == ClientCertificate::No => {
            Some("trust lets in whoever comes from these addresses, as any of these users")
        }
        _ => None,
    }
}
