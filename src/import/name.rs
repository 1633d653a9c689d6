//! Names for generated code, made of names that a foreign server has chosen: any characters come in, identifiers of
//! letters and digits come out, each once.

use std::collections::BTreeSet;

/// Characters of a name.
const NAME_MAX: usize = 48;

/// Names that are taken.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// With names that nobody gets.
    pub(super) fn reserving(names: &[&str]) -> Names {
        Names(names.iter().map(ToString::to_string).collect())
    }

    /// The name, or with a number behind it if it is taken.
    pub(super) fn take(&mut self, name: &str) -> String {
        let mut free = name.to_owned();
        let mut number = 2;
        while !self.0.insert(free.clone()) {
            free = format!("{name}{number}");
            number += 1;
        }
        free
    }
}

/// The words of a name: `lastUpdateId`, `last-update-id` and `last_update_id` have three.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut is_after_small = false;
    for character in text.chars().take(NAME_MAX) {
        let is_kept = character.is_ascii_alphanumeric();
        if !is_kept || is_after_small && character.is_ascii_uppercase() {
            words.push(String::new());
        }
        if is_kept {
            words.last_mut().expect("there is one").push(character);
        }
        is_after_small = character.is_ascii_lowercase() || character.is_ascii_digit();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The name of a type: `LastUpdateId`. Text without a letter or digit is `fallback`.
pub(super) fn pascal(text: &str, fallback: &str) -> String {
    let capital = |word: String| {
        let (first, rest) = word.split_at(1);
        let is_loud = word.bytes().all(|byte| !byte.is_ascii_lowercase());
        let rest = if is_loud { rest.to_ascii_lowercase() } else { rest.to_owned() };
        format!("{}{rest}", first.to_ascii_uppercase())
    };
    let name: String = words(text).into_iter().map(capital).collect();
    match name.bytes().next() {
        None => fallback.to_owned(),
        Some(b'0'..=b'9') => format!("{fallback}{name}"),
        Some(_) => name,
    }
}

/// The name of a field: `last_update_id`. Text without a letter or digit is `field`.
pub(super) fn snake(text: &str) -> String {
    let name = words(text).join("_").to_ascii_lowercase();
    match name.bytes().next() {
        None => "field".to_owned(),
        Some(b'0'..=b'9') => format!("field_{name}"),
        Some(_) => name,
    }
}

/// Text of a foreign server for a comment of one line.
pub(super) fn comment(text: &str) -> String {
    text.chars().filter(|character| character.is_ascii_graphic() || *character == ' ').take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_identifiers() {
        let rows = [
            ("lastUpdateId", "LastUpdateId", "last_update_id"),
            ("last-update id", "LastUpdateId", "last_update_id"),
            ("24hrTicker", "Type24hrTicker", "field_24hr_ticker"),
            ("BTC", "Btc", "btc"),
            ("E", "E", "e"),
            ("*/ }; evil(\"", "Evil", "evil"),
            ("\u{202e}\0", "Type", "field"),
            ("__proto__", "Proto", "proto"),
            ("é", "Type", "field"),
        ];
        for (text, type_name, field) in rows {
            assert_eq!((pascal(text, "Type").as_str(), snake(text).as_str()), (type_name, field), "{text:?}");
        }
        assert!(pascal(&"a".repeat(10_000), "Type").len() <= NAME_MAX);
    }

    #[test]
    fn no_name_is_given_twice() {
        let mut names = Names::reserving(&["Vec"]);
        let taken = ["A", "A2", "A", "A", "Vec"].map(|name| names.take(name));
        assert_eq!(taken, ["A", "A2", "A3", "A4", "Vec2"]);
    }
}
