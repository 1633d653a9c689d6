//! `ringfeed token`: makes tokens, and says why one is rejected.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::{bad_input, duration_s, failed, first_line};
use crate::config;
use crate::gateway::centrifuge::{TokenKeys, TokenVerifier};

/// Makes tokens for clients, and checks them, with the keys of a configuration file
#[derive(Args, Debug)]
pub(super) struct TokenArguments {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Prints a token, signed with the HMAC secret (HS256)
    Make(MakeArguments),
    /// Says what a token is good for, or why the server rejects it; the exit code is then 1
    Check(CheckArguments),
}

/// Where the keys are.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct KeyArguments {
    /// A configuration file with [tokens]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the HMAC secret in its first line
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct MakeArguments {
    #[command(flatten)]
    keys: KeyArguments,
    /// The user (sub) [default: none, an anonymous client]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    user: String,
    /// The time until it expires, as 30s, 15m, 12h or 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration_s)]
    ttl: u64,
    /// A token for a subscription to this channel, instead of one for a connection
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// The only channels that the token opens at /feed, /sse and STOMP; the server subscribes other clients to them
    #[arg(long, value_name = "CHANNELS", value_delimiter = ',', conflicts_with = "channel")]
    channels: Vec<String>,
    /// JSON about the client, for other clients
    #[arg(long, value_name = "JSON", value_parser = info)]
    info: Option<Value>,
}

#[derive(Args, Debug)]
struct CheckArguments {
    #[command(flatten)]
    keys: KeyArguments,
    /// The token; `-` reads standard input
    token: String,
}

fn info(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("must be JSON, as in {{\"name\":\"Ann\"}}: {error}"))
}

pub(super) fn run(arguments: TokenArguments) -> ExitCode {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match arguments.command {
        TokenCommand::Make(arguments) => match make(arguments, now_s) {
            Ok(token) => {
                println!("{token}");
                ExitCode::SUCCESS
            }
            Err(text) => bad_input(&text),
        },
        TokenCommand::Check(arguments) => check(arguments, now_s),
    }
}

/// What verifies and signs tokens.
fn verifier(arguments: &KeyArguments) -> Result<TokenVerifier, String> {
    if let Some(file) = &arguments.secret_file {
        let keys = TokenKeys { hmac_secret: Some(first_line(file)?), ..TokenKeys::default() };
        return TokenVerifier::new(&keys).map_err(|error| error.to_string());
    }
    let file = arguments.config.as_ref().expect("one of the two is there");
    let settings = config::load(file).map_err(|error| error.to_string())?;
    let verifier = settings.centrifuge_config()?.tokens;
    match verifier.has_keys() {
        true => Ok(verifier),
        false => Err(format!("{}: there is no key in [tokens]", file.display())),
    }
}

fn make(arguments: MakeArguments, now_s: u64) -> Result<String, String> {
    let MakeArguments { keys, user, ttl, channel, channels, info } = arguments;
    let channels = (!channels.is_empty()).then(|| channels.into());
    let claims = [
        ("sub", Some(user.into())),
        ("iat", Some(now_s.into())),
        ("exp", Some((now_s + ttl).into())),
        ("channel", channel.map(Value::from)),
        ("channels", channels),
        ("info", info),
    ];
    let claims = claims.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    verifier(&keys)?.sign(claims.collect::<Map<_, _>>()).map_err(|error| error.to_string())
}

fn check(arguments: CheckArguments, now_s: u64) -> ExitCode {
    let verifier = match verifier(&arguments.keys) {
        Ok(verifier) => verifier,
        Err(text) => return bad_input(&text),
    };
    let token = match arguments.token.as_str() {
        "-" => match io::read_to_string(io::stdin()) {
            Ok(token) => token,
            Err(error) => return bad_input(&format!("standard input cannot be read: {error}")),
        },
        token => token.to_owned(),
    };
    let token = token.trim();
    print!("{}", contents(token, now_s));
    match verifier.check(token, now_s) {
        Ok(is_of_subscription) => {
            println!("good: a token for a {}", if is_of_subscription { "subscription" } else { "connection" });
            ExitCode::SUCCESS
        }
        Err(reason) => failed(&format!("the server rejects this token: {reason}")),
    }
}

/// The content of a token, whoever has signed it: its header and claims where they can be read, and its expiry.
fn contents(token: &str, now_s: u64) -> String {
    let part = |text: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(text).ok()?).ok();
    let mut parts = token.split('.').map(part);
    let (header, claims) = (parts.next().flatten(), parts.next().flatten());
    let expiry = claims.as_ref().and_then(|claims| claims["exp"].as_f64()).map(|expires_s| expires_s - now_s as f64);
    let expiry = expiry.map(|left_s| match left_s > 0.0 {
        true => format!("it expires in {left_s:.0} s"),
        false => format!("it expired {:.0} s ago", left_s.abs()),
    });
    let shown = |name: &str, json: Option<Value>| json.map(|json| format!("{name}: {json}"));
    let lines = [shown("header", header), shown("claims", claims), expiry];
    lines.into_iter().flatten().map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arguments(config: &std::path::Path) -> MakeArguments {
        MakeArguments {
            keys: KeyArguments { config: Some(config.into()), secret_file: None },
            user: "ann".to_owned(),
            ttl: 60,
            channel: None,
            channels: Vec::new(),
            info: None,
        }
    }

    #[test]
    fn the_server_accepts_a_token_until_it_expires_and_for_its_use() {
        let directory = std::env::temp_dir().join(format!("ringfeed-token-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("ringfeed.toml");
        std::fs::write(&file, "[tokens]\nhmac_secret = \"a secret\"\naudience = \"feed\"\nissuer = \"me\"\n").unwrap();
        let keys = verifier(&arguments(&file).keys).unwrap();
        let token = make(MakeArguments { info: Some(json!({"a": 1})), ..arguments(&file) }, 1000).unwrap();
        let claims = keys.connection(&token, 1059).unwrap();
        assert_eq!((&*claims.user, claims.expires_s, &claims.info[..]), ("ann", Some(1060), &b"{\"a\":1}"[..]));
        assert_eq!((keys.check(&token, 1059), keys.check(&token, 1060)), (Ok(false), Err("it has expired")));
        assert_eq!(keys.check(&token[..token.len() - 4], 1000), Err("its signature is wrong"));
        let token = make(MakeArguments { channel: Some("chat:a".to_owned()), ..arguments(&file) }, 1000).unwrap();
        assert_eq!(
            (keys.check(&token, 1000), keys.subscription(&token, 1000).unwrap().channel),
            (Ok(true), "chat:a".to_owned())
        );
        assert!(contents(&token, 1061).ends_with("\nit expired 1 s ago\n"), "{}", contents(&token, 1061));
        assert_eq!(contents("nonsense", 0), "");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
