//! PTX text to a syntax tree: what is written, before names and types mean anything.

use crate::ModuleError;
use crate::token::{Spanned, Token, tokenize};
use crate::types::Ty;
use std::collections::HashMap;

/// A module as written.
#[derive(Debug, Default)]
pub(crate) struct Ast {
    /// The first name after `.target`, such as `sm_90a`.
    pub target: String,
    pub files: HashMap<u32, String>,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
}

/// The directive that a variable is declared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    Const,
    Global,
    Shared,
    Local,
    Param,
}

/// A variable in memory.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub name: String,
    pub storage: Storage,
    pub align: usize,
    /// In bytes; `None` for `name[]`, the dynamic shared memory.
    pub size: Option<usize>,
    pub init: Option<Vec<u8>>,
}

/// A kernel (`.entry`) or a device function (`.func`).
#[derive(Debug)]
pub(crate) struct Function {
    pub name: String,
    pub is_entry: bool,
    pub params: Vec<Variable>,
    pub returns: Vec<Variable>,
    /// The numbers after `.maxntid`, `.reqntid`, `.reqnctapercluster`, by directive.
    pub bounds: HashMap<String, Vec<u32>>,
    pub body: Vec<Statement>,
}

/// One statement of a body.
#[derive(Debug)]
pub(crate) enum Statement {
    /// `.reg .ty name` or `.reg .ty name<count>`.
    Registers {
        name: String,
        count: Option<u32>,
        ty: Ty,
    },
    Variable(Variable),
    Label(String),
    /// `name: .branchtargets a, b, c;`
    Targets(String, Vec<String>),
    Open,
    Close,
    Location {
        file: u32,
        line: u32,
    },
    Instruction(Instruction),
}

/// One instruction, with its operands unresolved.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub line: u32,
    /// The predicate register and whether it is negated.
    pub guard: Option<(String, bool)>,
    /// The opcode, split at its dots.
    pub opcode: Vec<String>,
    pub args: Vec<Arg>,
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    /// A register, variable, label, function or `_`.
    Name(String),
    Int(u64),
    F32(u32),
    F64(u64),
    Not(Box<Arg>),
    /// `base + offset`, with or without brackets.
    Address(Box<Arg>, i64),
    /// `{a, b}`
    Vector(Vec<Arg>),
    /// `a|b`
    Pair(Box<Arg>, Box<Arg>),
    /// `(a, b)`
    Group(Vec<Arg>),
}

type Result<T> = std::result::Result<T, ModuleError>;

/// Bytes that a variable may have.
const LARGEST: usize = 1 << 30;

/// Parses a module.
pub(crate) fn parse(text: &str) -> Result<Ast> {
    let mut parser = Parser { tokens: tokenize(text)?, at: 0 };
    let mut ast = Ast::default();
    while !parser.is_done() {
        parser.top_level(&mut ast)?;
    }
    Ok(ast)
}

struct Parser {
    tokens: Vec<Spanned>,
    at: usize,
}

impl Parser {
    fn is_done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    fn error<T>(&self, detail: impl Into<String>) -> Result<T> {
        Err(ModuleError::syntax(self.line(), detail))
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.token)
    }

    fn next(&mut self) -> Result<Token> {
        let Some(spanned) = self.tokens.get(self.at) else { return self.error("the text ends too early") };
        self.at += 1;
        Ok(spanned.token.clone())
    }

    fn accept(&mut self, punct: char) -> bool {
        let found = self.peek() == Some(&Token::Punct(punct));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, punct: char) -> Result<()> {
        if self.accept(punct) { Ok(()) } else { self.error(format!("expected `{punct}`")) }
    }

    fn peek_word(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn word(&mut self) -> Result<String> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => {
                self.at -= 1;
                self.error(format!("expected a name, found {other:?}"))
            }
        }
    }

    fn int(&mut self) -> Result<u64> {
        let word = self.word()?;
        match literal(&word) {
            Some(Arg::Int(value)) => Ok(value),
            _ => self.error(format!("expected a number, found `{word}`")),
        }
    }

    fn top_level(&mut self, ast: &mut Ast) -> Result<()> {
        let word = self.word()?;
        match word.as_str() {
            ".version" | ".address_size" => drop(self.word()?),
            ".target" => {
                ast.target = self.word()?;
                while self.accept(',') {
                    self.word()?;
                }
            }
            ".file" => {
                let index = self.int()? as u32;
                let Token::Text(name) = self.next()? else { return self.error("expected a file name") };
                ast.files.insert(index, name);
                while self.accept(',') {
                    self.int()?;
                }
            }
            ".section" => self.skip_section()?,
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".entry" | ".func" => {
                if let Some(function) = self.function(word == ".entry")? {
                    ast.functions.push(function);
                }
            }
            _ => match storage(&word) {
                Some(storage) => self.variables(storage, |v| ast.variables.push(v))?,
                None => return self.error(format!("unknown directive `{word}`")),
            },
        }
        Ok(())
    }

    fn skip_section(&mut self) -> Result<()> {
        while !self.accept('{') {
            self.next()?;
        }
        while !self.accept('}') {
            self.next()?;
        }
        Ok(())
    }

    /// What follows `.entry` or `.func`; `None` for a declaration without a body.
    fn function(&mut self, is_entry: bool) -> Result<Option<Function>> {
        let returns = if self.peek() == Some(&Token::Punct('(')) { self.params()? } else { Vec::new() };
        let name = self.word()?;
        let params = if self.peek() == Some(&Token::Punct('(')) { self.params()? } else { Vec::new() };
        let mut bounds = HashMap::new();
        while !self.accept('{') {
            if self.accept(';') {
                return Ok(None);
            }
            let directive = self.word()?;
            let mut numbers = Vec::new();
            while self.peek_word().is_some_and(|w| !w.starts_with('.')) {
                numbers.push(self.int()? as u32);
                self.accept(',');
            }
            bounds.insert(directive, numbers);
        }
        let mut body = Vec::new();
        let mut depth = 1;
        while depth > 0 {
            self.statement(&mut body, &mut depth)?;
        }
        Ok(Some(Function { name, is_entry, params, returns, bounds, body }))
    }

    fn params(&mut self) -> Result<Vec<Variable>> {
        let mut params = Vec::new();
        self.expect('(')?;
        while !self.accept(')') {
            self.word()?;
            params.push(self.variable(Storage::Param)?);
            self.accept(',');
        }
        Ok(params)
    }

    fn statement(&mut self, body: &mut Vec<Statement>, depth: &mut usize) -> Result<()> {
        if self.accept('{') {
            *depth += 1;
            body.push(Statement::Open);
        } else if self.accept('}') {
            *depth -= 1;
            body.push(Statement::Close);
        } else if self.accept(';') {
            // An empty statement: inline assembly often ends in two semicolons.
        } else if self.peek_word().is_some_and(|w| w.starts_with('.')) {
            self.directive(body)?;
        } else if matches!(self.tokens.get(self.at + 1), Some(Spanned { token: Token::Punct(':'), .. })) {
            let name = self.word()?;
            self.expect(':')?;
            if self.peek_word() == Some(".branchtargets") {
                self.word()?;
                let mut labels = vec![self.word()?];
                while self.accept(',') {
                    labels.push(self.word()?);
                }
                self.expect(';')?;
                body.push(Statement::Targets(name, labels));
            } else {
                body.push(Statement::Label(name));
            }
        } else {
            body.push(Statement::Instruction(self.instruction()?));
        }
        Ok(())
    }

    fn directive(&mut self, body: &mut Vec<Statement>) -> Result<()> {
        let line = self.line();
        let word = self.word()?;
        match word.as_str() {
            ".reg" => self.registers(body)?,
            ".loc" => {
                let (file, source_line) = (self.int()? as u32, self.int()? as u32);
                body.push(Statement::Location { file, line: source_line });
                while self.line() == line && !self.is_done() {
                    self.next()?;
                }
            }
            ".pragma" => {
                self.next()?;
                self.expect(';')?;
            }
            _ => match storage(&word) {
                Some(storage) => self.variables(storage, |v| body.push(Statement::Variable(v)))?,
                None => return self.error(format!("unknown directive `{word}`")),
            },
        }
        Ok(())
    }

    fn registers(&mut self, body: &mut Vec<Statement>) -> Result<()> {
        let ty = self.ty()?;
        loop {
            let name = self.word()?;
            let mut count = None;
            if self.accept('<') {
                count = Some(self.int()? as u32);
                self.expect('>')?;
            }
            body.push(Statement::Registers { name, count, ty });
            if !self.accept(',') {
                return self.expect(';');
            }
        }
    }

    fn ty(&mut self) -> Result<Ty> {
        let word = self.word()?;
        match Ty::parse(word.trim_start_matches('.')) {
            Some(ty) => Ok(ty),
            None => self.error(format!("unknown type `{word}`")),
        }
    }

    /// What follows the storage directive, up to and with the semicolon.
    fn variables(&mut self, storage: Storage, mut found: impl FnMut(Variable)) -> Result<()> {
        let variable = self.variable(storage)?;
        found(variable);
        self.expect(';')
    }

    /// `[.align n] .ty [.ptr ...] name[size] [= init]`
    fn variable(&mut self, storage: Storage) -> Result<Variable> {
        let mut align = None;
        let mut ty = None;
        let name = loop {
            let word = self.word()?;
            match word.strip_prefix('.') {
                None => break word,
                Some("align") => align = Some(self.int()? as usize),
                Some(suffix) => ty = Ty::parse(suffix).or(ty),
            }
        };
        let Some(ty) = ty else { return self.error(format!("`{name}` has no known type")) };
        let mut size = Some(ty.bytes());
        while self.accept('[') {
            if self.accept(']') {
                size = None;
            } else {
                let count = self.int()? as usize;
                size = size.map(|s| s.saturating_mul(count));
                self.expect(']')?;
            }
        }
        if size.is_some_and(|size| size > LARGEST) {
            return self.error(format!("`{name}` is larger than any memory"));
        }
        let init = if self.accept('=') { Some(self.initializer(ty)?) } else { None };
        Ok(Variable { name, storage, align: align.unwrap_or(ty.bytes()).max(1), size, init })
    }

    fn initializer(&mut self, ty: Ty) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if self.accept('{') {
            while !self.accept('}') {
                bytes.extend(self.initializer(ty)?);
                self.accept(',');
            }
            return Ok(bytes);
        }
        let bits = match self.primary()? {
            Arg::Int(bits) | Arg::F64(bits) => bits,
            Arg::F32(bits) => u64::from(bits),
            other => return self.error(format!("an initialiser that is not a number: {other:?}")),
        };
        Ok(bits.to_le_bytes()[..ty.bytes()].to_vec())
    }

    fn instruction(&mut self) -> Result<Instruction> {
        let mut guard = None;
        if self.accept('@') {
            let negated = self.accept('!');
            guard = Some((self.word()?, negated));
        }
        let line = self.line();
        let opcode = self.word()?.split('.').map(str::to_owned).collect();
        let mut args = Vec::new();
        while !self.accept(';') {
            args.push(self.arg()?);
            if !self.accept(',') {
                self.expect(';')?;
                break;
            }
        }
        Ok(Instruction { line, guard, opcode, args })
    }

    fn arg(&mut self) -> Result<Arg> {
        let first = self.primary()?;
        if self.accept('|') {
            return Ok(Arg::Pair(Box::new(first), Box::new(self.primary()?)));
        }
        Ok(first)
    }

    fn list(&mut self, end: char) -> Result<Vec<Arg>> {
        let mut items = Vec::new();
        while !self.accept(end) {
            items.push(self.arg()?);
            self.accept(',');
        }
        Ok(items)
    }

    fn primary(&mut self) -> Result<Arg> {
        if self.accept('!') {
            return Ok(Arg::Not(Box::new(self.primary()?)));
        }
        if self.accept('-') {
            return Ok(match self.primary()? {
                Arg::Int(value) => Arg::Int(value.wrapping_neg()),
                Arg::F64(bits) => Arg::F64((-f64::from_bits(bits)).to_bits()),
                other => return self.error(format!("a minus sign before {other:?}")),
            });
        }
        if self.accept('{') {
            return Ok(Arg::Vector(self.list('}')?));
        }
        if self.accept('(') {
            return Ok(Arg::Group(self.list(')')?));
        }
        if self.accept('[') {
            let address = match self.primary()? {
                address @ Arg::Address(..) => address,
                base => Arg::Address(Box::new(base), 0),
            };
            self.expect(']')?;
            return Ok(address);
        }
        let word = self.word()?;
        let base = literal(&word).unwrap_or(Arg::Name(word));
        if self.accept('+') {
            let Arg::Int(offset) = self.primary()? else { return self.error("expected an offset") };
            return Ok(Arg::Address(Box::new(base), offset as i64));
        }
        Ok(base)
    }
}

fn storage(directive: &str) -> Option<Storage> {
    Some(match directive {
        ".const" => Storage::Const,
        ".global" => Storage::Global,
        ".shared" => Storage::Shared,
        ".local" => Storage::Local,
        ".param" => Storage::Param,
        _ => return None,
    })
}

/// The number that a word spells, if it does.
fn literal(word: &str) -> Option<Arg> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let radix = |digits: &str, base| u64::from_str_radix(digits.trim_end_matches('U'), base).ok();
    let lower = word.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f").filter(|hex| hex.len() == 8) {
        return u32::from_str_radix(hex, 16).ok().map(Arg::F32);
    }
    if let Some(hex) = lower.strip_prefix("0d").filter(|hex| hex.len() == 16) {
        return radix(hex, 16).map(Arg::F64);
    }
    if let Some(hex) = word.strip_prefix("0x").or(word.strip_prefix("0X")) {
        return radix(hex, 16).map(Arg::Int);
    }
    if let Some(bits) = word.strip_prefix("0b") {
        return radix(bits, 2).map(Arg::Int);
    }
    if word.contains('.') {
        return word.parse().ok().map(|value: f64| Arg::F64(value.to_bits()));
    }
    if word.len() > 1 && word.starts_with('0') {
        return radix(word, 8).map(Arg::Int);
    }
    radix(word, 10).map(Arg::Int)
}
