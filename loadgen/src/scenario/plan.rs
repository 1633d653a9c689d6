//! Plans: files that describe a load in stages, and what is expected of the server.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use toml::Spanned;

use crate::check::payload::PAYLOAD_BYTES_MIN;
use crate::cli::{CommonOptions, PlanOptions, RunOptions};
use crate::error::Error;
use crate::options::{self, PublishOptions};
use crate::report::expect::Expectation;
use crate::scenario::curve::Curve;
use crate::scenario::load::{Group, Load};
use crate::scenario::pace::Pace;

/// Most bytes of a file.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Most stages, groups, sizes of a group, and expectations.
const LIST_MAX: usize = 100;

/// Most connections, topics, and publishers of a group.
const CONNECTIONS_MAX: u32 = 10_000_000;
const TOPICS_MAX: u32 = 1_000_000;
const PUBLISHERS_MAX: u32 = 10_000;

/// Most bytes of a payload.
const SIZE_MAX: u32 = 16 * 1024 * 1024;

/// Most publications a second.
const RATE_MAX: f64 = 10_000_000.0;

/// The largest share of a group, in relation to others.
const SHARE_MAX: f64 = 1_000_000.0;

const SKEW_MAX: f64 = 10.0;

/// The shortest stage and think time.
const STAGE_MIN: Duration = Duration::from_millis(1);

/// A whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What the plan models, in words.
    about: String,
    #[serde(default)]
    expect: Vec<Parsed<Expectation>>,
    stage: Spanned<Vec<Stage>>,
    group: Spanned<Vec<Spanned<GroupTable>>>,
}

/// Connections and rate go to these values in a straight line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    #[serde(deserialize_with = "time")]
    duration: Duration,
    connections: Count<1, CONNECTIONS_MAX>,
    #[serde(deserialize_with = "rate")]
    rate: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupTable {
    topic: Parsed<Name>,
    topics: Option<Count<1, TOPICS_MAX>>,
    topics_each: Option<Count<1, TOPICS_MAX>>,
    #[serde(default, deserialize_with = "skew")]
    skew: f64,
    size: Sizes,
    publishers: Option<Count<1, PUBLISHERS_MAX>>,
    burst: Option<Count<1, 1_000_000>>,
    #[serde(default = "one", deserialize_with = "share")]
    connections_share: f64,
    #[serde(default, deserialize_with = "optional_share")]
    rate_share: Option<f64>,
    #[serde(default, deserialize_with = "optional_time")]
    think: Option<Duration>,
}

/// A number within bounds.
#[derive(Clone, Copy, Debug)]
struct Count<const MIN: u32, const MAX: u32>(u32);

impl<'de, const MIN: u32, const MAX: u32> Deserialize<'de> for Count<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let found = u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
        found.map(Count).ok_or_else(|| D::Error::custom(format!("expected a number from {MIN} to {MAX}, not {number}")))
    }
}

/// One size, or several in rotation.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected payload bytes from 44 to 16777216, as in size = 64 or size = [64, 1000]")]
enum Sizes {
    One(Count<{ PAYLOAD_BYTES_MIN as u32 }, SIZE_MAX>),
    Several(Vec<Count<{ PAYLOAD_BYTES_MIN as u32 }, SIZE_MAX>>),
}

/// A string that means something.
#[derive(Debug)]
struct Parsed<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Parsed).map_err(D::Error::custom)
    }
}

/// The name of a group, part of the names of its topics.
#[derive(Debug)]
struct Name(String);

impl FromStr for Name {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Name, Self::Err> {
        let is_name = (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        let name = is_name.then(|| Name(text.to_owned()));
        name.ok_or("expected a name of 1 to 64 letters, digits, - and _")
    }
}

/// Reads a value of type `T` as text or number, and checks it.
fn checked<'de, T: Deserialize<'de>, V, D: Deserializer<'de>>(
    deserializer: D,
    check: impl FnOnce(T) -> Result<V, String>,
) -> Result<V, D::Error> {
    check(T::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    checked(deserializer, |text: String| {
        let time = options::parse_duration(&text)?;
        if time < STAGE_MIN { Err(format!("expected at least 1ms, not {text}")) } else { Ok(time) }
    })
}

fn optional_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    time(deserializer).map(Some)
}

/// A number from 0 to `max`.
fn up_to<'de, D: Deserializer<'de>>(deserializer: D, max: f64) -> Result<f64, D::Error> {
    checked(deserializer, |number: f64| match number {
        _ if (0.0..=max).contains(&number) => Ok(number),
        _ => Err(format!("expected a number from 0 to {max}, not {number}")),
    })
}

fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    up_to(deserializer, RATE_MAX)
}

fn skew<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    up_to(deserializer, SKEW_MAX)
}

fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = up_to(deserializer, SHARE_MAX)?;
    if share > 0.0 { Ok(share) } else { Err(D::Error::custom("a group without connections: remove it")) }
}

fn optional_share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    up_to(deserializer, SHARE_MAX).map(Some)
}

fn one() -> f64 {
    1.0
}

/// A checked plan.
#[derive(Debug)]
pub(crate) struct Plan {
    load: Load,
    /// Its length.
    duration: Duration,
    expect: Vec<Expectation>,
}

/// An error at some bytes of the file, or of the file as a whole.
type At = (Option<Range<usize>>, String);

impl Plan {
    /// Reads a file.
    ///
    /// # Errors
    /// With the name of the file, the line and the remedy.
    pub(crate) fn read(path: &Path, duration: Option<Duration>) -> Result<Plan, Error> {
        let fail = |why: String| Error::new(format!("{}: {why}", path.display()));
        let len = std::fs::metadata(path).map_err(|error| fail(error.to_string()))?.len();
        if len > FILE_BYTES_MAX {
            return Err(fail(format!("{len} bytes are more than the {FILE_BYTES_MAX} of a plan")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Plan::parse(&text, &name, duration).map_err(|(span, why)| match span {
            Some(span) => fail(format!("line {}: {why}", text[..span.start.min(text.len())].matches('\n').count() + 1)),
            None => fail(why),
        })
    }

    /// Checks the text of a plan. With a `duration`, all stages together take so long instead.
    fn parse(text: &str, name: &str, duration: Option<Duration>) -> Result<Plan, At> {
        let file: File = toml::from_str(text).map_err(|error| (error.span(), error.message().replace('\n', " ")))?;
        let stages = stages(&file, duration)?;
        let duration = stages.iter().map(|stage| stage.duration).sum();
        let groups = groups(&file, &stages)?;
        if file.expect.len() > LIST_MAX {
            return Err((None, format!("{} expectations: at most {LIST_MAX}", file.expect.len())));
        }
        let most = most_connections(&stages);
        let connected: Vec<_> =
            stages.iter().map(|stage| (stage.duration, f64::from(stage.connections.0) / f64::from(most))).collect();
        let topics: u32 = groups.iter().map(|group| group.topics).sum();
        let seconds = stages.iter().map(|stage| stage.duration).sum::<Duration>().as_secs_f64();
        let words = format!("plan {name}: {} stages in {seconds} s, {topics} topics: {}", stages.len(), file.about);
        let connected = Curve::through(&connected);
        let load = Load { scenario: "plan", groups, connected, workers: 1, words };
        Ok(Plan { load, duration, expect: file.expect.into_iter().map(|expected| expected.0).collect() })
    }
}

/// The stages of a file, stretched or shortened to `duration`.
fn stages(file: &File, duration: Option<Duration>) -> Result<Vec<Stage>, At> {
    let (all, span) = (file.stage.get_ref(), Some(file.stage.span()));
    if !(1..=LIST_MAX).contains(&all.len()) {
        return Err((span, format!("{} stages: expected 1 to {LIST_MAX}, each begins with [[stage]]", all.len())));
    }
    let whole: Duration = all.iter().map(|stage| stage.duration).sum();
    if whole > options::DURATION_MAX {
        return Err((span, "all stages together take more than a day: shorten them".to_owned()));
    }
    let factor = duration.map_or(1.0, |duration| duration.as_secs_f64() / whole.as_secs_f64());
    let scale = |stage: &Stage| Stage { duration: stage.duration.mul_f64(factor), ..*stage };
    Ok(all.iter().map(scale).collect())
}

fn most_connections(stages: &[Stage]) -> u32 {
    stages.iter().map(|stage| stage.connections.0).max().unwrap_or(1)
}

/// The groups of a file, each with its part of the connections and of the rate.
fn groups(file: &File, stages: &[Stage]) -> Result<Vec<Group>, At> {
    let tables = file.group.get_ref();
    if !(1..=LIST_MAX).contains(&tables.len()) {
        let why = format!("{} groups: expected 1 to {LIST_MAX}, each begins with [[group]]", tables.len());
        return Err((Some(file.group.span()), why));
    }
    let shares = |value: fn(&GroupTable) -> f64| tables.iter().map(|table| value(table.get_ref())).collect::<Vec<_>>();
    let (connections, rates) = (shares(|table| table.connections_share), shares(rate_share));
    let all_rates: f64 = rates.iter().sum();
    let (most, mut end) = (most_connections(stages), 0);
    let mut groups: Vec<Group> = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        let (span, table) = (table.span(), table.get_ref());
        let fail = |why: String| Err((Some(span.clone()), format!("group {}: {why}", table.topic.0.0)));
        let up_to: f64 = connections[..=index].iter().sum::<f64>() / connections.iter().sum::<f64>();
        let begin = std::mem::replace(&mut end, (up_to * f64::from(most)).round() as u32);
        let subscribers = end - begin;
        if subscribers == 0 {
            return fail("its share of the connections is none: raise connections_share, or connections".to_owned());
        }
        if groups.iter().any(|group| group.name == table.topic.0.0) {
            return fail("another group has this topic: give each its own".to_owned());
        }
        let rate = if all_rates > 0.0 { rates[index] / all_rates } else { 0.0 };
        match group(table, subscribers, rate, stages) {
            Ok(group) => groups.push(group),
            Err(why) => return fail(why),
        }
    }
    let topics: u64 = groups.iter().map(|group| u64::from(group.topics)).sum();
    if topics > u64::from(TOPICS_MAX) {
        return Err((Some(file.group.span()), format!("{topics} topics in all groups: at most {TOPICS_MAX}")));
    }
    Ok(groups)
}

/// A group with think times does not take part in the rate of the stages.
fn rate_share(table: &GroupTable) -> f64 {
    table.rate_share.unwrap_or(if table.think.is_some() { 0.0 } else { 1.0 })
}

/// One group with so many subscribers, and this share of the rate.
fn group(table: &GroupTable, subscribers: u32, share: f64, stages: &[Stage]) -> Result<Group, String> {
    let number = |count: Option<u32>| count.unwrap_or(1);
    let (topics, each) = (number(table.topics.map(|count| count.0)), number(table.topics_each.map(|count| count.0)));
    let publishers = number(table.publishers.map(|count| count.0));
    if each > topics {
        return Err(format!("topics_each = {each} needs topics = {each} or more, not {topics}"));
    }
    if u64::from(topics) > u64::from(subscribers) * u64::from(each) {
        let needed = topics.div_ceil(each);
        return Err(format!("{topics} topics need at least {needed} connections, not its {subscribers}: lower topics"));
    }
    if table.think.is_some() && table.rate_share.is_some() {
        return Err("think and rate_share exclude each other: remove one".to_owned());
    }
    if publishers > 1 && stages.iter().any(|stage| stage.connections.0 != stages[0].connections.0) {
        return Err(
            "the order of several publishers is unknown to a joining subscriber: use publishers = 1, or the same \
                    connections in all stages"
                .to_owned(),
        );
    }
    let sizes: Vec<u32> = match &table.size {
        Sizes::One(size) => vec![size.0],
        Sizes::Several(sizes) => sizes.iter().map(|size| size.0).collect(),
    };
    if !(1..=LIST_MAX).contains(&sizes.len()) {
        return Err(format!("{} sizes: expected 1 to {LIST_MAX}", sizes.len()));
    }
    let rates = match table.think {
        Some(think) => Curve::flat(f64::from(publishers) / think.as_secs_f64()),
        None => Curve::through(&stages.iter().map(|stage| (stage.duration, stage.rate * share)).collect::<Vec<_>>()),
    };
    let pace = Pace::at(Curve::flat(rates.first()), None).in_bursts(number(table.burst.map(|count| count.0)));
    Ok(Group {
        topics,
        each,
        skew: table.skew,
        publishers,
        stages: Some(rates),
        sizes,
        ..Group::new(table.topic.0.0.clone(), subscribers, pace, 0)
    })
}

/// Checks each file, and prints what it describes.
///
/// # Errors
/// The first error.
pub(crate) fn check(options: &PlanOptions) -> Result<ExitCode, Error> {
    for path in &options.files {
        let Plan { load, expect, .. } = Plan::read(path, None)?;
        let (subscribers, publishers) = (load.subscribers(), load.publishers());
        println!("{}: valid", path.display());
        println!("  {}", load.words);
        println!("  at most {subscribers} connections and {publishers} publishers, {} expectations", expect.len());
        for Group { name, topics, subscribers, stages, pace, sizes, .. } in &load.groups {
            let pace = stages.clone().map_or(pace.clone(), |curve| pace.clone().over(curve));
            println!("  {name}: {subscribers} connections, {topics} topics, {pace}, {sizes:?} bytes");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The options and the load of a run of a plan.
///
/// # Errors
/// If the plan is not valid.
pub(crate) fn prepare(options: &RunOptions) -> Result<(CommonOptions, PublishOptions, Load), Error> {
    let Plan { load, duration, expect } = Plan::read(&options.file, options.duration)?;
    let mut output = options.output.clone();
    output.expect.splice(0..0, expect);
    let sizes: Vec<u32> = load.groups.iter().flat_map(|group| &group.sizes).copied().collect();
    let mean = sizes.iter().map(|size| u64::from(*size)).sum::<u64>() / sizes.len() as u64;
    let common = CommonOptions {
        url: options.url.clone(),
        size: mean as u32,
        deflate: options.deflate,
        duration,
        warmup: options.warmup,
        server_pid: options.server_pid,
        cpu: options.cpu.clone(),
        repeat: options.repeat,
        tolerance: options.tolerance,
        output,
        connect: options.connect.clone(),
    };
    let publishing = PublishOptions {
        publish: options.publish.clone(),
        publish_header: options.publish_header.clone(),
        publishers: load.publishers(),
        posts_in_flight: None,
    };
    Ok((common, publishing, Load { workers: options.workers, ..load }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = r#"
about = "A page of prices"
expect = ["p99<1s", "faults==0"]

[[stage]]
duration = "10s"
connections = 100
rate = 50

[[stage]]
duration = "5s"
connections = 200
rate = 80.5

[[group]]
topic = "prices"
topics = 20
topics_each = 3
skew = 1
size = [64, 200]
connections_share = 3

[[group]]
topic = "chat"
size = 100
think = "2s"
burst = 2
"#;

    fn error(text: &str) -> String {
        let (span, why) = Plan::parse(text, "x", None).map(|plan| format!("{plan:?}")).unwrap_err();
        let line = span.map(|span| text[..span.start].matches('\n').count() + 1);
        line.map_or(why.clone(), |line| format!("line {line}: {why}"))
    }

    #[test]
    fn a_plan_is_divided_among_its_groups() {
        let Plan { load, duration, expect } = Plan::parse(VALID, "x", None).unwrap();
        assert_eq!((duration, expect.len(), load.subscribers()), (Duration::from_secs(15), 2, 200));
        let [prices, chat] = &load.groups[..] else { panic!("two groups") };
        assert_eq!((prices.subscribers, chat.subscribers), (150, 50));
        assert_eq!(prices.stages.as_ref().map(Curve::range), Some([50.0, 80.5]), "think times are no part of the rate");
        assert_eq!(chat.stages, Some(Curve::flat(0.5)));
        assert_eq!((load.connected.first(), load.connected.value_at(12.5)), (0.5, 0.75));
        assert_eq!(load.words, "plan x: 2 stages in 15 s, 21 topics: A page of prices");
        let short = Plan::parse(VALID, "x", Some(Duration::from_millis(1500))).unwrap();
        assert_eq!((short.duration, short.load.connected.value_at(1.25)), (Duration::from_millis(1500), 0.75));
    }

    #[test]
    fn an_error_names_the_line_and_the_remedy() {
        let with = |old: &str, new: &str| {
            assert!(VALID.contains(old), "{old}");
            error(&VALID.replacen(old, new, 1))
        };
        let table = [
            ("rate = 50", "rate = -1", "line 8", "from 0 to 10000000"),
            ("rate = 50", "rate = inf", "line 8", "from 0 to 10000000"),
            ("rate = 50", "rates = 50", "line 8", "unknown field `rates`"),
            ("connections = 100", "connections = 0", "line 7", "from 1 to 10000000, not 0"),
            ("connections = 100", "connections = \"many\"", "line 7", "invalid type"),
            ("\"10s\"", "\"10\"", "line 6", "a number with a unit"),
            ("\"10s\"", "\"0s\"", "line 6", "at least 1ms"),
            ("\"10s\"", "\"24h\"", "line 5", "more than a day"),
            ("\"p99<1s\"", "\"p98<1s\"", "line 3", "no figure has the name \"p98\""),
            ("topics_each = 3", "topics_each = 30", "line 15", "topics_each = 30 needs topics = 30 or more, not 20"),
            ("topics = 20", "topics = 500", "line 15", "500 topics need at least 167 connections, not its 150"),
            ("[64, 200]", "[]", "line 15", "0 sizes"),
            ("[64, 200]", "[64, 20]", "line 20", "payload bytes from 44"),
            ("size = 100", "size = 17000000", "line 25", "payload bytes from 44 to 16777216"),
            ("skew = 1", "skew = 11", "line 19", "from 0 to 10"),
            ("\"chat\"", "\"a b\"", "line 24", "letters, digits"),
            ("\"chat\"", "\"prices\"", "line 23", "another group has this topic"),
            ("think = \"2s\"", "think = \"2s\"\nrate_share = 1", "line 23", "exclude each other"),
            ("burst = 2", "publishers = 2", "line 23", "use publishers = 1"),
            ("connections_share = 3", "connections_share = 0", "line 21", "remove it"),
            ("connections_share = 3", "connections_share = 100000", "line 23", "raise connections_share"),
            ("about = \"A page of prices\"\n", "", "line 1", "missing field `about`"),
        ];
        for (old, new, line, words) in table {
            let error = with(old, new);
            assert!(error.starts_with(&format!("{line}: ")) && error.contains(words), "{old} -> {new}: {error}");
        }
        assert!(error(&VALID[..VALID.find("[[group]]").unwrap()]).contains("missing field `group`"));
        let stage = "[[stage]]\nduration = \"1s\"\nconnections = 1\nrate = 1\n";
        assert!(with("[[stage]]", &format!("{}[[stage]]", stage.repeat(100))).contains("102 stages"));
    }

    #[test]
    fn a_file_is_bounded_and_named() {
        let path = std::env::temp_dir().join(format!("loadgen-plan-{}.toml", std::process::id()));
        std::fs::write(&path, vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(Plan::read(&path, None).unwrap_err().to_string().contains("65537 bytes"));
        std::fs::write(&path, VALID.replace("rate = 50", "rate = x")).unwrap();
        let error = Plan::read(&path, None).unwrap_err().to_string();
        assert!(error.contains("line 8: ") && error.starts_with(path.to_str().unwrap()), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(Plan::read(&path, None).is_err());
    }
}
