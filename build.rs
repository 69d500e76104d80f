//! Passes the source revision to `--version` and `gmfy_build_info`.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=GMFY_REVISION");
    println!("cargo:rerun-if-changed=.git/HEAD");
    println!("cargo:rerun-if-changed=.git/index");
    let revision = std::env::var("GMFY_REVISION").ok().or_else(git_revision);
    println!("cargo:rustc-env=GMFY_BUILD_REVISION={}", revision.as_deref().unwrap_or("unknown"));
}

/// The commit of the checkout; none in a source archive or where git is not installed.
fn git_revision() -> Option<String> {
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let revision = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| revision.trim().to_owned())
}
