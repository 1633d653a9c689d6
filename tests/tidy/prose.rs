//! Rules about the English of comments and pages: habits that make a sentence hard to read.
//!
//! A rule sees words only, so it rejects only habits that are nearly always wrong: a free relative as the subject of a
//! sentence ("Who comes back"), and the passive of tell, hear and ask where a program sends, receives or requests.

/// Relative pronouns that begin a sentence without a noun, when one of [`VERBS`] follows.
const PRONOUNS: [&str; 2] = ["Who", "What"];

/// The verbs of such sentences.
const VERBS: [&str; 12] = ["come", "comes", "came", "is", "are", "was", "has", "wait", "waits", "does", "ask", "asks"];

/// Forms of be before [`PARTICIPLES`].
const AUXILIARIES: [&str; 4] = ["is", "are", "was", "were"];

/// Participles of verbs that people do and programs do not.
const PARTICIPLES: [&str; 3] = ["told", "heard", "asked"];

/// Words that are wrong alone.
const WORDS: [&str; 5] = ["hear", "hears", "whoever", "whomever", "whosever"];

/// Findings for the prose of a file: all of a Markdown page, the comments of a source.
pub(crate) fn habits(path: &str, text: &str) -> Vec<String> {
    let is_page = path.ends_with(".md");
    let mut is_code = false;
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if is_page && line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        let prose = if is_page { Some(line).filter(|_| !is_code) } else { comment(path, line) };
        let found = prose.and_then(habit);
        findings.extend(found.map(|words| format!("line {}: \"{words}\": see CONTRIBUTING.md, English", index + 1)));
    }
    findings
}

/// The comment that a line is, if it is one.
fn comment<'a>(path: &str, line: &'a str) -> Option<&'a str> {
    let mark = if path.ends_with(".rs") || path.ends_with(".js") { "//" } else { "#" };
    line.trim_start().strip_prefix(mark)
}

/// The first words of a line that are such a habit.
fn habit(line: &str) -> Option<String> {
    let is_word = |character: char| character.is_alphanumeric() || character == '_' || character == '\'';
    let words: Vec<&str> = line.split(|character| !is_word(character)).filter(|word| !word.is_empty()).collect();
    let single = words.iter().find(|word| WORDS.contains(&word.to_lowercase().as_str()));
    let pair = words.windows(2).find(|pair| {
        PRONOUNS.contains(&pair[0]) && VERBS.contains(&pair[1])
            || AUXILIARIES.contains(&pair[0]) && PARTICIPLES.contains(&pair[1])
    });
    single.map(|word| word.to_string()).or_else(|| pair.map(|pair| pair.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn habits_are_found_in_comments_and_pages() {
        let source = "// Who comes back is late.\nlet who_is = 1;\n/// The home is told.\n//! For whoever waits\n";
        let lines: Vec<usize> =
            habits("src/a.rs", source).iter().map(|finding| finding[5..6].parse().unwrap()).collect();
        assert_eq!(lines, [1, 3, 4]);
        let page = "A shard hears it.\n\n```\nwho is there\n```\nThe server rejects it, and says why.\n";
        assert_eq!(habits("a.md", page).len(), 1);
        assert_eq!(habits("run.py", "# What waits\nwho = is_told\n").len(), 1);
    }

    #[test]
    fn plain_sentences_pass() {
        let plain = [
            "// A reconnecting client receives the messages it missed.",
            "// The shard knows what the client asked for.",
            "// Whether the handler listens.",
            "// A client whose token has expired takes what is there.",
        ];
        for line in plain {
            assert_eq!(habits("src/a.rs", line), [""; 0], "{line}");
        }
    }
}
