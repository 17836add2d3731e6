//! The instructions that compute: from an opcode to a function over lanes.
//!
//! Each entry of the tables below says three things at once: which types the operands have, what the
//! instruction computes, and how undefined bits pass through it.

mod arithmetic;
mod bits;
mod compare;
mod convert;
pub(crate) mod memory;

use crate::lanes::LaneFn;
use crate::parse::Arg;
use crate::types::Ty;

/// How undefined bits of the sources reach the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Any undefined bit makes the whole result undefined.
    Poison,
    /// The instruction moves the bits of the sources named in the mask, steered by the others: applied to
    /// the undefinedness bits of these, it yields those of the result.
    Moves(u8),
    /// A bitwise function, as `lop3` encodes it: a bit is undefined where the undefined bits matter.
    Logic(u8),
}

/// What an instruction does and what its operands are.
pub(crate) struct Spec {
    pub run: LaneFn,
    pub dst: Vec<Ty>,
    pub src: Vec<Ty>,
    pub rule: Rule,
    /// The seed of the approximate instructions is one more source.
    pub seeded: bool,
    /// The carry flag is one more source.
    pub carry_in: bool,
    /// The carry flag is one more destination.
    pub carry_out: bool,
}

impl Spec {
    fn new(dst: Ty, src: &[Ty], rule: Rule, run: LaneFn) -> Self {
        Spec {
            run,
            dst: vec![dst],
            src: src.to_vec(),
            rule,
            seeded: false,
            carry_in: false,
            carry_out: false,
        }
    }
}

/// An opcode, its suffixes sorted into types and modifiers.
pub(crate) struct Opcode<'a> {
    pub name: &'a str,
    pub types: Vec<Ty>,
    modifiers: Vec<&'a str>,
}

impl<'a> Opcode<'a> {
    pub(crate) fn new(parts: &'a [String]) -> Self {
        let (types, modifiers): (Vec<&str>, Vec<&str>) =
            parts[1..].iter().map(String::as_str).partition(|part| Ty::parse(part).is_some());
        let types = types.into_iter().filter_map(Ty::parse).collect();
        Opcode { name: &parts[0], types, modifiers }
    }

    /// Whether the modifier is there; a modifier that nobody asks for is an error in [`Opcode::finish`].
    pub(crate) fn take(&mut self, name: &str) -> bool {
        self.take_map(|m| (m == name).then_some(())).is_some()
    }

    /// The first modifier that `parse` knows.
    pub(crate) fn take_map<T>(&mut self, parse: impl Fn(&'a str) -> Option<T>) -> Option<T> {
        let (index, found) =
            self.modifiers.iter().enumerate().find_map(|(i, m)| parse(m).map(|found| (i, found)))?;
        self.modifiers.remove(index);
        Some(found)
    }

    /// The only type of the instruction.
    pub(crate) fn ty(&self) -> Option<Ty> {
        self.types.last().copied()
    }

    /// An error where a modifier was not understood.
    pub(crate) fn finish(&self) -> Result<(), String> {
        match self.modifiers.first() {
            None => Ok(()),
            Some(modifier) => Err(format!("unknown modifier `.{modifier}`")),
        }
    }
}

/// The meaning of a computing instruction; `None` where the opcode is none of these or has no such form.
pub(crate) fn spec(opcode: &mut Opcode, args: &[Arg]) -> Option<Spec> {
    let from = [arithmetic::spec, bits::spec, compare::spec, convert::spec];
    from.iter().find_map(|table| table(opcode, args))
}

/// Evaluates an expression with `$name` standing for the Rust type of a PTX type; `None` for other types.
macro_rules! per_type {
    ($ty:expr, [$($pattern:pat => $rust:ty),* $(,)?], $name:ident => $body:expr) => {
        match $ty {
            $($pattern => {
                type $name = $rust;
                Some($body)
            })*
            _ => None,
        }
    };
}

/// [`per_type`] for the integers that arithmetic works on.
macro_rules! per_integer {
    ($ty:expr, $name:ident => $body:expr) => {
        per_type!($ty, [
            Ty::U16 | Ty::B16 => u16, Ty::S16 => i16, Ty::U32 | Ty::B32 => u32, Ty::S32 => i32,
            Ty::U64 | Ty::B64 => u64, Ty::S64 => i64,
        ], $name => $body)
    };
}

/// [`per_type`] for the floating-point types, a packed pair standing for its element.
macro_rules! per_float {
    ($ty:expr, $name:ident => $body:expr) => {
        per_type!($ty, [
            Ty::F32 => f32, Ty::F64 => f64, Ty::F16 | Ty::F16x2 => F16, Ty::Bf16 | Ty::Bf16x2 => Bf16,
        ], $name => $body)
    };
}

use {per_float, per_integer, per_type};
