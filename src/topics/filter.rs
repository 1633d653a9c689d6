//! Filters of publications by their tags.

use std::cmp::Ordering;

/// Which publications a subscriber receives, by their tags. Subscribers of a topic with equal filters share its
/// evaluation, once for each publication and shard, and the bytes of each push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagsFilter {
    /// All of these match.
    And(Vec<TagsFilter>),
    /// One of these matches.
    Or(Vec<TagsFilter>),
    /// This does not match.
    Not(Box<TagsFilter>),
    /// The tag with this name passes the test.
    Tag(Box<str>, TagTest),
}

/// A test of one tag. A missing tag passes [`Differs`](Self::Differs), [`NotIn`](Self::NotIn) and
/// [`Missing`](Self::Missing) alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagTest {
    /// It is this text.
    Equals(Box<str>),
    /// It is another text.
    Differs(Box<str>),
    /// It is one of these.
    In(Vec<Box<str>>),
    /// It is none of these.
    NotIn(Vec<Box<str>>),
    /// It is there.
    Exists,
    /// It is not there.
    Missing,
    /// It begins so.
    StartsWith(Box<str>),
    /// It ends so.
    EndsWith(Box<str>),
    /// It contains this.
    Contains(Box<str>),
    /// As decimal numbers, it compares so to this text. A text that is no number passes no such test.
    Compares(Comparison, Box<str>),
}

/// A comparison of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Less.
    Less,
    /// Less or equal.
    LessOrEqual,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
}

impl TagsFilter {
    /// Whether a publication with these tags, sorted by name, matches.
    pub fn matches(&self, tags: &[(String, String)]) -> bool {
        match self {
            TagsFilter::And(filters) => filters.iter().all(|filter| filter.matches(tags)),
            TagsFilter::Or(filters) => filters.iter().any(|filter| filter.matches(tags)),
            TagsFilter::Not(filter) => !filter.matches(tags),
            TagsFilter::Tag(name, test) => {
                let place = tags.binary_search_by(|(other, _)| other.as_str().cmp(name));
                test.passes(place.ok().map(|place| tags[place].1.as_str()))
            }
        }
    }
}

impl TagTest {
    fn passes(&self, tag: Option<&str>) -> bool {
        let is_one_of = |texts: &[Box<str>]| tag.is_some_and(|tag| texts.iter().any(|text| **text == *tag));
        match self {
            TagTest::Equals(text) => tag == Some(text),
            TagTest::Differs(text) => tag != Some(text),
            TagTest::In(texts) => is_one_of(texts),
            TagTest::NotIn(texts) => !is_one_of(texts),
            TagTest::Exists => tag.is_some(),
            TagTest::Missing => tag.is_none(),
            TagTest::StartsWith(text) => tag.is_some_and(|tag| tag.starts_with(&**text)),
            TagTest::EndsWith(text) => tag.is_some_and(|tag| tag.ends_with(&**text)),
            TagTest::Contains(text) => tag.is_some_and(|tag| tag.contains(&**text)),
            TagTest::Compares(comparison, number) => {
                let order = tag.and_then(Decimal::parse).zip(Decimal::parse(number)).map(|(a, b)| a.compare(b));
                order.is_some_and(|order| match comparison {
                    Comparison::Less => order.is_lt(),
                    Comparison::LessOrEqual => order.is_le(),
                    Comparison::Greater => order.is_gt(),
                    Comparison::GreaterOrEqual => order.is_ge(),
                })
            }
        }
    }
}

/// A decimal number of any length: its digits without leading and trailing zeros.
#[derive(Clone, Copy, Debug)]
struct Decimal<'a> {
    is_negative: bool,
    whole: &'a str,
    fraction: &'a str,
}

impl Decimal<'_> {
    fn parse(text: &str) -> Option<Decimal<'_>> {
        let is_negative = text.starts_with('-');
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !are_digits(whole) || !are_digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        // There is one zero.
        let is_negative = is_negative && !(whole.is_empty() && fraction.is_empty());
        Some(Decimal { is_negative, whole, fraction })
    }

    fn compare(self, other: Decimal<'_>) -> Ordering {
        let absolute = |a: Decimal<'_>, b: Decimal<'_>| {
            let whole = a.whole.len().cmp(&b.whole.len()).then_with(|| a.whole.cmp(b.whole));
            whole.then_with(|| a.fraction.cmp(b.fraction))
        };
        match (self.is_negative, other.is_negative) {
            (false, false) => absolute(self, other),
            (true, true) => absolute(other, self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(name: &str, test: TagTest) -> TagsFilter {
        TagsFilter::Tag(name.into(), test)
    }

    #[test]
    fn tests_of_a_tag_that_is_there_and_of_one_that_is_not() {
        let tags = [("b".to_owned(), "word".to_owned())];
        let text = || "word".into();
        let rows = [
            (TagTest::Equals(text()), true, false),
            (TagTest::Differs(text()), false, true),
            (TagTest::In(vec!["other".into(), text()]), true, false),
            (TagTest::In(vec!["other".into(), "".into()]), false, false),
            (TagTest::NotIn(vec![text()]), false, true),
            (TagTest::Exists, true, false),
            (TagTest::Missing, false, true),
            (TagTest::StartsWith("wo".into()), true, false),
            (TagTest::StartsWith("or".into()), false, false),
            (TagTest::EndsWith("rd".into()), true, false),
            (TagTest::EndsWith("wo".into()), false, false),
            (TagTest::Contains("or".into()), true, false),
            (TagTest::Contains("ro".into()), false, false),
            (TagTest::Compares(Comparison::Less, "1".into()), false, false),
        ];
        for (test, of_this, of_missing) in rows {
            assert_eq!(tag("b", test.clone()).matches(&tags), of_this, "{test:?}");
            for name in ["a", "c"] {
                assert_eq!(tag(name, test.clone()).matches(&tags), of_missing, "{test:?}");
            }
        }
    }

    #[test]
    fn numbers_compare_by_value() {
        let ascending = [
            &["-1000000000000000000000000000000.5"][..],
            &["-10", "-010.0"],
            &["-9.99"],
            &["-0.2"],
            &["-0.1999"],
            &["0", "-0", "+0.0", "000"],
            &["0.05", "00.0500"],
            &["0.5"],
            &["1", "1.0", "01"],
            &["9"],
            &["10"],
            &["12345678901234567890123456789"],
        ];
        for (a, texts) in ascending.iter().enumerate() {
            for (b, others) in ascending.iter().enumerate() {
                for (text, other) in texts.iter().flat_map(|text| others.iter().map(move |other| (*text, *other))) {
                    let tags = [("n".to_owned(), text.to_owned())];
                    let passes = |comparison| tag("n", TagTest::Compares(comparison, other.into())).matches(&tags);
                    let seen = [Comparison::Less, Comparison::LessOrEqual].map(passes);
                    assert_eq!(seen, [a < b, a <= b], "{text} {other}");
                    let seen = [Comparison::Greater, Comparison::GreaterOrEqual].map(passes);
                    assert_eq!(seen, [a > b, a >= b], "{text} {other}");
                }
            }
        }
        for text in ["", "-", ".5", "5.", "1e3", " 1", "0x1", "1.2.3", "+-1", "NaN", "٣"] {
            assert!(Decimal::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn filters_are_combined() {
        let is = |name: &str, text: &str| tag(name, TagTest::Equals(text.into()));
        let tags = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())];
        let rows = [
            (TagsFilter::And(vec![is("a", "1"), is("b", "2")]), true),
            (TagsFilter::And(vec![is("a", "1"), is("b", "3")]), false),
            (TagsFilter::Or(vec![is("a", "0"), is("b", "2")]), true),
            (TagsFilter::Or(vec![is("a", "0"), is("b", "3")]), false),
            (TagsFilter::Not(Box::new(is("a", "0"))), true),
            (TagsFilter::Not(Box::new(TagsFilter::Or(vec![is("a", "1")]))), false),
        ];
        for (filter, expected) in rows {
            assert_eq!(filter.matches(&tags), expected, "{filter:?}");
        }
    }
}
