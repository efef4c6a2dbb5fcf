//! The command line: what `tollgate` takes.
//!
//! Only definitions, so that [`manual`] and completions can be written from them as well.

pub mod manual;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
pub use clap_complete::Shell;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the configuration is looked for when no file is named: the first that exists, or else
/// the second.
pub const DEFAULT_FILES: [&str; 2] = ["conf/tollgate.yaml", "/etc/tollgate/tollgate.yaml"];

/// An API gateway for the network edge: exact tiered rate limits, routing and contained
/// failures.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, about, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The configuration of the gateway that serves or is to serve.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration; by default conf/tollgate.yaml, then /etc/tollgate/tollgate.yaml.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// The file that was named, or else the default one.
    pub fn path(self) -> PathBuf {
        self.config.unwrap_or_else(|| {
            let [first, second] = DEFAULT_FILES.map(PathBuf::from);
            if first.exists() { first } else { second }
        })
    }
}

/// The configuration of a gateway that runs, for its admin API's address and token.
#[derive(Debug, Args)]
pub struct RunningGateway {
    /// The gateway's configuration, which tells where its admin API is.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl RunningGateway {
    /// The file that was named, or else the default one.
    pub fn path(self) -> PathBuf {
        ConfigFile { config: self.config }.path()
    }
}

/// A request to be explained.
#[derive(Debug, Args)]
pub struct Question {
    /// Its path, with the query if there is one.
    #[arg(long, required_unless_present = "trace_id")]
    path: Option<String>,
    /// Its method.
    #[arg(long, default_value = "GET", conflicts_with = "trace_id")]
    method: String,
    /// Its host.
    #[arg(long, conflicts_with = "trace_id")]
    host: Option<String>,
    /// The client that it names, by whatever header or API key.
    #[arg(long, value_name = "ID", conflicts_with = "trace_id")]
    client: Option<String>,
    /// The address it comes from.
    #[arg(long, value_name = "ADDRESS", conflicts_with = "trace_id")]
    ip: Option<String>,
    /// A header of it; may be given several times.
    #[arg(
        short = 'H',
        long = "header",
        value_name = "NAME: VALUE",
        value_parser = header,
        conflicts_with = "trace_id"
    )]
    headers: Vec<(String, String)>,
    /// The trace id of a request that was refused.
    #[arg(long, value_name = "ID", conflicts_with = "path")]
    trace_id: Option<String>,
}

impl Question {
    /// The question as names and values.
    pub fn parameters(&self) -> Vec<(String, &str)> {
        if let Some(trace_id) = &self.trace_id {
            return vec![("trace_id".to_owned(), trace_id)];
        }
        let named = [
            ("method", Some(&self.method)),
            ("path", self.path.as_ref()),
            ("host", self.host.as_ref()),
            ("client", self.client.as_ref()),
            ("ip", self.ip.as_ref()),
        ];
        let named =
            named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.as_str())));
        let headers =
            self.headers.iter().map(|(name, value)| (format!("header.{name}"), value.as_str()));
        named.chain(headers).collect()
    }
}

/// A header's name and value. Nothing is no value of one that was forgotten: `X-Foo:` is empty,
/// and `X-Foo` a mistake.
fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once(':').ok_or("it must be NAME: VALUE, as in 'X-Region: eu'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// What `tollgate` can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve.
    Run {
        /// What to serve.
        #[command(flatten)]
        file: ConfigFile,
        /// Take over the sockets of the running gateway, which gets QUIT once this one waits
        /// for them.
        #[arg(long)]
        upgrade: bool,
    },
    /// Check a configuration: print every error and warning.
    ///
    /// The exit status is 0 when it is good, 64 when it is not, 66 when there is none.
    Check {
        /// What to check.
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Make the running gateway read its configuration again.
    ///
    /// The exit status is 0 when the new one serves, 64 when it is wrong and the old one serves
    /// on, 1 when the gateway cannot take it for another reason, such as a generation that is not
    /// kept, 69 when no gateway answers.
    Reload {
        /// Whom to tell.
        #[command(flatten)]
        gateway: RunningGateway,
        /// Go back to the configuration of that generation instead of reading the file; `GET
        /// /config/history` lists what is kept.
        #[arg(long, value_name = "GENERATION")]
        to: Option<u64>,
    },
    /// Replace the running gateway's process by the binary that is installed now, without
    /// losing a connection.
    Upgrade {
        /// Whom to replace.
        #[command(flatten)]
        gateway: RunningGateway,
    },
    /// Show the running gateway on one screen: circuits, upstreams, servers.
    Status {
        /// Whom to ask.
        #[command(flatten)]
        gateway: RunningGateway,
    },
    /// Ask the running gateway what would become of a request, and why; or what became of one
    /// that was refused.
    ///
    /// Nothing is charged for it. The exit status is 0 when there is an answer, whatever it says,
    /// 1 when there is none, as for a trace id that is not among the last refusals, 2 when an
    /// argument cannot be read, 64 when the gateway finds the question wrong, 69 when no gateway
    /// answers.
    Explain {
        /// Whom to ask.
        #[command(flatten)]
        gateway: RunningGateway,
        /// The request.
        #[command(flatten)]
        question: Question,
    },
    /// Replay an access log through a configuration and list who would be refused.
    ///
    /// The log is one of Tollgate's own in JSON. Time passes as in the log; nothing is sent
    /// anywhere. The exit status is 0 when it was replayed, 64 when the configuration is wrong, 66
    /// when it or the log cannot be read.
    Simulate {
        /// The configuration to try.
        #[command(flatten)]
        file: ConfigFile,
        /// The access log; `-` is standard input.
        #[arg(value_name = "ACCESS_LOG")]
        log: PathBuf,
    },
    /// Take many clients in or out: their tiers and own limits.
    #[command(disable_help_subcommand = true)]
    Clients {
        /// Which way.
        #[command(subcommand)]
        way: Transfer,
    },
    /// Serve the shipped configuration on loopback with a sample upstream, and print what to
    /// try.
    Demo,
    /// Ask the data port whether the gateway is ready; for containers without another client.
    ///
    /// The exit status is 0 when it answers with 200, 1 when it answers otherwise, 69 when it does
    /// not. No configuration is read: one that was edited and is wrong does not make the gateway
    /// that serves unhealthy.
    #[command(hide = true)]
    Ready {
        /// Where the gateway listens.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
        address: SocketAddr,
        /// The gateway's server.health_path.
        #[arg(long, value_name = "PATH", default_value = "/healthz")]
        path: String,
        /// Take any answer for a good one: it lives, be it full or draining.
        #[arg(long)]
        any_status: bool,
    },
    /// Print what makes a shell complete this command; for packages.
    #[command(hide = true)]
    Completions {
        /// Whose language it is in.
        shell: Shell,
    },
    /// Print the manual, in roff; for packages.
    #[command(hide = true)]
    Man {
        /// Write the page of the program and one for each command to this folder instead.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// Which way clients go.
#[derive(Debug, Subcommand)]
pub enum Transfer {
    /// Set the tiers and limits of the clients in a file.
    ///
    /// A line is a client, as CSV below a line of names (client, tier, capacity, refill_rate) or as
    /// JSON with these members. What was set for each of them before is replaced; keys stay, and so
    /// do clients that are not in the file. Some hundred lines are set at a time, all of them or
    /// none; after an error the file can be mended and imported again.
    Import {
        /// Whom to tell.
        #[command(flatten)]
        gateway: RunningGateway,
        /// The file; - is standard input.
        file: PathBuf,
        /// What it is written in; without this the first character tells.
        #[arg(long)]
        format: Option<Format>,
    },
    /// Print the clients for which something is set at run time, in a form that can be imported.
    Export {
        /// Whom to ask.
        #[command(flatten)]
        gateway: RunningGateway,
        /// What to write.
        #[arg(long, default_value = "csv")]
        format: Format,
        /// Only clients whose ids begin with this.
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
    },
}

/// What a list of clients is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Comma-separated values, with names in the first line.
    Csv,
    /// One JSON object a line.
    Jsonl,
}

/// What makes `shell` complete the command line.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "tollgate", &mut text);
    text
}
