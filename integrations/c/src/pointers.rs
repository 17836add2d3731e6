//! Pointers that C hands over. They are judged here and nowhere else.

use std::mem::{align_of, size_of};
use std::ptr::NonNull;
use std::slice;

use dpo_kernels::{Error, IndexArray, Result};

pub(crate) fn value(argument: &'static str, expected: impl Into<String>, found: impl ToString) -> Error {
    Error::Value { argument, expected: expected.into(), found: found.to_string() }
}

/// Not null, and aligned.
pub(crate) fn pointer<T>(argument: &'static str, pointer: *const T) -> Result<NonNull<T>> {
    let expected = || format!("an address aligned to {} bytes", align_of::<T>());
    match NonNull::new(pointer.cast_mut()) {
        None => Err(value(argument, expected(), "null")),
        Some(there) if there.is_aligned() => Ok(there),
        Some(there) => Err(value(argument, expected(), format!("{there:p}"))),
    }
}

/// A versioned struct of the header, which starts with its own size.
///
/// # Safety
///
/// `from` is null or points to as many bytes as its first field says, which stay as they are for `'a`.
pub(crate) unsafe fn read<'a, T>(argument: &'static str, from: *const T) -> Result<&'a T> {
    let from = pointer(argument, from)?;
    // SAFETY: every versioned struct starts with struct_size.
    let found = unsafe { from.cast::<usize>().read() };
    if found != size_of::<T>() {
        return Err(value(argument, format!("struct_size = {}", size_of::<T>()), found));
    }
    // SAFETY: it is as large as it should be.
    Ok(unsafe { from.as_ref() })
}

/// A struct that may be left out, or none for null.
///
/// # Safety
///
/// That of [`read`].
pub(crate) unsafe fn read_optional<'a, T>(argument: &'static str, from: *const T) -> Result<Option<&'a T>> {
    // SAFETY: the caller's promise.
    (!from.is_null()).then(|| unsafe { read(argument, from) }).transpose()
}

/// # Safety
///
/// `from` is null or points to `len` elements, which stay as they are for `'a`.
pub(crate) unsafe fn slice<'a, T>(argument: &'static str, from: *const T, len: usize) -> Result<&'a [T]> {
    let from = pointer(argument, from)?;
    // SAFETY: not null, aligned, and the caller's promise.
    Ok(unsafe { slice::from_raw_parts(from.as_ptr(), len) })
}

/// A [`slice`], or none for null.
///
/// # Safety
///
/// That of [`slice`].
pub(crate) unsafe fn optional_slice<'a, T>(
    argument: &'static str,
    from: *const T,
    len: usize,
) -> Result<Option<&'a [T]>> {
    // SAFETY: the caller's promise.
    (!from.is_null()).then(|| unsafe { slice(argument, from, len) }).transpose()
}

/// # Safety
///
/// `to` is null or points to `len` elements, which nothing else uses for `'a`.
pub(crate) unsafe fn slice_mut<'a, T>(argument: &'static str, to: *mut T, len: usize) -> Result<&'a mut [T]> {
    let to = pointer(argument, to)?;
    // SAFETY: not null, aligned, and the caller's promise.
    Ok(unsafe { slice::from_raw_parts_mut(to.as_ptr(), len) })
}

/// An array in whichever memory the call is about, not yet judged.
#[derive(Clone, Copy)]
pub(crate) struct Array<T> {
    pub pointer: *const T,
    pub len: usize,
}

impl<T> Array<T> {
    /// None for null.
    pub fn optional(pointer: *const T, len: usize) -> Option<Self> {
        (!pointer.is_null()).then_some(Array { pointer, len })
    }
}

/// An index array of a batch, with its name.
#[derive(Clone, Copy)]
pub(crate) struct Indices {
    pub argument: &'static str,
    pub array: Array<i32>,
}

impl IndexArray for Indices {
    fn count(&self) -> usize {
        self.array.len
    }
}
