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
use crate::config::model::{ChannelBinding, Cluster, Postgres, ServerTls, TlsMode, TlsVersion};

/// What PostgreSQL's clients name as the protocol inside of TLS (`libpq`, since version 17).
pub const ALPN: &[u8] = b"postgresql";

/// How clients of PostgreSQL are met; `None` if they are not offered TLS.
///
/// # Errors
/// In words, with the file that cannot be used.
pub fn for_postgres_clients(postgres: &Postgres) -> Result<Option<Arc<Acceptor>>, String> {
    if postgres.tls_mode == TlsMode::Disable {
        return Ok(None);
    }
    let (Some(cert), Some(key)) = (&postgres.tls_cert, &postgres.tls_key) else {
        return Err("postgres.tls.mode needs tls.cert and tls.key".to_owned());
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions(postgres.tls_min_version))
        .map_err(|e| e.to_string())?;
    let builder = match &postgres.tls_ca {
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(ca)?), provider);
            let verifier = match postgres.tls_mode.is_verified() {
                true => verifier,
                false => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| named(ca, e))?)
        }
        None => builder.with_no_client_auth(),
    };
    let chain = certificates(cert)?;
    let key_file = key;
    let shown = chain.first().cloned();
    let key = PrivateKeyDer::from_pem_file(key_file).map_err(|e| named(key_file, e))?;
    let mut config = builder.with_single_cert(chain, key).map_err(|e| format!("{}: {e}", cert.display()))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ticketer = ring::Ticketer::new().map_err(|e| e.to_string())?;
    let acceptor = Acceptor::new(config, shown.as_deref().unwrap_or_default());
    if postgres.tls_channel_binding == ChannelBinding::Require && !acceptor.can_bind() {
        let why = "logins cannot be bound to a certificate with such a signature; use one with RSA (PKCS #1) or ECDSA";
        return Err(named(cert, why));
    }
    Ok(Some(Arc::new(acceptor)))
}

static NEWEST: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Reads the files of every cluster.
///
/// # Errors
/// In words, with the file that cannot be used.
pub fn for_servers(postgres: &mut Postgres) -> Result<(), String> {
    for cluster in &mut postgres.clusters {
        cluster.tls = for_cluster(cluster)?;
    }
    Ok(())
}

fn for_cluster(cluster: &Cluster) -> Result<ServerTls, String> {
    let mode = cluster.tls_mode;
    if mode == TlsMode::Disable {
        return Ok(ServerTls::default());
    }
    let provider = Arc::new(ring::default_provider());
    let known = match &cluster.tls_ca {
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
    let config = match (&cluster.tls_cert, &cluster.tls_key) {
        (Some(cert), Some(key)) => {
            let own = PrivateKeyDer::from_pem_file(key).map_err(|e| named(key, e))?;
            builder.with_client_auth_cert(certificates(cert)?, own).map_err(|e| named(cert, e))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(ServerTls::new(cluster, Arc::new(config), digest(cluster)))
}

/// Of the mode and of what stands in the files: another one makes other connections.
fn digest(cluster: &Cluster) -> u64 {
    let mut hasher = FxHasher::default();
    (cluster.tls_mode as u8 + 1, cluster.tls_channel_binding as u8).hash(&mut hasher);
    for file in [&cluster.tls_ca, &cluster.tls_cert, &cluster.tls_key] {
        file.as_ref().and_then(|file| std::fs::read(file).ok()).hash(&mut hasher);
    }
    hasher.finish()
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
