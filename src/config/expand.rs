//! `${VAR}` and `${VAR:-default}` in the values of a parsed document.
//!
//! Expansion comes after parsing and happens inside single values, so no variable can add a key,
//! end a quote or turn one value into two. What was expanded has no quotes of its own any more:
//! `"${WORKERS:-2}"` is the number 2, and a value that expands to nothing is as good as absent.

use super::report::{Report, quote};
use super::yaml::{Kind, Node, is_null};

/// The longest a value may get, in bytes.
const MAX_EXPANDED_BYTES: usize = 64 << 10;

/// Looks up a variable.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Expands every value below `node`; a value that cannot be is reported and marked broken.
pub(super) fn expand(node: &mut Node, env: Env<'_>, report: &mut Report) {
    walk(node, &mut String::new(), env, report);
}

fn walk(node: &mut Node, path: &mut String, env: Env<'_>, report: &mut Report) {
    let length = path.len();
    match &mut node.kind {
        Kind::Null | Kind::Broken => {}
        Kind::Scalar(text) => match expand_text(text, env) {
            Ok(None) => {}
            Ok(Some(text)) if is_null(&text) => node.kind = Kind::Null,
            Ok(Some(text)) => node.kind = Kind::Scalar(text),
            Err(message) => {
                report.error(path, Some(node.line), message);
                node.kind = Kind::Broken;
            }
        },
        Kind::List(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{i}]"));
                walk(item, path, env, report);
                path.truncate(length);
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                if length > 0 {
                    path.push('.');
                }
                path.push_str(&entry.key);
                walk(&mut entry.value, path, env, report);
                path.truncate(length);
            }
        }
    }
}

/// The expanded text, or nothing when there is no variable in it.
fn expand_text(text: &str, env: Env<'_>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        // `$${` is how a literal `${` is written.
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at]);
            out.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else {
            return Err(format!("{} opens a variable and never closes it with }}", quote(text)));
        };
        out.push_str(&lookup(&rest[at + 2..at + end], env)?);
        if out.len() > MAX_EXPANDED_BYTES {
            return Err(format!("is more than {MAX_EXPANDED_BYTES} bytes long when expanded"));
        }
        rest = &rest[at + end + 1..];
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// The value of what stands between the braces. As in a shell, `:-` also replaces a variable that
/// is set and empty.
fn lookup(inside: &str, env: Env<'_>) -> Result<String, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    if !is_variable_name(name) {
        return Err(format!(
            "{} is not a variable; write ${{NAME}} or ${{NAME:-default}}, and $${{ for a plain ${{",
            quote(&format!("${{{inside}}}")),
        ));
    }
    match (env(name), default) {
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!(
            "the variable {name} is not set; set it, or give a default with ${{{name}:-default}}"
        )),
    }
}

fn is_variable_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("10.0.0.1".into()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("x, y: [${HOST}".into()),
            "BIG" => Some("x".repeat(70_000)),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_and_their_values_are_only_text() {
        let cases = [
            ("${HOST}:80", "10.0.0.1:80"),
            ("${UNSET:-a:-b}", "a:-b"),
            ("${UNSET:-}", ""),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY}", ""),
            ("${HOST}${HOST}", "10.0.0.110.0.0.1"),
            ("$${HOST} ${HOST}", "${HOST} 10.0.0.1"),
            ("$$${HOST}", "$${HOST}"),
            ("${TRICKY}", "x, y: [${HOST}"),
        ];
        for (text, expected) in cases {
            assert_eq!(expand_text(text, &env).unwrap().as_deref(), Some(expected), "{text}");
        }
        for text in ["", "plain", "$", "$HOST", "{HOST}", "a $ {b}"] {
            assert_eq!(expand_text(text, &env), Ok(None), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_variable_says_so() {
        let cases = [
            ("${UNSET}", "the variable UNSET is not set"),
            ("${HOST", "never closes it"),
            ("${}", "is not a variable"),
            ("${1X}", "is not a variable"),
            ("${HOST-x}", "is not a variable"),
            ("${BIG}", "more than 65536 bytes"),
        ];
        for (text, expected) in cases {
            let error = expand_text(text, &env).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
