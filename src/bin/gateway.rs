//! The reference gateway as a program: reads its options, serves until it is asked to stop, and tells the result by its
//! exit code: 0 asked to stop, 1 could not listen, 2 wrong usage or configuration.

use std::process::{self, ExitCode};

use log::{error, info, warn};
use tunnel_agent::cli::gateway::{GatewaySettings, help, read};
use tunnel_agent::cli::{Command, Signal, descriptors, handle_signals, logging, print, program, refuse};
use tunnel_agent::gateway::BoundGateway;

/// The static build has an allocator of its own; `Cargo.toml` says why.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match read() {
        Ok(Command::Help) => print(&help()),
        Ok(Command::Version) => print(&format!("{} {}\n", program("gateway"), env!("CARGO_PKG_VERSION"))),
        Ok(Command::Run(settings)) => {
            // Before any thread: the process may begin anew.
            let scarce = descriptors::raise();
            logging::install("gateway", settings.log_format, settings.log_level.as_deref());
            scarce.inspect(|text| warn!("{text}"));
            let code = run(settings);
            log::logger().flush();
            code
        }
        Err(error) => refuse(&program("gateway"), &error),
    }
}

fn run(settings: GatewaySettings) -> ExitCode {
    let gateway = match settings.gateway.bind() {
        Ok(gateway) => gateway,
        Err(error) => {
            error!(
                "cannot listen on {error}; choose another address with --listen, --listen-agents or --admin"
            );
            return ExitCode::FAILURE;
        }
    };
    settings.notes.iter().for_each(|note| info!("{note}"));
    if let Err(error) = obey_signals(&gateway) {
        error!("cannot catch signals: {error}");
        return ExitCode::FAILURE;
    }
    match gateway.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// SIGHUP reads files again. The first SIGINT or SIGTERM stops the gateway in good order, the next one ends the process.
fn obey_signals(gateway: &BoundGateway) -> std::io::Result<()> {
    let gateway = gateway.handle();
    handle_signals(move |signal| match signal {
        Signal::Reload => gateway.reload(),
        Signal::Stop => {
            info!("asked to stop; ask again to stop at once");
            gateway.shutdown();
        }
        Signal::StopAtOnce => {
            info!("asked again: stopping at once");
            gateway.abort();
            log::logger().flush();
            process::exit(0);
        }
    })
}
