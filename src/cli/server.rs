//! The running server of a command, at its control port.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::network::NetworkArguments;
use super::publish::key_field;
use super::{bad_input, failed, runtime};
use crate::client::{ClientError, HttpClient};

/// Where the server is, and the key of its control port.
#[derive(Args, Debug)]
pub(super) struct ServerArguments {
    /// The server's control port: a URL, or unix:PATH
    #[arg(default_value = "http://127.0.0.1:8001")]
    pub(super) url: String,
    /// A file with the key of the control port in its first line; or else RINGFEED_API_KEY has the key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    network: NetworkArguments,
}

/// Why a command has no answer of the server.
pub(super) enum AskError {
    /// The input of the command, or the host that it runs on.
    Input(String),
    /// The way to the server, or its answer.
    Client(ClientError),
}

impl ServerArguments {
    /// Runs `ask` with a connection to the server.
    ///
    /// # Errors
    /// [`AskError`].
    pub(super) fn ask<T>(
        &self,
        ask: impl AsyncFnOnce(&mut HttpClient) -> Result<T, ClientError>,
    ) -> Result<T, AskError> {
        let key = key_field(self.key_file.as_deref()).map_err(AskError::Input)?;
        let runtime = runtime().map_err(AskError::Input)?;
        let headers: Vec<_> = key.into_iter().collect();
        let answer = runtime.block_on(async {
            let mut server = HttpClient::connect(&self.url, &headers, self.network.clone().network()).await?;
            ask(&mut server).await
        });
        answer.map_err(AskError::Client)
    }

    /// The same for a command that ends with its answer.
    pub(super) fn run(&self, ask: impl AsyncFnOnce(&mut HttpClient) -> Result<(), ClientError>) -> ExitCode {
        match self.ask(ask) {
            Ok(()) => ExitCode::SUCCESS,
            Err(AskError::Input(text)) => bad_input(&text),
            Err(AskError::Client(error @ (ClientError::Url(_) | ClientError::Header(_)))) => {
                bad_input(&error.to_string())
            }
            Err(AskError::Client(error)) => failed(&error.to_string()),
        }
    }
}
