//! Integer and floating-point arithmetic.

use super::{Opcode, Rule, Spec, per_float, per_integer, per_type};
use crate::approx::{Approx, divide};
use crate::float::{Bf16, F16, Float, Packed, Round, extreme, saturate};
use crate::lanes::{Lane, LaneFn, map1, map2, map3, read, write};
use crate::parse::Arg;
use crate::types::Ty;

/// The entry of an arithmetic instruction.
pub(super) fn spec(op: &mut Opcode, _: &[Arg]) -> Option<Spec> {
    let ty = op.ty()?;
    if let Some(carried) = carry(op, ty) {
        return Some(carried);
    }
    if ty.is_float() {
        return approximate(op, ty).or_else(|| float(op, ty));
    }
    integer(op, ty)
}

fn integer(op: &mut Opcode, ty: Ty) -> Option<Spec> {
    let binary = |run: Option<LaneFn>| Some(Spec::new(ty, &[ty, ty], Rule::Poison, run?));
    let unary = |dst, run: Option<LaneFn>| Some(Spec::new(dst, &[ty], Rule::Poison, run?));
    let name = op.name;
    match name {
        "add" if op.take("sat") => binary(Some(map2(|a: i32, b: i32| a.saturating_add(b)))),
        "sub" if op.take("sat") => binary(Some(map2(|a: i32, b: i32| a.saturating_sub(b)))),
        "add" => binary(per_integer!(ty, T => map2(|a: T, b: T| a.wrapping_add(b)))),
        "sub" => binary(per_integer!(ty, T => map2(|a: T, b: T| a.wrapping_sub(b)))),
        "min" => binary(per_integer!(ty, T => map2(|a: T, b: T| a.min(b)))),
        "max" => binary(per_integer!(ty, T => map2(|a: T, b: T| a.max(b)))),
        // By zero the ISA leaves the result open; the hardware gives all ones and the dividend.
        "div" => {
            binary(per_integer!(ty, T => map2(|a: T, b: T| if b == 0 { !0 } else { a.wrapping_div(b) })))
        }
        "rem" => binary(per_integer!(ty, T => map2(|a: T, b: T| if b == 0 { a } else { a.wrapping_rem(b) }))),
        "neg" => unary(ty, per_integer!(ty, T => map1(|a: T| (0 as T).wrapping_sub(a)))),
        "abs" => unary(
            ty,
            per_type!(ty, [Ty::S16 => i16, Ty::S32 => i32, Ty::S64 => i64], T => map1(T::wrapping_abs)),
        ),
        "popc" => unary(Ty::U32, per_type!(ty, [Ty::B32 => u32, Ty::B64 => u64], T => map1(T::count_ones))),
        "clz" => unary(Ty::U32, per_type!(ty, [Ty::B32 => u32, Ty::B64 => u64], T => map1(T::leading_zeros))),
        "bfind" => {
            let amount = op.take("shiftamt");
            unary(
                Ty::U32,
                per_type!(ty, [Ty::U32 => u32, Ty::S32 => i32, Ty::U64 => u64, Ty::S64 => i64], T => {
                    map1(move |a: T| {
                        // Of a negative number, the first bit that differs from the sign.
                        let magnitude = if i128::from(a) < 0 { !a } else { a };
                        match magnitude.leading_zeros() {
                            T::BITS => u32::MAX,
                            zeros if amount => zeros,
                            zeros => T::BITS - 1 - zeros,
                        }
                    })
                }),
            )
        }
        "sad" => {
            let run = per_integer!(ty, T => map3(|a: T, b: T, c: T| c.wrapping_add(a.max(b).wrapping_sub(a.min(b)))));
            Some(Spec::new(ty, &[ty, ty, ty], Rule::Poison, run?))
        }
        "mul" | "mad" => multiply(op, ty),
        "mul24" | "mad24" => multiply24(op, ty),
        _ => None,
    }
}

/// The type of twice the width.
fn doubled(ty: Ty) -> Option<Ty> {
    Some(match ty {
        Ty::U16 => Ty::U32,
        Ty::S16 => Ty::S32,
        Ty::U32 => Ty::U64,
        Ty::S32 => Ty::S64,
        _ => return None,
    })
}

/// `mul` and `mad`, which is `mul` with an addend.
fn multiply(op: &mut Opcode, ty: Ty) -> Option<Spec> {
    let add = op.name == "mad";
    if op.take("wide") {
        let wide = doubled(ty)?;
        let run = match ty {
            Ty::U16 => product(add, |a: u16, b: u16| u32::from(a) * u32::from(b), u32::wrapping_add),
            Ty::S16 => product(add, |a: i16, b: i16| i32::from(a) * i32::from(b), i32::wrapping_add),
            Ty::U32 => product(add, |a: u32, b: u32| u64::from(a) * u64::from(b), u64::wrapping_add),
            _ => product(add, |a: i32, b: i32| i64::from(a) * i64::from(b), i64::wrapping_add),
        };
        return Some(accumulating(add, wide, ty, wide, run));
    }
    let run = if op.take("hi") {
        per_integer!(ty, T => {
            product(add, |a: T, b: T| ((i128::from(a) as u128).wrapping_mul(i128::from(b) as u128) >> T::BITS) as T, T::wrapping_add)
        })
    } else {
        op.take("lo");
        per_integer!(ty, T => product(add, T::wrapping_mul, T::wrapping_add))
    }?;
    Some(accumulating(add, ty, ty, ty, run))
}

/// The product of the low 24 bits: bits 0 to 31 of it, or bits 16 to 47.
fn multiply24(op: &mut Opcode, ty: Ty) -> Option<Spec> {
    let add = op.name == "mad24";
    let shift = if op.take("hi") { 16 } else { 0 };
    op.take("lo");
    let run = match ty {
        Ty::U32 => product(
            add,
            move |a: u32, b: u32| ((u64::from(a << 8 >> 8) * u64::from(b << 8 >> 8)) >> shift) as u32,
            u32::wrapping_add,
        ),
        Ty::S32 => product(
            add,
            move |a: i32, b: i32| ((i64::from(a << 8 >> 8) * i64::from(b << 8 >> 8)) >> shift) as i32,
            i32::wrapping_add,
        ),
        _ => return None,
    };
    Some(accumulating(add, ty, ty, ty, run))
}

fn product<T: Lane + 'static, R: Lane + 'static>(
    add: bool,
    multiply: impl Fn(T, T) -> R + Send + Sync + 'static,
    sum: impl Fn(R, R) -> R + Send + Sync + 'static,
) -> LaneFn {
    if add { map3(move |a: T, b: T, c: R| sum(multiply(a, b), c)) } else { map2(multiply) }
}

fn accumulating(add: bool, dst: Ty, factor: Ty, addend: Ty, run: LaneFn) -> Spec {
    let src = if add { vec![factor, factor, addend] } else { vec![factor, factor] };
    Spec::new(dst, &src, Rule::Poison, run)
}

/// `add`, `sub` with `.cc`, `addc`, `subc`: a carry flag in, out or both. Of a subtraction it is the borrow.
fn carry(op: &mut Opcode, ty: Ty) -> Option<Spec> {
    let carry_in = matches!(op.name, "addc" | "subc");
    let subtract = op.name.starts_with("sub");
    if !(carry_in || matches!(op.name, "add" | "sub")) {
        return None;
    }
    let carry_out = op.take("cc");
    if !(carry_in || carry_out) {
        return None;
    }
    let run: LaneFn = per_type!(ty, [Ty::U32 | Ty::S32 | Ty::B32 => u32, Ty::U64 | Ty::S64 | Ty::B64 => u64], T => {
        Box::new(move |rows: &mut [crate::lanes::Row], slots: &crate::lanes::Slots, mask| {
            let (a, b): ([T; 32], [T; 32]) = (read(rows, slots.src[0]), read(rows, slots.src[1]));
            let flag: [bool; 32] = if carry_in { read(rows, slots.src[2]) } else { [false; 32] };
            let results: [(T, bool); 32] = std::array::from_fn(|lane| {
                let step = if subtract { T::overflowing_sub } else { T::overflowing_add };
                let (first, over_first) = step(a[lane], b[lane]);
                let (second, over_second) = step(first, T::from(flag[lane]));
                (second, over_first | over_second)
            });
            write(rows, slots.dst[0], results.map(|r| r.0), mask);
            if carry_out {
                write(rows, slots.dst[1], results.map(|r| r.1), mask);
            }
        }) as LaneFn
    })?;
    Some(Spec { carry_in, carry_out, ..Spec::new(ty, &[ty, ty], Rule::Poison, run) })
}

/// The modifiers that change operands and results of a floating-point instruction.
#[derive(Clone, Copy)]
struct Mode {
    flush: bool,
    saturate: bool,
    relu: bool,
    round: Round,
}

impl Mode {
    fn take(op: &mut Opcode) -> Self {
        Mode {
            flush: op.take("ftz"),
            saturate: op.take("sat"),
            relu: op.take("relu"),
            round: op.take_map(Round::parse).unwrap_or(Round::NearestEven),
        }
    }

    #[inline(always)]
    fn operand<T: Float>(self, x: T) -> T {
        if self.flush { x.flush() } else { x }
    }

    #[inline(always)]
    fn result<T: Float>(self, x: T) -> T {
        let x = if x.is_nan() { T::NAN } else { self.operand(x) };
        let x = if self.relu { extreme(x, T::rounded(0.0, Round::Zero), true, true) } else { x };
        if self.saturate { saturate(x) } else { x }
    }
}

/// `f` on single values, or on both halves of packed ones.
fn float1<T: Float + 'static>(packed: bool, f: impl Fn(T) -> T + Copy + Send + Sync + 'static) -> LaneFn {
    if packed { map1(move |a: Packed<T>| Packed(f(a.0), f(a.1))) } else { map1(f) }
}

/// As [`float1`], of two operands.
fn float2<T: Float + 'static>(packed: bool, f: impl Fn(T, T) -> T + Copy + Send + Sync + 'static) -> LaneFn {
    if packed { map2(move |a: Packed<T>, b: Packed<T>| Packed(f(a.0, b.0), f(a.1, b.1))) } else { map2(f) }
}

fn float(op: &mut Opcode, ty: Ty) -> Option<Spec> {
    let known = ["add", "sub", "mul", "fma", "mad", "div", "sqrt", "rcp", "min", "max", "neg", "abs"];
    if !known.contains(&op.name) {
        return match op.name {
            "copysign" => {
                let run =
                    per_type!(ty, [Ty::F32 => f32, Ty::F64 => f64], T => map2(|a: T, b: T| b.copysign(a)))?;
                Some(Spec::new(ty, &[ty, ty], Rule::Poison, run))
            }
            _ => None,
        };
    }
    let mode = Mode::take(op);
    if ty == Ty::F64 && mode.round != Round::NearestEven {
        return None;
    }
    let packed = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
    let propagate = op.take("NaN");
    let name = op.name;
    let unary = |run: Option<LaneFn>| Some(Spec::new(ty, &[ty], Rule::Poison, run?));
    let binary = |run: Option<LaneFn>| Some(Spec::new(ty, &[ty, ty], Rule::Poison, run?));
    /// The instruction on operands and results that the modifiers have gone over.
    macro_rules! moded {
        ($lift:ident, $name:ident($($arg:ident),+) $body:expr) => {
            per_float!(ty, T => $lift(packed, move |$($arg: T),+| {
                $(let $arg = mode.operand($arg);)+
                mode.result::<T>($body)
            }))
        };
    }
    match name {
        "add" => binary(moded!(float2, add(a, b) T::sum(a, b, mode.round))),
        "sub" => binary(moded!(float2, sub(a, b) T::sum(a, negate(b), mode.round))),
        "mul" => binary(moded!(float2, mul(a, b) T::product(a, b, mode.round))),
        "div" => binary(moded!(float2, div(a, b) T::quotient(a, b, mode.round))),
        "min" => binary(moded!(float2, min(a, b) extreme(a, b, false, propagate))),
        "max" => binary(moded!(float2, max(a, b) extreme(a, b, true, propagate))),
        "sqrt" => unary(moded!(float1, sqrt(a) T::root(a, mode.round))),
        "rcp" => unary(moded!(float1, rcp(a) T::quotient(T::rounded(1.0, Round::Zero), a, mode.round))),
        "abs" => unary(moded!(float1, abs(a) if a.has_sign() { negate(a) } else { a })),
        "neg" => unary(moded!(float1, neg(a) negate(a))),
        _ => {
            let fused = per_float!(ty, T => {
                let one = move |a: T, b: T, c: T| {
                    mode.result(T::fused(mode.operand(a), mode.operand(b), mode.operand(c), mode.round))
                };
                if packed {
                    map3(move |a: Packed<T>, b: Packed<T>, c: Packed<T>| {
                        Packed(one(a.0, b.0, c.0), one(a.1, b.1, c.1))
                    })
                } else {
                    map3(one)
                }
            })?;
            Some(Spec::new(ty, &[ty, ty, ty], Rule::Poison, fused))
        }
    }
}

#[inline(always)]
fn negate<T: Float>(x: T) -> T {
    let (low, high) = x.into_words();
    match (T::WIDE, std::mem::size_of::<T>()) {
        (true, _) => T::from_words(low, high ^ 1 << 31),
        (_, 2) => T::from_words(low ^ 1 << 15, 0),
        _ => T::from_words(low ^ 1 << 31, 0),
    }
}

/// The instructions with a documented error: `.approx`, and `div.full`.
fn approximate(op: &mut Opcode, ty: Ty) -> Option<Spec> {
    if op.name == "div" && (op.take("approx") || op.take("full")) {
        let mode = Mode::take(op);
        let run = map3(move |a: f32, b: f32, seed: u32| {
            mode.result(divide(mode.operand(a), mode.operand(b), seed))
        });
        return Some(Spec { seeded: true, ..Spec::new(ty, &[ty, ty], Rule::Poison, run) });
    }
    let which = Approx::parse(op.name)?;
    if !op.take("approx") {
        return None;
    }
    let mode = Mode::take(op);
    let packed = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
    if ty == Ty::F32 {
        let run = map2(move |a: f32, seed: u32| mode.result(which.single(mode.operand(a), seed)));
        return Some(Spec { seeded: true, ..Spec::new(ty, &[ty], Rule::Poison, run) });
    }
    let run = per_float!(ty, T => float1(packed, move |a: T| {
        mode.result(T::rounded(which.exact(mode.operand(a).widen()), Round::NearestEven))
    }))?;
    Some(Spec::new(ty, &[ty], Rule::Poison, run))
}
