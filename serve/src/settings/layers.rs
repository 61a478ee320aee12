//! Where settings come from: defaults, then a preset of the program, a file, the environment, flags. Later ones win.
//!
//! Nothing is adjusted or skipped: a key that does not exist, a value of the wrong kind or out of its range is a problem
//! that names its place, and with one problem there is no configuration. All problems are found, not only the first.
//! Reads no file and no environment itself: it is handed texts.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use toml::Value;

use super::Settings;

/// Variables that start so are settings; two underscores stand between levels.
pub const VARIABLE_PREFIX: &str = "CARILLON__";

/// Who gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The program's own choice in place of a default, such as those of `carillon dev`.
    Preset,
    File {
        name: String,
        place: Place,
    },
    Variable(String),
    Flag(String),
}

/// Where in a text, both counted from one; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    const START: Self = Self { line: 1, column: 1 };

    fn of(text: &str, position: usize) -> Self {
        let before = &text[..text.floor_char_boundary(position)];
        let line_from = before.rfind('\n').map_or(0, |at| at + 1);
        Self { line: 1 + before.matches('\n').count(), column: 1 + before[line_from..].chars().count() }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preset => f.write_str("preset"),
            Self::File { name, place } => write!(f, "{name}:{}:{}", place.line, place.column),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// One thing that is wrong with what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{origin}: {problem}")]
    Syntax { origin: Source, problem: String },
    #[error("{origin}: unknown key {key} = {value}{}", hint(.nearest))]
    UnknownKey { origin: Source, key: String, value: String, nearest: Option<String> },
    #[error("{origin}: {key} = {value}: {problem}")]
    WrongValue { origin: Source, key: String, value: String, problem: String },
    #[error("{}{key} = {value}: {limit}", place(.origin))]
    OutOfRange { origin: Option<Source>, key: &'static str, value: String, limit: String },
}

/// The configuration was refused; at least one problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.problems))]
pub struct Refused {
    pub problems: Vec<Problem>,
}

impl Problem {
    pub fn origin(&self) -> Option<&Source> {
        match self {
            Self::Syntax { origin, .. } | Self::UnknownKey { origin, .. } | Self::WrongValue { origin, .. } => {
                Some(origin)
            }
            Self::OutOfRange { origin, .. } => origin.as_ref(),
        }
    }
}

/// Collects what each layer says; call the methods from the weakest layer to the strongest.
#[derive(Debug)]
pub struct Layers<C> {
    /// Every key with a value of its kind.
    known: BTreeMap<String, Value>,
    given: BTreeMap<String, (Value, Source)>,
    problems: Vec<Problem>,
    settings: PhantomData<C>,
}

impl<C: Settings> Default for Layers<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C: Settings> Layers<C> {
    pub fn new() -> Self {
        let template = Value::try_from(C::with_every_key()).expect("settings are tables of plain values");
        let Value::Table(template) = template else { panic!("settings are a table") };
        Self { known: leaves(&template), given: BTreeMap::new(), problems: Vec::new(), settings: PhantomData }
    }

    /// Keys that exist.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }

    /// A value that takes the place of a default.
    pub fn preset(&mut self, key: &str, value: &str) {
        self.text(key, value, Source::Preset);
    }

    /// A file's text; `name` is what problems call it.
    pub fn file(&mut self, name: &str, text: &str) {
        let spanned = match toml::de::DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let place = error.span().map_or(Place::START, |span| Place::of(text, span.start));
                let origin = Source::File { name: name.into(), place };
                self.problems.push(Problem::Syntax { origin, problem: error.message().to_owned() });
                return;
            }
        };
        let table: toml::Table = text.parse().expect("it has just been read as a table");
        let mut places = BTreeMap::new();
        collect_places(spanned.get_ref(), text, "", &mut places);
        for (key, value) in leaves(&table) {
            let place = places.get(&key).copied().unwrap_or(Place::START);
            self.value(key, value, Source::File { name: name.into(), place });
        }
    }

    /// Variables, such as `std::env::vars()`; those without our prefix are passed over.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (name, value) in variables {
            if let Some(path) = name.strip_prefix(VARIABLE_PREFIX) {
                let key = path.to_ascii_lowercase().replace("__", ".");
                self.text(&key, &value, Source::Variable(name.clone()));
            }
        }
    }

    /// `KEY=VALUE` of a repeatable flag.
    pub fn assignment(&mut self, flag: &str, text: &str) {
        let origin = Source::Flag(format!("{flag} {text}"));
        match text.split_once('=') {
            Some((key, value)) => self.text(key.trim(), value.trim(), origin),
            None => self.problems.push(Problem::Syntax { origin, problem: "write KEY=VALUE".into() }),
        }
    }

    /// A flag that stands for one key.
    pub fn flag(&mut self, flag: &str, key: &str, value: &str) {
        self.text(key, value, Source::Flag(flag.into()));
    }

    /// The text that `key` has so far, the default included.
    pub fn current(&self, key: &str) -> Option<&str> {
        self.given.get(key).map(|(value, _)| value).or_else(|| self.known.get(key)).and_then(Value::as_str)
    }

    /// The configuration, checked.
    pub fn build(mut self) -> Result<C, Refused> {
        let given = std::mem::take(&mut self.given);
        let mut merged = toml::Table::new();
        for (key, (value, _)) in &given {
            insert(&mut merged, key, value.clone());
        }
        // Each value was read by itself when it was given, so that together they can be read too.
        let config = C::deserialize(merged).expect("values that are right alone are right together");
        for found in super::violations(&config) {
            let origin = given.get(found.key).map(|(_, source)| source.clone());
            self.problems.push(Problem::OutOfRange { origin, key: found.key, value: found.value, limit: found.limit });
        }
        if self.problems.is_empty() { Ok(config) } else { Err(Refused { problems: self.problems }) }
    }

    /// A value written as text gets the kind that its key has.
    fn text(&mut self, key: &str, text: &str, origin: Source) {
        let parsed = match self.known.get(key) {
            Some(Value::Integer(_)) => text.parse().map(Value::Integer).map_err(|_| "a whole number is needed"),
            Some(Value::Boolean(_)) => text.parse().map(Value::Boolean).map_err(|_| "write true or false"),
            Some(Value::Array(_)) => Ok(list(text)),
            _ => Ok(Value::String(text.into())),
        };
        match parsed {
            Ok(value) => self.value(key.into(), value, origin),
            Err(problem) => {
                let (key, value) = (key.into(), format!("{text:?}"));
                self.problems.push(Problem::WrongValue { origin, key, value, problem: problem.into() });
            }
        }
    }

    fn value(&mut self, key: String, value: Value, origin: Source) {
        if !self.known.contains_key(&key) {
            let nearest = nearest(&key, self.keys()).map(str::to_owned);
            let value = value.to_string();
            self.problems.push(Problem::UnknownKey { origin, key, value, nearest });
            return;
        }
        let mut alone = toml::Table::new();
        insert(&mut alone, &key, value.clone());
        match C::deserialize(alone) {
            Ok(_) => {
                self.given.insert(key, (value, origin));
            }
            Err(error) => {
                let (value, problem) = (value.to_string(), error.message().to_owned());
                self.problems.push(Problem::WrongValue { origin, key, value, problem });
            }
        }
    }
}

/// A list as TOML writes it, or without its brackets and quotes: `a, b`.
fn list(text: &str) -> Value {
    if let Ok(table) = format!("list = {text}").parse::<toml::Table>()
        && let Some(list @ Value::Array(_)) = table.get("list")
    {
        return list.clone();
    }
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    Value::Array(words.map(|word| Value::String(word.into())).collect())
}

/// The known word that was probably meant: one with the same last part, or a few letters away.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let (distance, best) = known.map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate)).fold(
        (usize::MAX, None),
        |best, (distance, candidate)| {
            // A forgotten section is many letters, but one mistake.
            let distance = if last(word) == last(candidate) { distance.min(2) } else { distance };
            if distance < best.0 { (distance, Some(candidate)) } else { best }
        },
    );
    // A third of the letters wrong is still a typing error, more is another word.
    best.filter(|_| distance <= (word.len() / 3).max(2))
}

fn insert(table: &mut toml::Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.into(), value);
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(toml::Table::new()));
            let Value::Table(inner) = inner else { panic!("no key is a section of another: {key}") };
            insert(inner, rest, value);
        }
    }
}

/// Every key with its value.
pub(super) fn leaves(table: &toml::Table) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) => {
                found.extend(leaves(inner).into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            _ => {
                found.insert(name.clone(), value.clone());
            }
        }
    }
    found
}

fn collect_places(table: &toml::de::DeTable<'_>, text: &str, prefix: &str, places: &mut BTreeMap<String, Place>) {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        match value.get_ref() {
            toml::de::DeValue::Table(inner) => collect_places(inner, text, &format!("{key}."), places),
            _ => {
                places.insert(key, Place::of(text, name.span().start));
            }
        }
    }
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|key| format!("; did you mean {key}?")).unwrap_or_default()
}

fn place(origin: &Option<Source>) -> String {
    origin.as_ref().map(|origin| format!("{origin}: ")).unwrap_or_default()
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
