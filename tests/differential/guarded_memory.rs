//! Results in guarded buffers.

use dpo_kernels::Error;
use dpo_kernels::memory::{Conversion, Field, HostMemory, Memory, Record, Unallocated, Vectors};

use crate::guarded::{Guard, Guarded};

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
