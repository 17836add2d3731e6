//! Memory of a head's arrays, which must not overlap where a pass writes.

use crate::error::{Error, Result};

/// One array of a pass, by where it is: in host memory, or in a device's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The argument's name.
    pub argument: &'static str,
    /// Its first byte.
    pub start: u64,
    /// How many there are.
    pub bytes: usize,
    /// Whether the pass writes it.
    pub written: bool,
}

impl Region {
    fn overlaps(&self, other: &Region) -> bool {
        let end = |region: &Region| region.start.saturating_add(region.bytes as u64);
        self.start < end(other) && other.start < end(self)
    }
}

/// Checks that what is written overlaps nothing else, for callers who know addresses alone: slices never do.
///
/// ```
/// use dpo_kernels::lm_head::{Region, check_apart};
///
/// let hidden = Region { argument: "hidden", start: 0x1000, bytes: 64, written: false };
/// let dhidden = Region { argument: "gradients.hidden", start: 0x1020, bytes: 64, written: true };
/// let refused = check_apart(&[hidden, dhidden]).unwrap_err().to_string();
/// assert_eq!(refused, "gradients.hidden: expected memory apart from hidden (64 bytes at 0x1000), found 64 bytes at 0x1020");
/// ```
///
/// # Errors
///
/// [`Error::Value`] that names one that is written, and what it overlaps.
pub fn check_apart(regions: &[Region]) -> Result<()> {
    for (at, region) in regions.iter().enumerate() {
        let before =
            regions[..at].iter().find(|before| (region.written || before.written) && region.overlaps(before));
        if let Some(before) = before {
            let (written, other) = if region.written { (region, before) } else { (before, region) };
            let place = |region: &Region| format!("{} bytes at {:#x}", region.bytes, region.start);
            let expected = format!("memory apart from {} ({})", other.argument, place(other));
            return Err(Error::value(written.argument, expected, place(written)));
        }
    }
    Ok(())
}
