//! The errors of rustls in words for people.

/// Whether the peer answered a ClientHello with something that is not TLS.
pub(in crate::net) fn is_not_tls(error: &std::io::Error) -> bool {
    #[cfg(feature = "tls")]
    return matches!(rustls_error(error), Some(rustls::Error::InvalidMessage(_)));
    #[cfg(not(feature = "tls"))]
    return {
        let _ = error;
        false
    };
}

/// Whether the peer ended the connection for want of a certificate of ours, or of another one.
pub(crate) fn wants_certificate(error: &std::io::Error) -> bool {
    #[cfg(feature = "tls")]
    {
        use rustls::AlertDescription as Alert;
        let Some(rustls::Error::AlertReceived(alert)) = rustls_error(error) else { return false };
        // A handshake of TLS 1.2 fails without a word of its own (RFC 5246 §7.4.6).
        matches!(
            alert,
            Alert::CertificateRequired
                | Alert::BadCertificate
                | Alert::CertificateExpired
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::DecryptError
                | Alert::UnknownCA
                | Alert::UnsupportedCertificate
                | Alert::AccessDenied
        )
    }
    #[cfg(not(feature = "tls"))]
    {
        let _ = error;
        false
    }
}

/// A flaw of a certificate that has a remedy of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "only rustls finds any"))]
pub(in crate::net) enum CertificateFlaw {
    /// It is for other names.
    WrongName,
    Expired,
    NotYetValid,
}

/// The flaw of the certificate, if that is the error.
pub(in crate::net) fn flaw(error: &std::io::Error) -> Option<CertificateFlaw> {
    #[cfg(feature = "tls")]
    {
        use rustls::CertificateError as Error;
        let Some(rustls::Error::InvalidCertificate(reason)) = rustls_error(error) else { return None };
        match reason {
            Error::NotValidForName | Error::NotValidForNameContext { .. } => Some(CertificateFlaw::WrongName),
            Error::Expired | Error::ExpiredContext { .. } => Some(CertificateFlaw::Expired),
            Error::NotValidYet | Error::NotValidYetContext { .. } => Some(CertificateFlaw::NotYetValid),
            _ => None,
        }
    }
    #[cfg(not(feature = "tls"))]
    {
        let _ = error;
        None
    }
}

/// The error in plain words where rustls has only its own.
pub(crate) fn describe(error: &std::io::Error) -> String {
    if is_not_tls(error) {
        return "the other side does not speak TLS there".to_owned();
    }
    // rustls counts in seconds since 1970.
    match flaw(error) {
        Some(CertificateFlaw::Expired) => return "the certificate has expired".to_owned(),
        Some(CertificateFlaw::NotYetValid) => return "the certificate is not valid yet".to_owned(),
        Some(CertificateFlaw::WrongName) | None => {}
    }
    explained(error.to_string())
}

/// A text of rustls', or a plainer one. The types behind these are not in rustls' interface; where its text changes, that
/// text is shown.
pub(super) fn explained(text: String) -> String {
    let plain = [
        (
            "CaUsedAsEndEntity",
            "the certificate is marked as an authority's, which a server's must not be; \
             make it with basicConstraints=CA:FALSE",
        ),
        (
            "UnsupportedCertVersion",
            "the certificate is of version 1 of X.509, and has to be of version 3; \
             openssl makes one where it is given extensions, such as basicConstraints=CA:FALSE",
        ),
    ];
    plain.iter().find(|(name, _)| text.contains(name)).map_or(text.clone(), |(_, plain)| (*plain).to_owned())
}

#[cfg(feature = "tls")]
fn rustls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
