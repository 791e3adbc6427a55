//! The users file: lines of `name:hash`, as `pullgate user add` and `htpasswd -B` write them.

use std::path::Path;
use std::sync::Arc;

use super::referenced_files::{Readers, ReferencedFile, Secret};
use crate::policy::{Fault, Location, PasswordHash, Users};

/// Maximum length of a name, in characters.
const LONGEST_NAME: usize = 64;

/// Returns whether a name is valid in Basic authentication and in a line of the file.
#[must_use]
pub fn is_user_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    (1..=LONGEST_NAME).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('#')
}

/// Parses the file. `asked_by`: the place in the configuration that requires it.
pub(super) fn read(
    file: Option<&ReferencedFile>,
    path: &Path,
    asked_by: &Location,
    (faults, warnings): (&mut Vec<Fault>, &mut Vec<Fault>),
) -> Users {
    let mut users = Users::default();
    let place = |line: usize| Location {
        file: path.display().to_string().into(),
        line: u32::try_from(line).unwrap_or(u32::MAX),
    };
    let mut fault = |place: Location, what: String, remedy: &str| {
        faults.push(Fault { place, what, remedy: remedy.to_owned() });
    };
    let content = file.map_or(Err("it was not read"), |file| {
        file.content.as_ref().map(Secret::expose).map_err(String::as_str)
    });
    let text = content.and_then(|bytes| std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8"));
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            let what = format!("{}: it cannot be read: {error}", path.display());
            let remedy = format!(
                "create it with pullgate user add NAME; if it is there, the gate's user must be able \
                 to read it: chgrp pullgate {0} && chmod 640 {0}",
                path.display()
            );
            fault(asked_by.clone(), what, &remedy);
            return users;
        }
    };
    for (number, line) in (1..).zip(without_mark(text).lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        // The error does not quote the line, which may hold a password.
        let Some((name, hash)) = line.split_once(':').filter(|(name, _)| is_user_name(name)) else {
            fault(place(number), "the line is not name:hash".into(), "see pullgate user add");
            continue;
        };
        match PasswordHash::parse(hash) {
            Err(error) => {
                let what = format!("the hash of {name}: {error}");
                fault(place(number), what, "create it again with pullgate user add");
            }
            Ok(hash) => {
                if !users.add(name, hash) {
                    fault(place(number), format!("{name} is listed twice"), "keep one");
                }
            }
        }
    }
    if file.is_some_and(|file| file.readers == Readers::Everybody) {
        warnings.push(Fault {
            place: place(1),
            what: "everybody on this machine may read the hashes of the passwords".into(),
            remedy: "chmod o-r it".into(),
        });
    }
    users
}

/// Returns the users file with a user added or its password changed.
#[must_use]
pub fn with_user(text: &str, name: &str, hash: &PasswordHash) -> String {
    let line = format!("{name}:{}", hash.expose());
    let is_of = |line: &str| line.trim().split_once(':').is_some_and(|(one, _)| one == name);
    let mut lines: Vec<&str> = without_mark(text).lines().collect();
    match lines.iter_mut().find(|line| is_of(line)) {
        Some(known) => *known = &line,
        None => lines.push(&line),
    }
    lines.join("\n") + "\n"
}

/// Returns the users file without a user; `None` if the user does not exist.
#[must_use]
pub fn without_user(text: &str, name: &str) -> Option<String> {
    let is_of = |line: &&str| line.trim().split_once(':').is_some_and(|(one, _)| one == name);
    let text = without_mark(text);
    text.lines().find(is_of)?;
    Some(text.lines().filter(|line| !is_of(line)).map(|line| format!("{line}\n")).collect())
}

/// Returns the text without the byte order mark that some editors add.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Returns the names in the users file.
pub fn names(text: &str) -> impl Iterator<Item = Arc<str>> {
    let lines = without_mark(text).lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.split_once(':')?.0.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_belongs_to_no_name() {
        let hash = PasswordHash::of(b"secret").unwrap();
        let text = format!("\u{feff}{}", with_user("", "ci", &hash));
        let file = ReferencedFile {
            path: "users".into(),
            content: Ok(text.clone().into_bytes().into()),
            readers: Readers::Few,
        };
        let place = Location { file: "pullgate.toml".into(), line: 1 };
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        read(Some(&file), "users".as_ref(), &place, (&mut faults, &mut warnings));
        assert_eq!((faults, warnings), (vec![], vec![]));
        assert_eq!(names(&text).collect::<Vec<_>>(), ["ci".into()]);
        assert_eq!(with_user(&text, "ci", &hash).lines().count(), 1);
        assert_eq!(without_user(&text, "ci").as_deref(), Some(""));
    }
}
