//! The approximate instructions, and their perturbation within the documented error.
//!
//! The nominal result is the f64 one rounded to f32. With a seed, the result moves by a fraction of the
//! documented maximum error that depends on the seed, the instruction and the operand bits alone: like
//! hardware, the same operand gives the same result everywhere.

/// An approximate single-precision instruction of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approx {
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Sin,
    Cos,
    Tanh,
}

impl Approx {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "ex2" => Approx::Ex2,
            "lg2" => Approx::Lg2,
            "rcp" => Approx::Rcp,
            "rsqrt" => Approx::Rsqrt,
            "sqrt" => Approx::Sqrt,
            "sin" => Approx::Sin,
            "cos" => Approx::Cos,
            "tanh" => Approx::Tanh,
            _ => return None,
        })
    }

    /// The result in f64.
    pub(crate) fn exact(self, x: f64) -> f64 {
        match self {
            Approx::Ex2 => x.exp2(),
            Approx::Lg2 => x.log2(),
            Approx::Rcp => 1.0 / x,
            Approx::Rsqrt => 1.0 / x.sqrt(),
            Approx::Sqrt => x.sqrt(),
            Approx::Sin => x.sin(),
            Approx::Cos => x.cos(),
            Approx::Tanh => x.tanh(),
        }
    }

    /// The maximum absolute error at operand `x` with result `y`, from the PTX ISA's table for each.
    fn error(self, x: f64, y: f64) -> f64 {
        let ulp_of_two = 2f64.powi(-23);
        match self {
            Approx::Ex2 => y.abs() * 2f64.powi(-22),
            Approx::Lg2 if (0.5..=2.0).contains(&x) => 2f64.powi(-22),
            Approx::Lg2 => y.abs() * 2f64.powi(-22),
            Approx::Rcp | Approx::Sqrt => y.abs() * ulp_of_two,
            Approx::Rsqrt => y.abs() * 2f64.powf(-22.9),
            Approx::Sin | Approx::Cos => 2f64.powf(-20.9),
            Approx::Tanh => y.abs() * 2f64.powi(-11),
        }
    }

    /// The single-precision result; `seed` 0 means unperturbed.
    pub(crate) fn single(self, x: f32, seed: u32) -> f32 {
        let y = self.exact(f64::from(x));
        // The tables fix the results at zeros and infinities.
        if seed == 0 || x == 0.0 || !x.is_finite() || !y.is_finite() || y == 0.0 {
            return y as f32;
        }
        let shift = unit(seed, self as u32, x.to_bits(), 0);
        (y + shift * self.error(f64::from(x), y)) as f32
    }
}

/// `a / b` within the two units in the last place of `div.approx` and `div.full`.
pub(crate) fn divide(a: f32, b: f32, seed: u32) -> f32 {
    let y = f64::from(a) / f64::from(b);
    if seed == 0 || !y.is_finite() || y == 0.0 {
        return y as f32;
    }
    (y + unit(seed, u32::MAX, a.to_bits(), b.to_bits()) * y.abs() * 2f64.powi(-22)) as f32
}

/// A number in (−1, 1) that looks random and depends on the arguments alone.
fn unit(seed: u32, op: u32, a: u32, b: u32) -> f64 {
    let mixed = mix(mix(u64::from(seed) << 32 | u64::from(op)) ^ (u64::from(a) << 32 | u64::from(b)));
    mixed as i64 as f64 / 2f64.powi(63) * 0.999
}

/// The finaliser of SplitMix64.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
