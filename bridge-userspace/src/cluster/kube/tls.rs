//! Which certificates of an API server are trusted, and a client that goes by that.
//!
//! As with kubectl, a server's certificate is trusted if an authority in the configured CA file has signed it, and also if
//! it is in that file itself: a server that has made its own certificate is often configured so. webpki takes the
//! certificates of the file for authorities alone.

use std::error::Error;
use std::io;
use std::sync::Arc;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::jiff::Timestamp;
use kube::client::retry::RetryPolicy;
use kube::client::{ClientBuilder, ConfigExt};
use kube::{Client, Config};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

/// A client for this configuration.
///
/// # Errors
/// When the configuration has certificates, keys or names that are none.
pub(super) fn client(config: Config) -> Result<Client, BoxError> {
    let roots = match &config.root_cert {
        // A proxy is kube's own to judge; it has no certificates of ours.
        Some(roots) if !config.accept_invalid_certs && config.proxy_url.is_none() => roots,
        _ => return Ok(Client::try_from(config)?),
    };
    let mut tls = config.rustls_client_config()?;
    // The CA file of a service account is read anew with each session, which begins when the server is not trusted any
    // more; so nothing here reads it again.
    tls.dangerous()
        .set_certificate_verifier(Arc::new(Verifier::new(roots)?));

    // What `Client::try_from` does, which has no way to be given a verifier.
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    let mut https = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http();
    if let Some(name) = config.tls_server_name.clone() {
        https = https
            .with_server_name_resolver(FixedServerNameResolver::new(ServerName::try_from(name)?));
    }
    let mut connector = TimeoutConnector::new(https.enable_http1().wrap_connector(http));
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let retry = config
        .default_retry
        .then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(retry)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Builder::new(TokioExecutor::new()).build(connector));
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// webpki's verifier, and the certificates that are trusted as they are.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// Trusts these certificates (DER), and those that they have signed.
    ///
    /// # Errors
    /// When one of them is no certificate.
    fn new(certificates: &[Vec<u8>]) -> Result<Self, BoxError> {
        let pinned: Vec<_> = certificates
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        let mut roots = RootCertStore::empty();
        for certificate in &pinned {
            roots.add(certificate.clone())?;
        }
        Ok(Self {
            webpki: WebPkiServerVerifier::builder(Arc::new(roots)).build()?,
            pinned,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verdict {
            Err(rustls::Error::InvalidCertificate(error))
                if is_issuers(&error) && self.pinned.contains(end_entity) =>
            {
                // webpki has judged the validity period before the issuer. What an authority's own certificate may be
                // used for it has not, but its key could sign any other one.
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Whether a certificate is wrong for nothing but who has signed it. The signature does not fit where the issuer has the
/// name of one that is trusted, as names that tools give by default are.
fn is_issuers(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::UnknownIssuer | CertificateError::BadSignature
    ) || is_self_signed_authority(error)
}

/// Whether the server shows an authority's own certificate.
fn is_self_signed_authority(error: &CertificateError) -> bool {
    let CertificateError::Other(error) = error else {
        return false;
    };
    matches!(
        error.0.downcast_ref::<webpki::Error>(),
        Some(webpki::Error::CaUsedAsEndEntity)
    )
}

/// Why the server's certificate was refused, if that is what has failed, and what to do.
pub(super) fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An I/O error gives the causes of what it was made of, and not that itself; and they are made of each other.
        let mut inner = error;
        while let Some(wrapped) = inner
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            inner = wrapped;
        }
        if let Some(rustls::Error::InvalidCertificate(error)) = inner.downcast_ref() {
            return Some(explain(error));
        }
        cause = error.source();
    }
    None
}

fn explain(error: &CertificateError) -> String {
    match error {
        error if is_self_signed_authority(error) => "it shows a self-signed certificate that is not in the \
            configured CA file (certificate-authority): put it there if it is the right server's"
            .to_owned(),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => "its certificate is neither in the configured CA file \
            (certificate-authority) nor signed by an authority in it: put the one or the other there if it is the right \
            server"
            .to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "its certificate has expired ({}): renew it",
            date(*not_after)
        ),
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "its certificate is not valid before {}: see that the clocks of both hosts are right",
            date(*not_before)
        ),
        error => format!("its certificate is refused: {error}"),
    }
}

fn date(time: UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(
            || "at no date that there is".to_owned(),
            |time| time.to_string(),
        )
}

#[cfg(test)]
mod tests;
