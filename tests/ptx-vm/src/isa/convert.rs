//! `cvt` in all directions, and the conversions of addresses.

use super::{Opcode, Rule, Spec, per_float, per_type};
use crate::float::{Bf16, F16, Float, Packed, Round, extreme, saturate};
use crate::lanes::{LaneFn, map1, map2};
use crate::parse::Arg;
use crate::types::{LOCAL_WINDOW, RANK_SHIFT, SHARED_WINDOW, Ty};

/// [`per_type`] for the integers, bytes among them.
macro_rules! per_any_integer {
    ($ty:expr, $name:ident => $body:expr) => {
        per_type!($ty, [
            Ty::U8 | Ty::B8 => u8, Ty::S8 => i8, Ty::U16 | Ty::B16 => u16, Ty::S16 => i16,
            Ty::U32 | Ty::B32 => u32, Ty::S32 => i32, Ty::U64 | Ty::B64 => u64, Ty::S64 => i64,
        ], $name => $body)
    };
}

/// The entry of a converting instruction.
pub(super) fn spec(op: &mut Opcode, _: &[Arg]) -> Option<Spec> {
    match op.name {
        "cvt" => cvt(op),
        "cvta" => cvta(op),
        "isspacep" => isspacep(op),
        "mapa" => mapa(op),
        _ => None,
    }
}

fn cvt(op: &mut Opcode) -> Option<Spec> {
    let &[dst, src] = &op.types[..] else { return None };
    let flush = op.take("ftz");
    let sat = op.take("sat");
    let relu = op.take("relu");
    let integral = op.take_map(Round::parse_integral);
    let round = op.take_map(Round::parse).unwrap_or(Round::NearestEven);
    let finish = Finish { flush, sat, relu };
    let one = |rule, run: Option<LaneFn>| Some(Spec::new(dst, &[src], rule, run?));
    match (dst, src) {
        (Ty::F16x2, Ty::F32) => Some(pack::<F16>(dst, round, finish)),
        (Ty::Bf16x2, Ty::F32) => Some(pack::<Bf16>(dst, round, finish)),
        _ if dst.is_float() && src.is_float() => one(
            Rule::Poison,
            per_float!(dst, D => per_float!(src, S => map1(move |a: S| {
                let a = finish.operand(a).widen();
                finish.result(D::rounded(integral.map_or(a, |r| r.integral(a)), round))
            })))
            .flatten(),
        ),
        _ if dst.is_float() => one(
            Rule::Poison,
            per_float!(dst, D => per_any_integer!(src, S => map1(move |a: S| {
                finish.result(match S::BITS {
                    64 => D::from_integer((a as i128) < 0, (a as i128).unsigned_abs() as u64, round),
                    _ => D::rounded(a as f64, round),
                })
            })))
            .flatten(),
        ),
        _ if src.is_float() => {
            let integral = integral?;
            one(
                Rule::Poison,
                per_any_integer!(dst, D => per_float!(src, S => map1(move |a: S| {
                    integral.integral(finish.operand(a).widen()) as D
                })))
                .flatten(),
            )
        }
        _ if sat => one(
            Rule::Poison,
            per_any_integer!(dst, D => per_any_integer!(src, S => map1(|a: S| {
                (a as i128).clamp(D::MIN as i128, D::MAX as i128) as D
            })))
            .flatten(),
        ),
        _ => one(
            Rule::Moves(1),
            per_any_integer!(dst, D => per_any_integer!(src, S => map1(|a: S| a as D))).flatten(),
        ),
    }
}

/// What `.ftz`, `.relu` and `.sat` do to a floating-point operand and result.
#[derive(Clone, Copy)]
struct Finish {
    flush: bool,
    sat: bool,
    relu: bool,
}

impl Finish {
    /// `.ftz` concerns single precision alone.
    fn operand<T: Float>(self, x: T) -> T {
        if self.flush && std::mem::size_of::<T>() == 4 { x.flush() } else { x }
    }

    fn result<T: Float>(self, x: T) -> T {
        let x = self.operand(x);
        let x = if self.relu { extreme(x, T::rounded(0.0, Round::Zero), true, true) } else { x };
        if self.sat { saturate(x) } else { x }
    }
}

/// Two singles to a packed pair, the first operand to the upper half.
fn pack<T: Float + 'static>(dst: Ty, round: Round, finish: Finish) -> Spec {
    let half = move |x: f32| finish.result(T::rounded(f64::from(x), round));
    let run = map2(move |high: f32, low: f32| Packed(half(low), half(high)));
    Spec::new(dst, &[Ty::F32, Ty::F32], Rule::Poison, run)
}

fn take_window(op: &mut Opcode) -> Option<u64> {
    op.take_map(|name| match name {
        "global" | "const" | "param" | "param::entry" => Some(0),
        "shared" | "shared::cta" | "shared::cluster" => Some(SHARED_WINDOW),
        "local" => Some(LOCAL_WINDOW),
        _ => None,
    })
}

/// Between the addresses of a state space and generic ones.
fn cvta(op: &mut Opcode) -> Option<Spec> {
    let ty = op.ty()?;
    let to = op.take("to");
    let window = take_window(op)?;
    let run = match (ty, to) {
        (Ty::U64, false) => map1(move |a: u64| a.wrapping_add(window)),
        (Ty::U64, true) => map1(move |a: u64| a.wrapping_sub(window)),
        _ => return None,
    };
    Some(Spec::new(ty, &[ty], Rule::Poison, run))
}

/// The same address in the shared memory of another block of the cluster.
fn mapa(op: &mut Opcode) -> Option<Spec> {
    op.take("shared::cluster");
    let ty = op.ty()?;
    let own = (1u64 << RANK_SHIFT) - 1;
    let at =
        move |a: u64, rank: u32| a & (SHARED_WINDOW | own) | u64::from(rank.wrapping_add(1)) << RANK_SHIFT;
    let run = match ty {
        Ty::U32 => map2(move |a: u32, rank: u32| at(a.into(), rank) as u32),
        Ty::U64 => map2(at),
        _ => return None,
    };
    Some(Spec::new(ty, &[ty, Ty::U32], Rule::Poison, run))
}

fn isspacep(op: &mut Opcode) -> Option<Spec> {
    let window = take_window(op)?;
    let run = map1(move |a: u64| match window {
        SHARED_WINDOW => a >= SHARED_WINDOW,
        LOCAL_WINDOW => (LOCAL_WINDOW..SHARED_WINDOW).contains(&a),
        _ => a < LOCAL_WINDOW,
    });
    Some(Spec::new(Ty::Pred, &[Ty::U64], Rule::Poison, run))
}
