//! Python's text as logical lines of tokens: as much of its grammar as declarations of classes need
//! (Python's reference, "Lexical analysis"). Any text is taken; nothing is evaluated.

use std::str::Chars;

/// A statement in one logical line, or the part of one up to a `;`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Where it begins, from 1.
    pub(super) number: usize,
    /// The columns before it; a tab goes to the next multiple of eight.
    pub(super) indent: usize,
    pub(super) tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Name(String),
    /// A string literal whose value is known without running anything.
    Text(String),
    /// Punctuation, a character at a time.
    Symbol(char),
    /// A number, a byte string, an f-string.
    Other,
}

/// The lines of a text; where a string or a bracket isn't closed, also what is wrong and in which
/// line it begins: what stands behind it may have been misread.
pub(super) fn logical_lines(source: &str) -> (Vec<Line>, Option<(usize, &'static str)>) {
    let mut reader = Reader {
        rest: source.strip_prefix('\u{feff}').unwrap_or(source).chars(),
        number: 1,
        problem: None,
    };
    let mut lines = Vec::new();
    while reader.peek().is_some() {
        let indent = reader.indentation();
        reader.statements(indent, &mut lines);
    }
    (lines, reader.problem)
}

struct Reader<'a> {
    rest: Chars<'a>,
    number: usize,
    problem: Option<(usize, &'static str)>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn take(&mut self) -> Option<char> {
        let taken = self.rest.next();
        if taken == Some('\n') {
            self.number += 1;
        }
        taken
    }

    fn skip(&mut self, characters: usize) {
        for _ in 0..characters {
            self.take();
        }
    }

    /// Takes `expected` if it comes next.
    fn takes(&mut self, expected: &str) -> bool {
        let comes = self.rest.as_str().starts_with(expected);
        if comes {
            self.skip(expected.chars().count());
        }
        comes
    }

    fn take_while(&mut self, holds: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(c) = self.peek().filter(|c| holds(*c)) {
            taken.push(c);
            self.take();
        }
        taken
    }

    fn indentation(&mut self) -> usize {
        let blanks = self.take_while(|c| matches!(c, ' ' | '\t'));
        blanks
            .chars()
            .fold(0, |columns, c| if c == '\t' { (columns / 8 + 1) * 8 } else { columns + 1 })
    }

    /// Everything up to the end of the logical line.
    fn statements(&mut self, indent: usize, lines: &mut Vec<Line>) {
        let mut number = self.number;
        let mut tokens = Vec::new();
        let mut open = Vec::new();
        while let Some(c) = self.peek() {
            let begins = self.number;
            match c {
                '\n' if open.is_empty() => {
                    self.take();
                    break;
                }
                ';' if open.is_empty() => {
                    self.take();
                    push(lines, number, indent, &mut tokens);
                    number = self.number;
                }
                '\\' => {
                    self.take();
                    // Joined with the next line; anything else is no Python.
                    let _joined = self.takes("\r\n") || self.takes("\n");
                }
                '#' => drop(self.take_while(|c| c != '\n')),
                c if c.is_whitespace() => drop(self.take()),
                '"' | '\'' => tokens.push(self.string("", begins)),
                c if c.is_alphabetic() || c == '_' => {
                    let name = self.take_while(|c| c.is_alphanumeric() || c == '_');
                    let is_prefix = matches!(
                        name.to_ascii_lowercase().as_str(),
                        "r" | "b" | "u" | "f" | "t" | "br" | "rb" | "fr" | "rf" | "tr" | "rt"
                    );
                    tokens.push(if is_prefix && matches!(self.peek(), Some('"' | '\'')) {
                        self.string(&name.to_ascii_lowercase(), begins)
                    } else {
                        Token::Name(name)
                    });
                }
                c if c.is_numeric() => {
                    self.take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
                    tokens.push(Token::Other);
                }
                symbol => {
                    self.take();
                    match symbol {
                        '(' | '[' | '{' => open.push(begins),
                        ')' | ']' | '}' => drop(open.pop()),
                        _ => {}
                    }
                    tokens.push(Token::Symbol(symbol));
                }
            }
        }
        if let Some(begins) = open.first() {
            self.problem.get_or_insert((*begins, "a bracket isn't closed"));
        }
        push(lines, number, indent, &mut tokens);
    }

    /// A string literal, whose first quote comes next.
    fn string(&mut self, prefix: &str, begins: usize) -> Token {
        let quote = if self.rest.as_str().starts_with('"') { "\"" } else { "'" };
        let tripled = quote.repeat(3);
        let is_long = self.takes(&tripled);
        let end = if is_long { tripled.as_str() } else { quote };
        if !is_long {
            self.take();
        }
        let is_raw = prefix.contains('r');
        let mut text = String::new();
        loop {
            if self.takes(end) {
                break;
            }
            match self.peek() {
                None => {
                    self.problem.get_or_insert((begins, "a string isn't closed"));
                    break;
                }
                Some('\n') if !is_long => {
                    self.problem.get_or_insert((begins, "a string isn't closed"));
                    break;
                }
                Some('\\') => {
                    self.take();
                    self.escape(is_raw, &mut text);
                }
                Some(c) => {
                    self.take();
                    text.push(c);
                }
            }
        }
        if prefix.contains(['b', 'f', 't']) { Token::Other } else { Token::Text(text) }
    }

    /// What stands behind a backslash within a string.
    fn escape(&mut self, is_raw: bool, text: &mut String) {
        let Some(c) = self.take() else { return };
        if is_raw {
            text.extend(['\\', c]);
            return;
        }
        let digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            'n' => return text.push('\n'),
            't' => return text.push('\t'),
            'r' => return text.push('\r'),
            '\n' => return,
            '\\' | '\'' | '"' => return text.push(c),
            // Rare in names; kept as it stands, so that it is seen.
            _ => return text.extend(['\\', c]),
        };
        let hex: String = self.rest.clone().take(digits).collect();
        match u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32) {
            Some(decoded) if hex.chars().count() == digits => {
                self.skip(digits);
                text.push(decoded);
            }
            _ => text.extend(['\\', c]),
        }
    }
}

fn push(lines: &mut Vec<Line>, number: usize, indent: usize, tokens: &mut Vec<Token>) {
    if !tokens.is_empty() {
        lines.push(Line { number, indent, tokens: std::mem::take(tokens) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines in one text, to compare: number, indent, tokens.
    fn shown(source: &str) -> String {
        let (lines, problem) = logical_lines(source);
        let token = |token: &Token| match token {
            Token::Name(name) => name.clone(),
            Token::Text(text) => format!("{text:?}"),
            Token::Symbol(symbol) => symbol.to_string(),
            Token::Other => "?".to_owned(),
        };
        let line = |line: &Line| {
            let tokens: Vec<_> = line.tokens.iter().map(token).collect();
            format!("{} {} {}", line.number, line.indent, tokens.join(" "))
        };
        let mut all: Vec<_> = lines.iter().map(line).collect();
        all.extend(problem.map(|(number, problem)| format!("{number} {problem}")));
        all.join("\n")
    }

    #[test]
    fn comments_and_blank_lines_are_left_out_and_brackets_join_lines() {
        let source = "\u{feff}# a: comment\n\nclass A(\n    B,  # why\n\n  C,\n):\n\tx: Literal['a'] = \\\r\n  1\r\n";
        insta::assert_snapshot!(shown(source), @r#"
        3 0 class A ( B , C , ) :
        8 8 x : Literal [ "a" ] = ?
        "#);
    }

    #[test]
    fn statements_in_one_line_are_told_apart() {
        insta::assert_snapshot!(shown("a = 'x;#'; b\n  c = (1; 2)\n"), @r#"
        1 0 a = "x;#"
        1 0 b
        2 2 c = ( ? ; ? )
        "#);
    }

    #[test]
    fn strings_are_read_as_python_reads_them() {
        let source = r#"
a = "it's" 'say "x"' """long " with
a line: and class B(BaseEvent):""" '''x'''
b = '\x41é\'\
' r'\d' R"\"" u'u' b'b' f"{x}" '\xZZ\q'
"#;
        insta::assert_snapshot!(shown(source), @r#"
        2 0 a = "it's" "say \"x\"" "long \" with\na line: and class B(BaseEvent):" "x"
        4 0 b = "Aé'" "\\d" "\\\"" "u" ? ? "\\xZZ\\q"
        "#);
    }

    #[test]
    fn what_is_not_closed_is_told_with_its_line() {
        insta::assert_snapshot!(shown("x = 'abc\ny = 1"), @r#"
        1 0 x = "abc"
        2 0 y = ?
        1 a string isn't closed
        "#);
        insta::assert_snapshot!(shown("x = [1,\n(2\n"), @r"
        1 0 x = [ ? , ( ?
        1 a bracket isn't closed
        ");
        insta::assert_snapshot!(shown("'''abc"), @r#"
        1 0 "abc"
        1 a string isn't closed
        "#);
    }
}
