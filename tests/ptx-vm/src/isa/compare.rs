//! Comparisons and tests.

use super::{Opcode, Rule, Spec, per_type};
use crate::float::{Bf16, F16, Float};
use crate::lanes::{Lane, LaneFn, Row, Slots, map1, map2, read, write};
use crate::parse::Arg;
use crate::types::Ty;

/// [`per_type`] for everything that has an order.
macro_rules! per_ordered {
    ($ty:expr, $name:ident => $body:expr) => {
        per_type!($ty, [
            Ty::U16 | Ty::B16 => u16, Ty::S16 => i16, Ty::U32 | Ty::B32 => u32, Ty::S32 => i32,
            Ty::U64 | Ty::B64 => u64, Ty::S64 => i64, Ty::F32 => f32, Ty::F64 => f64, Ty::F16 => F16, Ty::Bf16 => Bf16,
        ], $name => $body)
    };
}

/// The entry of a comparing instruction.
pub(super) fn spec(op: &mut Opcode, args: &[Arg]) -> Option<Spec> {
    match op.name {
        "setp" => setp(op, args),
        "set" => set(op),
        "testp" => testp(op),
        _ => None,
    }
}

/// In which of the four relations of two values a comparison holds.
#[derive(Clone, Copy)]
struct Relation {
    less: bool,
    equal: bool,
    greater: bool,
    unordered: bool,
}

impl Relation {
    fn parse(name: &str) -> Option<Self> {
        let ordered = |less, equal, greater| Relation { less, equal, greater, unordered: false };
        Some(match name {
            "eq" => ordered(false, true, false),
            "ne" => ordered(true, false, true),
            "lt" | "lo" => ordered(true, false, false),
            "le" | "ls" => ordered(true, true, false),
            "gt" | "hi" => ordered(false, false, true),
            "ge" | "hs" => ordered(false, true, true),
            "num" => ordered(true, true, true),
            "nan" => Relation { unordered: true, ..ordered(false, false, false) },
            "equ" | "neu" | "ltu" | "leu" | "gtu" | "geu" => {
                Relation { unordered: true, ..Relation::parse(&name[..2])? }
            }
            _ => return None,
        })
    }

    #[inline(always)]
    fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        let (less, equal, greater) = (a < b, a == b, a > b);
        (self.less & less)
            | (self.equal & equal)
            | (self.greater & greater)
            | (self.unordered & !(less | equal | greater))
    }
}

/// How the result of a comparison combines with a third operand.
#[derive(Clone, Copy)]
enum Combine {
    And,
    Or,
    Xor,
}

impl Combine {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "and" => Combine::And,
            "or" => Combine::Or,
            "xor" => Combine::Xor,
            _ => return None,
        })
    }

    fn apply(self, a: bool, b: bool) -> bool {
        match self {
            Combine::And => a & b,
            Combine::Or => a | b,
            Combine::Xor => a ^ b,
        }
    }
}

/// `setp`: with `p|q`, q takes the negated comparison.
fn setp(op: &mut Opcode, args: &[Arg]) -> Option<Spec> {
    let ty = op.ty()?;
    let relation = op.take_map(Relation::parse)?;
    let combine = op.take_map(Combine::parse);
    let flush = op.take("ftz");
    let pair = matches!(args.first(), Some(Arg::Pair(..)));
    let run = per_ordered!(ty, T => {
        Box::new(move |rows: &mut [Row], slots: &Slots, mask| {
            let results = compare::<T>(rows, slots, relation, flush);
            let third: [bool; 32] = if combine.is_some() { read(rows, slots.src[2]) } else { [false; 32] };
            let combined = |negate: bool| {
                std::array::from_fn(|lane| match combine {
                    Some(combine) => combine.apply(results[lane] ^ negate, third[lane]),
                    None => results[lane] ^ negate,
                })
            };
            write::<bool>(rows, slots.dst[0], combined(false), mask);
            if pair {
                write::<bool>(rows, slots.dst[1], combined(true), mask);
            }
        }) as LaneFn
    })?;
    let mut src = vec![ty, ty];
    src.extend(combine.map(|_| Ty::Pred));
    let mut spec = Spec::new(Ty::Pred, &src, Rule::Poison, run);
    spec.dst.extend(pair.then_some(Ty::Pred));
    Some(spec)
}

#[inline(always)]
fn compare<T: Lane + PartialOrd + Flush>(
    rows: &[Row],
    slots: &Slots,
    relation: Relation,
    flush: bool,
) -> [bool; 32] {
    let (a, b): ([T; 32], [T; 32]) = (read(rows, slots.src[0]), read(rows, slots.src[1]));
    if flush {
        std::array::from_fn(|lane| relation.holds(a[lane].flushed(), b[lane].flushed()))
    } else {
        std::array::from_fn(|lane| relation.holds(a[lane], b[lane]))
    }
}

/// What `.ftz` does to an operand: nothing to an integer.
trait Flush {
    fn flushed(self) -> Self;
}

macro_rules! flush {
    ($($ty:ty: $how:expr),*) => {$(
        impl Flush for $ty {
            #[inline(always)]
            fn flushed(self) -> Self {
                $how(self)
            }
        }
    )*};
}

flush! {
    u16: |x| x, i16: |x| x, u32: |x| x, i32: |x| x, u64: |x| x, i64: |x| x,
    f32: Float::flush, f64: |x| x, F16: Float::flush, Bf16: Float::flush
}

/// `set.relation.dtype.stype`: all ones or 1.0 where the comparison holds.
fn set(op: &mut Opcode) -> Option<Spec> {
    let &[dst, src] = &op.types[..] else { return None };
    let relation = op.take_map(Relation::parse)?;
    let flush = op.take("ftz");
    let yes: u32 = if dst == Ty::F32 { 1f32.to_bits() } else { u32::MAX };
    let run = per_ordered!(src, T => map2(move |a: T, b: T| {
        let (a, b) = if flush { (a.flushed(), b.flushed()) } else { (a, b) };
        if relation.holds(a, b) { yes } else { 0 }
    }))?;
    Some(Spec::new(dst, &[src, src], Rule::Poison, run))
}

fn testp(op: &mut Opcode) -> Option<Spec> {
    let ty = op.ty()?;
    let class = op.take_map(|name| {
        let class: fn(f64, bool) -> bool = match name {
            "finite" => |x, _| x.is_finite(),
            "infinite" => |x, _| x.is_infinite(),
            "number" => |x, _| !x.is_nan(),
            "notanumber" => |x, _| x.is_nan(),
            "normal" => |x, subnormal| x.is_finite() && x != 0.0 && !subnormal,
            "subnormal" => |_, subnormal| subnormal,
            _ => return None,
        };
        Some(class)
    })?;
    let run = per_type!(ty, [Ty::F32 => f32, Ty::F64 => f64], T => map1(move |a: T| class(a.widen(), a.is_subnormal())))?;
    Some(Spec::new(Ty::Pred, &[ty], Rule::Poison, run))
}
