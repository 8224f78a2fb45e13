//! What TLS is done with: ring's suites and curves, without what no connection of this program uses. It never shows a key of its own to a
//! server, so it can load none; and it offers no ChaCha20, which IoT Hub does not speak and no server speaks alone. Must never leave out
//! anything that a server's certificate may be signed with.

use std::sync::Arc;

use futures_rustls::pki_types::PrivateKeyDer;
use futures_rustls::rustls::crypto::ring::{ALL_KX_GROUPS, cipher_suite};
use futures_rustls::rustls::crypto::{
    CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms,
};
use futures_rustls::rustls::sign::SigningKey;
use futures_rustls::rustls::{Error, SignatureScheme, SupportedCipherSuite};
use webpki::ring as algorithms;

use super::secret;

pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        kx_groups: ALL_KX_GROUPS.to_vec(),
        signature_verification_algorithms: SIGNATURES,
        secure_random: &Random,
        key_provider: &NoKeys,
    }
}

/// The system's.
#[derive(Debug)]
struct Random;

impl SecureRandom for Random {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        secret::fill_random(bytes).map_err(|_| GetRandomFailed)
    }
}

#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        Err(Error::General("no key of this program's own is used with TLS".to_owned()))
    }
}

/// The first is preferred.
static SUITES: &[SupportedCipherSuite] = &[
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];

/// As rustls has it for ring: all that it knows, for certificates; and for the handshake by the name of the scheme, where TLS 1.2 leaves the
/// curve open.
static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: webpki::ALL_VERIFICATION_ALGS,
    mapping: &[
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[algorithms::ECDSA_P384_SHA384, algorithms::ECDSA_P256_SHA384]),
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[algorithms::ECDSA_P256_SHA256, algorithms::ECDSA_P384_SHA256]),
        (SignatureScheme::ED25519, &[algorithms::ED25519]),
        (SignatureScheme::RSA_PSS_SHA512, &[algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA384, &[algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY]),
        (SignatureScheme::RSA_PSS_SHA256, &[algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY]),
        (SignatureScheme::RSA_PKCS1_SHA512, &[algorithms::RSA_PKCS1_2048_8192_SHA512]),
        (SignatureScheme::RSA_PKCS1_SHA384, &[algorithms::RSA_PKCS1_2048_8192_SHA384]),
        (SignatureScheme::RSA_PKCS1_SHA256, &[algorithms::RSA_PKCS1_2048_8192_SHA256]),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;
    use futures_rustls::rustls::crypto::ring::default_provider;

    #[test]
    fn certificates_are_judged_as_by_rustls_itself() {
        let (ours, theirs) = (provider(), default_provider());
        let schemes = |provider: &CryptoProvider| provider.signature_verification_algorithms.supported_schemes();
        assert_eq!(schemes(&ours), schemes(&theirs));
        let all = |provider: &CryptoProvider| {
            let all = provider.signature_verification_algorithms.all.iter();
            all.map(|a| (a.public_key_alg_id().as_ref().to_vec(), a.signature_alg_id().as_ref().to_vec()))
                .collect::<Vec<_>>()
        };
        for one in all(&theirs) {
            assert!(all(&ours).contains(&one));
        }
        let groups =
            |provider: &CryptoProvider| provider.kx_groups.iter().map(|group| group.name()).collect::<Vec<_>>();
        assert_eq!(groups(&ours), groups(&theirs));
        let is_chacha = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite()).contains("CHACHA20");
        let expected: Vec<_> = theirs.cipher_suites.into_iter().filter(|suite| !is_chacha(suite)).collect();
        assert_eq!(ours.cipher_suites, expected);
    }
}
