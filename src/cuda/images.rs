//! The kernel images that build.rs compiled, and the choice among them.

use crate::error::{Error, Result};

/// What an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Machine code of one architecture.
    Cubin,
    /// PTX, which the driver compiles for its device; NUL-terminated.
    Ptx,
}

/// One kernel source, compiled for one target.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// Source file without `.cu`: `"forward"`, `"pair_loss"`, `"backward"` or `"factored"`.
    pub unit: &'static str,
    /// Machine code or PTX.
    pub kind: Kind,
    /// Compute capability it was compiled for, as major · 10 + minor.
    pub capability: u32,
    /// What the compiler said: registers, spills and shared memory of each kernel, for machine code.
    pub report: &'static str,
    /// The image.
    pub bytes: &'static [u8],
}

impl Image {
    /// `sm_90`, `compute_80` and the like.
    pub fn target(&self) -> String {
        let prefix = match self.kind {
            Kind::Cubin => "sm",
            Kind::Ptx => "compute",
        };
        format!("{prefix}_{}", self.capability)
    }

    /// Whether a device of compute capability (major, minor) can load it: machine code runs on its own major version
    /// from its minor on, PTX on everything from its capability on.
    pub fn runs_on(&self, device: (u32, u32)) -> bool {
        let at_least = self.capability <= device.0 * 10 + device.1;
        match self.kind {
            Kind::Cubin => at_least && self.capability / 10 == device.0,
            Kind::Ptx => at_least,
        }
    }
}

/// The driver reads an image as an ELF file, in place.
#[allow(dead_code)] // where the table is empty
#[repr(align(64))]
struct Aligned<const N: usize>([u8; N]);

/// Every embedded image. Empty where the documentation is built without NVRTC.
pub static IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The best image of `unit` among `images` for a device: machine code before PTX, the highest capability first.
///
/// # Errors
///
/// [`Error::NoImage`] if none can run there.
pub fn select<'a>(images: &'a [Image], unit: &str, device: (u32, u32)) -> Result<&'a Image> {
    images
        .iter()
        .filter(|image| image.unit == unit && image.runs_on(device))
        .max_by_key(|image| (image.kind == Kind::Cubin, image.capability))
        .ok_or_else(|| Error::NoImage {
            device,
            embedded: images.iter().filter(|image| image.unit == unit).map(Image::target).collect(),
        })
}
