//! The flags of `simulate`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::units::{parse_duration, parse_rate, parse_share};
use super::{Faults, Options};

/// A simulated GMFY: its address, its state, its faults.
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7470")]
    pub listen: SocketAddr,

    /// The key that callers have to send as x-api-key; without this flag any key does
    #[arg(long, value_name = "K", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub api_key: Option<String>,

    /// Hold each answer back for this long, e.g. 20ms
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0")]
    pub latency: Duration,

    /// Answer this share of the requests with 500, from 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = parse_share, default_value = "0")]
    pub error_rate: f64,

    /// Answer 429 above this many requests, e.g. 100/s
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub rate_limit: Option<f64>,

    /// Refuse requests with an event of this type; may be repeated
    #[arg(long = "reject-type", value_name = "T")]
    pub reject_types: Vec<String>,

    /// Refuse batches of more events with 413
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_batch: Option<u32>,

    /// Close every connection unread, as if GMFY were down
    #[arg(long)]
    pub down: bool,

    /// Same seed and same requests, same ids and same faults
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
}

impl From<SimulateArgs> for Options {
    fn from(args: SimulateArgs) -> Self {
        let faults = Faults {
            latency: args.latency,
            error_rate: args.error_rate,
            rate_limit: args.rate_limit,
            reject_types: args.reject_types.into_iter().collect(),
            max_batch: args.max_batch.and_then(|events| usize::try_from(events).ok()),
            down: args.down,
            ..Faults::default()
        };
        Self {
            listen: args.listen,
            api_key: args.api_key,
            seed: args.seed,
            faults,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        simulate: SimulateArgs,
    }

    fn parse(line: &str) -> Result<Options, String> {
        Command::try_parse_from(std::iter::once("simulate").chain(line.split_whitespace()))
            .map(|command| command.simulate.into())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_it_listens_on_its_port_and_has_no_faults() {
        let options = parse("").unwrap();
        assert_eq!(options.listen.to_string(), "127.0.0.1:7470");
        assert_eq!(options.faults, Faults::default());
        assert_eq!((options.api_key, options.seed), (None, 0));
    }

    #[test]
    fn every_flag_sets_its_fault() {
        let options = parse(
            "--listen 127.0.0.1:0 --api-key k --latency 20ms --error-rate 0.1 --rate-limit 100/s \
             --reject-type a --reject-type b --max-batch 50 --down --seed 7",
        )
        .unwrap();
        assert_eq!(options.listen.port(), 0);
        assert_eq!(options.api_key.as_deref(), Some("k"));
        assert_eq!(options.seed, 7);
        let faults = Faults {
            latency: Duration::from_millis(20),
            error_rate: 0.1,
            rate_limit: Some(100.0),
            reject_types: ["a".to_owned(), "b".to_owned()].into(),
            max_batch: Some(50),
            down: true,
            ..Faults::default()
        };
        assert_eq!(options.faults, faults);
    }

    #[test]
    fn a_bad_value_names_its_flag_and_what_is_right() {
        for (line, flag, words) in [
            ("--latency soon", "--latency", "20ms"),
            ("--error-rate 2", "--error-rate", "from 0 to 1"),
            ("--rate-limit fast", "--rate-limit", "100/s"),
            ("--max-batch 0", "--max-batch", "1.."),
            ("--listen here", "--listen", "invalid socket address"),
        ] {
            let message = parse(line).unwrap_err();
            assert!(message.contains(flag) && message.contains(words), "{message}");
        }
    }
}
