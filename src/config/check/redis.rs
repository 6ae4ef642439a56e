//! TLS of Redis services.

use std::path::PathBuf;

use crate::config::model::*;
use crate::config::reader::Reader;
use crate::config::setting::quote;

/// A file, and the key that names it.
type Named<'a> = (&'static str, &'a Option<PathBuf>);

pub(super) fn tls(services: &[RedisService], reader: &mut Reader<'_>) {
    for (i, service) in services.iter().enumerate() {
        let place = format!("redis.service[{i}]");
        to_servers(service, &place, reader);
        to_clients(service, &place, reader);
    }
}

fn to_servers(service: &RedisService, place: &str, reader: &mut Reader<'_>) {
    let name = quote(&service.name);
    let mut modes = vec![("tls.mode", service.tls_mode)];
    modes.extend(service.sentinel_tls.map(|mode| ("sentinel_tls", mode)));
    for (key, mode) in &modes {
        let at = format!("{place}.{key}");
        if matches!(mode, TlsMode::Allow | TlsMode::Prefer) {
            reader.error_in(
                &at,
                format!(
                    "redis.service {name}: {key} may not be left to the server, since Redis cannot be asked whether it \
                     speaks TLS; write \"require\", \"verify-ca\" or \"verify-full\", or \"disable\""
                ),
            );
        }
        if mode.is_verified() && service.tls_ca.is_none() {
            reader.error_in(&at, format!("redis.service {name}: {key} needs tls.ca; name the file"));
        }
    }
    if service.tls_cert.is_some() != service.tls_key.is_some() {
        let at = format!("{place}.tls");
        reader.error_in(&at, format!("redis.service {name}: tls.cert and tls.key need each other"));
    }
    if service.sentinel_tls.is_some() && service.sentinels.is_empty() {
        let at = format!("{place}.sentinel_tls");
        reader.error_in(&at, format!("redis.service {name} has a sentinel_tls, but no sentinels; remove it"));
    }
    let files = [("tls.ca", &service.tls_ca), ("tls.cert", &service.tls_cert), ("tls.key", &service.tls_key)];
    without_mode("tls", &files, service.sentinel_tls.is_some(), &name, place, reader);
}

fn to_clients(service: &RedisService, place: &str, reader: &mut Reader<'_>) {
    let name = quote(&service.name);
    let mode = service.client_tls_mode;
    let files = [
        ("client_tls.cert", &service.client_tls_cert),
        ("client_tls.key", &service.client_tls_key),
        ("client_tls.ca", &service.client_tls_ca),
    ];
    let needed = match () {
        () if mode == TlsMode::Disable => 0,
        () if mode.is_verified() => 3,
        () => 2,
    };
    for (key, _) in files.iter().take(needed).filter(|(_, file)| file.is_none()) {
        let at = format!("{place}.client_tls.mode");
        let way_out = "name the file, or write \"disable\"";
        reader.error_in(&at, format!("redis.service {name}: client_tls.mode needs {key}; {way_out}"));
    }
    without_mode("client_tls", &files, false, &name, place, reader);
}

/// Files without a mode: who names them believes that they are used.
fn without_mode(
    table: &str,
    files: &[Named<'_>],
    has_other_mode: bool,
    name: &str,
    place: &str,
    reader: &mut Reader<'_>,
) {
    if has_other_mode || reader.has(&format!("{place}.{table}.mode")) {
        return;
    }
    for (key, _) in files.iter().filter(|(_, file)| file.is_some()) {
        let at = format!("{place}.{key}");
        let way_out = "write \"require\" or stricter, or \"disable\"";
        reader.error_in(&at, format!("redis.service {name}: {key} is not used without {table}.mode; {way_out}"));
    }
}
