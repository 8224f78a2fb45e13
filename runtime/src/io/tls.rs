//! TLS with a server whose name is known: which certificates are trusted, at which time they are judged, and what to say when
//! one is not good. The one place that knows rustls. Must never let a connection through whose certificate is not the host's.

use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_rustls::TlsConnector;
use futures_rustls::client::TlsStream;
use futures_rustls::pki_types::pem::PemObject;
use futures_rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use futures_rustls::rustls::time_provider::TimeProvider;
use futures_rustls::rustls::{CertificateError, ClientConfig, Error as TlsError, RootCertStore};
use smol::Async;

use super::clock::TimeFloor;
use super::tls_crypto;

pub(super) type Stream = TlsStream<Async<TcpStream>>;

/// Who is trusted, and when it is.
pub struct Tls {
    connector: TlsConnector,
    floor: Arc<TimeFloor>,
    /// Of the configuration, with `ca` in it.
    section: &'static str,
}

impl Tls {
    /// Reads the certificates that are trusted: those of the file, or the system's. The error is a sentence for the operator.
    pub fn new(ca: Option<&Path>, floor: Arc<TimeFloor>, section: &'static str) -> Result<Tls, String> {
        let mut roots = RootCertStore::empty();
        let (certificates, place) = match ca {
            Some(path) => {
                let found: Result<Vec<_>, _> =
                    CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
                let found = found.map_err(|e| format!("{section} ca: {}: {e}; expected a PEM file", path.display()))?;
                (found, path.display().to_string())
            }
            None => (rustls_native_certs::load_native_certs().certs, "this system".to_owned()),
        };
        roots.add_parsable_certificates(certificates);
        if roots.is_empty() {
            return Err(format!(
                "there are no root certificates in {place}, so no server can be trusted; install ca-certificates (OpenWrt: ca-bundle), or \
                 name a PEM file with `ca` in {section}"
            ));
        }
        let clock = Arc::new(FloorClock(Arc::clone(&floor)));
        let config = ClientConfig::builder_with_details(Arc::new(tls_crypto::provider()), clock)
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)), floor, section })
    }

    /// The error is a sentence for the operator.
    pub(super) async fn connect(&self, host_name: &str, tcp: Async<TcpStream>) -> Result<Stream, String> {
        let name = ServerName::try_from(host_name.to_owned())
            .map_err(|_| format!("{host_name:?} can't be the name in a certificate; check the host's name"))?;
        self.connector.connect(name, tcp).await.map_err(|e| self.fault(host_name, &e))
    }

    fn fault(&self, host: &str, error: &std::io::Error) -> String {
        let inner = error.get_ref().and_then(|e| e.downcast_ref::<TlsError>());
        let Some(TlsError::InvalidCertificate(certificate)) = inner else {
            return format!("no TLS with {host} ({error}); is there a proxy or a firewall in between?");
        };
        // The day is enough, and lets the same fault read the same.
        let day: String = self.floor.now().to_rfc3339().chars().take("2026-11-23".len()).collect();
        let by = if self.floor.is_ahead() { "the time floor, since the clock is behind" } else { "the clock" };
        let section = self.section;
        match certificate {
            CertificateError::UnknownIssuer => format!(
                "the certificate of {host} is from nobody who is trusted here; somebody may be in between, or `ca` in {section} is to \
                 name the right PEM file"
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                let check = if section == "[upstream]" {
                    "check HostName and `address` in [upstream]"
                } else {
                    "check the name"
                };
                format!("the certificate is not that of {host}; {check}")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the certificate of {host} has expired: it is {day} by {by}; check the clock, then the server")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                format!("the certificate of {host} is not valid yet: it is {day} by {by}; set the clock of this device")
            }
            other => format!("the certificate of {host} is not accepted: {other}"),
        }
    }
}

/// Certificates are judged where the clock is, or at the floor where it is behind.
#[derive(Debug)]
struct FloorClock(Arc<TimeFloor>);

impl TimeProvider for FloorClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.now().0.max(0) as u64)))
    }
}
