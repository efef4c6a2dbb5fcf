//! The `tollgate` command: reads its arguments, does what they say, and exits as
//! sysexits.h has it.

use clap::Parser;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use tollgate::app::{self, Announce, Launch, Origin};
use tollgate::cli::{self, Arguments, Command, Format, Question, Transfer, manual};
use tollgate::config::{self, LoadError, Loaded};
use tollgate::remote::clients::{self, TransferError};
use tollgate::remote::{self, Answer, Remote};
use tollgate::simulate::{self, Progress};
use tollgate::{demo, telemetry};

/// Allocates for the whole program; takes a tenth less CPU for each request than the
/// system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes of sysexits.h.
const EX_USAGE: u8 = 64;
const EX_NOINPUT: u8 = 66;
const EX_UNAVAILABLE: u8 = 69;

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run { file, upgrade: false } => run(&file.path(), Origin::Opened),
        Command::Run { file, upgrade: true } => run(&file.path(), Origin::Predecessor),
        Command::Check { file } => check(&file.path()),
        Command::Reload { gateway, to } => reload(&gateway.path(), to),
        Command::Upgrade { gateway } => upgrade(&gateway.path()),
        Command::Status { gateway } => status(&gateway.path()),
        Command::Explain { gateway, question } => explain(&gateway.path(), &question),
        Command::Simulate { file, log } => simulate(&file.path(), &log),
        Command::Clients { way: Transfer::Import { gateway, file, format } } => {
            import(&gateway.path(), &file, format)
        }
        Command::Clients { way: Transfer::Export { gateway, format, prefix } } => {
            export(&gateway.path(), format, &prefix)
        }
        Command::Demo => serve(demo::run),
        Command::Ready { address, path, any_status } => ready(address, &path, any_status),
        Command::Completions { shell } => {
            write(&cli::completions(shell));
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { out } => man(out.as_deref()),
    };
    outcome.unwrap_or_else(|code| code)
}

/// The exit code is the error too: what went wrong has been told.
type Outcome = Result<ExitCode, ExitCode>;

fn run(file: &Path, origin: Origin) -> Outcome {
    let loaded = load(file)?;
    serve(|| {
        for warning in &loaded.warnings {
            log::warn!("{}", warning.in_file(file));
        }
        app::run(Launch {
            config: &loaded.config,
            file: Some(file.to_owned()),
            origin,
            announce: Announce::InLog,
        })
    })
}

fn upgrade(file: &Path) -> Outcome {
    let remote = remote(file)?;
    let answer = ask(&remote, "POST", "/upgrade")?;
    let text = remote::describe_upgrade(&answer);
    if answer.status == 200 {
        print(&text);
        return Ok(ExitCode::SUCCESS);
    }
    say(text.trim_end());
    Err(ExitCode::FAILURE)
}

fn check(file: &Path) -> Outcome {
    let loaded = load(file)?;
    for warning in &loaded.warnings {
        say(&format!("warning: {}", warning.in_file(file)));
    }
    print(&format!("{}: ok\n", file.display()));
    Ok(ExitCode::SUCCESS)
}

fn reload(file: &Path, to: Option<u64>) -> Outcome {
    let remote = remote(file)?;
    let path = remote::reload_path(to);
    // A file that is wrong may also name the wrong gateway; then what is wrong matters more.
    let answer = remote.ask("POST", &path).or_else(|error| load(file).and(unreachable(&error)))?;
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
    let remote = remote(file)?;
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

fn explain(file: &Path, question: &Question) -> Outcome {
    let remote = remote(file)?;
    let answer = ask(&remote, "GET", &remote::explain_path(&question.parameters()))?;
    let text = remote::describe_explanation(&answer);
    match answer.status {
        200 => {
            print(&text);
            Ok(ExitCode::SUCCESS)
        }
        status => {
            say(text.trim_end());
            Err(if status == 400 { ExitCode::from(EX_USAGE) } else { ExitCode::FAILURE })
        }
    }
}

fn simulate(file: &Path, log: &Path) -> Outcome {
    let loaded = load(file)?;
    let replayed = simulate::open(log).and_then(|source| {
        let progress = Progress::new(source.bytes(), std::io::stderr().is_terminal());
        simulate::replay(&loaded.config, source, progress)
    });
    let report = replayed.map_err(|error| {
        say(&format!("tollgate: {} cannot be replayed: {error:#}", log.display()));
        ExitCode::from(EX_NOINPUT)
    })?;
    print(&report.to_string());
    Ok(ExitCode::SUCCESS)
}

fn import(config: &Path, file: &Path, format: Option<Format>) -> Outcome {
    let remote = remote(config)?;
    let imported = transferred(clients::import(&remote, file, format))?;
    say(&format!("{imported} clients imported"));
    Ok(ExitCode::SUCCESS)
}

fn export(config: &Path, format: Format, prefix: &str) -> Outcome {
    let remote = remote(config)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let exported = transferred(clients::export(&remote, format, prefix, &mut out))?;
    say(&format!("{} clients exported", exported.clients));
    if exported.without_tier > 0 {
        say(&format!(
            "warning: {} of them are in tiers that the configuration does not have; as long as it \
             has not, an import refuses their lines",
            exported.without_tier
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn transferred<T>(outcome: Result<T, TransferError>) -> Result<T, ExitCode> {
    outcome.map_err(|error| {
        say(&format!("tollgate: {error}"));
        match error {
            TransferError::Unreachable(_) => ExitCode::from(EX_UNAVAILABLE),
            _ => ExitCode::FAILURE,
        }
    })
}

/// The admin API of the gateway that serves `file`, or would if that were right.
fn remote(file: &Path) -> Result<Remote, ExitCode> {
    told(file, config::load_admin(file)).map(|admin| Remote::of(&admin))
}

fn ready(address: SocketAddr, path: &str, any_status: bool) -> Outcome {
    let status = ask(&Remote::at(address), "GET", path)?.status;
    if any_status || status == 200 {
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("tollgate: {path} is answered with {status}"));
    Err(ExitCode::FAILURE)
}

fn man(out: Option<&Path>) -> Outcome {
    let written = match out {
        Some(folder) => manual::write_pages(folder),
        None => manual::pages().map(|pages| pages.iter().for_each(|(_, text)| write(text))),
    };
    written.map_err(|error| {
        say(&format!("tollgate: the manual cannot be written: {error}"));
        ExitCode::FAILURE
    })?;
    Ok(ExitCode::SUCCESS)
}

fn ask(remote: &Remote, method: &str, path: &str) -> Result<Answer, ExitCode> {
    remote.ask(method, path).or_else(|error| unreachable(&error))
}

fn unreachable<T>(error: &anyhow::Error) -> Result<T, ExitCode> {
    say(&format!("tollgate: {error:#}"));
    Err(ExitCode::from(EX_UNAVAILABLE))
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
    told(file, config::load(file))
}

/// Prints what is wrong with `file`.
fn told<T>(file: &Path, loaded: Result<T, LoadError>) -> Result<T, ExitCode> {
    loaded.map_err(|error| {
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

/// Prints a result; whoever closed standard output only wants the exit code.
fn print(text: &str) {
    write(text.as_bytes());
}

/// Ends the process where a result cannot be written for another reason: it is all that was asked
/// for.
fn write(bytes: &[u8]) {
    let mut stdout = std::io::stdout();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        say(&format!("tollgate: cannot write to standard output: {error}"));
        std::process::exit(1);
    }
}

/// Tells the user; where standard error is closed there is nobody to tell.
fn say(message: &str) {
    let _ = std::io::stderr().write_all(format!("{message}\n").as_bytes());
}
