//! The kernels on the PTX interpreter: what runs where there is no GPU, under a stricter checker than the hardware.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use dpo_kernels::cuda::images::{IMAGES, Kind};
use dpo_kernels::cuda::plan::{DeviceAddress, Launch};
use ptx_vm::{Module, Options, Placement, Stats, Vm};

use crate::executor::Device;

/// The embedded PTX, by unit.
fn modules() -> &'static BTreeMap<&'static str, Module> {
    static MODULES: OnceLock<BTreeMap<&'static str, Module>> = OnceLock::new();
    MODULES.get_or_init(|| {
        let ptx = IMAGES.iter().filter(|image| image.kind == Kind::Ptx);
        ptx.map(|image| {
            let text = std::str::from_utf8(image.bytes).expect("PTX is text").trim_end_matches('\0');
            let module = Module::parse(text).unwrap_or_else(|error| panic!("{}.cu: {error}", image.unit));
            (image.unit, module)
        })
        .collect()
    })
}

pub struct Interpreter {
    vm: Vm,
    buffers: Vec<DeviceAddress>,
    pub stats: Stats,
}

impl Interpreter {
    pub fn new(options: Options) -> Self {
        Interpreter { vm: Vm::new(options), buffers: vec![], stats: Stats::default() }
    }

    fn place(&mut self, address: DeviceAddress) -> DeviceAddress {
        self.buffers.push(address);
        address
    }
}

impl Device for Interpreter {
    fn name(&self) -> String {
        "ptx interpreter".into()
    }

    fn upload(&mut self, bytes: &[u8], phase: usize) -> DeviceAddress {
        let address = self.vm.memory.alloc(bytes, Placement::named("upload").offset(phase));
        self.place(address)
    }

    fn reserve(&mut self, len: usize) -> DeviceAddress {
        let address = self.vm.memory.alloc_uninit(len, Placement::named("reserve"));
        self.place(address)
    }

    fn download(&mut self, address: DeviceAddress, len: usize) -> Vec<u8> {
        self.vm.memory.read(address, len).unwrap_or_else(|error| panic!("{error}"))
    }

    fn launch(&mut self, launch: &Launch) {
        let bytes = launch.arguments.as_bytes();
        let module = modules().get(launch.unit).expect("every unit is embedded as PTX");
        let stats = self
            .vm
            .launch(module, &ptx_vm::Launch::new(launch.kernel, launch.grid, launch.block, bytes))
            .unwrap_or_else(|fault| panic!("{fault}"));
        self.stats.merge(&stats);
    }

    fn clear(&mut self) {
        for address in self.buffers.drain(..) {
            self.vm.memory.free(address).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
