//! A certificate authority for one run, and the certificates that it gives the server: the good one, and wrong ones on
//! request. Must never write a private key to disk.

use std::sync::Arc;

use futures_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use futures_rustls::rustls::{ServerConfig, crypto::ring, version};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use time::{Duration, OffsetDateTime};

use crate::command::Wrong;
use crate::dps;

/// Which versions the server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    #[default]
    Any,
    Only12,
    Only13,
}

pub struct Authority {
    host: String,
    tls: Tls,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(host: &str, tls: Tls) -> Result<Authority, String> {
        Ok(Authority { host: host.to_owned(), tls, issuer: issuer("Skerry emulator CA").map_err(|e| e.to_string())? })
    }

    /// Of the authority, for those who are to trust it.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// What the server shows.
    pub fn server(&self, wrong: Option<Wrong>) -> Result<Arc<ServerConfig>, String> {
        let (chain, key) = self.certificate(wrong).map_err(|e| format!("certificate: {e}"))?;
        let all = [&version::TLS13, &version::TLS12];
        let versions = match self.tls {
            Tls::Any => &all[..],
            Tls::Only13 => &all[..1],
            Tls::Only12 => &all[1..],
        };
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        config.map(Arc::new).map_err(|e| format!("TLS: {e}"))
    }

    fn certificate(
        &self,
        wrong: Option<Wrong>,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), rcgen::Error> {
        let host = if wrong == Some(Wrong::OtherHost) { "another.example" } else { &self.host };
        let mut names = vec![host.to_owned()];
        // Two names and one door: a proxy leads to it from either.
        names.extend((wrong != Some(Wrong::OtherHost)).then(|| dps::HOST.to_owned()));
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, host);
        params.use_authority_key_identifier_extension = true;
        params.key_usages.push(KeyUsagePurpose::DigitalSignature);
        params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
        let (from, to) = if wrong == Some(Wrong::Expired) { (-30, -1) } else { (-1, 30) };
        params.not_before = days_from_now(from);
        params.not_after = days_from_now(to);
        let key = KeyPair::generate()?;
        let signed = match wrong {
            Some(Wrong::OtherCa) => params.signed_by(&key, &*issuer("Somebody else's CA")?)?,
            _ => params.signed_by(&key, &self.issuer)?,
        };
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((vec![signed.der().clone()], key))
    }
}

fn issuer(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = days_from_now(-60);
    params.not_after = days_from_now(60);
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn days_from_now(days: i64) -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::days(days)
}
