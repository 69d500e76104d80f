//! Rust with ureq 3 and uuid (`v4`): posts one event to gmfy-sidecar and goes on.
//!
//! 503, 500 and no answer are tried again, after Retry-After where it is given, with the same
//! Idempotency-Key, so that the event counts once. A 4xx is not: the event is wrong, and its answer
//! says how. `cargo run --example client` runs it.

#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "no part of the sidecar")]

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

fn send(agent: &ureq::Agent, url: &str, event: &str) -> Result<(), String> {
    let key = uuid::Uuid::new_v4().to_string();
    let mut problem = String::new();
    for _ in 0..3 {
        let mut wait = 1;
        let request = agent.post(url).content_type("application/json");
        match request.header("Idempotency-Key", &key).send(event) {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(mut answer) => {
                let status = answer.status();
                problem =
                    format!("{status} {}", answer.body_mut().read_to_string().unwrap_or_default());
                if !status.is_server_error() {
                    break;
                }
                let after =
                    answer.headers().get("Retry-After").and_then(|after| after.to_str().ok());
                wait = after.and_then(|after| after.parse().ok()).unwrap_or(1).min(5);
            }
            Err(error) => problem = error.to_string(),
        }
        sleep(Duration::from_secs(wait));
    }
    Err(problem)
}

fn main() -> ExitCode {
    let base = std::env::var("GMFY_SIDECAR_URL");
    let base = base.unwrap_or_else(|_| "http://127.0.0.1:7460/".to_owned());
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(2)))
        .http_status_as_error(false)
        .proxy(None);
    let agent = ureq::Agent::new_with_config(config.build());
    let event = r#"{"userId":"ada","type":"register"}"#;
    match send(&agent, &format!("{base}v1/events/"), event) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("event not taken: {problem}");
            ExitCode::FAILURE
        }
    }
}
