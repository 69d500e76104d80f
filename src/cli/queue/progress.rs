//! How far long work is, where a person is looking: on stderr, when that is a terminal.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Bytes read so far, of `total`.
pub(super) fn of_bytes(total: u64) -> ProgressBar {
    bar(total, "{bar:30} {bytes} of {total_bytes}, {eta} to go")
}

/// The same for a command whose results go to stdout meanwhile: hidden when that is a terminal too.
pub(super) fn beside_results(total: u64) -> ProgressBar {
    if std::io::stdout().is_terminal() { ProgressBar::hidden() } else { of_bytes(total) }
}

/// Events settled so far, of `total`.
pub(super) fn of_events(total: u64) -> ProgressBar {
    bar(total, "{bar:30} {human_pos} of {human_len} events, {per_sec}")
}

fn bar(total: u64, template: &str) -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    let bar = ProgressBar::with_draw_target(Some(total), target);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
