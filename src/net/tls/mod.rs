//! Certificates and keys: whom to trust, and how to prove oneself.

mod errors;

use std::fmt;
use std::path::PathBuf;

use self::errors::explained;
pub(super) use self::errors::{CertificateFlaw, flaw, is_not_tls};
pub(crate) use self::errors::{describe, wants_certificate};

/// The certificate authorities that a client trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// The system's certificate authorities, or the bundled ones where the system has none.
    #[default]
    System,
    /// The authorities in this PEM file, and no others.
    File(PathBuf),
    /// Any certificate: the connection is encrypted, and its other end can be anybody.
    AcceptAnyCertificate,
}

/// The files of a client's identity: a PEM certificate chain, and the private key of its first certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The file of the chain.
    pub certificates: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
}

/// The reason why TLS cannot be set up.
#[derive(Debug)]
pub enum TlsError {
    /// This build has no TLS.
    NotBuiltIn,
    /// A file cannot be used.
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// rustls refuses the certificate, its key, or the protocol versions, with this text.
    Identity(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::NotBuiltIn => {
                f.write_str("this build has no TLS; build with the feature `tls`, or use ws:// and http://")
            }
            TlsError::File { path, reason } => write!(f, "{}: {reason}", path.display()),
            TlsError::Identity(reason) => write!(f, "certificate and key: {}", explained(reason.clone())),
        }
    }
}

impl std::error::Error for TlsError {}

#[cfg(feature = "tls")]
pub use with_tls::*;

#[cfg(feature = "tls")]
mod with_tls {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::client::verify_server_name;
    use rustls::crypto::CryptoProvider;
    use rustls::pki_types::pem::{self, PemObject};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
    use rustls::server::{
        ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
    };
    use rustls::sign::CertifiedKey;
    use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

    use super::{ClientIdentity, TlsError, Trust};

    /// The TLS configuration of a client.
    pub type ClientTls = Arc<ClientConfig>;

    /// The TLS configuration of a server.
    pub type ServerTls = Arc<ServerConfig>;

    fn provider() -> Arc<CryptoProvider> {
        Arc::new(rustls::crypto::ring::default_provider())
    }

    /// Prepares a client, which shows a certificate of its own where it is asked for one. Reads files, so do it once.
    pub fn client(trust: &Trust, identity: Option<&ClientIdentity>) -> Result<ClientTls, TlsError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Identity(error.to_string()))?;
        let builder = match trust {
            Trust::AcceptAnyCertificate => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnybody(provider())))
            }
            Trust::System => builder.with_root_certificates(system_roots()),
            Trust::File(path) => builder.with_root_certificates(roots_from(path)?),
        };
        let Some(ClientIdentity { certificates, key }) = identity else {
            return Ok(Arc::new(builder.with_no_client_auth()));
        };
        let config = builder.with_client_auth_cert(certificates_from(certificates)?, key_from(key)?);
        config.map(Arc::new).map_err(|error| not_a_pair(certificates, key, &error))
    }

    /// The error of a certificate and a key that cannot be used together.
    fn not_a_pair(chain: &Path, key: &Path, error: &rustls::Error) -> TlsError {
        let reason = match error {
            rustls::Error::InconsistentKeys(_) => "the key is that of another certificate".to_owned(),
            error => error.to_string(),
        };
        TlsError::Identity(format!("{} and {}: {reason}", chain.display(), key.display()))
    }

    /// Prepares a server from pairs of PEM files: certificates, and the key of the first. A client gets the first pair that
    /// has the name which it asks for (RFC 6066 §3), else the first. With a file of authorities, clients without a certificate
    /// of one of these are refused.
    pub fn server(pairs: &[(PathBuf, PathBuf)], client_ca: Option<&Path>) -> Result<ServerTls, TlsError> {
        let certificates = pairs.iter().map(|(chain, key)| certified(chain, key));
        let certificates = Certificates(certificates.collect::<Result<_, _>>()?);
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Identity(error.to_string()))?;
        let builder =
            match client_ca {
                None => builder.with_no_client_auth(),
                Some(path) => {
                    let roots = Arc::new(roots_from(path)?);
                    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                    builder.with_client_cert_verifier(verifier.map_err(|error| TlsError::File {
                        path: path.to_owned(),
                        reason: error.to_string(),
                    })?)
                }
            };
        let mut config = builder.with_cert_resolver(Arc::new(certificates));
        if client_ca.is_some() {
            // A session that is resumed keeps the verdict on the certificate that its first handshake saw: here each one is
            // judged, by the time and the authorities of now.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }

    fn certified(chain: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
        let certified = CertifiedKey::from_der(certificates_from(chain)?, key_from(key)?, &provider());
        certified.map(Arc::new).map_err(|error| not_a_pair(chain, key, &error))
    }

    /// Certificates of a server, by the names that they have.
    #[derive(Debug)]
    struct Certificates(Vec<Arc<CertifiedKey>>);

    impl ResolvesServerCert for Certificates {
        fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
            let has_name = |certified: &&Arc<CertifiedKey>| {
                let certificate =
                    certified.cert.first().and_then(|der| ParsedCertificate::try_from(der).ok());
                let named = certificate.as_ref().zip(name.as_ref());
                named.is_some_and(|(certificate, name)| verify_server_name(certificate, name).is_ok())
            };
            self.0.iter().find(has_name).or(self.0.first()).cloned()
        }
    }

    fn system_roots() -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        roots
    }

    fn roots_from(path: &Path) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates_from(path)? {
            roots
                .add(certificate)
                .map_err(|error| TlsError::File { path: path.to_owned(), reason: error.to_string() })?;
        }
        Ok(roots)
    }

    fn key_from(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_file(path).map_err(|error| {
            let reason = match error {
                pem::Error::NoItemsFound => "no PEM private key in it".to_owned(),
                error => error.to_string(),
            };
            TlsError::File { path: path.to_owned(), reason }
        })
    }

    fn certificates_from(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bad = |reason: String| TlsError::File { path: path.to_owned(), reason };
        let all: Result<Vec<_>, _> =
            CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))?.collect();
        match all {
            Ok(all) if all.is_empty() => Err(bad("no PEM certificate in it".to_owned())),
            Ok(all) => Ok(all),
            Err(error) => Err(bad(error.to_string())),
        }
    }

    /// Takes every certificate; that the other side holds its key is still checked.
    #[derive(Debug)]
    struct AcceptAnybody(Arc<CryptoProvider>);

    impl ServerCertVerifier for AcceptAnybody {
        fn verify_server_cert(
            &self,
            _end_entity: &CertificateDer<'_>,
            _intermediates: &[CertificateDer<'_>],
            _server_name: &ServerName<'_>,
            _ocsp_response: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.0.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(not(feature = "tls"))]
pub use without_tls::*;

#[cfg(not(feature = "tls"))]
mod without_tls {
    use std::path::{Path, PathBuf};

    use super::{ClientIdentity, TlsError, Trust};

    /// Cannot be made in this build.
    #[derive(Debug, Clone)]
    pub enum ClientTls {}

    /// Cannot be made in this build.
    #[derive(Debug, Clone)]
    pub enum ServerTls {}

    /// Says that this build has no TLS.
    pub fn client(_trust: &Trust, _identity: Option<&ClientIdentity>) -> Result<ClientTls, TlsError> {
        Err(TlsError::NotBuiltIn)
    }

    /// Says that this build has no TLS.
    pub fn server(_pairs: &[(PathBuf, PathBuf)], _client_ca: Option<&Path>) -> Result<ServerTls, TlsError> {
        Err(TlsError::NotBuiltIn)
    }
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::ServerName;
    use rustls::{ClientConnection, Connection, HandshakeKind, ServerConnection};

    use super::*;

    fn pump(from: &mut Connection, to: &mut Connection) {
        let mut bytes = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            to.read_tls(&mut rest).unwrap();
            to.process_new_packets().unwrap();
        }
    }

    /// A handshake without sockets, with what comes behind it.
    fn handshake(client: &ClientTls, server: &ServerTls) -> Option<HandshakeKind> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = Connection::from(ClientConnection::new(client.clone(), name).unwrap());
        let mut server = Connection::from(ServerConnection::new(server.clone()).unwrap());
        while client.wants_write() || server.wants_write() {
            pump(&mut client, &mut server);
            pump(&mut server, &mut client);
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        server.handshake_kind()
    }

    #[test]
    fn a_client_whose_certificate_is_wanted_shows_it_each_time() {
        let folder = std::env::temp_dir().join(format!("tls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let own = own.signed_by(&key, &authority).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let identity = ClientIdentity {
            certificates: write("own.pem", own.pem()),
            key: write("own.key", key.serialize_pem()),
        };
        let authorities = write("ca.pem", authority.pem());
        let pairs = [(identity.certificates.clone(), identity.key.clone())];
        let client = client(&Trust::AcceptAnyCertificate, Some(&identity)).unwrap();
        let other = write("other.key", KeyPair::generate().unwrap().serialize_pem());
        let error = server(&[(identity.certificates.clone(), other)], None).unwrap_err().to_string();
        assert!(error.ends_with("other.key: the key is that of another certificate"), "{error}");
        let for_all = server(&pairs, None).unwrap();
        assert_eq!(handshake(&client, &for_all), Some(HandshakeKind::Full));
        assert_eq!(handshake(&client, &for_all), Some(HandshakeKind::Resumed));
        let for_agents = server(&pairs, Some(&authorities)).unwrap();
        for _ in 0..3 {
            assert_eq!(handshake(&client, &for_agents), Some(HandshakeKind::Full));
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
