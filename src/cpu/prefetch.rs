//! Requests for memory that is about to be read.

/// The requests go one page ahead. The processor's own prefetcher stops at the end of every page, since it does not
/// know the address of the next one, and starts anew there; meanwhile the arithmetic of the columns at hand fills the
/// queue of instructions, so that the loads of the next page are seen too late.
const DISTANCE: usize = 4096;

/// Bytes of a line of the caches.
const CACHE_LINE: usize = 64;

/// Requests the lines that lie [`DISTANCE`] bytes behind these elements, as many as the elements fill.
#[inline(always)]
pub fn prefetch<T>(elements: &[T]) {
    let ahead = elements.as_ptr().cast::<u8>().wrapping_add(DISTANCE);
    for line in (0..size_of_val(elements)).step_by(CACHE_LINE) {
        prefetch_line(ahead.wrapping_add(line));
    }
}

/// Requests the line that holds `address`. The address may be invalid, and then nothing happens.
#[inline(always)]
fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it has no effect that a program can observe, whatever
    // the address.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    // The other targets have no stable intrinsic for it.
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
