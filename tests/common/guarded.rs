//! Buffers that end or begin at an inaccessible page: one byte read or written too far is a crash.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Where a buffer is next to an inaccessible page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Guard {
    /// Its last byte is the last of a page, and the next page is inaccessible.
    Behind,
    /// Its first byte is the first of a page, and the page before is inaccessible.
    Before,
}

/// A slice in pages of its own.
pub struct Guarded<T> {
    start: NonNull<T>,
    len: usize,
    pages: NonNull<libc::c_void>,
    mapped: usize,
}

// SAFETY: it owns its elements, as a vector does.
unsafe impl<T: Send> Send for Guarded<T> {}
// SAFETY: shared, it gives out shared references alone.
unsafe impl<T: Sync> Sync for Guarded<T> {}

impl<T: Copy> Guarded<T> {
    /// A copy of `values`.
    pub fn new(guard: Guard, values: &[T]) -> Self {
        // SAFETY: it only asks.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let accessible = size_of_val(values).next_multiple_of(page);
        let mapped = accessible + 2 * page;
        let (none, flags) = (libc::PROT_NONE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new pages, wherever there is room for them.
        let pages = unsafe { libc::mmap(std::ptr::null_mut(), mapped, none, flags, -1, 0) };
        assert_ne!(pages, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        // SAFETY: the pages between the first and the last one, which were just mapped.
        let inner = unsafe { pages.byte_add(page) };
        // SAFETY: as above. A slice without elements has no pages between.
        let changed = unsafe { libc::mprotect(inner, accessible, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(changed, 0, "{}", std::io::Error::last_os_error());
        let offset = match guard {
            Guard::Behind => accessible - size_of_val(values),
            Guard::Before => 0,
        };
        // SAFETY: the offset is within the accessible pages, and a multiple of the size of an element, which its alignment
        // divides; so the elements fit, and nothing else is there yet.
        let start = unsafe {
            let start = inner.byte_add(offset).cast::<T>();
            start.copy_from_nonoverlapping(values.as_ptr(), values.len());
            NonNull::new(start).expect("mapped pages are not at 0")
        };
        let pages = NonNull::new(pages).expect("mapped pages are not at 0");
        Guarded { start, len: values.len(), pages, mapped }
    }
}

impl<T> Guarded<T> {
    /// Reads the byte behind the last element.
    pub fn read_too_far(&self) -> u8 {
        // SAFETY: none. With a guard behind the elements this ends the process, which is what it is for.
        unsafe { self.start.add(self.len).cast::<u8>().read_volatile() }
    }

    /// Writes the byte before the first element.
    pub fn write_too_early(&mut self) {
        // SAFETY: none, as above, with a guard before the elements.
        unsafe { self.start.cast::<u8>().sub(1).write_volatile(0) };
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        // SAFETY: the pages of this value, to which nothing refers any more.
        unsafe { libc::munmap(self.pages.as_ptr(), self.mapped) };
    }
}

impl<T> Deref for Guarded<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the elements are initialised, and there for as long as this value is.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody else refers to them.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
