//! What TLS needs of the configuration: certificates, keys, authorities, made ready for rustls.

use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use rustc_hash::FxHasher;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use super::tls::Acceptor;
use crate::config::hba::Protection;
use crate::config::model::{
    Admin, ChannelBinding, ClientTls, Coordination, Postgres, RedisService, ServerTls, TlsMode, TlsVersion,
};

/// What PostgreSQL's clients name as the protocol inside of TLS (`libpq`, since version 17).
pub const ALPN: &[u8] = b"postgresql";

/// How clients of PostgreSQL are met; `None` if they are not offered TLS.
///
/// # Errors
/// In words, with the file that cannot be used.
pub fn for_postgres_clients(postgres: &Postgres) -> Result<Option<Arc<Acceptor>>, String> {
    let shown = Shown {
        mode: postgres.tls_mode,
        cert: postgres.tls_cert.as_deref(),
        key: postgres.tls_key.as_deref(),
        ca: postgres.tls_ca.as_deref(),
        min_version: postgres.tls_min_version,
    };
    if shown.mode == TlsMode::Disable {
        return Ok(None);
    }
    let missing = || "postgres.tls.mode needs tls.cert and tls.key".to_owned();
    let cert = shown.cert.ok_or_else(missing)?;
    let (mut config, own) = shown.config().map_err(|why| why.unwrap_or_else(missing))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    let acceptor = Acceptor::new(config, own.as_deref().unwrap_or_default());
    if postgres.tls_channel_binding == ChannelBinding::Require && acceptor.end_point().is_none() {
        let why = "logins cannot be bound to a certificate with such a signature; use one with RSA (PKCS #1) or ECDSA";
        return Err(named(cert, why));
    }
    Ok(Some(Arc::new(acceptor)))
}

/// How HTTP is spoken; `None` in clear text.
///
/// # Errors
/// In words, with the file that cannot be used.
pub fn for_admin(admin: &Admin) -> Result<Option<Arc<ServerConfig>>, String> {
    let (Some(cert), Some(key)) = (&admin.tls_cert, &admin.tls_key) else { return Ok(None) };
    let shown = Shown {
        mode: TlsMode::Require,
        cert: Some(cert),
        key: Some(key),
        ca: None,
        min_version: admin.tls_min_version,
    };
    let (mut config, _) =
        shown.config().map_err(|why| why.unwrap_or_else(|| "admin.tls needs cert and key".to_owned()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

/// How servers of the world are met: by the authorities of `ca`, or those that this system trusts.
///
/// # Errors
/// In words, with the file that cannot be used.
pub fn for_the_world(ca: Option<&Path>) -> Result<ServerTls, String> {
    if let Some(ca) = ca {
        return Met { mode: TlsMode::VerifyFull, ca: Some(ca), cert: None, key: None }.config();
    }
    let mut store = RootCertStore::empty();
    let (_, refused) = store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(format!("this system has no authorities to check certificates by ({refused} cannot be used)"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .map_err(|e| e.to_string())?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(ServerTls::new(Arc::new(config), true, 0))
}

/// How etcd is met over `https`: by the authorities of the configuration, or those that this system trusts.
///
/// # Errors
/// In words, with the file that cannot be used.
pub fn for_etcd(config: &Coordination) -> Result<ServerTls, String> {
    match (&config.tls_ca, &config.tls_cert) {
        (ca, None) => for_the_world(ca.as_deref()),
        (None, Some(_)) => Err("coordination.tls.cert needs tls.ca".to_owned()),
        (ca, cert) => {
            let (ca, cert, key) = (ca.as_deref(), cert.as_deref(), config.tls_key.as_deref());
            Met { mode: TlsMode::VerifyFull, ca, cert, key }.config()
        }
    }
}

/// How the running instance on this machine is asked: nothing is told that it could give away, so its name does not matter.
///
/// # Errors
/// In words.
pub fn for_this_machine() -> Result<ServerTls, String> {
    Met { mode: TlsMode::Require, ca: None, cert: None, key: None }.config()
}

/// Reads the files of every Redis service.
///
/// # Errors
/// In words, with the file that cannot be used.
pub fn for_redis(services: &mut [RedisService]) -> Result<(), String> {
    for service in services {
        let met = |mode| Met {
            mode,
            ca: service.tls_ca.as_deref(),
            cert: service.tls_cert.as_deref(),
            key: service.tls_key.as_deref(),
        };
        let to_nodes = met(service.tls_mode).config()?;
        let to_sentinels = met(service.sentinel_tls.unwrap_or(service.tls_mode)).config()?;
        let shown = Shown {
            mode: service.client_tls_mode,
            cert: service.client_tls_cert.as_deref(),
            key: service.client_tls_key.as_deref(),
            ca: service.client_tls_ca.as_deref(),
            min_version: service.client_tls_min_version,
        };
        service.to_clients = match shown.mode {
            TlsMode::Disable => ClientTls::default(),
            mode => {
                let needs = || format!("redis.service {}: client_tls.mode needs client_tls.cert and key", service.name);
                let (config, _) = shown.config().map_err(|why| why.unwrap_or_else(needs))?;
                ClientTls::new(Arc::new(config), mode.is_required(), shown.digest())
            }
        };
        (service.to_nodes, service.to_sentinels) = (to_nodes, to_sentinels);
    }
    Ok(())
}

/// What clients are shown, and asked for.
struct Shown<'a> {
    mode: TlsMode,
    cert: Option<&'a Path>,
    key: Option<&'a Path>,
    ca: Option<&'a Path>,
    min_version: TlsVersion,
}

impl Shown<'_> {
    /// Without a protocol's name; and the certificate that it shows. The error is `None` if no certificate is named.
    fn config(&self) -> Result<(ServerConfig, Option<CertificateDer<'static>>), Option<String>> {
        let (Some(cert), Some(key_file)) = (self.cert, self.key) else { return Err(None) };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions(self.min_version))
            .map_err(|e| e.to_string())?;
        let builder = match self.ca {
            Some(ca) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(ca)?), provider);
                let verifier = match self.mode.is_verified() {
                    true => verifier,
                    false => verifier.allow_unauthenticated(),
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|e| named(ca, e))?)
            }
            None => builder.with_no_client_auth(),
        };
        let chain = certificates(cert)?;
        let own = chain.first().cloned();
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| named(key_file, e))?;
        let mut config = builder.with_single_cert(chain, key).map_err(|e| format!("{}: {e}", cert.display()))?;
        config.ticketer = ring::Ticketer::new().map_err(|e| e.to_string())?;
        Ok((config, own))
    }

    fn digest(&self) -> u64 {
        digest((self.mode, Some(self.min_version)), [self.ca, self.cert, self.key])
    }
}

static NEWEST: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Reads the files of every cluster, and of the LDAP servers if any rule has them met with TLS.
///
/// # Errors
/// In words, with the file that cannot be used.
pub fn for_servers(postgres: &mut Postgres) -> Result<(), String> {
    for cluster in &mut postgres.clusters {
        let met = Met {
            mode: cluster.tls_mode,
            ca: cluster.tls_ca.as_deref(),
            cert: cluster.tls_cert.as_deref(),
            key: cluster.tls_key.as_deref(),
        };
        cluster.tls = met.config()?.bound(cluster.tls_channel_binding);
    }
    let rules = postgres.hba.iter().flat_map(|hba| &hba.rules);
    if rules.filter_map(|rule| rule.ldap.as_ref()).any(|ldap| ldap.protection != Protection::Nothing) {
        let met = for_the_world(postgres.ldap_ca.as_deref());
        postgres.ldap_tls = met.map_err(|why| format!("postgres.ldap.ca: {why}"))?;
    }
    Ok(())
}

/// What is asked of servers, and shown to them.
struct Met<'a> {
    mode: TlsMode,
    ca: Option<&'a Path>,
    cert: Option<&'a Path>,
    key: Option<&'a Path>,
}

impl Met<'_> {
    fn config(&self) -> Result<ServerTls, String> {
        let mode = self.mode;
        if mode == TlsMode::Disable {
            return Ok(ServerTls::default());
        }
        let provider = Arc::new(ring::default_provider());
        let known = match self.ca {
            Some(ca) => {
                let store = Arc::new(authorities(ca)?);
                let verifier = WebPkiServerVerifier::builder_with_provider(store, Arc::clone(&provider)).build();
                Some(verifier.map_err(|e| named(ca, e))?)
            }
            None => None,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|e| e.to_string())?;
        let verifier: Arc<dyn ServerCertVerifier> = match known {
            Some(known) if mode == TlsMode::VerifyFull => known,
            known => Arc::new(AnyName { known, provider }),
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let config = match (self.cert, self.key) {
            (Some(cert), Some(key)) => {
                let own = PrivateKeyDer::from_pem_file(key).map_err(|e| named(key, e))?;
                builder.with_client_auth_cert(certificates(cert)?, own).map_err(|e| named(cert, e))?
            }
            _ => builder.with_no_client_auth(),
        };
        let digest = digest((mode, None), [self.ca, self.cert, self.key]);
        Ok(ServerTls::new(Arc::new(config), mode.is_required(), digest))
    }
}

/// Of how and of what stands in the files: another one makes other connections. Never 0, which stands for clear text.
fn digest((mode, least): (TlsMode, Option<TlsVersion>), files: [Option<&Path>; 3]) -> u64 {
    let mut hasher = FxHasher::default();
    (mode as u8 + 1).hash(&mut hasher);
    least.map(|least| least as u8).hash(&mut hasher);
    for file in files {
        file.and_then(|file| std::fs::read(file).ok()).hash(&mut hasher);
    }
    hasher.finish().max(1)
}

/// Takes a certificate whatever name it is made out to; with authorities one of theirs, else anybody's: libpq's
/// `verify-ca` and `require`.
#[derive(Debug)]
struct AnyName {
    known: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(known) = &self.known else { return Ok(ServerCertVerified::assertion()) };
        match known.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            // The name is looked at last, once the chain was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn versions(least: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    match least {
        TlsVersion::Tls12 => rustls::ALL_VERSIONS,
        TlsVersion::Tls13 => NEWEST,
    }
}

/// The chain in a file, the first one its owner's.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(|e| named(file, e))?.collect();
    let all = all.map_err(|e| named(file, e))?;
    if all.is_empty() { Err(named(file, "holds no certificate")) } else { Ok(all) }
}

fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store.add(certificate).map_err(|e| named(file, e))?;
    }
    Ok(store)
}

fn named(file: &Path, why: impl std::fmt::Display) -> String {
    format!("{}: {why}", file.display())
}
