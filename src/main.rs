//! The binary: everything is in the library's `cli`.

fn main() -> std::process::ExitCode {
    gmfy_sidecar::cli::main()
}
