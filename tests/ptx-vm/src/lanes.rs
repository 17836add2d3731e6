//! The register file of a warp and functions applied to all of its lanes at once.
//!
//! A register is a row of 32 words, one a lane; a 64-bit register is two rows, low words first. An operation
//! reads whole rows, computes all 32 lanes in a loop that vectorises, and writes back the active lanes.

/// Lanes in a warp.
pub(crate) const LANES: usize = 32;
/// A set of lanes.
pub(crate) type Mask = u32;
/// One word of each lane.
pub(crate) type Row = [u32; LANES];
/// Index of a register's (first) row.
pub(crate) type Slot = u32;

/// The lanes of a mask, in order.
pub(crate) fn lanes(mask: Mask) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// A value that a register can hold in each lane.
pub(crate) trait Lane: Copy {
    fn from_words(low: u32, high: u32) -> Self;
    fn into_words(self) -> (u32, u32);
    /// Whether it takes two rows.
    const WIDE: bool;
}

macro_rules! narrow_lane {
    ($($ty:ty: $from:expr, $into:expr;)*) => {$(
        impl Lane for $ty {
            const WIDE: bool = false;
            #[inline(always)]
            fn from_words(low: u32, _: u32) -> Self {
                $from(low)
            }
            #[inline(always)]
            fn into_words(self) -> (u32, u32) {
                ($into(self), 0)
            }
        }
    )*};
}

macro_rules! wide_lane {
    ($($ty:ty: $from:expr, $into:expr;)*) => {$(
        impl Lane for $ty {
            const WIDE: bool = true;
            #[inline(always)]
            fn from_words(low: u32, high: u32) -> Self {
                $from(u64::from(low) | u64::from(high) << 32)
            }
            #[inline(always)]
            fn into_words(self) -> (u32, u32) {
                let bits: u64 = $into(self);
                (bits as u32, (bits >> 32) as u32)
            }
        }
    )*};
}

narrow_lane! {
    bool: |w| w & 1 != 0, |v| v as u32;
    u8: |w| w as u8, |v| v as u32;
    i8: |w| w as i8, |v| v as i32 as u32;
    u16: |w| w as u16, |v| v as u32;
    i16: |w| w as i16, |v| v as i32 as u32;
    u32: |w| w, |v| v;
    i32: |w| w as i32, |v| v as u32;
    f32: f32::from_bits, f32::to_bits;
}

wide_lane! {
    u64: |b| b, |v| v;
    i64: |b| b as i64, |v| v as u64;
    f64: f64::from_bits, f64::to_bits;
}

/// The rows of a register; of a narrow one, its row twice.
#[inline(always)]
fn words<T: Lane>(rows: &[Row], slot: Slot) -> (&Row, &Row) {
    (&rows[slot as usize], &rows[slot as usize + usize::from(T::WIDE)])
}

/// All lanes of a register.
#[inline(always)]
pub(crate) fn read<T: Lane>(rows: &[Row], slot: Slot) -> [T; LANES] {
    let (low, high) = words::<T>(rows, slot);
    let mut values = [T::from_words(0, 0); LANES];
    for (lane, value) in values.iter_mut().enumerate() {
        *value = T::from_words(low[lane], high[lane]);
    }
    values
}

/// The bits that one lane of a register holds.
#[inline(always)]
pub(crate) fn read_bits(rows: &[Row], slot: Slot, wide: bool, lane: usize) -> u64 {
    let high = if wide { rows[slot as usize + 1][lane] } else { 0 };
    u64::from(rows[slot as usize][lane]) | u64::from(high) << 32
}

/// Sets the bits of one lane of a register.
#[inline(always)]
pub(crate) fn write_bits(rows: &mut [Row], slot: Slot, wide: bool, lane: usize, bits: u64) {
    rows[slot as usize][lane] = bits as u32;
    if wide {
        rows[slot as usize + 1][lane] = (bits >> 32) as u32;
    }
}

/// Sets the masked lanes of a register.
#[inline(always)]
pub(crate) fn write<T: Lane>(rows: &mut [Row], slot: Slot, values: [T; LANES], mask: Mask) {
    let (mut low, mut high) = ([0; LANES], [0; LANES]);
    for (lane, value) in values.into_iter().enumerate() {
        (low[lane], high[lane]) = value.into_words();
    }
    blend(&mut rows[slot as usize], &low, mask);
    if T::WIDE {
        blend(&mut rows[slot as usize + 1], &high, mask);
    }
}

#[inline(always)]
fn blend(row: &mut Row, words: &Row, mask: Mask) {
    if mask == Mask::MAX {
        *row = *words;
    } else {
        for (lane, word) in row.iter_mut().enumerate() {
            let keep = (mask >> lane & 1).wrapping_sub(1);
            *word = (*word & keep) | (words[lane] & !keep);
        }
    }
}

/// The mask of lanes in which a predicate register is true.
#[inline(always)]
pub(crate) fn predicate(rows: &[Row], slot: Slot) -> Mask {
    let row = &rows[slot as usize];
    (0..LANES).fold(0, |mask, lane| mask | (row[lane] & 1) << lane)
}

/// A per-lane operation: reads the source slots, writes the destination slots in the masked lanes.
pub(crate) type LaneFn = Box<dyn Fn(&mut [Row], &Slots, Mask) + Send + Sync>;

/// The registers that a [`LaneFn`] works on; unused ones are 0.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slots {
    pub dst: [Slot; 4],
    pub src: [Slot; 4],
}

macro_rules! lane_fns {
    ($($name:ident($($ty:ident $value:ident $index:literal),+);)*) => {$(
        /// Lifts a function of one lane to a [`LaneFn`].
        pub(crate) fn $name<$($ty: Lane + 'static,)+ R: Lane + 'static>(
            f: impl Fn($($ty),+) -> R + Send + Sync + 'static,
        ) -> LaneFn {
            Box::new(move |rows, slots, mask| {
                $(let $value: [$ty; LANES] = read(rows, slots.src[$index]);)+
                let mut results = [R::from_words(0, 0); LANES];
                for (lane, result) in results.iter_mut().enumerate() {
                    *result = f($($value[lane]),+);
                }
                write(rows, slots.dst[0], results, mask);
            })
        }
    )*};
}

lane_fns! {
    map1(A a 0);
    map2(A a 0, B b 1);
    map3(A a 0, B b 1, C c 2);
    map4(A a 0, B b 1, C c 2, D d 3);
}
