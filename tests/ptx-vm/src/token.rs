//! Splits PTX text into tokens, each with its line.

use crate::ModuleError;

/// One token. Opcodes with their suffixes, registers, directives and numbers are all words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Word(String),
    Text(String),
    Punct(char),
}

/// A token and the line it starts on, counted from 1.
#[derive(Clone, Debug)]
pub(crate) struct Spanned {
    pub token: Token,
    pub line: u32,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%' | '.')
}

/// All tokens of a module, comments and white space dropped.
pub(crate) fn tokenize(text: &str) -> Result<Vec<Spanned>, ModuleError> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if c.is_whitespace() {
            c.len_utf8()
        } else if c == '"' {
            let end =
                rest[1..].find('"').ok_or_else(|| ModuleError::syntax(line, "a string without its end"))?;
            tokens.push(Spanned { token: Token::Text(rest[1..=end].to_owned()), line });
            end + 2
        } else if is_word(c) {
            let end = word_end(rest);
            tokens.push(Spanned { token: Token::Word(rest[..end].to_owned()), line });
            end
        } else {
            tokens.push(Spanned { token: Token::Punct(c), line });
            c.len_utf8()
        };
        line += rest[..taken].matches('\n').count() as u32;
        rest = &rest[taken..];
    }
    Ok(tokens)
}

/// Where the word at the start ends. A double colon belongs to a word (`.L1::no_allocate`); a single one
/// follows a label.
fn word_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut end = 0;
    while end < bytes.len() {
        if is_word(bytes[end] as char) {
            end += 1;
        } else if bytes[end..].starts_with(b"::") {
            end += 2;
        } else {
            break;
        }
    }
    end
}
