//! TLS to GMFY, by rustls with ring.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    WantsVerifier,
};

use super::BuildError;
use crate::config;

/// TLS as the settings want it, without ALPN. Reads the files, so it blocks on the disk.
///
/// For an `http` URL there are no roots: nothing is to be verified, and reading the system's costs
/// memory. (So a proxy that is itself reached by TLS works for `https` URLs only.)
pub(super) fn config(settings: &config::Upstream, https: bool) -> Result<ClientConfig, BuildError> {
    let extra = match &settings.ca_file {
        Some(file) => certificates("upstream.ca_file", file)?,
        None => Vec::new(),
    };
    let builder = if !settings.verify {
        tracing::warn!(
            "upstream.verify is false: GMFY's certificate is not checked, so anyone on the way \
             can read the key and the events, and change the answers"
        );
        let (builder, provider) = begin()?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(NoVerification(provider)))
    } else {
        verified(https, extra)?
    };
    match (&settings.client_cert_file, &settings.client_key_file) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let chain = certificates("upstream.client_cert_file", certificate)?;
            let key_text = read("upstream.client_key_file", key)?;
            let key_der = PrivateKeyDer::from_pem_slice(&key_text)
                .map_err(|error| file_error("upstream.client_key_file", key, &error))?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|error| file_error("upstream.client_key_file", key, &error))
        }
        (Some(_), None) => Err(BuildError::Unpaired {
            set: "upstream.client_cert_file",
            missing: "upstream.client_key_file",
        }),
        (None, Some(_)) => Err(BuildError::Unpaired {
            set: "upstream.client_key_file",
            missing: "upstream.client_cert_file",
        }),
    }
}

/// TLS by the system's roots, or for an `http` URL without any, as [`config()`] has it.
pub(super) fn public(https: bool) -> Result<ClientConfig, BuildError> {
    Ok(verified(https, Vec::new())?.with_no_client_auth())
}

fn begin() -> Result<(ConfigBuilder<ClientConfig, WantsVerifier>, Arc<CryptoProvider>), BuildError>
{
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| BuildError::Tls(error.to_string()))?;
    Ok((builder, provider))
}

/// Verifies servers by the system's roots and these.
fn verified(
    https: bool,
    extra: Vec<CertificateDer<'static>>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, BuildError> {
    let (builder, provider) = begin()?;
    if !https {
        return Ok(builder.with_root_certificates(RootCertStore::empty()));
    }
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider)
        .map_err(|error| BuildError::Roots(error.to_string()))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

fn certificates(
    setting: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, BuildError> {
    let text = read(setting, file)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| file_error(setting, file, &error))?;
    if certificates.is_empty() {
        return Err(file_error(setting, file, &"there is no PEM certificate in it"));
    }
    Ok(certificates)
}

fn read(setting: &'static str, file: &Path) -> Result<zeroize::Zeroizing<Vec<u8>>, BuildError> {
    let text = std::fs::read(file).map_err(|error| file_error(setting, file, &error))?;
    Ok(zeroize::Zeroizing::new(text))
}

fn file_error(setting: &'static str, file: &Path, reason: &dyn std::fmt::Display) -> BuildError {
    BuildError::File { setting, file: file.to_owned(), reason: reason.to_string() }
}

/// `upstream.verify = false`: any certificate will do.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
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
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
