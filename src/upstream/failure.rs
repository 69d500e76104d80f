//! What an exchange without an answer means: above all, whether anything may have been sent.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

use super::SendError;

/// Sorts a failure of the HTTP client. In doubt it was sent: "unknown" costs a duplicate at most,
/// a wrong "not sent" would hide one.
pub(super) fn classify(error: &reqwest::Error) -> SendError {
    let tls = links(error).find_map(|link| link.downcast_ref::<rustls::Error>());
    if error.is_connect() {
        return match tls {
            Some(tls) => SendError::Tls(in_plain_words(tls)),
            None => SendError::Connect(connect_reason(error)),
        };
    }
    // hyper cancels a request only if it hasn't begun to write it.
    let never_begun = links(error)
        .filter_map(|link| link.downcast_ref::<hyper::Error>())
        .any(hyper::Error::is_canceled);
    if never_begun {
        return SendError::Connect("the connection was closed before it could be used".to_owned());
    }
    match tls {
        // In TLS 1.3 the server judges our certificate after our side of the handshake is done;
        // it reads no request before it has.
        Some(tls @ rustls::Error::AlertReceived(alert)) if is_about_certificates(*alert) => {
            SendError::Tls(in_plain_words(tls))
        }
        _ if error.is_timeout() => SendError::Timeout,
        _ => SendError::Broken(innermost(error)),
    }
}

/// The error and all its causes, those too that `io::Error` hides from `source`.
fn links<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> + 'a {
    std::iter::successors(Some(error), |link| {
        let link: &'a (dyn Error + 'static) = *link;
        match link.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(hidden) => Some(hidden),
            None => link.source(),
        }
    })
}

/// The cause at the bottom; the ones above it only say that something failed, or where.
fn innermost(error: &reqwest::Error) -> String {
    let deepest = links(error).skip(1).last();
    deepest.map_or_else(|| "no reason is known".to_owned(), ToString::to_string)
}

fn connect_reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        "no connection within the time".to_owned()
    } else if error.is_dns() {
        format!("the host's name can't be resolved: {}", innermost(error))
    } else {
        innermost(error)
    }
}

const fn is_about_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::NoCertificate
    )
}

/// What a person needs to know to mend it.
fn in_plain_words(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            Bad::Expired | Bad::ExpiredContext { .. } => {
                "GMFY's certificate has expired".to_owned()
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "GMFY's certificate is not valid yet; is this machine's clock right?".to_owned()
            }
            Bad::UnknownIssuer => "GMFY's certificate comes from an issuer that is not trusted \
                                   here; upstream.ca_file can add it"
                .to_owned(),
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "GMFY's certificate is for another host name than upstream.url's".to_owned()
            }
            Bad::Revoked => "GMFY's certificate has been revoked".to_owned(),
            other => format!("GMFY's certificate is not acceptable: {other}"),
        },
        rustls::Error::AlertReceived(alert) if is_about_certificates(*alert) => format!(
            "GMFY refused our client certificate, or wants one ({alert:?}); see \
             upstream.client_cert_file"
        ),
        rustls::Error::AlertReceived(alert) => format!("GMFY refused the handshake ({alert:?})"),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what answers at upstream.url does not speak TLS".to_owned()
        }
        other => other.to_string(),
    }
}
