//! Decodes barriers, fences and the collectives of a warp.

use super::{Decoder, Result};
use crate::isa::memory::{level, reduce};
use crate::isa::{Opcode, Rule};
use crate::lanes::map1;
use crate::parse::Arg;
use crate::program::{Barrier, Collective, Constant, Op, Reduction, Shuffle, Vote};
use crate::types::Ty;

impl Decoder<'_> {
    /// Barriers, fences, warp collectives, and the hints that need nothing.
    pub(super) fn synchronisation(&mut self, op: &mut Opcode, args: &[Arg]) -> Result<bool> {
        match op.name {
            "bar" | "barrier" => self.barrier(op, args)?,
            "membar" | "fence" => {
                if op.take_map(|m| m.starts_with("proxy").then_some(())).is_some() {
                    // Other proxies are not modelled; what follows only says which.
                    while op.take_map(|_| Some(())).is_some() {}
                    self.emit(Op::Nop);
                    return Ok(true);
                }
                op.take("sc");
                op.take("acq_rel");
                let Some(scope) = op.take_map(level) else { return self.error("a fence without a scope") };
                self.emit(Op::Fence(scope));
            }
            "shfl" | "vote" | "match" | "redux" | "elect" => self.collective(op, args)?,
            "activemask" => {
                let [dst] = self.args(args)?;
                let dst = self.destination(&dst, Ty::B32)?;
                self.emit(Op::ActiveMask(dst));
            }
            "nanosleep" | "prefetch" | "prefetchu" | "griddepcontrol" | "discard" | "applypriority"
            | "pmevent" => {
                while op.take_map(|_| Some(())).is_some() {}
                self.emit(Op::Nop);
            }
            "createpolicy" => {
                while op.take_map(|_| Some(())).is_some() {}
                let Some(dst) = args.first() else { return self.error("expected a destination") };
                let dst = self.destination(dst, Ty::B64)?;
                let zero = self.constant(Constant::Bits(0), true);
                self.emit_alu(map1(|a: u64| a), vec![dst], vec![zero], Rule::Moves(1));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn barrier(&mut self, op: &mut Opcode, args: &[Arg]) -> Result<()> {
        let aligned = op.take("aligned") || op.name == "bar";
        if op.take("warp") {
            op.take("sync");
            let [members] = self.args(args)?;
            let members = self.source(&members, Ty::B32)?;
            self.emit(Op::Collective { members, kind: Collective::Sync });
            return Ok(());
        }
        if op.take("cluster") {
            let arrive = op.take("arrive");
            for modifier in ["wait", "release", "acquire", "relaxed"] {
                op.take(modifier);
            }
            self.emit(if arrive { Op::ClusterArrive } else { Op::ClusterWait });
            return Ok(());
        }
        op.take("cta");
        let reduction = if op.take("red") {
            let known = |name: &str| match name {
                "and" => Some(Reduction::And),
                "or" => Some(Reduction::Or),
                "popc" => Some(Reduction::Count),
                _ => None,
            };
            let Some(reduction) = op.take_map(known) else { return self.error("an unknown reduction") };
            Some(reduction)
        } else {
            None
        };
        let waits = !op.take("arrive");
        op.take("sync");
        let (reduce, args) = match (reduction, args) {
            (None, args) => (None, args),
            (Some(reduction), [dst, middle @ .., predicate]) => {
                let dst = self.destination(dst, Ty::B32)?;
                let predicate = self.source(predicate, Ty::Pred)?;
                (Some((reduction, dst, predicate)), middle)
            }
            _ => return self.error("too few operands"),
        };
        let (id, count) = match args {
            [id] => (self.source(id, Ty::U32)?, None),
            [id, count] => (self.source(id, Ty::U32)?, Some(self.source(count, Ty::U32)?)),
            _ => return self.error("expected a barrier and perhaps a count"),
        };
        self.emit(Op::Barrier(Barrier { id, count, waits, aligned, reduce }));
        Ok(())
    }

    fn collective(&mut self, op: &mut Opcode, args: &[Arg]) -> Result<()> {
        if !op.take("sync") {
            return self.error("a warp instruction without `.sync`");
        }
        let Some((members, args)) = args.split_last() else { return self.error("too few operands") };
        let members = self.source(members, Ty::B32)?;
        let Some((dst, args)) = args.split_first() else { return self.error("too few operands") };
        let (dst, second) = match dst {
            Arg::Pair(first, second) => (&**first, Some(self.destination(second, Ty::Pred)?)),
            single => (single, None),
        };
        let kind = match op.name {
            "shfl" => {
                let mode = op.take_map(|name| match name {
                    "up" => Some(Shuffle::Up),
                    "down" => Some(Shuffle::Down),
                    "bfly" => Some(Shuffle::Butterfly),
                    "idx" => Some(Shuffle::Index),
                    _ => None,
                });
                let (Some(mode), [value, lane, clamp]) = (mode, args) else {
                    return self.error("an unknown shuffle");
                };
                Collective::Shuffle {
                    mode,
                    dst: self.destination(dst, Ty::B32)?,
                    valid: second,
                    value: self.source(value, Ty::B32)?,
                    lane: self.source(lane, Ty::B32)?,
                    clamp: self.source(clamp, Ty::B32)?,
                }
            }
            "vote" => {
                let mode = op.take_map(|name| match name {
                    "all" => Some(Vote::All),
                    "any" => Some(Vote::Any),
                    "uni" => Some(Vote::Uniform),
                    "ballot" => Some(Vote::Ballot),
                    _ => None,
                });
                let (Some(mode), [predicate]) = (mode, args) else { return self.error("an unknown vote") };
                let predicate = self.source(predicate, Ty::Pred)?;
                Collective::Vote { mode, dst: self.destination(dst, Ty::Pred)?, predicate }
            }
            "match" => {
                let any = op.take("any");
                op.take("all");
                let ([value], Some(ty)) = (args, op.ty()) else { return self.error("an unknown match") };
                Collective::Match {
                    all: second,
                    any,
                    dst: self.destination(dst, Ty::B32)?,
                    value: self.source(value, ty)?,
                }
            }
            "redux" => {
                let signed = op.ty() == Some(Ty::S32);
                let combine = op.take_map(|name| reduce(name, signed));
                let (Some(combine), [value]) = (combine, args) else { return self.error("an unknown redux") };
                let value = self.source(value, Ty::B32)?;
                Collective::Reduce { combine, dst: self.destination(dst, Ty::B32)?, value }
            }
            _ => {
                let Some(elected) = second else { return self.error("elect without its predicate") };
                Collective::Elect { dst: self.destination(dst, Ty::B32)?, elected }
            }
        };
        self.emit(Op::Collective { members, kind });
        Ok(())
    }
}
