//! What a struct leaves out, by the header's one convention: a number that may be absent is there if its bit is in
//! `given`, and nothing that is there is ignored.

use dpo_kernels::Result;

use crate::pointers::value;

/// The numbers of a struct, each with its bit and its name: those whose bit is in `given`, and `None` for the others. It
/// returns from the function around it where another bit is set, or where a number without its bit is not 0.
macro_rules! given {
    ($given:expr; $($bit:ident => $argument:literal: $number:expr),+ $(,)?) => {{
        let given: u32 = $given;
        let unknown = given & !($($bit)|+);
        if unknown != 0 {
            let known = [$(stringify!($bit)),+].join(", ");
            return Err($crate::pointers::value("given", format!("no bits but {known}"), format!("{unknown:#x}")));
        }
        ($($crate::given::number(given & $bit != 0, stringify!($bit), $argument, $number)?,)+)
    }};
}
pub(crate) use given;

/// The number, if it is `given`.
pub(crate) fn number<N: Default + PartialEq + ToString>(
    given: bool,
    bit: &str,
    argument: &'static str,
    number: N,
) -> Result<Option<N>> {
    if given {
        return Ok(Some(number));
    }
    zero(argument, number, &format!("where {bit} is not given"))?;
    Ok(None)
}

/// Refuses a number that would not be looked at; `condition` says when.
pub(crate) fn zero<N: Default + PartialEq + ToString>(
    argument: &'static str,
    number: N,
    condition: &str,
) -> Result<()> {
    if number == N::default() { Ok(()) } else { Err(value(argument, format!("0 {condition}"), number)) }
}

/// Refuses an array that would not be looked at; `condition` says when.
pub(crate) fn null<T>(argument: &'static str, pointer: *const T, condition: &str) -> Result<()> {
    if pointer.is_null() {
        Ok(())
    } else {
        Err(value(argument, format!("null {condition}"), format!("{pointer:p}")))
    }
}
