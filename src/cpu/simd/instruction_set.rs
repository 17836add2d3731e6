//! Which vector instructions may be used.

use std::sync::atomic::{AtomicU8, Ordering};

/// A set of vector instructions, lesser ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum InstructionSet {
    /// What every processor of the target has; on x86-64 that is SSE2, without a fused multiply-add.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F and DQ.
    Avx512,
}

static MOST: AtomicU8 = AtomicU8::new(InstructionSet::Avx512 as u8);

/// Lets the CPU backend use no more than these instructions from here on, in the whole process; by default it uses the best
/// that the processor has. That gives the same bits on machines whose processors differ, and tests what others run. Passes
/// that are running meanwhile may use either.
///
/// ```
/// use dpo_kernels::cpu::{self, InstructionSet};
///
/// cpu::use_at_most(InstructionSet::Avx2); // with AVX-512 or without, the bits are those of AVX2
/// ```
pub fn use_at_most(instructions: InstructionSet) {
    MOST.store(instructions as u8, Ordering::Relaxed);
}

#[cfg(target_arch = "x86_64")] // elsewhere there is nothing to choose from
impl InstructionSet {
    /// Whether it may be used, if the processor has it.
    pub(super) fn is_allowed(self) -> bool {
        self as u8 <= MOST.load(Ordering::Relaxed)
    }
}
