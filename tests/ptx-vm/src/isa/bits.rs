//! Instructions on bits: logic, shifts, fields, permutations and moves.

use super::{Opcode, Rule, Spec, per_type};
use crate::lanes::{Lane, LaneFn, map1, map2, map3, map4};
use crate::parse::Arg;
use crate::types::Ty;
use std::ops::{BitAnd, BitOr, BitXor, Not};

/// [`per_type`] for untyped registers.
macro_rules! per_bits {
    ($ty:expr, $name:ident => $body:expr) => {
        per_type!($ty, [
            Ty::Pred => bool,
            Ty::B16 | Ty::U16 | Ty::S16 | Ty::F16 | Ty::Bf16 => u16,
            Ty::B32 | Ty::U32 | Ty::S32 | Ty::F32 | Ty::F16x2 | Ty::Bf16x2 => u32,
            Ty::B64 | Ty::U64 | Ty::S64 | Ty::F64 => u64,
        ], $name => $body)
    };
}

/// The truth tables of `lop3` for its first and second operand.
const A: u8 = 0xf0;
const B: u8 = 0xcc;

/// The entry of an instruction on bits.
pub(super) fn spec(op: &mut Opcode, args: &[Arg]) -> Option<Spec> {
    let ty = op.ty()?;
    match op.name {
        "and" => logic(ty, A & B, 2),
        "or" => logic(ty, A | B, 2),
        "xor" => logic(ty, A ^ B, 2),
        "not" => logic(ty, !A, 1),
        "lop3" => {
            let Some(Arg::Int(table)) = args.get(4) else { return None };
            logic(ty, *table as u8, 3)
        }
        "cnot" => {
            let run = per_type!(ty, [Ty::B16 => u16, Ty::B32 => u32, Ty::B64 => u64], T => map1(|a: T| T::from(a == 0)))?;
            Some(Spec::new(ty, &[ty], Rule::Poison, run))
        }
        "mov" => Some(Spec::new(ty, &[ty], Rule::Moves(1), per_bits!(ty, T => map1(|a: T| a))?)),
        "selp" => {
            let run = per_bits!(ty, T => map3(|a: T, b: T, p: bool| if p { a } else { b }))?;
            Some(Spec::new(ty, &[ty, ty, Ty::Pred], Rule::Moves(0b011), run))
        }
        "slct" => slct(op),
        "shl" | "shr" => {
            let run = shift(op.name == "shl", ty)?;
            Some(Spec::new(ty, &[ty, Ty::U32], Rule::Moves(1), run))
        }
        "shf" => {
            let left = op.take("l");
            op.take("r");
            let clamp = op.take("clamp");
            op.take("wrap");
            let run = map3(move |a: u32, b: u32, amount: u32| funnel(left, clamp, a, b, amount));
            Some(Spec::new(ty, &[Ty::B32, Ty::B32, Ty::U32], Rule::Moves(0b011), run))
        }
        "prmt" => {
            let mode = op.take_map(Permutation::parse).unwrap_or(Permutation::Index);
            let run = map3(move |a: u32, b: u32, selector: u32| mode.apply(a, b, selector));
            Some(Spec::new(ty, &[Ty::B32, Ty::B32, Ty::U32], Rule::Moves(0b011), run))
        }
        "brev" => {
            let run = per_type!(ty, [Ty::B32 => u32, Ty::B64 => u64], T => map1(T::reverse_bits))?;
            Some(Spec::new(ty, &[ty], Rule::Moves(1), run))
        }
        "bfe" => {
            let run = per_type!(ty, [Ty::U32 => u32, Ty::S32 => i32, Ty::U64 => u64, Ty::S64 => i64], T => {
                map3(|a: T, position: u32, length: u32| {
                    let signed = T::MIN != 0;
                    extract(i128::from(a), T::BITS, signed, position & 0xff, length & 0xff) as T
                })
            })?;
            Some(Spec::new(ty, &[ty, Ty::U32, Ty::U32], Rule::Moves(1), run))
        }
        "bfi" => {
            let run = per_type!(ty, [Ty::B32 => u32, Ty::B64 => u64], T => {
                map4(|a: T, b: T, position: u32, length: u32| {
                    let ones = u128::MAX.checked_shr(128 - (length & 0xff).min(64)).unwrap_or(0);
                    let field = (ones << (position & 0xff).min(64)) as T;
                    let moved = a.checked_shl(position & 0xff).unwrap_or(0);
                    (b & !field) | (moved & field)
                })
            })?;
            Some(Spec::new(ty, &[ty, ty, Ty::U32, Ty::U32], Rule::Moves(0b0011), run))
        }
        _ => None,
    }
}

fn logic(ty: Ty, table: u8, operands: usize) -> Option<Spec> {
    let run = per_bits!(ty, T => lookup::<T>(table))?;
    Some(Spec::new(ty, &vec![ty; operands], Rule::Logic(table), run))
}

/// A bitwise function by its truth table; the common ones directly.
fn lookup<T>(table: u8) -> LaneFn
where
    T: Lane
        + BitAnd<Output = T>
        + BitOr<Output = T>
        + BitXor<Output = T>
        + Not<Output = T>
        + Send
        + Sync
        + 'static,
{
    const AND: u8 = A & B;
    const OR: u8 = A | B;
    const XOR: u8 = A ^ B;
    const NOT: u8 = !A;
    match table {
        AND => map2(|a: T, b: T| a & b),
        OR => map2(|a: T, b: T| a | b),
        XOR => map2(|a: T, b: T| a ^ b),
        NOT => map1(|a: T| !a),
        _ => map3(move |a: T, b: T, c: T| {
            (0..8).fold(a & !a, |sum, row| {
                let pick = |x: T, bit: u8| if row & bit != 0 { x } else { !x };
                let hit = pick(a, 4) & pick(b, 2) & pick(c, 1);
                if table >> row & 1 != 0 { sum | hit } else { sum }
            })
        }),
    }
}

/// `slct.dtype.ctype`: the first operand where the third is not negative.
fn slct(op: &mut Opcode) -> Option<Spec> {
    let &[ty, condition] = &op.types[..] else { return None };
    op.take("ftz");
    let run = per_bits!(ty, T => match condition {
        Ty::S32 => Some(map3(|a: T, b: T, c: i32| if c >= 0 { a } else { b })),
        Ty::F32 => Some(map3(|a: T, b: T, c: f32| if c >= 0.0 { a } else { b })),
        _ => None,
    })??;
    Some(Spec::new(ty, &[ty, ty, condition], Rule::Moves(0b011), run))
}

/// A shift by the width or more empties the register, or fills it with the sign.
fn shift(left: bool, ty: Ty) -> Option<LaneFn> {
    if left {
        return per_type!(ty, [
            Ty::B16 | Ty::U16 | Ty::S16 => u16, Ty::B32 | Ty::U32 | Ty::S32 => u32, Ty::B64 | Ty::U64 | Ty::S64 => u64,
        ], T => map2(|a: T, n: u32| a.checked_shl(n).unwrap_or(0)));
    }
    per_type!(ty, [
        Ty::B16 | Ty::U16 => u16, Ty::B32 | Ty::U32 => u32, Ty::B64 | Ty::U64 => u64,
        Ty::S16 => i16, Ty::S32 => i32, Ty::S64 => i64,
    ], T => map2(|a: T, n: u32| a >> n.min(T::BITS - 1) >> u32::from(n >= T::BITS)))
}

/// The funnel shift: `b` above `a`, shifted, and the upper (left) or lower (right) word of that.
fn funnel(left: bool, clamp: bool, a: u32, b: u32, amount: u32) -> u32 {
    let amount = if clamp { amount.min(32) } else { amount & 31 };
    let both = u64::from(b) << 32 | u64::from(a);
    if left { (both << amount >> 32) as u32 } else { (both >> amount) as u32 }
}

fn extract(value: i128, width: u32, signed: bool, position: u32, length: u32) -> i128 {
    if length == 0 {
        return 0;
    }
    // Beyond the register a signed value continues with its sign, an unsigned one with zeros; the sign of the
    // field is its own top bit, or the register's where the field ends beyond it.
    let top = (position + length - 1).min(width - 1);
    let moved = value >> position.min(127);
    let sign = if signed { value >> top & 1 } else { 0 };
    if length >= width {
        return if position >= width { -sign } else { moved };
    }
    let field = moved & ((1 << length) - 1);
    field | -sign << length
}

/// The modes of `prmt`.
#[derive(Clone, Copy)]
enum Permutation {
    /// A selector nibble for each byte: index and sign replication.
    Index,
    Forward4,
    Backward4,
    Replicate8,
    EdgeLeft,
    EdgeRight,
    Replicate16,
}

impl Permutation {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "f4e" => Permutation::Forward4,
            "b4e" => Permutation::Backward4,
            "rc8" => Permutation::Replicate8,
            "ecl" => Permutation::EdgeLeft,
            "ecr" => Permutation::EdgeRight,
            "rc16" => Permutation::Replicate16,
            _ => return None,
        })
    }

    fn apply(self, a: u32, b: u32, selector: u32) -> u32 {
        let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
        let s = selector & 3;
        u32::from_le_bytes(std::array::from_fn(|i| {
            let i = i as u32;
            let index = match self {
                Permutation::Index => {
                    let nibble = selector >> (4 * i) & 0xf;
                    let byte = bytes[(nibble & 7) as usize];
                    return if nibble & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
                }
                Permutation::Forward4 => s + i,
                Permutation::Backward4 => (s + 8 - i) & 7,
                Permutation::Replicate8 => s,
                Permutation::EdgeLeft => i.max(s),
                Permutation::EdgeRight => i.min(s),
                Permutation::Replicate16 => (s & 1) * 2 + (i & 1),
            };
            bytes[index as usize]
        }))
    }
}
