//! The manual pages, in roff: what clap knows of each command, and what only people know.

use super::Arguments;
use clap::CommandFactory as _;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::io;
use std::path::Path;

/// A section of tollgate(1): its title, and its entries, each a term and what it means.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

const VERSION: &str = env!("CARGO_PKG_VERSION");

const SECTIONS: [Section; 5] = [
    (
        "EXIT STATUS",
        &[
            ("0", "What was asked for is done."),
            ("1", "It failed, for the reason printed."),
            ("2", "The command line is wrong."),
            ("64", "The configuration is wrong; every error in it was printed."),
            ("66", "There is no configuration, or it cannot be read."),
            ("69", "No gateway answers at the admin API's address."),
        ],
    ),
    (
        "SIGNALS",
        &[
            (
                "HUP",
                "The configuration is read again. When it has errors the old one serves on, and the \
                 log says what is wrong.",
            ),
            (
                "TERM",
                "Drains: nothing new is accepted, /ready answers 503, what is in flight is \
                 finished. The process ends when there is nothing left, after \
                 server.grace_period at the latest.",
            ),
            ("INT", "Ends at once, also during a drain."),
            (
                "QUIT",
                "Hands the sockets over to a successor, started with run --upgrade, that waits \
                 for them; drains once it is ready. Without a successor the process serves on.",
            ),
            (
                "USR2",
                "Starts the binary that is now at the process's own path as successor, and hands \
                 over to it as after QUIT; what `tollgate upgrade` does.",
            ),
        ],
    ),
    (
        "FILES",
        &[
            (
                "conf/tollgate.yaml, /etc/tollgate/tollgate.yaml",
                "The configuration, where none is named: the former if it exists, else the \
                 latter.",
            ),
            (
                "/etc/tollgate/env",
                "Values for the ${VARIABLES} of the configuration, one NAME=value a line, read by \
                 the systemd unit.",
            ),
            (
                "/var/log/tollgate",
                "Where the systemd unit lets an access log be written to a file.",
            ),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "TOLLGATE_STATE_DIR, TOLLGATE_LISTEN, TOLLGATE_WORKERS, TOLLGATE_ADMIN_LISTEN, \
                 TOLLGATE_ADMIN_TOKEN, TOLLGATE_METRICS_LISTEN, TOLLGATE_REDIS_URL, \
                 TOLLGATE_CLIENT_ID_FROM, TOLLGATE_UPSTREAM",
                "Values that the shipped configuration takes from the environment. Any other \
                 variable can be named in a configuration, as ${NAME} or ${NAME:-default}.",
            ),
            ("RUST_LOG", "What is logged to standard error: info, debug, or a filter by module."),
            (
                "LISTEN_FDS, LISTEN_PID",
                "Sockets that systemd opened; each is matched to a listener by its address.",
            ),
            (
                "RUNTIME_DIRECTORY, XDG_RUNTIME_DIR",
                "The folder in which a successor waits for the sockets, unless \
                 server.upgrade_socket names a file; else one in /tmp.",
            ),
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC",
                "Where systemd is told about the state, and how often it wants a sign of life.",
            ),
        ],
    ),
    (
        "SEE ALSO",
        &[(
            "systemctl(1), systemd.socket(5)",
            "The folder share/doc/tollgate of the installation has CONFIG.md, which describes \
             every key, and OPERATIONS.md.",
        )],
    ),
];

/// Every page as its file name and its text: tollgate.1, and one for each command.
///
/// # Errors
/// None: the text is written to memory.
pub fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    for command in shown(&program) {
        for part in shown(command) {
            pages.push(page(part, &[])?);
        }
        pages.push(page(command, &[])?);
    }
    pages.push(page(&program, &SECTIONS)?);
    Ok(pages)
}

fn shown(command: &clap::Command) -> impl Iterator<Item = &clap::Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

/// Writes every page to the folder `out`, which is made if it is missing.
///
/// # Errors
/// When the folder cannot be made or a page not be written.
pub fn write_pages(out: &Path) -> io::Result<()> {
    fs::create_dir_all(out)?;
    for (name, text) in pages()? {
        fs::write(out.join(name), text)?;
    }
    Ok(())
}

fn page(command: &clap::Command, sections: &[Section]) -> io::Result<(String, Vec<u8>)> {
    let man = Man::new(command.clone());
    let file = man.get_filename();
    let name = file.trim_end_matches(".1");
    // Not the crate's title line: it leaves out an empty date, and what follows moves up. `.nh`,
    // since names that are to be typed must not be hyphenated.
    let title =
        format!(".TH {} 1 \"\" \"tollgate {VERSION}\" Tollgate\n.nh\n", name.to_uppercase());
    let mut text = title.into_bytes();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    for (title, entries) in sections {
        let mut roff = Roff::new();
        roff.control("SH", [*title]);
        for (term, meaning) in *entries {
            roff.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
        }
        roff.to_writer(&mut text)?;
    }
    Ok((file, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(name: &str) -> String {
        let pages = pages().unwrap();
        let (_, text) = pages.iter().find(|(file, _)| file == name).unwrap();
        String::from_utf8(text.clone()).unwrap()
    }

    #[test]
    fn every_command_that_help_shows_has_a_page_that_the_first_one_names() {
        let first = text_of("tollgate.1");
        let names: Vec<String> = pages().unwrap().into_iter().map(|(name, _)| name).collect();
        for command in [
            "run", "check", "reload", "upgrade", "status", "explain", "simulate", "clients", "demo",
        ] {
            assert!(names.contains(&format!("tollgate-{command}.1")), "{names:?}");
            assert!(first.contains(&format!(r"tollgate\-{command}(1)")), "{first}");
        }
        let clients = text_of("tollgate-clients.1");
        for part in ["import", "export"] {
            assert!(names.contains(&format!("tollgate-clients-{part}.1")), "{names:?}");
            assert!(clients.contains(&format!(r"tollgate\-clients\-{part}(1)")), "{clients}");
        }
        assert_eq!(names.len(), 12, "{names:?}");
    }

    #[test]
    fn options_exit_codes_signals_files_and_variables_are_described() {
        assert!(text_of("tollgate-run.1").contains(r"\fB\-\-upgrade\fR"));
        assert!(text_of("tollgate-reload.1").contains(r"\fB\-\-to\fR"));
        let first = text_of("tollgate.1");
        for (title, entries) in SECTIONS {
            assert!(first.contains(title), "{title}");
            assert!(!entries.is_empty(), "{title}");
        }
    }

    /// The variables are those of the shipped configuration, and all of them.
    #[test]
    fn the_variables_are_those_of_the_shipped_configuration() {
        let shipped = include_str!("../../conf/tollgate.yaml");
        let used = shipped.split("${TOLLGATE_").skip(1).filter_map(|rest| rest.split(':').next());
        let (_, environment) = SECTIONS.iter().find(|(title, _)| *title == "ENVIRONMENT").unwrap();
        let mut described: Vec<&str> = environment[0].0.split(", ").collect();
        let mut used: Vec<String> = used.map(|name| format!("TOLLGATE_{name}")).collect();
        described.sort_unstable();
        used.sort_unstable();
        used.dedup();
        assert_eq!(described, used);
    }
}
