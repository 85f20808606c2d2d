//! Walks the parsed file table by table and gathers every problem with its line.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Table};
use super::value::Read;

/// One thing wrong with a configuration: where, what, and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from one; `None` where it concerns the whole file.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}; {}", self.what, self.fix)
    }
}

/// Everything wrong with a configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<Problem>);

/// Gathers problems while the file is walked.
pub(super) struct Reader<'a> {
    file: &'a Path,
    text: &'a str,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, problems: Vec::new() }
    }

    /// Notes a problem at a place in the text.
    pub(super) fn problem(
        &mut self,
        at: &Range<usize>,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let before = self.text.as_bytes().get(..at.start).unwrap_or(self.text.as_bytes());
        let line = 1 + before.iter().filter(|&&byte| byte == b'\n').count();
        self.push(Some(line), what.into(), fix.into());
    }

    /// Notes a problem of the whole file.
    pub(super) fn whole(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.push(None, what.into(), fix.into());
    }

    fn push(&mut self, line: Option<usize>, what: String, fix: String) {
        self.problems.push(Problem { file: self.file.to_owned(), line, what, fix });
    }

    /// Refuses names of tables that are not known.
    pub(super) fn check_tables(&mut self, root: &DeTable<'_>) {
        for name in root.keys() {
            if keys::find(name.get_ref()).is_some() {
                continue;
            }
            let all = keys::TABLES.iter();
            let fix = match keys::nearest(name.get_ref(), all.clone().map(|t| t.name)) {
                Some(near) => format!("did you mean `{}`?", near_heading(near)),
                None => match all.clone().find(|t| t.keys.iter().any(|k| k.name == name.get_ref()))
                {
                    Some(table) => format!("`{}` belongs into {}", name.get_ref(), table.heading()),
                    None => {
                        let known: Vec<_> = all.map(Table::heading).collect();
                        format!("known are {}", known.join(" "))
                    }
                },
            };
            self.problem(&name.span(), format!("unknown table or key `{}`", name.get_ref()), fix);
        }
    }

    /// The table of this name, empty where the file has none.
    pub(super) fn table<'t, 'i>(
        &mut self,
        root: &'t DeTable<'i>,
        name: &'static str,
    ) -> Section<'t, 'i> {
        let found = root.get_key_value(name);
        let Some((key, value)) = found else { return Section::empty(name) };
        match value.get_ref().as_table() {
            Some(table) => self.open(name, key.span(), table),
            None => {
                let what = format!("`{name}` must be a table of its own");
                let fix = format!("write it once, as `{}`", near_heading(name));
                self.problem(&key.span(), what, fix);
                Section::empty(name)
            }
        }
    }

    /// The tables of this name, in their order.
    pub(super) fn tables<'t, 'i>(
        &mut self,
        root: &'t DeTable<'i>,
        name: &'static str,
    ) -> Vec<Section<'t, 'i>> {
        let Some((key, value)) = root.get_key_value(name) else { return Vec::new() };
        let mut sections = Vec::new();
        let items = value.get_ref().as_array();
        for item in items.into_iter().flat_map(|array| array.iter()) {
            if let Some(table) = item.get_ref().as_table() {
                sections.push(self.open(name, item.span(), table));
            }
        }
        if items.is_none_or(|array| array.iter().count() != sections.len()) {
            let what = format!("`{name}` must be a list of tables");
            self.problem(&key.span(), what, format!("write each as `[[{name}]]`"));
        }
        sections
    }

    fn open<'t, 'i>(
        &mut self,
        name: &'static str,
        at: Range<usize>,
        table: &'t DeTable<'i>,
    ) -> Section<'t, 'i> {
        let known = keys::find(name).map_or(&[][..], |t| t.keys);
        for key in table.keys() {
            if known.iter().any(|k| k.name == key.get_ref()) {
                continue;
            }
            let fix = match keys::nearest(key.get_ref(), known.iter().map(|k| k.name)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    let names: Vec<_> = known.iter().map(|k| k.name).collect();
                    format!("known are {}", names.join(", "))
                }
            };
            let what = format!("unknown key `{}` in {}", key.get_ref(), near_heading(name));
            self.problem(&key.span(), what, fix);
        }
        Section { name, at: Some(at), table: Some(table) }
    }
}

fn near_heading(name: &str) -> String {
    keys::find(name).map_or_else(|| format!("[{name}]"), Table::heading)
}

/// One table of the file, or its absence.
pub(super) struct Section<'t, 'i> {
    name: &'static str,
    /// Where it begins, for problems of the whole table.
    pub(super) at: Option<Range<usize>>,
    table: Option<&'t DeTable<'i>>,
}

impl<'t, 'i> Section<'t, 'i> {
    fn empty(name: &'static str) -> Self {
        Self { name, at: None, table: None }
    }

    fn raw(&self, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
        debug_assert!(
            keys::find(self.name).is_some_and(|t| t.keys.iter().any(|k| k.name == key)),
            "{} {key} is read but not listed",
            self.name
        );
        self.table?.get(key)
    }

    /// Whether the file gives this key.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// Where a key's value stands, or the table.
    pub(super) fn place(&self, key: &str) -> Range<usize> {
        let value = self.raw(key).map(Spanned::span);
        value.or_else(|| self.at.clone()).unwrap_or(0..0)
    }

    /// The checked value of a key, if it is given and good.
    pub(super) fn read<T>(
        &self,
        reader: &mut Reader<'_>,
        key: &'static str,
        parse: impl FnOnce(&DeValue<'_>) -> Read<T>,
    ) -> Option<T> {
        let value = self.raw(key)?;
        match parse(value.get_ref()) {
            Ok(read) => Some(read),
            Err(bad) => {
                let what = format!("{} {key} {}", near_heading(self.name), bad.what);
                reader.problem(&value.span(), what, bad.fix);
                None
            }
        }
    }

    /// As [`read`](Self::read), and the key must be there.
    pub(super) fn need<T>(
        &self,
        reader: &mut Reader<'_>,
        key: &'static str,
        example: &str,
        parse: impl FnOnce(&DeValue<'_>) -> Read<T>,
    ) -> Option<T> {
        if self.raw(key).is_none() {
            let what = format!("{} needs `{key}`", near_heading(self.name));
            let fix = format!("write for example {key} = {example}");
            match &self.at {
                Some(at) => reader.problem(at, what, fix),
                None => reader.whole(what, fix),
            }
            return None;
        }
        self.read(reader, key, parse)
    }
}
