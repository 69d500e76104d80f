//! From a project's classes to its event types.
//!
//! A class counts as GMFY's client sees it: it inherits from `BaseEvent`, `BaseActionEvent` or
//! `BaseUniqueEvent` of `gmfy`, by way of other classes or not, and its own name doesn't begin with
//! `Base`. Its types are the values of `event_type: Literal[…]`, as strings or as members of an
//! enum; its actions those of `event_action`, else all that the project's `BaseEventAction` have.

use std::collections::BTreeMap;

use super::classes::{Class, Field, Module, Path, bracketed, parts, path};
use super::lines::{Token, logical_lines};
use crate::config::{EventKind, EventType};

/// A file of a project, with its classes.
#[derive(Debug)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) module: Module,
}

/// Where something stands, and what is not understood of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Problem {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) problem: String,
}

/// An event type, and the class that declares it first.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) event_type: EventType,
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) class: String,
}

/// What the files declare by the name of the type, and what in them is not understood.
pub(super) fn event_types(files: &[File]) -> (BTreeMap<String, Declared>, Vec<Problem>) {
    let project = Project::new(files);
    let mut declared = BTreeMap::new();
    let mut problems = Vec::new();
    for class in project.classes() {
        if class.of().name.starts_with("Base") {
            continue;
        }
        let Some(kind) = project.kind(class) else { continue };
        if let Err(problem) = declare(&project, class, kind, &mut declared) {
            problems.push(problem);
        }
    }
    problems.sort();
    (declared, problems)
}

/// Aliases of a name that are followed: more is a circle.
const MOST_ALIASES: usize = 32;

fn declare(
    project: &Project<'_>,
    class: ClassOf<'_>,
    kind: EventKind,
    declared: &mut BTreeMap<String, Declared>,
) -> Result<(), Problem> {
    let name = &class.of().name;
    let Some((at, field)) = project.field(class, "event_type") else {
        return Err(class.problem(
            class.of().line,
            format!("{name} has no `event_type: Literal[…]`, its own or inherited"),
        ));
    };
    let types = project
        .literals(at, field)
        .map_err(|problem| at.problem(field.line, format!("event_type of {name}: {problem}")))?;
    let actions = if kind == EventKind::Action { project.actions(class)? } else { Vec::new() };
    for wire_type in types {
        let here = || Declared {
            event_type: EventType { kind, actions: Vec::new() },
            file: class.file.name.clone(),
            line: class.of().line,
            class: name.clone(),
        };
        let known = declared.entry(wire_type.clone()).or_insert_with(here);
        if known.event_type.kind != kind {
            let (file, line) = (&known.file, known.line);
            let problem =
                format!("{name} declares {wire_type:?} as another kind than {file}:{line} does");
            return Err(class.problem(class.of().line, problem));
        }
        for action in &actions {
            if !known.event_type.actions.contains(action) {
                known.event_type.actions.push(action.clone());
            }
        }
    }
    Ok(())
}

/// A class with the file that it stands in.
#[derive(Clone, Copy)]
struct ClassOf<'a> {
    file: &'a File,
    class: usize,
}

impl<'a> ClassOf<'a> {
    fn of(self) -> &'a Class {
        &self.file.module.classes[self.class]
    }

    fn is(self, other: Self) -> bool {
        std::ptr::eq(self.file, other.file) && self.class == other.class
    }

    fn problem(self, line: usize, problem: String) -> Problem {
        Problem { file: self.file.name.clone(), line, problem }
    }
}

/// What a name stands for.
#[derive(Clone)]
enum Meaning<'a> {
    Class(ClassOf<'a>),
    /// A class of the package `gmfy`.
    Gmfy(String),
}

struct Project<'a> {
    files: &'a [File],
    by_name: BTreeMap<&'a str, Vec<ClassOf<'a>>>,
}

impl<'a> Project<'a> {
    fn new(files: &'a [File]) -> Self {
        let mut project = Self { files, by_name: BTreeMap::new() };
        for class in project.classes() {
            project.by_name.entry(&class.of().name).or_default().push(class);
        }
        project
    }

    fn classes(&self) -> impl Iterator<Item = ClassOf<'a>> + use<'a> {
        self.files.iter().flat_map(|file| {
            (0..file.module.classes.len()).map(move |class| ClassOf { file, class })
        })
    }

    fn named(&self, name: &str) -> &[ClassOf<'a>] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// What `wanted` stands for in a file; none for what is of no interest or not found.
    fn meaning(&self, file: &'a File, wanted: &Path) -> Option<Meaning<'a>> {
        let mut wanted = wanted.clone();
        for _ in 0..MOST_ALIASES {
            let [first, rest @ ..] = wanted.as_slice() else { return None };
            let mut here = self.named(first).iter().rev();
            if rest.is_empty()
                && let Some(class) = here.find(|class| std::ptr::eq(class.file, file))
            {
                return Some(Meaning::Class(*class));
            }
            match file.module.names.get(first).filter(|path| path.first() != Some(first)) {
                Some(path) => wanted = path.iter().chain(rest).cloned().collect(),
                None => break,
            }
        }
        let (name, module) = wanted.split_last()?;
        if module.first().is_some_and(|package| package == "gmfy") {
            return Some(Meaning::Gmfy(name.clone()));
        }
        // Of the classes of this name the one whose file fits the module best.
        let fits = |class: &ClassOf<'_>| {
            let stem = class.file.name.trim_end_matches(".py").trim_end_matches("/__init__");
            let folders = stem.rsplit('/');
            folders.zip(module.iter().rev()).take_while(|(folder, part)| folder == part).count()
        };
        let class = self.named(name).iter().max_by_key(|class| fits(class));
        class.copied().map(Meaning::Class).or_else(|| {
            // By way of `import *`, or of a module that passes it on.
            KNOWN.contains(&name.as_str()).then(|| Meaning::Gmfy(name.clone()))
        })
    }

    fn bases(&self, class: ClassOf<'a>) -> impl Iterator<Item = Meaning<'a>> {
        class.of().bases.iter().filter_map(move |base| match self.meaning(class.file, base)? {
            // A class may have the name of what it inherits from.
            Meaning::Class(meant) if meant.is(class) => {
                let name = base.last()?;
                KNOWN.contains(&name.as_str()).then(|| Meaning::Gmfy(name.clone()))
            }
            meaning => Some(meaning),
        })
    }

    /// A class and all that it inherits from, each once, depth first as they are written.
    fn lineage(&self, class: ClassOf<'a>) -> Vec<Meaning<'a>> {
        let mut lineage: Vec<Meaning<'a>> = Vec::new();
        let mut waiting = vec![Meaning::Class(class)];
        while let Some(next) = waiting.pop() {
            if let Meaning::Class(class) = next {
                let known = |known: &Meaning<'_>| matches!(known, Meaning::Class(k) if k.is(class));
                if lineage.iter().any(known) {
                    continue;
                }
                let bases: Vec<_> = self.bases(class).collect();
                waiting.extend(bases.into_iter().rev());
            }
            lineage.push(next);
        }
        lineage
    }

    /// The kind of event that a class is; none when it is no event.
    fn kind(&self, class: ClassOf<'a>) -> Option<EventKind> {
        let lineage = self.lineage(class).into_iter();
        let kinds = lineage.filter_map(|ancestor| match ancestor {
            Meaning::Gmfy(name) => match name.as_str() {
                "BaseEvent" => Some(EventKind::Classic),
                "BaseActionEvent" => Some(EventKind::Action),
                "BaseUniqueEvent" => Some(EventKind::Unique),
                _ => None,
            },
            Meaning::Class(_) => None,
        });
        // Beside a mixin that is a plain event, the action or the key decides.
        kinds.reduce(|first, second| if first == EventKind::Classic { second } else { first })
    }

    /// A field of a class, its own or inherited, with the class that declares it.
    fn field(&self, class: ClassOf<'a>, name: &str) -> Option<(ClassOf<'a>, &'a Field)> {
        self.lineage(class).into_iter().find_map(|ancestor| match ancestor {
            Meaning::Class(class) => class.of().field(name).map(|field| (class, field)),
            Meaning::Gmfy(_) => None,
        })
    }

    /// Whether a class is a `BaseEventAction`.
    fn is_action(&self, class: ClassOf<'a>) -> bool {
        let named =
            |one: &Meaning<'_>| matches!(one, Meaning::Gmfy(name) if name == "BaseEventAction");
        self.lineage(class).iter().any(named)
    }

    /// The actions that a class of kind action takes, in the order of their declaration.
    fn actions(&self, class: ClassOf<'a>) -> Result<Vec<String>, Problem> {
        let name = &class.of().name;
        let actions: Vec<String> = match self.field(class, "event_action") {
            Some((at, field)) => {
                let failed = |problem: String| {
                    at.problem(field.line, format!("event_action of {name}: {problem}"))
                };
                match self.annotated_enum(at, field) {
                    Some(actions) => self.members(actions).map_err(failed)?,
                    None => self.literals(at, field).map_err(failed)?,
                }
            }
            None => {
                let mut all = Vec::new();
                for class in self.classes().filter(|class| self.is_action(*class)) {
                    let line = class.of().line;
                    all.extend(self.members(class).map_err(|p| class.problem(line, p))?);
                }
                all
            }
        };
        if actions.is_empty() {
            let problem = format!(
                "no action of {name} is found: neither `event_action: Literal[…]` nor members of a \
                 BaseEventAction"
            );
            return Err(class.problem(class.of().line, problem));
        }
        Ok(actions)
    }

    /// The enum that a field's annotation names.
    fn annotated_enum(&self, class: ClassOf<'a>, field: &Field) -> Option<ClassOf<'a>> {
        let (wanted, []) = path(&field.annotation)? else { return None };
        match self.meaning(class.file, &wanted)? {
            Meaning::Class(class) => Some(class),
            Meaning::Gmfy(_) => None,
        }
    }

    /// The values of all members of an enum.
    fn members(&self, class: ClassOf<'a>) -> Result<Vec<String>, String> {
        let members = class.of().fields.iter();
        let members = members.filter(|field| field.annotation.is_empty());
        let members = members.filter(|field| !field.name.starts_with('_'));
        members.map(|field| member_value(&class.of().name, field)).collect()
    }

    /// The values of `Literal[…]` in a field's annotation.
    fn literals(&self, class: ClassOf<'a>, field: &Field) -> Result<Vec<String>, String> {
        let quoted;
        let annotation = match field.annotation.as_slice() {
            [Token::Text(text)] => {
                quoted = logical_lines(text).0.into_iter().flat_map(|line| line.tokens);
                &quoted.collect::<Vec<_>>()
            }
            annotation => annotation,
        };
        let is_literal = |token: &Token| matches!(token, Token::Name(name) if name == "Literal");
        let at = annotation.iter().position(is_literal);
        let within = at.and_then(|at| bracketed(annotation.get(at + 1..)?));
        let Some((within, _)) = within.filter(|(within, _)| !within.is_empty()) else {
            return Err("expected `Literal[…]` as its annotation".to_owned());
        };
        let values = parts(within, ',').into_iter();
        values.map(|value| self.value(class.file, value)).collect()
    }

    /// A string, or a member of an enum.
    fn value(&self, file: &'a File, value: &[Token]) -> Result<String, String> {
        if let Some(text) = text(value) {
            return Ok(text);
        }
        let Some((mut wanted, [])) = path(value) else {
            return Err("only strings and members of enums are understood".to_owned());
        };
        let shown = wanted.join(".");
        if wanted.len() > 2 && wanted.last().is_some_and(|last| last == "value") {
            wanted.pop();
        }
        let member = wanted.pop().unwrap_or_default();
        let unknown = || format!("{shown} is no member of an enum in this folder");
        match self.meaning(file, &wanted) {
            Some(Meaning::Class(class)) => {
                let field = class.of().field(&member).ok_or_else(unknown)?;
                member_value(&class.of().name, field)
            }
            Some(Meaning::Gmfy(_)) | None => Err(unknown()),
        }
    }
}

/// What applications inherit from.
const KNOWN: [&str; 5] =
    ["BaseEvent", "BaseActionEvent", "BaseUniqueEvent", "BaseEventType", "BaseEventAction"];

/// The value of a member of a `StrEnum`: a string, or `auto()`, which is its name in lower case.
fn member_value(class: &str, field: &Field) -> Result<String, String> {
    if let Some(text) = text(&field.value) {
        return Ok(text);
    }
    let is_auto = matches!(path(&field.value), Some((path, [Token::Symbol('('), Token::Symbol(')')]))
        if path.last().is_some_and(|last| last == "auto"));
    if is_auto {
        return Ok(field.name.to_lowercase());
    }
    Err(format!("{class}.{} is neither a string nor auto()", field.name))
}

/// The string that literals beside each other make.
fn text(tokens: &[Token]) -> Option<String> {
    let texts = tokens.iter().map(|token| match token {
        Token::Text(text) => Some(text.as_str()),
        Token::Name(_) | Token::Symbol(_) | Token::Other => None,
    });
    let text: String = texts.collect::<Option<_>>()?;
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;
