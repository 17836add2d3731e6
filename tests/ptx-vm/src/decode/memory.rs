//! Decodes loads, stores, atomics and asynchronous copies.

use super::{Decoder, Result};
use crate::isa::Opcode;
use crate::isa::memory::{modify, qualifiers, vector_width};
use crate::parse::Arg;
use crate::program::{Atomic, CopyAsync, Op, Transfer};
use crate::types::{Space, Ty};

impl Decoder<'_> {
    /// Loads, stores, atomics and asynchronous copies.
    pub(super) fn memory(&mut self, op: &mut Opcode, args: &[Arg]) -> Result<bool> {
        let name = op.name;
        match name {
            "ld" | "ldu" | "st" => {
                let transfer = self.transfer(op, args)?;
                self.emit(if op.name == "st" { Op::Store(transfer) } else { Op::Load(transfer) });
            }
            "atom" | "red" => {
                let atomic = self.atomic(op, args)?;
                self.emit(Op::Atomic(atomic));
            }
            "cp" if op.take("async") => self.copy_async(op, args)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn transfer(&mut self, op: &mut Opcode, args: &[Arg]) -> Result<Transfer> {
        let (space, order) = qualifiers(op);
        let width = op.take_map(vector_width).unwrap_or(1);
        let Some(ty) = op.ty() else { return self.error("a memory instruction without a type") };
        // A cache policy, where there is one, comes last and changes nothing here.
        let Some(args) = args.get(..2) else { return self.error("expected two operands") };
        let is_store = op.name == "st";
        let (address, data) = if is_store { (&args[0], &args[1]) } else { (&args[1], &args[0]) };
        let data = match data {
            Arg::Vector(items) => &items[..],
            single => std::slice::from_ref(single),
        };
        if data.len() != width {
            return self.error(format!("{} registers for a vector of {width}", data.len()));
        }
        let mut regs = Vec::new();
        for item in data {
            regs.push(if is_store { self.source(item, ty)? } else { self.destination(item, ty)? });
        }
        let at = self.address(address, space)?;
        Ok(Transfer { at, ty, regs, order })
    }

    fn atomic(&mut self, op: &mut Opcode, args: &[Arg]) -> Result<Atomic> {
        let (space, mut order) = qualifiers(op);
        order.strong = true;
        op.take("noftz");
        let Some(ty) = op.ty() else { return self.error("an atomic without a type") };
        let Some((operands, modify)) = op.take_map(|name| modify(name, ty)) else {
            return self.error("an atomic operation that is not known for its type");
        };
        let (dst, args) = match (op.name, args) {
            ("atom", [dst, rest @ ..]) => (Some(self.destination(dst, ty)?), rest),
            _ => (None, args),
        };
        let Some(args) = args.get(..=operands) else { return self.error("too few operands") };
        let at = self.address(&args[0], space)?;
        let mut src = Vec::new();
        for arg in &args[1..] {
            src.push(self.source(arg, ty)?);
        }
        Ok(Atomic { at, ty, modify, dst, src, order })
    }

    fn copy_async(&mut self, op: &mut Opcode, args: &[Arg]) -> Result<()> {
        if op.take("commit_group") {
            self.emit(Op::CopyCommit);
            return Ok(());
        }
        if op.take("wait_all") {
            self.emit(Op::CopyWait(0));
            return Ok(());
        }
        if op.take("wait_group") {
            let [Arg::Int(pending)] = self.args(args)? else { return self.error("expected a number") };
            self.emit(Op::CopyWait(pending as usize));
            return Ok(());
        }
        if op.take_map(|m| matches!(m, "bulk" | "mbarrier").then_some(())).is_some() {
            return self.error("bulk copies and mbarriers are not modelled");
        }
        qualifiers(op);
        qualifiers(op);
        let Some([to, from, Arg::Int(bytes)]) = args.get(..3) else {
            return self.error("expected two addresses and a size");
        };
        let source_bytes = match args.get(3) {
            Some(arg) => Some(self.source(arg, Ty::U32)?),
            None => None,
        };
        let to = self.address(to, Some(Space::Shared))?;
        let from = self.address(from, Some(Space::Global))?;
        self.emit(Op::CopyAsync(CopyAsync { to, from, bytes: *bytes as usize, source_bytes }));
        Ok(())
    }
}
