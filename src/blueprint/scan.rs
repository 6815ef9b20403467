//! Cuts SQL into statements, as far as needed to see what each begins with.
//!
//! Knows what Postgres' own scanner knows of quoting: strings with and without backslashes, quoted
//! identifiers, dollar quotes, nested comments, and functions whose body is `begin atomic … end`.
//! Assumes `standard_conforming_strings = on`, the default of every supported server. It does not
//! know the grammar: what is no SQL at all passes, for the server to refuse.

/// The first line of a migration that runs outside of a transaction.
pub(super) const MARK: &str = "-- tenantry: no transaction";

/// How many words of a statement are kept: enough for `create unique index concurrently if not exists name`.
const KEPT_WORDS: usize = 8;

/// The beginning of a statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// Where it begins, in bytes.
    pub(super) at: usize,
    /// Its first words: unquoted ones in lower case, quoted ones in their quotes.
    pub(super) words: Vec<String>,
}

/// Why a text cannot be cut into statements.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// A quote or comment that begins here does not end.
    Unterminated { at: usize, what: &'static str },
    /// A backslash outside quotes: no SQL has one, psql's own commands begin with one.
    Backslash { at: usize },
}

/// The line of a position, counted from 1.
pub(super) fn line(text: &[u8], at: usize) -> usize {
    let before = &text[..at.min(text.len())];
    before.split(|byte| *byte == b'\n').count()
}

/// Whether the text begins with the mark, in whatever case and spacing; blank lines may come before.
pub(super) fn has_mark(sql: &str) -> bool {
    let words = |line: &str| {
        line.split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .to_lowercase()
    };
    let first = sql.lines().find(|line| !line.trim().is_empty());
    first.is_some_and(|line| words(line) == MARK)
}

/// The texts of the statements, each up to the beginning of the next one.
pub(super) fn cut(sql: &str, statements: &[Statement]) -> Vec<String> {
    let starts = statements.iter().map(|statement| statement.at);
    let ends = starts.clone().skip(1).chain([sql.len()]);
    starts
        .zip(ends)
        .map(|(start, end)| sql[start..end].to_owned())
        .collect()
}

/// The name of the index that a statement makes, if it is `create index concurrently`.
///
/// A quoted name is returned without its quotes.
pub fn concurrent_index(statement: &str) -> Option<String> {
    let statements = statements(statement).ok()?;
    let words: Vec<&str> = statements
        .first()?
        .words
        .iter()
        .map(String::as_str)
        .collect();
    let (["create", "index", "concurrently", rest @ ..]
    | ["create", "unique", "index", "concurrently", rest @ ..]) = words.as_slice()
    else {
        return None;
    };
    let name = match rest {
        ["if", "not", "exists", name, ..] | [name, ..] => *name,
        [] => return None,
    };
    if name == "on" {
        return None;
    }
    let unquoted = name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'));
    Some(unquoted.map_or_else(|| name.to_owned(), |name| name.replace("\"\"", "\"")))
}

/// Cuts a text into statements; empty ones are left out.
pub(super) fn statements(sql: &str) -> Result<Vec<Statement>, Flaw> {
    let mut scanner = Scanner {
        sql,
        at: 0,
        done: Vec::new(),
        current: None,
        parens: 0,
        blocks: 0,
        after_escapes: false,
        newline: false,
    };
    while let Some(byte) = scanner.peek(0) {
        scanner.step(byte)?;
    }
    scanner.finish();
    Ok(scanner.done)
}

struct Scanner<'a> {
    sql: &'a str,
    at: usize,
    done: Vec<Statement>,
    current: Option<Statement>,
    /// Open parentheses: a semicolon inside belongs to a rule's actions.
    parens: usize,
    /// Open `begin atomic` and `case` of a function body: its semicolons end nothing.
    blocks: usize,
    /// The last token was a string with backslash escapes …
    after_escapes: bool,
    /// … and a line ended since: a string that follows continues it, escapes and all.
    newline: bool,
}

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.sql.as_bytes().get(self.at + ahead).copied()
    }

    fn step(&mut self, byte: u8) -> Result<(), Flaw> {
        let at = self.at;
        match (byte, self.peek(1)) {
            (b'\n' | b'\r', _) => {
                self.newline = true;
                self.at += 1;
            }
            (b' ' | b'\t' | b'\x0b' | b'\x0c', _) => self.at += 1,
            (b'-', Some(b'-')) => self.line_comment(),
            (b'/', Some(b'*')) => self.block_comment()?,
            (b';', _) if self.parens == 0 && self.blocks == 0 => {
                self.at += 1;
                self.finish();
            }
            (b'\\', _) => return Err(Flaw::Backslash { at }),
            (b'\'', _) => {
                let continues = self.after_escapes && self.newline;
                self.begin();
                self.string(continues)?;
            }
            _ => {
                self.begin();
                self.token(byte)?;
            }
        }
        Ok(())
    }

    fn token(&mut self, byte: u8) -> Result<(), Flaw> {
        match byte {
            b'"' => return self.quoted(),
            b'$' => return self.dollar(),
            byte if is_word_start(byte) => return self.word(),
            b'(' => self.parens += 1,
            b')' => self.parens = self.parens.saturating_sub(1),
            _ => {}
        }
        self.at += 1;
        Ok(())
    }

    /// Something that is neither space nor comment is here.
    fn begin(&mut self) {
        self.after_escapes = false;
        let at = self.at;
        self.current.get_or_insert_with(|| Statement {
            at,
            words: Vec::new(),
        });
    }

    fn finish(&mut self) {
        self.done.extend(self.current.take());
        self.after_escapes = false;
    }

    fn line_comment(&mut self) {
        let rest = &self.sql.as_bytes()[self.at..];
        let ends = |byte: &u8| matches!(byte, b'\n' | b'\r');
        self.at += rest.iter().position(ends).unwrap_or(rest.len());
    }

    fn block_comment(&mut self) -> Result<(), Flaw> {
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(byte) = self.peek(0) {
            match (byte, self.peek(1)) {
                (b'/', Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => self.at += 1,
            }
        }
        Err(Flaw::Unterminated {
            at: start,
            what: "comment",
        })
    }

    fn string(&mut self, escapes: bool) -> Result<(), Flaw> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            self.at += 1;
            match byte {
                b'\\' if escapes => self.at += 1,
                b'\'' if self.peek(0) == Some(b'\'') => self.at += 1,
                b'\'' => {
                    self.after_escapes = escapes;
                    self.newline = false;
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(Flaw::Unterminated {
            at: start,
            what: "string",
        })
    }

    /// A quoted identifier, where a doubled quote is one of its characters.
    fn quoted(&mut self) -> Result<(), Flaw> {
        let start = self.at;
        self.skip_past("\"", 1, "quoted identifier")?;
        while self.peek(0) == Some(b'"') {
            self.skip_past("\"", 1, "quoted identifier")?;
        }
        self.keep(self.sql[start..self.at].to_owned());
        Ok(())
    }

    fn keep(&mut self, word: String) {
        if let Some(current) = &mut self.current
            && current.words.len() < KEPT_WORDS
        {
            current.words.push(word);
        }
    }

    /// `$tag$ … $tag$`; a lone `$`, as in the parameter `$1`, is passed over.
    fn dollar(&mut self) -> Result<(), Flaw> {
        let rest = &self.sql[self.at + 1..];
        let is_tag = |byte: u8| is_word_start(byte) || byte.is_ascii_digit();
        let length = rest.bytes().take_while(|byte| is_tag(*byte)).count();
        let starts_with_digit = rest.starts_with(|first: char| first.is_ascii_digit());
        if starts_with_digit || rest.as_bytes().get(length) != Some(&b'$') {
            self.at += 1;
            return Ok(());
        }
        let delimiter = &self.sql[self.at..self.at + length + 2];
        self.skip_past(delimiter, delimiter.len(), "dollar quote")
    }

    /// Goes behind the next `end`, looked for after the `opening` bytes here.
    fn skip_past(&mut self, end: &str, opening: usize, what: &'static str) -> Result<(), Flaw> {
        let inside = self.at + opening;
        let Some(length) = self.sql[inside..].find(end) else {
            return Err(Flaw::Unterminated { at: self.at, what });
        };
        self.at = inside + length + end.len();
        Ok(())
    }

    fn word(&mut self) -> Result<(), Flaw> {
        let rest = &self.sql[self.at..];
        let is_part = |byte: u8| is_word_start(byte) || byte.is_ascii_digit() || byte == b'$';
        let length = rest.bytes().take_while(|byte| is_part(*byte)).count();
        let word = rest[..length].to_ascii_lowercase();
        self.at += length;
        if word == "e" && self.peek(0) == Some(b'\'') {
            return self.string(true);
        }
        self.track_block(&word);
        self.keep(word);
        Ok(())
    }

    /// As psql does it: inside `create function`, `begin` and `case` open what `end` closes.
    fn track_block(&mut self, word: &str) {
        if !matches!(word, "begin" | "case" | "end") || self.parens > 0 || !self.in_function() {
            return;
        }
        match word {
            "end" => self.blocks = self.blocks.saturating_sub(1),
            "case" if self.blocks == 0 => {}
            _ => self.blocks += 1,
        }
    }

    fn in_function(&self) -> bool {
        let words = self.current.as_ref().map_or(&[][..], |now| &now.words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        matches!(
            words.as_slice(),
            ["create", "function" | "procedure", ..]
                | ["create", "or", "replace", "function" | "procedure", ..]
        )
    }
}

/// Letters, underscore, and every byte of a character beyond ASCII.
fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || !byte.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first word of each statement.
    fn firsts(sql: &str) -> Vec<String> {
        let found = statements(sql).unwrap();
        let first = |found: &Statement| found.words.first().cloned().unwrap_or_default();
        found.iter().map(first).collect()
    }

    #[test]
    fn semicolons_end_statements_and_empty_ones_do_not_count() {
        assert_eq!(firsts("a; b ;; /* x */ ; -- y\n c"), ["a", "b", "c"]);
        assert!(firsts(" \n-- only a comment").is_empty());
    }

    #[test]
    fn quotes_and_comments_hide_semicolons() {
        for sql in [
            "select 'a;b''c;d'",
            "select 'a\\', 1",
            r"select E'a\';b'",
            r"select e'\\', 1",
            "select E'a'\n  'b\\';c'",
            "select E'a' -- x\n  'b\\';c'",
            "select \"a;\"\"b;\"",
            "select $$a;b$$",
            "select $x$a;$$;$y$;$x$",
            "select $ä$;$ä$",
            "select a$b$c, $1",
            "select 1 /* ; /* ; */ ; */",
            "select 1 -- ; '\n",
            "select 'a' 'b\\'",
            "create rule r as on insert to t do also (select 1; select 2)",
        ] {
            assert_eq!(statements(sql).unwrap().len(), 1, "{sql}");
        }
    }

    #[test]
    fn quotes_end_where_postgres_ends_them() {
        for sql in [
            r"select 'a\'; commit",
            r"select E'\\'; commit",
            r"select name'a\'; commit",
            "select E'a', 'b\\'; commit",
            "select $a$ $b$a$; commit",
            "select $1; commit",
            "select a$$b; commit -- $$",
            "select \"\\\"; commit",
            "select 1 --\r; commit",
        ] {
            assert_eq!(firsts(sql), ["select", "commit"], "{sql}");
        }
    }

    #[test]
    fn function_bodies_of_either_kind_are_one_statement() {
        let atomic = "create or replace function f(a int) returns int begin atomic
            select case when a > 0 then 1 end; select 2; end; commit";
        assert_eq!(firsts(atomic), ["create", "commit"]);
        let quoted = "create function f() returns trigger as $$ begin return new; end; $$
            language plpgsql; select 1";
        assert_eq!(firsts(quoted), ["create", "select"]);
        let returned = "create function f(a int) return case when a > 0 then 1 end; commit";
        assert_eq!(firsts(returned), ["create", "commit"]);
    }

    #[test]
    fn what_does_not_end_is_named_with_its_line() {
        for (sql, expected) in [
            ("select 1;\n'a", "string"),
            ("select 1;\nE'a\\'", "string"),
            ("select 1;\n\"a", "quoted identifier"),
            ("select 1;\n$a$ $b$", "dollar quote"),
            ("select 1;\n/* /* */", "comment"),
        ] {
            let Err(Flaw::Unterminated { at, what }) = statements(sql) else {
                panic!("{sql} was taken");
            };
            assert_eq!((line(sql.as_bytes(), at), what), (2, expected), "{sql}");
        }
    }

    #[test]
    fn psql_commands_are_noticed() {
        assert_eq!(statements("a;\n\\i b"), Err(Flaw::Backslash { at: 3 }));
    }
}
