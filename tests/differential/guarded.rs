//! Buffers that end or begin at an inaccessible page: one byte read or written too far is a crash.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use dpo_kernels::Error;
use dpo_kernels::memory::{Conversion, Field, HostMemory, Memory, Record, Unallocated, Vectors};

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

/// Results in guarded buffers, which passes get where they ask for them; `None` is not wanted.
pub enum GuardedMemory {}

/// An array of results, or where it will be.
pub struct Room<T> {
    guard: Guard,
    array: Option<Guarded<T>>,
}

impl Memory for GuardedMemory {
    type Number = f32;
    type Floats = Option<Room<f32>>;
    type Counts = Option<Room<u32>>;
    type Record<T: Record> = Option<T>;
}

fn filled<T: Copy>(len: usize, with: T, to: &mut Option<Room<T>>) -> Option<&mut [T]> {
    let Room { guard, array } = to.as_mut()?;
    Some(&mut *array.insert(Guarded::new(*guard, &vec![with; len])))
}

impl HostMemory for GuardedMemory {
    fn floats(_: Field, len: usize, to: &mut Self::Floats) -> Result<Option<&mut [f32]>, Error> {
        Ok(filled(len, f32::NAN, to))
    }

    fn counts(_: Field, len: usize, to: &mut Self::Counts) -> Result<Option<&mut [u32]>, Error> {
        Ok(filled(len, u32::MAX, to))
    }

    fn record<T: Record>(to: &mut Option<T>) -> Option<&mut T> {
        to.as_mut()
    }
}

/// Makes room for the results of which the names are wanted.
pub struct MakeRoom<F: Fn(&str) -> bool>(pub Guard, pub F);

impl<F: Fn(&str) -> bool> Conversion<Unallocated<f32>, GuardedMemory> for MakeRoom<F> {
    type Error = std::convert::Infallible;

    fn floats(&mut self, field: Field, (): &()) -> Result<Option<Room<f32>>, Self::Error> {
        Ok((self.1)(field.name).then_some(Room { guard: self.0, array: None }))
    }

    fn counts(&mut self, field: Field, (): &()) -> Result<Option<Room<u32>>, Self::Error> {
        Ok((self.1)(field.name).then_some(Room { guard: self.0, array: None }))
    }

    fn record<T: Record>(&mut self, name: &'static str, (): &()) -> Result<Option<T>, Self::Error> {
        Ok((self.1)(name).then(T::default))
    }
}

/// Copies results out of guarded buffers; what was not wanted is empty.
pub struct CopyOut;

impl CopyOut {
    fn array<T: Copy>(from: &Option<Room<T>>) -> Vec<T> {
        from.as_ref().and_then(|room| room.array.as_ref()).map_or(vec![], |array| array.to_vec())
    }
}

impl Conversion<GuardedMemory, Vectors<f32>> for CopyOut {
    type Error = std::convert::Infallible;

    fn floats(&mut self, _: Field, from: &Option<Room<f32>>) -> Result<Vec<f32>, Self::Error> {
        Ok(Self::array(from))
    }

    fn counts(&mut self, _: Field, from: &Option<Room<u32>>) -> Result<Vec<u32>, Self::Error> {
        Ok(Self::array(from))
    }

    fn record<T: Record>(&mut self, _: &'static str, from: &Option<T>) -> Result<T, Self::Error> {
        Ok(from.unwrap_or_default())
    }
}
