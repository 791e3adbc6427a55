//! The thin binary; see the library for everything.

fn main() -> std::process::ExitCode {
    pullgate::cli::main()
}
