//! `GET /admin/server`: namespaces, certificates, and the settings in use.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::State;
use super::super::answer::Answer;
use super::json;
use crate::tls::Acceptor;
use crate::topics::Namespace;

#[derive(Serialize)]
struct Server<'a> {
    /// By name; the default namespace has none.
    namespaces: Vec<NamedNamespace<'a>>,
    certificates: Vec<Certificate>,
    /// Each key with its value. Secrets are dots.
    settings: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct NamedNamespace<'a> {
    name: &'a str,
    settings: &'a Namespace,
}

#[derive(Serialize)]
struct Certificate {
    file: String,
    names: Vec<String>,
    /// In seconds of Unix time.
    not_after: u64,
}

/// Answers one request.
pub(super) fn get(state: &State) -> Answer {
    let namespaces = state.namespaces.borrow().clone();
    let certificates = state.tls.as_ref().map_or_else(Vec::new, Acceptor::certificates).into_iter();
    let certificate = |info: crate::tls::CertificateInfo| Certificate {
        file: info.cert_file.display().to_string(),
        names: info.names,
        not_after: info.not_after,
    };
    json(&Server {
        namespaces: namespaces.iter().map(|(name, settings)| NamedNamespace { name, settings }).collect(),
        certificates: certificates.map(certificate).collect(),
        settings: &state.settings.borrow(),
    })
}
