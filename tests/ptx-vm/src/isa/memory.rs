//! What the suffixes of memory instructions mean, and what atomics compute.

use super::{Opcode, per_type};
use crate::program::{Modify, Order, Scope};
use crate::types::{Space, Ty};

/// Takes the state space, the order and the cache hints. The space is `None` for `.param`, which depends on
/// whose parameter it is.
pub(crate) fn qualifiers(op: &mut Opcode) -> (Option<Space>, Order) {
    let mut order =
        Order { strong: false, acquire: false, release: false, scope: Scope::Device, incoherent: false };
    let mut space = Some(Space::Generic);
    while let Some(name) = op.take_map(|m| is_qualifier(m).then_some(m)) {
        match name {
            "global" | "const" => space = Some(Space::Global),
            "shared" | "shared::cta" | "shared::cluster" => space = Some(Space::Shared),
            "local" => space = Some(Space::Local),
            "param" | "param::entry" | "param::func" => space = None,
            "relaxed" | "mmio" => order.strong = true,
            "acquire" => (order.strong, order.acquire) = (true, true),
            "release" => (order.strong, order.release) = (true, true),
            "acq_rel" => (order.strong, order.acquire, order.release) = (true, true, true),
            "nc" => order.incoherent = true,
            _ => {}
        }
        order.scope = level(name).unwrap_or(order.scope);
    }
    (space, order)
}

fn is_qualifier(name: &str) -> bool {
    const KNOWN: &[&str] = &[
        "global",
        "const",
        "shared",
        "shared::cta",
        "shared::cluster",
        "local",
        "param",
        "param::entry",
        "param::func",
        "volatile",
        "relaxed",
        "mmio",
        "acquire",
        "release",
        "acq_rel",
        "weak",
        "nc",
        "ca",
        "cg",
        "cs",
        "lu",
        "cv",
        "wb",
        "wt",
        "unified",
    ];
    KNOWN.contains(&name) || level(name).is_some() || name.starts_with("L1::") || name.starts_with("L2::")
}

/// The scope of a suffix.
pub(crate) fn level(name: &str) -> Option<Scope> {
    Some(match name {
        "cta" => Scope::Block,
        "cluster" => Scope::Cluster,
        "gpu" | "gl" | "sys" => Scope::Device,
        _ => return None,
    })
}

/// The elements of a vector suffix.
pub(crate) fn vector_width(name: &str) -> Option<usize> {
    match name {
        "v2" => Some(2),
        "v4" => Some(4),
        "v8" => Some(8),
        _ => None,
    }
}

/// The operands of an atomic and what it makes of the old value and them.
pub(crate) fn modify(name: &str, ty: Ty) -> Option<(usize, Modify)> {
    /// On integers of the type's width and sign.
    macro_rules! integer {
        (|$old:ident, $b:ident| $body:expr) => {
            per_type!(ty, [
                Ty::U32 | Ty::B32 => u32, Ty::S32 => i32, Ty::U64 | Ty::B64 => u64, Ty::S64 => i64,
            ], T => {
                Box::new(|old: u64, b: u64, _| {
                    let ($old, $b) = (old as T, b as T);
                    ($body) as u64
                }) as Modify
            })
        };
    }
    let modify: Modify = match (name, ty) {
        ("add", Ty::F32) => {
            Box::new(|old, b, _| u64::from((f32::from_bits(old as u32) + f32::from_bits(b as u32)).to_bits()))
        }
        ("add", Ty::F64) => Box::new(|old, b, _| (f64::from_bits(old) + f64::from_bits(b)).to_bits()),
        ("add", _) => integer!(|old, b| old.wrapping_add(b))?,
        ("min", _) => integer!(|old, b| old.min(b))?,
        ("max", _) => integer!(|old, b| old.max(b))?,
        ("and", _) => integer!(|old, b| old & b)?,
        ("or", _) => integer!(|old, b| old | b)?,
        ("xor", _) => integer!(|old, b| old ^ b)?,
        ("inc", Ty::U32) => integer!(|old, b| if old >= b { 0 } else { old + 1 })?,
        ("dec", Ty::U32) => integer!(|old, b| if old == 0 || old > b { b } else { old - 1 })?,
        ("exch", _) => Box::new(|_, b, _| b),
        ("cas", _) => return Some((2, Box::new(|old, b, c| if old == b { c } else { old }))),
        _ => return None,
    };
    Some((1, modify))
}

/// The operation of a `redux`.
pub(crate) fn reduce(name: &str, signed: bool) -> Option<fn(u32, u32) -> u32> {
    Some(match (name, signed) {
        ("add", _) => u32::wrapping_add,
        ("and", _) => |a, b| a & b,
        ("or", _) => |a, b| a | b,
        ("xor", _) => |a, b| a ^ b,
        ("min", false) => |a, b| a.min(b),
        ("max", false) => |a, b| a.max(b),
        ("min", true) => |a, b| (a as i32).min(b as i32) as u32,
        ("max", true) => |a, b| (a as i32).max(b as i32) as u32,
        _ => return None,
    })
}
