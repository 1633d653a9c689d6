//! How `sub`, `pub` and `reload` reach a server: proxies and TLS.

use std::path::PathBuf;

use clap::Args;

use crate::client::{ClientTls, Network, ProxyChoice};

#[derive(Args, Clone, Debug)]
pub(super) struct NetworkArguments {
    /// An HTTP proxy, as http://USER:PASSWORD@HOST:PORT; `none` for none [default: that of HTTPS_PROXY, http_proxy,
    /// ALL_PROXY and NO_PROXY]
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// A file with the certificates of the authorities to trust, as PEM [default: those of the system, or of
    /// SSL_CERT_FILE]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A file with the client's own certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "client_key_file")]
    client_cert_file: Option<PathBuf>,
    /// A file with the key of that certificate, as PEM
    #[arg(long, value_name = "FILE", requires = "client_cert_file")]
    client_key_file: Option<PathBuf>,
    /// Accept any certificate of the server: anybody on the way can read and change what is sent
    #[arg(long)]
    insecure: bool,
}

impl NetworkArguments {
    /// The way to the server. Says so if it is not safe.
    pub(super) fn network(self) -> Network {
        let NetworkArguments { proxy, ca_file, client_cert_file, client_key_file, insecure } = self;
        if insecure {
            eprintln!("--insecure: the server's certificate is not checked, so anybody could be the server");
        }
        let proxy = match proxy.as_deref() {
            None => ProxyChoice::Environment,
            Some("none") => ProxyChoice::Direct,
            Some(url) => ProxyChoice::Through(url.to_owned()),
        };
        let tls = ClientTls { ca_file, cert_file: client_cert_file, key_file: client_key_file, insecure };
        Network { proxy, tls }
    }
}
