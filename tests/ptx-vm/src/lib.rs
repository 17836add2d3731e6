//! An interpreter of PTX, the virtual instruction set of CUDA, that runs kernels on the host under a checker
//! stricter than the hardware. See the crate's README for what is modelled and what is checked.
//!
//! ```
//! use ptx_vm::{Launch, Module, Placement, Vm};
//!
//! let module = Module::parse(
//!     ".version 8.0
//!      .target sm_80
//!      .address_size 64
//!      .visible .entry double(.param .u64 data)
//!      {
//!          .reg .b32 %r<3>;
//!          .reg .b64 %rd<4>;
//!          ld.param.u64 %rd1, [data];
//!          mov.u32 %r1, %tid.x;
//!          mul.wide.u32 %rd2, %r1, 4;
//!          add.s64 %rd3, %rd1, %rd2;
//!          ld.global.u32 %r2, [%rd3];
//!          add.u32 %r2, %r2, %r2;
//!          st.global.u32 [%rd3], %r2;
//!          ret;
//!      }",
//! )?;
//! let mut vm = Vm::default();
//! let input: Vec<u8> = (0..32u32).flat_map(u32::to_le_bytes).collect();
//! let data = vm.memory.alloc(&input, Placement::named("data"));
//! let stats = vm.launch(&module, &Launch::new("double", 1, 32, &data.to_le_bytes()))?;
//! assert_eq!(vm.memory.read(data + 4 * 21, 4)?, 42u32.to_le_bytes());
//! assert_eq!(stats.kernels["double"].blocks, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod approx;
mod clocks;
mod decode;
mod exec;
mod fault;
mod float;
mod isa;
mod lanes;
mod memory;
mod module;
mod parse;
mod program;
mod races;
mod stats;
mod token;
mod types;
mod vm;

pub use fault::{Fault, FaultKind, ThreadId};
pub use memory::{Memory, MemoryError, Placement};
pub use module::{Module, ModuleError};
pub use stats::{KernelStats, Stats};
pub use vm::{Launch, Options, Vm};
