//! Clients as lines of text: CSV (RFC 4180, without line ends in values) or JSON objects.

use crate::cli::Format;
use crate::strict_json;
use serde_json::{Map, Value, json};

/// The columns, and the members of an object.
const NAMES: [&str; 4] = ["client", "tier", "capacity", "refill_rate"];

/// Reads lines one after the other.
pub(super) struct RowReader {
    format: Option<Format>,
    /// Which column is which, once the first line has told.
    columns: Vec<&'static str>,
    /// Whether it could not: then nothing of what follows can be read.
    is_headless: bool,
}

impl RowReader {
    /// Reads `format`, or what the first character tells: an object begins with a brace.
    pub(super) fn new(format: Option<Format>) -> RowReader {
        RowReader { format, columns: Vec::new(), is_headless: false }
    }

    /// The client in a line as the admin API takes it; none in one that holds no client.
    ///
    /// # Errors
    /// What is wrong with the line. What the values may be the gateway knows.
    pub(super) fn read(&mut self, line: &str) -> Result<Option<Value>, String> {
        let line = line.trim_end_matches(['\r', '\n']).trim_start_matches('\u{feff}');
        if line.trim().is_empty() || self.is_headless {
            return Ok(None);
        }
        let looks_like = if line.starts_with('{') { Format::Jsonl } else { Format::Csv };
        match *self.format.get_or_insert(looks_like) {
            Format::Jsonl => object(line).map(Some),
            Format::Csv if self.columns.is_empty() => {
                self.columns = columns(line).inspect_err(|_| self.is_headless = true)?;
                Ok(None)
            }
            Format::Csv => self.values(line).map(Some),
        }
    }

    fn values(&self, line: &str) -> Result<Value, String> {
        let values = fields(line)?;
        if values.len() != self.columns.len() {
            let (has, wants) = (values.len(), self.columns.len());
            return Err(format!("there are {has} values for {wants} columns"));
        }
        let mut row = Map::new();
        for (name, text) in self.columns.iter().zip(values) {
            if !text.is_empty() {
                row.insert((*name).to_owned(), value(name, text)?);
            }
        }
        Ok(row.into())
    }
}

fn object(line: &str) -> Result<Value, String> {
    match strict_json::parse(line.as_bytes()) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("this is not a JSON object".to_owned()),
        Err(mistake) => Err(format!("this is not JSON: {}", mistake.message)),
    }
}

fn columns(line: &str) -> Result<Vec<&'static str>, String> {
    let mut columns = Vec::new();
    for name in fields(line)? {
        let known = NAMES.into_iter().find(|known| *known == name.trim());
        match known {
            Some(known) if columns.contains(&known) => {
                return Err(format!("the column {known} is there twice"));
            }
            Some(known) => columns.push(known),
            None => {
                return Err(format!(
                    "{name:?} is not a column; the first line names {}",
                    NAMES.join(", ")
                ));
            }
        }
    }
    if columns.contains(&"client") { Ok(columns) } else { Err("no column is client".to_owned()) }
}

fn value(name: &str, text: String) -> Result<Value, String> {
    match name {
        "capacity" => text.parse::<u64>().map(Value::from).ok(),
        "refill_rate" => text.parse::<f64>().map(|rate| json!(rate)).ok(),
        _ => return Ok(Value::String(text)),
    }
    .ok_or_else(|| format!("{name} is {text:?}, which is not such a number"))
}

/// The values of a line. One that holds a comma or a quotation mark is quoted, and marks within
/// are doubled.
fn fields(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
            Some(quoted) => unquoted(quoted)?,
        };
        fields.push(field);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None if behind.is_empty() => return Ok(fields),
            None => return Err("something follows a closing quotation mark".to_owned()),
        }
    }
}

/// A value up to its closing mark, and what follows.
fn unquoted(text: &str) -> Result<(String, &str), String> {
    let mut field = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or("a quotation mark is not closed")?;
        field.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Ok((field, rest)),
        }
    }
}

/// The line above all others.
pub(super) fn heading(format: Format) -> String {
    match format {
        Format::Csv => format!("{}\n", NAMES.join(",")),
        Format::Jsonl => String::new(),
    }
}

/// The line of a client for which `changed` is set.
pub(super) fn line(format: Format, client: &str, changed: &Value) -> String {
    let value = |name: &str| if name == "client" { json!(client) } else { changed[name].clone() };
    match format {
        Format::Jsonl => {
            let set = NAMES.into_iter().map(|name| (name.to_owned(), value(name)));
            let set: Map<String, Value> = set.filter(|(_, value)| !value.is_null()).collect();
            format!("{}\n", Value::Object(set))
        }
        Format::Csv => {
            let values = NAMES.map(|name| match value(name) {
                Value::Null => String::new(),
                Value::String(text) => quoted(text),
                other => other.to_string(),
            });
            format!("{}\n", values.join(","))
        }
    }
}

fn quoted(text: String) -> String {
    match text.contains([',', '"']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let clients = [
            ("plain", json!({"tier": "gold", "capacity": null, "refill_rate": null})),
            ("a,b\"c\",", json!({"tier": null, "capacity": 5, "refill_rate": 0.5})),
            ("\"", json!({"tier": "g", "capacity": 1, "refill_rate": 1e-3})),
            ("{", json!({"tier": "g", "capacity": null, "refill_rate": null})),
        ];
        for format in [Format::Csv, Format::Jsonl] {
            let mut reader = RowReader::new(Some(format));
            assert_eq!(reader.read(&heading(format)), Ok(None));
            for (client, changed) in &clients {
                let row = reader.read(&line(format, client, changed)).unwrap().unwrap();
                assert_eq!(row["client"], *client);
                for name in &NAMES[1..] {
                    assert_eq!(row[name], changed[name], "{format:?} {client} {name}");
                }
            }
        }
    }

    #[test]
    fn of_a_wrong_first_line_one_error_is_told() {
        let mut reader = RowReader::new(Some(Format::Csv));
        assert!(reader.read("client,colour").is_err());
        assert_eq!(reader.read("a,blue"), Ok(None));
    }

    #[test]
    fn the_first_character_tells_what_a_file_is() {
        let read = |lines: &[&str]| {
            let mut reader = RowReader::new(None);
            let rows = lines.iter().map(|line| reader.read(line));
            rows.collect::<Result<Vec<_>, _>>().map(|rows| rows.into_iter().flatten().count())
        };
        assert_eq!(read(&["", "\u{feff}tier,client\r\n", "gold,a\r\n", "\n", "gold,b"]), Ok(2));
        assert_eq!(read(&[r#"{"client":"a"}"#, r#"{"client":"b"}"#]), Ok(2));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        let cases = [
            ("clients,tier\n", "not a column"),
            ("tier,capacity\n", "no column is client"),
            ("client,client\n", "twice"),
            ("client,tier\na\n", "1 values for 2"),
            ("client,tier\na,b,c\n", "3 values for 2"),
            ("client,capacity\na,many\n", "capacity is \"many\""),
            ("client,tier\n\"a,b\n", "not closed"),
            ("client,tier\n\"a\"b,c\n", "follows"),
            ("{\"client\":\n", "not JSON"),
            ("{\"client\":\"a\",\"client\":\"b\"}\n", "\"client\" occurs twice"),
        ];
        for (text, word) in cases {
            let mut reader = RowReader::new(None);
            let errors = text.lines().filter_map(|line| reader.read(line).err());
            let errors: Vec<String> = errors.collect();
            assert!(errors.len() == 1 && errors[0].contains(word), "{text:?} {errors:?}");
        }
    }
}
