//! `state_dir`: the folder of what outlives the process.

use std::fs;
use std::path::PathBuf;

use super::raw::Section;
use super::report::{Report, quote};

/// The folder, where one is named. One that is not there yet is made at the start; what stands
/// in its place and is no folder will not become one.
pub(super) fn read(root: &Section<'_>, report: &mut Report) -> Option<PathBuf> {
    root.value("state_dir", report, "a folder", |text| {
        if text.is_empty() || text.contains('\0') {
            return Err(format!("{} is not the path of a folder", quote(text)));
        }
        let path = PathBuf::from(text);
        match fs::metadata(&path) {
            Ok(found) if !found.is_dir() => {
                Err(format!("{} is there and is not a folder; name another", quote(text)))
            }
            // Whatever else is the matter is so now and here; the start tells.
            _ => Ok(path),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::{effective, parse};
    use serde_json::json;

    fn read(text: &str) -> Result<Option<String>, String> {
        let environment = |name: &str| (name == "EMPTY").then(String::new);
        match parse(text, &environment) {
            Ok((config, _)) => {
                let folder = config.state_dir.as_ref().map(|path| path.display().to_string());
                assert_eq!(effective(&config)["state_dir"], json!(folder));
                Ok(folder)
            }
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    #[test]
    fn without_a_folder_there_is_none() {
        for text in ["{}", "state_dir:", "state_dir: null", "state_dir: \"${EMPTY:-}\""] {
            assert_eq!(read(text), Ok(None), "{text}");
        }
        assert!(read("state_dir: ''").is_err());
        assert!(read("state_dir: [a]").unwrap_err().contains("expected a folder, found a list"));
    }

    #[test]
    fn a_folder_need_not_be_there_yet_but_nothing_else_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for name in ["", "later", "much/later"] {
            assert_eq!(read(&format!("state_dir: {}", path(name))), Ok(Some(path(name))));
        }
        std::fs::write(path("file"), "").unwrap();
        let error = read(&format!("state_dir: {}", path("file"))).unwrap_err();
        assert!(error.contains("line 1: state_dir: ") && error.contains("not a folder"), "{error}");
    }
}
