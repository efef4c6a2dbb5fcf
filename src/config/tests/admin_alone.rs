//! Where the admin API is, in a file that may be wrong elsewhere.

use std::fs;

use super::super::{LoadError, load_admin};

fn read(text: &str) -> Result<(String, Option<String>), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tollgate.yaml");
    fs::write(&file, text).unwrap();
    match load_admin(&file) {
        Ok(admin) => {
            Ok((admin.listen.to_string(), admin.token.map(|token| token.expose().to_owned())))
        }
        Err(LoadError::Invalid(findings)) => {
            Err(findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        }
        Err(other) => Err(other.to_string()),
    }
}

#[test]
fn it_is_read_whatever_else_is_wrong() {
    let wrong = "bogus: 1\nserver: {listen: nowhere}\nroutes: ${UNSET_VARIABLE_OF_A_TEST}\n";
    let admin = "admin: {listen: 127.0.0.1:7001, token: secret}\n";
    let found = read(&format!("{wrong}{admin}"));
    assert_eq!(found, Ok(("127.0.0.1:7001".to_owned(), Some("secret".to_owned()))));
    assert_eq!(read(wrong), Ok(("127.0.0.1:9901".to_owned(), None)));
}

#[test]
fn what_is_wrong_with_itself_is_an_error_and_nothing_else_is() {
    let errors = read("bogus: 1\nadmin: {listen: nowhere}\n").unwrap_err();
    assert!(errors.contains("admin.listen") && !errors.contains("bogus"), "{errors}");
    assert!(read("admin: [\n").is_err());
    assert!(read("- a list\n").is_err());
}
