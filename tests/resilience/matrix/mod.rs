//! Every fault under every protection.
//!
//! A row is a fault and a test. It says what a client sees without a retry, with a retry and
//! a healthy second server, and with a retry where all servers have the same fault; what the
//! attempt counts as in `gateway_upstream_attempts_total`, and with that whether circuits
//! hold it against the upstream (`ok` they do not); whether the server got the request; and
//! who ended it: the upstream, the time-out `read` of its own, or that of the route.
//!
//! What does not depend on the fault is in [`run`]: a request costs a token however it ends,
//! one that an open circuit refuses costs none and is not seen by the upstream, a failed
//! probe opens the circuit again, and nothing stays held.

mod faults;
mod run;

use faults::Faulty;
use run::{Asked, EndedBy, Row};

macro_rules! matrix {
    ($($name:ident: $fault:ident | $alone:literal | $second:literal | $alike:literal
       | $outcome:ident | $asked:ident | $ended_by:ident;)*) => {
        $(#[test]
        fn $name() {
            run::check(&Row {
                fault: faults::$fault,
                alone: $alone,
                second: $second,
                alike: $alike,
                outcome: stringify!($outcome),
                asked: Asked::$asked,
                ended_by: EndedBy::$ended_by,
            });
        })*
    };
}

matrix! {
    // The connection.
    // fault                           | no retry             | second | all alike            | counts as  | asked | ended by
    a_port_that_refuses: refused       | "502 connect-failed" | "200" | "502 connect-failed" | connect    | No    | Upstream;
    a_link_that_is_cut: cut            | "502 connect-failed" | "200" | "502 connect-failed" | connect    | No    | Upstream;
    a_link_cut_under_way: cut_later    | "502 upstream-reset" | "200" | "502 upstream-reset" | reset      | Yes   | Upstream;
    a_frozen_link: frozen              | "504 read-timeout"   | "200" | "504 read-timeout"   | timeout    | No    | Read;
    a_link_frozen_under_way: freezing  | "504 read-timeout"   | "200" | "504 read-timeout"   | timeout    | Yes   | Read;

    // No answer.
    silence: silent                    | "504 read-timeout"   | "200" | "504 read-timeout"   | timeout    | Yes   | Read;
    an_answer_too_late: late           | "504 read-timeout"   | "200" | "504 read-timeout"   | timeout    | Yes   | Read;
    a_close_before_a_byte: hangup      | "502 upstream-reset" | "200" | "502 upstream-reset" | reset      | Yes   | Upstream;
    a_reset_before_a_byte: reset       | "502 upstream-reset" | "200" | "502 upstream-reset" | reset      | Yes   | Upstream;

    // Half a head.
    a_head_that_stops: head_silent     | "504 read-timeout"   | "200" | "504 read-timeout"   | timeout    | Yes   | Read;
    a_head_closed_early: head_closed   | "502 upstream-reset" | "200" | "502 upstream-reset" | reset      | Yes   | Upstream;
    a_head_reset: head_reset           | "502 upstream-reset" | "200" | "502 upstream-reset" | reset      | Yes   | Upstream;
    a_head_that_drips: head_drips      | "504 read-timeout"   | "200" | "504 read-timeout"   | timeout    | Yes   | Read;
    an_answer_not_http: not_http       | "502 upstream-invalid" | "200" | "502 upstream-invalid" | reset  | Yes   | Upstream;
    a_length_not_a_number: bad_length  | "502 upstream-invalid" | "200" | "502 upstream-invalid" | reset  | Yes   | Upstream;

    // A head the client has, and then not the body it promised: too late for a retry.
    a_body_that_stops: body_silent     | "200 cut"            | "200 cut" | "200 cut"        | timeout    | Yes   | Read;
    a_body_closed_early: body_closed   | "200 cut"            | "200 cut" | "200 cut"        | reset      | Yes   | Upstream;
    a_body_reset: body_reset           | "200 cut"            | "200 cut" | "200 cut"        | reset      | Yes   | Upstream;
    // An answer that has gone on for a second counts as given.
    a_body_without_end: body_endless   | "200 cut"            | "200 cut" | "200 cut"        | ok         | Yes   | Route;

    // Whole answers.
    a_status_500: status_500           | "500"                | "200" | "500"                | status_5xx | Yes   | Upstream;
    a_503_with_retry_after: status_503 | "503"                | "200" | "503"                | status_5xx | Yes   | Upstream;
    a_body_with_surplus: surplus       | "200"                | "200" | "200"                | ok         | Yes   | Upstream;
    a_body_that_drips: body_drips      | "200"                | "200" | "200"                | ok         | Yes   | Upstream;
}
