//! Decodes the instructions that compute lane by lane.

use super::{Decoder, Result, SINK};
use crate::isa::{Opcode, Rule, spec};
use crate::lanes::{LaneFn, lanes, map1, read_bits, write_bits};
use crate::parse::Arg;
use crate::program::{Constant, Op};
use crate::types::Ty;

impl Decoder<'_> {
    /// Everything that computes lane by lane.
    pub(super) fn alu(&mut self, op: &mut Opcode, args: &[Arg]) -> Result<bool> {
        if op.name == "mov" {
            match args {
                [Arg::Vector(parts), whole] => return self.unpack(op, parts, whole),
                [whole, Arg::Vector(parts)] => return self.pack(op, whole, parts),
                [dst, Arg::Name(clock)]
                    if matches!(&clock[..], "%clock" | "%clock64" | "%clock_hi" | "%globaltimer") =>
                {
                    let dst = self.destination(dst, Ty::B32)?;
                    self.emit(Op::Clock(dst));
                    return Ok(true);
                }
                _ => {}
            }
        }
        let Some(spec) = spec(op, args) else { return Ok(false) };
        // The truth table of `lop3` is part of its spec.
        let args = if op.name == "lop3" { &args[..args.len() - 1] } else { args };
        let flat: Vec<&Arg> = args
            .iter()
            .flat_map(|arg| match arg {
                Arg::Pair(first, second) => vec![&**first, &**second],
                single => vec![single],
            })
            .collect();
        if flat.len() != spec.dst.len() + spec.src.len() {
            return self.error(format!(
                "{} operands instead of {}",
                flat.len(),
                spec.dst.len() + spec.src.len()
            ));
        }
        let (to, from) = flat.split_at(spec.dst.len());
        let mut src = Vec::new();
        for (arg, ty) in from.iter().zip(&spec.src) {
            src.push(self.source(arg, *ty)?);
        }
        let mut dst = Vec::new();
        for (arg, ty) in to.iter().zip(&spec.dst) {
            dst.push(self.destination(arg, *ty)?);
        }
        if spec.seeded {
            src.push(self.constant(Constant::Seed, false));
        }
        if spec.carry_in || spec.carry_out {
            let carry = match self.carry {
                Some(reg) => reg,
                None => self.register(false),
            };
            self.carry = Some(carry);
            src.extend(spec.carry_in.then_some(carry));
            dst.extend(spec.carry_out.then_some(carry));
        }
        // A result narrower than its register is extended to it.
        let (result, ty) = (dst[0], spec.dst[0]);
        let extend = result.wide && result != SINK && ty.bytes() < 8;
        if extend {
            dst[0] = self.register(false);
        }
        let narrow = dst[0];
        self.emit_alu(spec.run, dst, src, spec.rule);
        if extend {
            let run = if ty.is_signed() { map1(|a: i32| i64::from(a)) } else { map1(|a: u32| u64::from(a)) };
            self.emit_alu(run, vec![result], vec![narrow], Rule::Moves(1));
        }
        Ok(true)
    }

    /// The type of each part where a register of type `whole` is cut into `parts`.
    fn part(&self, op: &Opcode, parts: usize) -> Result<Ty> {
        let bytes = op.ty().map_or(0, Ty::bytes);
        match (bytes, parts) {
            (8, 2) => Ok(Ty::B32),
            (8, 4) | (4, 2) => Ok(Ty::B16),
            (4, 4) | (2, 2) => Ok(Ty::B8),
            _ => self.error("a vector that does not fill its register"),
        }
    }

    /// `mov.b64 {a, b}, c`
    fn unpack(&mut self, op: &Opcode, parts: &[Arg], whole: &Arg) -> Result<bool> {
        let part = self.part(op, parts.len())?;
        let mut dst = Vec::new();
        for arg in parts {
            dst.push(self.destination(arg, part)?);
        }
        let src = self.source(whole, op.ty().unwrap_or(Ty::B64))?;
        let (count, bits, wide) = (parts.len(), part.bytes() * 8, src.wide);
        let run: LaneFn = Box::new(move |rows, slots, mask| {
            for lane in lanes(mask) {
                let whole = read_bits(rows, slots.src[0], wide, lane);
                for (index, slot) in slots.dst.iter().take(count).enumerate() {
                    write_bits(rows, *slot, false, lane, whole >> (index * bits) & ((1 << bits) - 1));
                }
            }
        });
        self.emit_alu(run, dst, vec![src], Rule::Moves(1));
        Ok(true)
    }

    /// `mov.b64 a, {b, c}`
    fn pack(&mut self, op: &Opcode, whole: &Arg, parts: &[Arg]) -> Result<bool> {
        let part = self.part(op, parts.len())?;
        let Some(ty) = op.ty() else { return self.error("a move without a type") };
        let mut src = Vec::new();
        for arg in parts {
            src.push(self.source(arg, part)?);
        }
        let dst = self.destination(whole, ty)?;
        let (count, bits, wide) = (parts.len(), part.bytes() * 8, dst.wide);
        let run: LaneFn = Box::new(move |rows, slots, mask| {
            for lane in lanes(mask) {
                let whole = slots.src.iter().take(count).enumerate().fold(0, |whole, (index, slot)| {
                    let part = read_bits(rows, *slot, false, lane) & ((1 << bits) - 1);
                    whole | part << (index * bits)
                });
                write_bits(rows, slots.dst[0], wide, lane, whole);
            }
        });
        self.emit_alu(run, vec![dst], src, Rule::Moves(0b1111));
        Ok(true)
    }
}
