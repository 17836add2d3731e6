//! The kernel images that build.rs compiled and compressed, and the choice among them.

use std::ops::Deref;

use miniz_oxide::inflate::decompress_slice_iter_to_slice;

use crate::error::{Error, Result};

/// What an image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Machine code of one architecture.
    Cubin,
    /// PTX, which the driver compiles for its device; NUL-terminated.
    Ptx,
}

/// One kernel source, compiled for one target and compressed: only what a device loads is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct Image {
    /// Source file without `.cu`, one of [`UNITS`](super::kernel::UNITS).
    pub unit: &'static str,
    /// Machine code or PTX.
    pub kind: Kind,
    /// Compute capability it was compiled for, as major · 10 + minor.
    pub capability: u32,
    /// What the compiler said: registers, spills and shared memory of each kernel, for machine code.
    pub report: &'static str,
    /// Size of the image in bytes.
    pub unpacked_len: usize,
    /// The image, as a zlib stream.
    pub packed: &'static [u8],
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

    /// The image as the compiler made it.
    ///
    /// # Errors
    ///
    /// [`Error::DamagedImage`] if that is not what was embedded.
    pub fn unpack(&self) -> Result<Unpacked> {
        let mut unpacked = Unpacked::zeroed(self.unpacked_len);
        let written =
            decompress_slice_iter_to_slice(unpacked.bytes_mut(), [self.packed].into_iter(), true, false);
        let reason = match written {
            Ok(written) if written == self.unpacked_len => return Ok(unpacked),
            Ok(written) => format!("{written} bytes"),
            Err(error) => format!("{error:?}"),
        };
        Err(Error::DamagedImage { unit: self.unit, target: self.target(), len: self.unpacked_len, reason })
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

/// An image in memory, where the driver reads it in place: it begins at a multiple of 64 bytes, as its sections expect.
#[derive(Debug)] // not Clone: a copy may lie elsewhere
pub struct Unpacked {
    buffer: Vec<u8>,
    start: usize,
    len: usize,
}

impl Unpacked {
    const ALIGNMENT: usize = 64;

    fn zeroed(len: usize) -> Self {
        let buffer = vec![0; len + Self::ALIGNMENT];
        let start = buffer.as_ptr().align_offset(Self::ALIGNMENT);
        Unpacked { buffer, start, len }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..][..self.len]
    }
}

impl Deref for Unpacked {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.start..][..self.len]
    }
}

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
