//! From the syntax tree of a kernel to a [`Program`]: names become registers and addresses, labels become
//! indices, calls of device functions become their bodies.

mod compute;
mod memory;
mod synchronisation;

use crate::ModuleError;
use crate::isa::{Opcode, Rule};
use crate::lanes::{LANES, LaneFn, Slot, Slots, map1};
use crate::parse::{Arg, Ast, Function, Instruction as Written, Statement, Storage, Variable};
use crate::program::*;
use crate::types::{Space, Ty};
use std::collections::HashMap;

type Result<T> = std::result::Result<T, ModuleError>;

/// Decodes a kernel of the module.
pub(crate) fn decode(ast: &Ast, entry: &Function) -> Result<Program> {
    let mut decoder = Decoder::new(ast);
    let mut offset = 0usize;
    for param in &entry.params {
        offset = offset.next_multiple_of(param.align);
        let place = Place { constant: Constant::Parameter(offset as i64), space: Space::Global };
        decoder.bind(&param.name, Binding::Variable(place));
        offset += param.size.unwrap_or(0);
    }
    decoder.body(entry)?;
    decoder.emit(Op::Exit);
    let bound = |name: &str| entry.bounds.get(name).map(|numbers| numbers.iter().product());
    Ok(Program {
        name: entry.name.clone(),
        instructions: decoder.instructions,
        rows: decoder.rows as usize,
        constants: decoder.constants.into_iter().map(|((constant, _), reg)| (reg, constant)).collect(),
        static_shared: decoder.shared,
        local_bytes: decoder.local,
        param_bytes: offset,
        max_threads: bound(".reqntid").or_else(|| bound(".maxntid")),
        cluster: bound(".reqnctapercluster"),
    })
}

/// Where a variable lies.
#[derive(Clone, Copy)]
struct Place {
    constant: Constant,
    space: Space,
}

#[derive(Clone)]
enum Binding {
    Register(Reg),
    /// `name<count>`: registers in consecutive rows.
    Bank {
        first: Slot,
        count: u32,
        wide: bool,
    },
    Variable(Place),
    Targets(Vec<String>),
}

/// A pair of braces.
struct Scope {
    parent: Option<usize>,
    names: HashMap<String, Binding>,
    labels: HashMap<String, usize>,
}

/// A branch whose labels are looked up once all are known.
struct Pending {
    instruction: usize,
    scope: usize,
    labels: Vec<String>,
    line: u32,
}

struct Decoder<'a> {
    ast: &'a Ast,
    instructions: Vec<Instruction>,
    rows: Slot,
    constants: HashMap<(Constant, bool), Reg>,
    shared: usize,
    shared_places: HashMap<String, Place>,
    local: usize,
    scopes: Vec<Scope>,
    scope: usize,
    pending: Vec<Pending>,
    /// The functions that are being inlined, and the instructions that return from the innermost.
    calls: Vec<(String, Vec<usize>)>,
    carry: Option<Reg>,
    // Of the instruction being decoded:
    line: u32,
    source: Option<(u32, u32)>,
    guard: Option<(Slot, bool)>,
    folded: bool,
}

/// The rows that `_` writes to.
const SINK: Reg = Reg { slot: 0, wide: true };

/// Registers of a kernel, with those of the functions it inlines.
const MOST_ROWS: Slot = 1 << 20;

impl<'a> Decoder<'a> {
    fn new(ast: &'a Ast) -> Self {
        let root = Scope { parent: None, names: HashMap::new(), labels: HashMap::new() };
        Decoder {
            ast,
            instructions: Vec::new(),
            rows: 2,
            constants: HashMap::new(),
            shared: 0,
            shared_places: HashMap::new(),
            local: 0,
            scopes: vec![root],
            scope: 0,
            pending: Vec::new(),
            calls: Vec::new(),
            carry: None,
            line: 0,
            source: None,
            guard: None,
            folded: false,
        }
    }

    fn error<T>(&self, detail: impl Into<String>) -> Result<T> {
        Err(ModuleError::syntax(self.line, detail))
    }

    fn bind(&mut self, name: &str, binding: Binding) {
        self.scopes[self.scope].names.insert(name.to_owned(), binding);
    }

    fn open(&mut self, parent: Option<usize>) {
        self.scopes.push(Scope { parent, names: HashMap::new(), labels: HashMap::new() });
        self.scope = self.scopes.len() - 1;
    }

    fn find<T>(&self, scope: usize, get: impl Fn(&'_ Scope) -> Option<T>) -> Option<T> {
        let mut at = Some(scope);
        while let Some(index) = at {
            if let Some(found) = get(&self.scopes[index]) {
                return Some(found);
            }
            at = self.scopes[index].parent;
        }
        None
    }

    fn register(&mut self, wide: bool) -> Reg {
        let slot = self.rows;
        self.rows += 1 + Slot::from(wide);
        Reg { slot, wide }
    }

    fn constant(&mut self, constant: Constant, wide: bool) -> Reg {
        if let Some(&reg) = self.constants.get(&(constant, wide)) {
            return reg;
        }
        let reg = self.register(wide);
        self.constants.insert((constant, wide), reg);
        reg
    }

    fn emit(&mut self, op: Op) {
        let (line, source, guard, folded) = (self.line, self.source, self.guard, self.folded);
        self.instructions.push(Instruction { line, source, guard, folded, op });
    }

    fn body(&mut self, function: &'a Function) -> Result<()> {
        for statement in &function.body {
            match statement {
                Statement::Registers { name, count, ty } => self.declare_registers(name, *count, *ty)?,
                Statement::Variable(variable) => {
                    let place = self.allocate(variable)?;
                    self.bind(&variable.name, Binding::Variable(place));
                }
                Statement::Label(name) => {
                    let here = self.instructions.len();
                    self.scopes[self.scope].labels.insert(name.clone(), here);
                }
                Statement::Targets(name, labels) => self.bind(name, Binding::Targets(labels.clone())),
                Statement::Open => self.open(Some(self.scope)),
                Statement::Close => {
                    if let Some(parent) = self.scopes[self.scope].parent {
                        self.scope = parent;
                    }
                }
                // Line 0 marks code of no line; the line before it says more.
                Statement::Location { line: 0, .. } => {}
                Statement::Location { file, line } => self.source = Some((*file, *line)),
                Statement::Instruction(written) => self.instruction(written)?,
            }
        }
        self.resolve()
    }

    fn declare_registers(&mut self, name: &str, count: Option<u32>, ty: Ty) -> Result<()> {
        if self.rows.saturating_add(count.unwrap_or(1)) > MOST_ROWS {
            return self.error("more registers than the interpreter has rows");
        }
        let wide = ty.bytes() == 8;
        let binding = match count {
            None => Binding::Register(self.register(wide)),
            Some(count) => {
                let first = self.rows;
                self.rows += count << u32::from(wide);
                Binding::Bank { first, count, wide }
            }
        };
        self.bind(name, binding);
        Ok(())
    }

    fn allocate(&mut self, variable: &Variable) -> Result<Place> {
        Ok(match (variable.storage, variable.size) {
            (Storage::Shared, None) => Place { constant: Constant::DynamicShared(0), space: Space::Shared },
            (Storage::Shared, Some(size)) => {
                let at = self.shared.next_multiple_of(variable.align);
                self.shared = at + size;
                Place { constant: Constant::Bits(at as u64), space: Space::Shared }
            }
            (Storage::Local | Storage::Param, Some(size)) => {
                let at = self.local.next_multiple_of(variable.align);
                self.local = at + size;
                Place { constant: Constant::Bits(at as u64), space: Space::Local }
            }
            _ => return self.error(format!("`{}` cannot be declared in a function", variable.name)),
        })
    }

    /// Points the branches at their labels.
    fn resolve(&mut self) -> Result<()> {
        for pending in std::mem::take(&mut self.pending) {
            let mut targets = Vec::new();
            for label in &pending.labels {
                let Some(target) = self.find(pending.scope, |scope| scope.labels.get(label).copied()) else {
                    return Err(ModuleError::syntax(pending.line, format!("no label `{label}`")));
                };
                targets.push(target);
            }
            match &mut self.instructions[pending.instruction].op {
                Op::Branch(target) => *target = targets[0],
                Op::BranchTable(_, all) => *all = targets,
                _ => {}
            }
        }
        Ok(())
    }

    fn instruction(&mut self, written: &Written) -> Result<()> {
        self.line = written.line;
        self.guard = match &written.guard {
            None => None,
            Some((name, negated)) => match self.lookup_register(name) {
                Some(reg) => Some((reg.slot, *negated)),
                None => return self.error(format!("no predicate `{name}`")),
            },
        };
        let opcode: Vec<&str> = written.opcode.iter().map(|part| part.as_ref()).collect();
        self.folded =
            matches!(opcode[..], ["mov" | "cvta", ..] | ["ld", "param", ..] | ["neg" | "abs", .., "f32"]);
        let mut op = Opcode::new(&written.opcode);
        let decoded = self.control(&mut op, &written.args)?
            || self.memory(&mut op, &written.args)?
            || self.synchronisation(&mut op, &written.args)?
            || self.alu(&mut op, &written.args)?;
        let unsupported = |detail: String| ModuleError::Unsupported {
            line: written.line,
            instruction: written.opcode.join("."),
            detail,
        };
        if !decoded {
            return Err(unsupported("no such instruction is known".to_owned()));
        }
        op.finish().map_err(unsupported)
    }

    fn lookup_register(&self, name: &str) -> Option<Reg> {
        self.find(self.scope, |scope| {
            if let Some(Binding::Register(reg)) = scope.names.get(name) {
                return Some(*reg);
            }
            let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            let (prefix, index) = name.split_at(name.len() - digits);
            let Some(&Binding::Bank { first, count, wide }) = scope.names.get(prefix) else { return None };
            let index: u32 = index.parse().ok().filter(|&index| index < count)?;
            Some(Reg { slot: first + (index << u32::from(wide)), wide })
        })
    }

    fn lookup_variable(&mut self, name: &str) -> Result<Option<Place>> {
        let local = self.find(self.scope, |scope| match scope.names.get(name) {
            Some(Binding::Variable(place)) => Some(*place),
            _ => None,
        });
        if local.is_some() {
            return Ok(local);
        }
        if let Some(place) = self.shared_places.get(name) {
            return Ok(Some(*place));
        }
        let ast = self.ast;
        let Some((index, variable)) = ast.variables.iter().enumerate().find(|(_, v)| v.name == name) else {
            return Ok(None);
        };
        if variable.storage != Storage::Shared {
            return Ok(Some(Place { constant: Constant::Variable(index, 0), space: Space::Global }));
        }
        let place = self.allocate(variable)?;
        self.shared_places.insert(name.to_owned(), place);
        Ok(Some(place))
    }

    /// A source operand, as a register that holds it.
    fn source(&mut self, arg: &Arg, ty: Ty) -> Result<Reg> {
        let wide = ty.bytes() == 8;
        let bits = match arg {
            Arg::Name(name) => {
                if let Some(reg) = self.lookup_register(name) {
                    if wide && !reg.wide {
                        return self.error(format!("`{name}` is narrower than the instruction"));
                    }
                    return Ok(reg);
                }
                if let Some(special) = Special::parse(name) {
                    return Ok(self.constant(Constant::Special(special), wide));
                }
                if name == "WARP_SZ" {
                    LANES as u64
                } else {
                    return self.symbol(name, 0, wide);
                }
            }
            Arg::Address(base, offset) => match &**base {
                Arg::Name(name) => return self.symbol(name, *offset, wide),
                other => return self.error(format!("{other:?} cannot have an offset")),
            },
            Arg::Not(inner) => {
                let inner = self.source(inner, ty)?;
                let negated = self.register(false);
                let run = map1(|p: bool| !p);
                self.emit_alu(run, vec![negated], vec![inner], Rule::Logic(0x0f));
                return Ok(negated);
            }
            Arg::Int(bits) => *bits,
            Arg::F32(bits) if ty == Ty::F64 => f64::from(f32::from_bits(*bits)).to_bits(),
            Arg::F32(bits) => u64::from(*bits),
            Arg::F64(bits) if ty == Ty::F32 => u64::from((f64::from_bits(*bits) as f32).to_bits()),
            Arg::F64(bits) => *bits,
            other => return self.error(format!("{other:?} is no source operand")),
        };
        Ok(self.constant(Constant::Bits(bits), wide))
    }

    fn symbol(&mut self, name: &str, offset: i64, wide: bool) -> Result<Reg> {
        match self.lookup_variable(name)? {
            Some(place) => Ok(self.constant(place.constant.plus(offset), wide)),
            None => self.error(format!("nothing is called `{name}`")),
        }
    }

    /// A destination operand.
    fn destination(&self, arg: &Arg, ty: Ty) -> Result<Reg> {
        let Arg::Name(name) = arg else { return self.error(format!("{arg:?} is no destination")) };
        if name == "_" {
            return Ok(SINK);
        }
        match self.lookup_register(name) {
            None => self.error(format!("no register `{name}`")),
            Some(reg) if ty.bytes() == 8 && !reg.wide => {
                self.error(format!("`{name}` is narrower than the result"))
            }
            Some(reg) => Ok(reg),
        }
    }

    /// A memory operand of an instruction on that state space; `None` where the space follows the variable.
    fn address(&mut self, arg: &Arg, space: Option<Space>) -> Result<Address> {
        let Arg::Address(base, offset) = arg else { return self.error(format!("{arg:?} is no address")) };
        let default = if self.calls.is_empty() { Space::Global } else { Space::Local };
        if let Arg::Name(name) = &**base
            && self.lookup_register(name).is_none()
            && let Some(place) = self.lookup_variable(name)?
        {
            let base = self.constant(place.constant, true);
            return Ok(Address { space: space.unwrap_or(place.space), base, offset: *offset });
        }
        let base = match &**base {
            Arg::Int(bits) => self.constant(Constant::Bits(*bits), true),
            other => self.source(other, Ty::B32)?,
        };
        Ok(Address { space: space.unwrap_or(default), base, offset: *offset })
    }

    fn args<const N: usize>(&self, args: &[Arg]) -> Result<[Arg; N]> {
        match <[Arg; N]>::try_from(args.to_vec()) {
            Ok(array) => Ok(array),
            Err(_) => self.error(format!("expected {N} operands, found {}", args.len())),
        }
    }

    fn emit_alu(&mut self, run: LaneFn, dst: Vec<Reg>, src: Vec<Reg>, rule: Rule) {
        let mut slots = Slots::default();
        for (slot, reg) in slots.dst.iter_mut().zip(&dst) {
            *slot = reg.slot;
        }
        for (slot, reg) in slots.src.iter_mut().zip(&src) {
            *slot = reg.slot;
        }
        self.emit(Op::Alu(Alu { run, slots, dst, src, rule }));
    }

    /// Branches, calls and ends.
    fn control(&mut self, op: &mut Opcode, args: &[Arg]) -> Result<bool> {
        match op.name {
            "bra" => {
                op.take("uni");
                let [Arg::Name(label)] = self.args(args)? else { return self.error("expected a label") };
                self.emit_branch(Op::Branch(0), vec![label]);
            }
            "brx" => {
                op.take("idx");
                op.take("uni");
                let [index, Arg::Name(name)] = self.args(args)? else {
                    return self.error("expected targets");
                };
                let index = self.source(&index, Ty::U32)?;
                let targets = self.find(self.scope, |scope| match scope.names.get(&name) {
                    Some(Binding::Targets(labels)) => Some(labels.clone()),
                    _ => None,
                });
                let Some(targets) = targets else { return self.error(format!("no targets `{name}`")) };
                self.emit_branch(Op::BranchTable(index, Vec::new()), targets);
            }
            "call" => {
                op.take("uni");
                self.call(args)?;
            }
            "ret" => {
                op.take("uni");
                let here = self.instructions.len();
                match self.calls.last_mut() {
                    Some((_, returns)) => {
                        returns.push(here);
                        self.emit(Op::Branch(0));
                    }
                    None => self.emit(Op::Exit),
                }
            }
            "exit" => self.emit(Op::Exit),
            "trap" => self.emit(Op::Trap),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn emit_branch(&mut self, op: Op, labels: Vec<String>) {
        let instruction = self.instructions.len();
        self.pending.push(Pending { instruction, scope: self.scope, labels, line: self.line });
        self.emit(op);
    }

    /// Inlines the called function, its parameters bound to the caller's variables.
    fn call(&mut self, args: &[Arg]) -> Result<()> {
        let (mut groups, mut name) = (Vec::new(), None);
        for arg in args {
            match arg {
                Arg::Group(items) => groups.push(&items[..]),
                Arg::Name(callee) => name = Some(callee.clone()),
                other => return self.error(format!("{other:?} in a call")),
            }
        }
        let ast = self.ast;
        let callee = ast.functions.iter().find(|f| Some(&f.name) == name.as_ref());
        let (Some(name), Some(callee)) = (name, callee) else {
            return self.error("a call of a function that is not in the module (or through a pointer)");
        };
        if self.calls.iter().any(|(active, _)| *active == name) {
            return self.error(format!("`{name}` calls itself, which inlining cannot follow"));
        }
        if self.guard.is_some() {
            return self.error("a call under a predicate");
        }
        let formals: Vec<&Variable> = callee.returns.iter().chain(&callee.params).collect();
        let actuals: Vec<&Arg> = groups.into_iter().flatten().collect();
        if formals.len() != actuals.len() {
            return self.error(format!("`{name}` takes {} parameters, not {}", formals.len(), actuals.len()));
        }
        let mut bindings = Vec::new();
        for (formal, actual) in formals.into_iter().zip(actuals) {
            let Arg::Name(actual) = actual else { return self.error("a call with an argument by value") };
            let Some(place) = self.lookup_variable(actual)? else {
                return self.error(format!("no parameter `{actual}`"));
            };
            bindings.push((&formal.name, place));
        }
        let outer = (self.scope, self.source, std::mem::take(&mut self.pending));
        self.open(None);
        for (formal, place) in bindings {
            self.bind(formal, Binding::Variable(place));
        }
        self.calls.push((name, Vec::new()));
        self.body(callee)?;
        let end = self.instructions.len();
        let returns = self.calls.pop().map(|(_, returns)| returns).unwrap_or_default();
        for at in returns {
            self.instructions[at].op = Op::Branch(end);
        }
        (self.scope, self.source, self.pending) = outer;
        self.guard = None;
        Ok(())
    }
}
