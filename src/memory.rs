//! Kinds of memory that results can be in, and the way from one to another.
//!
//! Each result is declared once (see [`LogpsTensors`](crate::LogpsTensors) and its neighbours), generic over a
//! [`Memory`]: vectors on the host, slices of the caller's, addresses on a GPU, a framework's tensors. Whoever brings a
//! memory of its own implements [`Memory`] for it, and one [`Conversion`] where results are to be made in it or
//! brought from it; no field is listed again.

use std::marker::PhantomData;

use crate::error::{Error, Result};

/// What holds results: arrays of floats, arrays of counts, and one-off records such as a [`Status`](crate::Status).
pub trait Memory {
    /// The number type of the results: `f32`, or `f64` in the [`reference`](mod@crate::reference).
    type Number: Number;
    /// Holds an array of [`Number`](Self::Number).
    type Floats;
    /// Holds an array of u32.
    type Counts;
    /// Holds one `T`.
    type Record<T: Record>;
}

/// A number type of results, to which f64 is rounded: `f32`, or `f64` itself.
pub trait Number: Copy + Default + PartialEq + From<f32> + Into<f64> + Send + Sync + 'static {
    /// The nearest number.
    fn round(value: f64) -> Self;
}

impl Number for f32 {
    fn round(value: f64) -> f32 {
        value as f32
    }
}

impl Number for f64 {
    fn round(value: f64) -> f64 {
        value
    }
}

/// What there is one of in a batch: a status, or metrics of all of it.
pub trait Record: Copy + Default + 'static {
    /// Which it is.
    const KIND: RecordKind;
    /// What the kernels write for it.
    #[cfg(feature = "cuda")]
    type Device: Copy + Into<Self>;

    /// The one of a batch.
    #[cfg(feature = "cuda")]
    fn of_batch(records: &crate::cuda::params::DpoBatchMetrics) -> Self;
}

/// The kinds of [`Record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// A [`Status`](crate::Status).
    Status,
    /// [`PairMetrics`](crate::PairMetrics).
    PairMetrics,
    /// [`MeanTokenMetrics`](crate::MeanTokenMetrics).
    MeanTokenMetrics,
}

/// How many of each a batch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Sequences S.
    pub sequences: usize,
    /// Rows over all sequences.
    pub rows: usize,
    /// Pairs N.
    pub pairs: usize,
}

/// What an array has one element for each of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `[S]`
    Sequences,
    /// `[rows]`
    Rows,
    /// `[N]`
    Pairs,
}

impl Shape {
    /// `"[sequences]"`, `"[rows]"` or `"[pairs]"`, as in error messages.
    pub const fn name(self) -> &'static str {
        match self {
            Shape::Sequences => "[sequences]",
            Shape::Rows => "[rows]",
            Shape::Pairs => "[pairs]",
        }
    }

    /// Elements that an array of this shape has in a batch of this extent.
    pub const fn len(self, extent: &Extent) -> usize {
        match self {
            Shape::Sequences => extent.sequences,
            Shape::Rows => extent.rows,
            Shape::Pairs => extent.pairs,
        }
    }
}

/// The name and the shape of an array, as its declaration has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The field's name, which is also the argument's name in errors.
    pub name: &'static str,
    /// What it has one element for each of.
    pub shape: Shape,
}

/// Makes results in memory `B` of those in memory `A`, field by field.
pub trait Conversion<A: Memory, B: Memory<Number = A::Number>> {
    /// Why a field could not be converted.
    type Error;

    /// Converts an array of floats.
    ///
    /// # Errors
    ///
    /// The conversion's own.
    fn floats(&mut self, field: Field, from: &A::Floats) -> std::result::Result<B::Floats, Self::Error>;

    /// Converts an array of counts.
    ///
    /// # Errors
    ///
    /// The conversion's own.
    fn counts(&mut self, field: Field, from: &A::Counts) -> std::result::Result<B::Counts, Self::Error>;

    /// Converts a record.
    ///
    /// # Errors
    ///
    /// The conversion's own.
    fn record<T: Record>(
        &mut self,
        name: &'static str,
        from: &A::Record<T>,
    ) -> std::result::Result<B::Record<T>, Self::Error>;
}

/// Vectors and records on the host, whose lengths a pass makes right.
#[derive(Debug)]
pub struct Vectors<F>(PhantomData<F>);

impl<F: Number> Memory for Vectors<F> {
    type Number = F;
    type Floats = Vec<F>;
    type Counts = Vec<u32>;
    type Record<T: Record> = T;
}

/// Slices of the caller's on the host. What is `None` is not wanted.
#[derive(Debug)]
pub struct SlicesMut<'a, F>(PhantomData<&'a mut F>);

impl<'a, F: Number> Memory for SlicesMut<'a, F> {
    type Number = F;
    type Floats = Option<&'a mut [F]>;
    type Counts = Option<&'a mut [u32]>;
    type Record<T: Record> = Option<&'a mut T>;
}

/// No memory: the fields alone, to make results of nothing but their [`Field`]s.
#[derive(Debug)]
pub struct Unallocated<F>(PhantomData<F>);

impl<F: Number> Memory for Unallocated<F> {
    type Number = F;
    type Floats = ();
    type Counts = ();
    type Record<T: Record> = ();
}

/// Host memory that a pass can write.
pub trait HostMemory: Memory {
    /// The array to write, of `len` elements, or none where it is not wanted.
    ///
    /// # Errors
    ///
    /// [`Error::Length`] for an array of another length that cannot be changed.
    fn floats(field: Field, len: usize, to: &mut Self::Floats) -> Result<Option<&mut [Self::Number]>>;

    /// The same for counts.
    ///
    /// # Errors
    ///
    /// As for [`floats`](Self::floats).
    fn counts(field: Field, len: usize, to: &mut Self::Counts) -> Result<Option<&mut [u32]>>;

    /// The record to write, or none where it is not wanted.
    fn record<T: Record>(to: &mut Self::Record<T>) -> Option<&mut T>;
}

impl<F: Number> HostMemory for Vectors<F> {
    fn floats(_: Field, len: usize, to: &mut Vec<F>) -> Result<Option<&mut [F]>> {
        to.resize(len, F::default());
        Ok(Some(to))
    }

    fn counts(_: Field, len: usize, to: &mut Vec<u32>) -> Result<Option<&mut [u32]>> {
        to.resize(len, 0);
        Ok(Some(to))
    }

    fn record<T: Record>(to: &mut T) -> Option<&mut T> {
        Some(to)
    }
}

impl<F: Number> HostMemory for SlicesMut<'_, F> {
    fn floats(field: Field, len: usize, to: &mut Self::Floats) -> Result<Option<&mut [F]>> {
        fitting(field, len, to.as_deref_mut())
    }

    fn counts(field: Field, len: usize, to: &mut Self::Counts) -> Result<Option<&mut [u32]>> {
        fitting(field, len, to.as_deref_mut())
    }

    fn record<T: Record>(to: &mut Self::Record<T>) -> Option<&mut T> {
        to.as_deref_mut()
    }
}

fn fitting<T>(field: Field, len: usize, to: Option<&mut [T]>) -> Result<Option<&mut [T]>> {
    if let Some(to) = &to {
        Error::check_len(field.name, field.shape.name(), len, to.len())?;
    }
    Ok(to)
}
