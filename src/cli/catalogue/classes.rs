//! The classes that a module declares, and what its names stand for.

use std::collections::BTreeMap;

use super::lines::{Line, Token};

/// What one file declares.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) classes: Vec<Class>,
    /// What a name of this file stands for, where an import or an assignment says so.
    pub(super) names: BTreeMap<String, Path>,
}

/// A name with dots, in its parts.
pub(super) type Path = Vec<String>;

#[derive(Debug)]
pub(super) struct Class {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) bases: Vec<Path>,
    pub(super) fields: Vec<Field>,
}

/// `name: annotation = value`, with either or both.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) annotation: Vec<Token>,
    pub(super) value: Vec<Token>,
}

impl Class {
    /// The field of this name that counts: the last.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().rev().find(|field| field.name == name)
    }
}

/// A class whose body is being read.
struct Open {
    indent: usize,
    /// The indent of its body, known with the body's first line.
    body: Option<usize>,
    /// Its place in the module.
    class: usize,
}

pub(super) fn module(lines: &[Line]) -> Module {
    let mut module = Module::default();
    let mut open: Vec<Open> = Vec::new();
    for line in lines {
        open.retain(|class| line.indent > class.indent);
        let within = open.last_mut().and_then(|open| {
            // Deeper than the body's first line is a method's or an `if`'s.
            let body = *open.body.get_or_insert(line.indent);
            (body == line.indent).then_some(open.class)
        });
        if let Some((class, body)) = class_header(line) {
            module.classes.push(class);
            let class = module.classes.len() - 1;
            match field(line.number, body) {
                // `class A(B): x = 1`: its body ends with the line.
                _ if body.is_empty() => open.push(Open { indent: line.indent, body: None, class }),
                Some(field) => module.classes[class].fields.push(field),
                None => {}
            }
        } else if let Some(class) = within {
            module.classes[class].fields.extend(field(line.number, &line.tokens));
        } else if open.is_empty() {
            names(&line.tokens, &mut module.names);
        }
    }
    module
}

/// `class NAME(BASES): BODY`, decorators apart.
fn class_header(line: &Line) -> Option<(Class, &[Token])> {
    let [Token::Name(keyword), Token::Name(name), rest @ ..] = line.tokens.as_slice() else {
        return None;
    };
    if keyword != "class" {
        return None;
    }
    // Type parameters (`class A[T](B):`) say nothing here.
    let rest = if rest.first() == Some(&Token::Symbol('[')) { bracketed(rest)?.1 } else { rest };
    let (bases, rest) =
        if rest.first() == Some(&Token::Symbol('(')) { bracketed(rest)? } else { (&[][..], rest) };
    let [Token::Symbol(':'), body @ ..] = rest else { return None };
    let bases = parts(bases, ',').into_iter().filter_map(path);
    // `metaclass=M` is no base; `Generic[T]` is one.
    let bases = bases.filter(|(_, rest)| rest.first() != Some(&Token::Symbol('=')));
    let bases = bases.map(|(path, _)| path).collect();
    Some((Class { name: name.clone(), line: line.number, bases, fields: Vec::new() }, body))
}

fn field(line: usize, tokens: &[Token]) -> Option<Field> {
    let [Token::Name(name), Token::Symbol(symbol @ (':' | '=')), rest @ ..] = tokens else {
        return None;
    };
    let (annotation, value) = if *symbol == '=' {
        (&[][..], rest)
    } else {
        match parts(rest, '=').first() {
            Some(annotation) => (*annotation, rest.get(annotation.len() + 1..).unwrap_or_default()),
            None => (rest, &[][..]),
        }
    };
    // `a == b` compares.
    if *symbol == '=' && value.first() == Some(&Token::Symbol('=')) {
        return None;
    }
    Some(Field { name: name.clone(), line, annotation: annotation.to_vec(), value: value.to_vec() })
}

/// `from A import B as C, D`, `import A as B`, `A = B`.
fn names(tokens: &[Token], names: &mut BTreeMap<String, Path>) {
    let keyword = |token: &Token, word: &str| matches!(token, Token::Name(name) if name == word);
    match tokens {
        [from, rest @ ..] if keyword(from, "from") => {
            let Some(at) = rest.iter().position(|token| keyword(token, "import")) else { return };
            let (from, imported) = (&rest[..at], &rest[at + 1..]);
            let imported = match imported {
                [Token::Symbol('('), ..] => bracketed(imported).unwrap_or_default().0,
                _ => imported,
            };
            let from: Path = from.iter().filter_map(name).map(str::to_owned).collect();
            for part in parts(imported, ',') {
                let words: Vec<&str> = part.iter().filter_map(name).collect();
                let (imported, alias) = match words.as_slice() {
                    [imported] => (imported, imported),
                    [imported, "as", alias] => (imported, alias),
                    _ => continue,
                };
                let path = from.iter().cloned().chain([(*imported).to_owned()]).collect();
                names.insert((*alias).to_owned(), path);
            }
        }
        [Token::Name(alias), Token::Symbol('='), value @ ..] => {
            if let Some((path, [])) = path(value) {
                names.insert(alias.clone(), path);
            }
        }
        _ => {}
    }
}

fn name(token: &Token) -> Option<&str> {
    match token {
        Token::Name(name) => Some(name),
        Token::Text(_) | Token::Symbol(_) | Token::Other => None,
    }
}

/// The name with dots that `tokens` begin with, and what follows it.
pub(super) fn path(tokens: &[Token]) -> Option<(Path, &[Token])> {
    let [Token::Name(first), rest @ ..] = tokens else { return None };
    let (mut path, mut rest) = (vec![first.clone()], rest);
    while let [Token::Symbol('.'), Token::Name(next), behind @ ..] = rest {
        path.push(next.clone());
        rest = behind;
    }
    Some((path, rest))
}

/// What is within the bracket that `tokens` begin with, and what follows it.
pub(super) fn bracketed(tokens: &[Token]) -> Option<(&[Token], &[Token])> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Symbol('(' | '[' | '{') => depth += 1,
            Token::Symbol(')' | ']' | '}') => depth = depth.saturating_sub(1),
            Token::Name(_) | Token::Text(_) | Token::Symbol(_) | Token::Other => {}
        }
        if depth == 0 {
            return Some((tokens.get(1..at).unwrap_or_default(), &tokens[at + 1..]));
        }
    }
    None
}

/// The parts between `separator`s that stand in no bracket; empty ones are left out.
pub(super) fn parts(tokens: &[Token], separator: char) -> Vec<&[Token]> {
    let mut depth = 0_usize;
    let parts = tokens.split(|token| {
        match token {
            Token::Symbol('(' | '[' | '{') => depth += 1,
            Token::Symbol(')' | ']' | '}') => depth = depth.saturating_sub(1),
            Token::Name(_) | Token::Text(_) | Token::Symbol(_) | Token::Other => {}
        }
        depth == 0 && *token == Token::Symbol(separator)
    });
    parts.filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::lines::logical_lines;
    use super::*;

    fn read(source: &str) -> Module {
        module(&logical_lines(source).0)
    }

    #[test]
    fn classes_have_their_bases_and_their_own_fields() {
        let source = "
@decorated(class_=1)
class A(base.B, C, metaclass=M):
    '''class X(Y):'''
    a: int
    b: Literal['x'] = Field(exclude=True)

    class Inner(D): pass

    def c(self):
        d = 1
    if True:
        e = 2
    f = 'f'
class E[T]: g = 'g'
h = 'h'
";
        let module = read(source);
        let shown: Vec<_> = module
            .classes
            .iter()
            .map(|class| {
                let bases: Vec<_> = class.bases.iter().map(|base| base.join(".")).collect();
                let fields: Vec<_> = class.fields.iter().map(|field| &*field.name).collect();
                format!("{} {} ({}) {}", class.line, class.name, bases.join(", "), fields.join(" "))
            })
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        3 A (base.B, C) a b f
        8 Inner (D) 
        15 E () g
        ");
    }

    #[test]
    fn names_are_known_by_their_imports_and_assignments() {
        let source = "
from gmfy import (
    BaseEvent as Event,
    BaseUniqueEvent,
)
from .kinds import *
from ..a.b import C as D
Alias = D
other = call(1)
if TYPE_CHECKING:
    from x import Y
";
        let names = read(source).names;
        let shown: Vec<_> =
            names.iter().map(|(name, path)| format!("{name} = {}", path.join("."))).collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        Alias = D
        BaseUniqueEvent = gmfy.BaseUniqueEvent
        D = a.b.C
        Event = gmfy.BaseEvent
        Y = x.Y
        ");
    }
}
