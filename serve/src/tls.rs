//! TLS of the gRPC port: the operator's certificate, or one of our own for clients that insist on TLS but accept any.

use std::net::IpAddr;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::settings::Tls;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls.certificate_file and tls.key_file belong together; only one is set")]
    HalfConfigured,
    #[error("{setting} = {path:?} cannot be read")]
    File {
        setting: &'static str,
        path: String,
        #[source]
        cause: rustls_pki_types::pem::Error,
    },
    #[error("tls.certificate_file = {path:?} holds no certificate")]
    NoCertificate { path: String },
    #[error("the certificate and its key cannot be used")]
    Unusable(#[from] rustls::Error),
    #[error("a certificate of our own cannot be made")]
    SelfSigned(#[from] rcgen::Error),
}

/// Takes TLS connections that speak HTTP/2. `hosts`: what a careful client may find in a certificate of our own, beside
/// this machine; what cannot stand there is left out.
pub fn acceptor(settings: &Tls, hosts: &[&str]) -> Result<TlsAcceptor, TlsError> {
    let (chain, key) = match (&settings.certificate_file, &settings.key_file) {
        (Some(certificate), Some(key)) => from_files(certificate, key)?,
        (None, None) => self_signed(names(hosts))?,
        _ => return Err(TlsError::HalfConfigured),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut server = builder.with_no_client_auth().with_single_cert(chain, key)?;
    server.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn from_files(certificate: &str, key: &str) -> Result<Identity, TlsError> {
    let unreadable = |setting, path: &str| {
        let path = path.to_string();
        move |cause| TlsError::File { setting, path, cause }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(|found| found.collect::<Result<Vec<_>, _>>())
        .map_err(unreadable("tls.certificate_file", certificate))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: certificate.into() });
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable("tls.key_file", key))?;
    Ok((chain, key))
}

fn self_signed(names: Vec<String>) -> Result<Identity, TlsError> {
    let made = rcgen::generate_simple_self_signed(names)?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![made.cert.der().clone()], key.into()))
}

fn names(hosts: &[&str]) -> Vec<String> {
    let is_usable = |host: &&str| {
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host.chars().all(is_name_char))
    };
    let hosts = hosts.iter().copied().filter(is_usable);
    ["localhost", "127.0.0.1", "::1"].into_iter().chain(hosts).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_files_there_is_a_certificate_for_this_machine_and_half_of_them_is_an_error() {
        assert_eq!(names(&["node 1", "mq.example.com"]), ["localhost", "127.0.0.1", "::1", "mq.example.com"]);
        let mut settings = Tls::default();
        assert!(acceptor(&settings, &[]).is_ok());

        settings.certificate_file = Some("/nowhere/cert.pem".into());
        assert!(matches!(acceptor(&settings, &[]), Err(TlsError::HalfConfigured)));
        settings.key_file = Some("/nowhere/key.pem".into());
        let error = acceptor(&settings, &[]).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("tls.certificate_file = \"/nowhere/cert.pem\" cannot be read"));
    }

    #[test]
    fn certificate_and_key_are_read_from_pem_files() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let write = |path: &std::path::Path, text: String| {
            use std::io::Write;
            std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .open(path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        };
        write(&certificate, made.cert.pem());
        write(&key, made.signing_key.serialize_pem());
        let path = |path: &std::path::Path| path.to_str().map(String::from);
        let settings = Tls { certificate_file: path(&certificate), key_file: path(&key), required: false };
        assert!(acceptor(&settings, &[]).is_ok());

        write(&certificate, "nothing".into());
        assert!(matches!(acceptor(&settings, &[]), Err(TlsError::NoCertificate { .. })));
    }
}
