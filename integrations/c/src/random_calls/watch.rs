//! Says which call was under way where a run ends without a word: by a fault in memory, or by a call that
//! never returns.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{process, thread};

/// Seconds after which a call counts as one that never returns. The largest takes some milliseconds.
const PATIENCE: u64 = 60;

/// The seed of the run, and the number of the call that is under way.
static SEED: AtomicU64 = AtomicU64::new(0);
static UNDER_WAY: AtomicU64 = AtomicU64::new(0);

/// In place of a number: the run is over.
const OVER: u64 = u64::MAX;

/// How a call is made again alone.
fn again(seed: u64, number: u64) -> String {
    format!("DPO_RANDOM_SEED={seed} DPO_RANDOM_CALL={number} cargo test -p dpo-kernels-c --lib random_calls")
}

/// Watches the calls of a run; a panic in one of them is reported when this is dropped.
pub struct Watch;

impl Watch {
    pub fn new(seed: u64) -> Self {
        SEED.store(seed, Ordering::Relaxed);
        #[cfg(unix)]
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT] {
            let handler: extern "C" fn(libc::c_int) = report_signal;
            // SAFETY: the handler does no more than such a handler may.
            unsafe { libc::signal(signal, handler as libc::sighandler_t) };
        }
        thread::spawn(|| {
            let mut last = None;
            while UNDER_WAY.load(Ordering::Relaxed) != OVER {
                let number = UNDER_WAY.load(Ordering::Relaxed);
                if last == Some(number) {
                    eprintln!("a call does not return: {}", again(SEED.load(Ordering::Relaxed), number));
                    process::abort();
                }
                last = Some(number);
                thread::sleep(Duration::from_secs(PATIENCE));
            }
        });
        Watch
    }

    /// The next call begins.
    pub fn begin(&self, number: u64) {
        UNDER_WAY.store(number, Ordering::Relaxed);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let number = UNDER_WAY.swap(OVER, Ordering::Relaxed);
        if thread::panicking() {
            eprintln!("again, alone: {}", again(SEED.load(Ordering::Relaxed), number));
        }
    }
}

/// Writes the numbers in the way that a signal's handler may, without allocating.
#[cfg(unix)]
extern "C" fn report_signal(signal: libc::c_int) {
    let write = |text: &[u8]| {
        // SAFETY: the bytes are there; nothing can be done where they cannot be written.
        unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
    };
    let write_number = |mut number: u64| {
        let mut digits = [0u8; 20];
        let mut first = digits.len();
        while first == digits.len() || number > 0 {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
        }
        write(&digits[first..]);
    };
    write(b"ended by a signal: DPO_RANDOM_SEED=");
    write_number(SEED.load(Ordering::Relaxed));
    write(b" DPO_RANDOM_CALL=");
    write_number(UNDER_WAY.load(Ordering::Relaxed));
    write(b"\n");
    // SAFETY: the signal comes again when this returns, and then ends the process as it would have.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
