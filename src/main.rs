//! The `tollgate` command: reads its arguments, does what they say, and exits as
//! sysexits.h has it.

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tollgate::config::{self, LoadError, Loaded};
use tollgate::remote::{self, Answer, Remote};
use tollgate::{app, demo, telemetry};

/// Allocates for the whole program; takes a tenth less CPU for each request than the
/// system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Where the configuration is looked for when no file is named.
const DEFAULT_FILES: [&str; 2] = ["conf/tollgate.yaml", "/etc/tollgate/tollgate.yaml"];

/// Exit codes of sysexits.h.
const EX_USAGE: u8 = 64;
const EX_UNAVAILABLE: u8 = 69;

/// An API gateway for the network edge: exact tiered rate limits, routing and contained
/// failures.
#[derive(Parser)]
#[command(name = "tollgate", version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve.
    Run {
        /// The configuration; by default conf/tollgate.yaml, then /etc/tollgate/tollgate.yaml.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Check a configuration: print every error and warning; exit 0 when it is good, 64 when
    /// it is not, 66 when there is none.
    Check {
        /// The configuration; by default conf/tollgate.yaml, then /etc/tollgate/tollgate.yaml.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Make the running gateway read its configuration again; exit 0 when the new one serves,
    /// 64 when it is wrong and the old one serves on, 69 when no gateway answers.
    Reload {
        /// The gateway's configuration, which tells where its admin API is.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Show the running gateway on one screen: circuits, upstreams, servers.
    Status {
        /// The gateway's configuration, which tells where its admin API is.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Serve the shipped configuration on loopback with a sample upstream, and print what to
    /// try.
    Demo,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Run { config } => run(&file_or_default(config)),
        Command::Check { config } => check(&file_or_default(config)),
        Command::Reload { config } => reload(&file_or_default(config)),
        Command::Status { config } => status(&file_or_default(config)),
        Command::Demo => serve(demo::run),
    };
    outcome.unwrap_or_else(|code| code)
}

/// The exit code is the error too: what went wrong has been told.
type Outcome = Result<ExitCode, ExitCode>;

fn run(file: &Path) -> Outcome {
    let loaded = load(file)?;
    serve(|| {
        for warning in &loaded.warnings {
            log::warn!("{}", warning.in_file(file));
        }
        app::run(&loaded.config, Some(file.to_owned()), app::Announce::InLog)
    })
}

fn check(file: &Path) -> Outcome {
    let loaded = load(file)?;
    for warning in &loaded.warnings {
        say(&format!("warning: {}", warning.in_file(file)));
    }
    print(&format!("{}: ok\n", file.display()));
    Ok(ExitCode::SUCCESS)
}

fn reload(file: &Path) -> Outcome {
    let remote = Remote::of(&load(file)?.config);
    let answer = ask(&remote, "POST", "/reload")?;
    let text = remote::describe_reload(&answer);
    match answer.status {
        200 => print(&text),
        422 => {
            say(text.trim_end());
            return Err(ExitCode::from(EX_USAGE));
        }
        _ => {
            say(text.trim_end());
            return Err(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn status(file: &Path) -> Outcome {
    let remote = Remote::of(&load(file)?.config);
    let mut answers = Vec::new();
    for path in remote::SCREEN_PATHS {
        let answer = ask(&remote, "GET", path)?;
        // /health says 503 while the gateway starts, and what it says counts all the same.
        if answer.status != 200 && path != "/health" {
            say(&format!("tollgate: the admin API answers {}: is the token right?", answer.status));
            return Err(ExitCode::FAILURE);
        }
        answers.push(answer.body);
    }
    print(&remote::describe_status(&answers));
    Ok(ExitCode::SUCCESS)
}

fn ask(remote: &Remote, method: &str, path: &str) -> Result<Answer, ExitCode> {
    remote.ask(method, path).map_err(|error| {
        say(&format!("tollgate: {error:#}"));
        ExitCode::from(EX_UNAVAILABLE)
    })
}

fn serve(serve: impl FnOnce() -> anyhow::Result<()>) -> Outcome {
    // A logger that is set already logs as well.
    let _ = telemetry::logger::start();
    serve().map_err(|error| {
        say(&format!("tollgate: {error:#}"));
        ExitCode::FAILURE
    })?;
    Ok(ExitCode::SUCCESS)
}

fn load(file: &Path) -> Result<Loaded, ExitCode> {
    config::load(file).map_err(|error| {
        match &error {
            LoadError::Invalid(findings) => {
                for finding in findings {
                    say(&finding.in_file(file).to_string());
                }
            }
            other => say(&format!("tollgate: {other}")),
        }
        ExitCode::from(error.exit_code())
    })
}

fn file_or_default(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| {
        let [first, second] = DEFAULT_FILES.map(PathBuf::from);
        if first.exists() { first } else { second }
    })
}

/// Prints a result; whoever closed standard output only wants the exit code.
fn print(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

/// Tells the user; where standard error is closed there is nobody to tell.
fn say(message: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{message}\n").as_bytes());
}
