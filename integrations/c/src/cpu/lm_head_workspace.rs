//! The workspace of a head as a handle, which serves one call at a time.

use std::sync::{Mutex, TryLockError};

use dpo_kernels::cpu::lm_head::LmHeadWorkspace;

use crate::failure::{Result, guard};
use crate::header::*;
use crate::pointers::{pointer, value};

/// What a handle points to. A call that finds it locked is refused: waiting on a thread of the pool for a call
/// that waits for that thread would never end.
type Shared = Mutex<LmHeadWorkspace>;

/// See the header.
///
/// # Safety
///
/// `workspace` is null or points to a pointer that can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_lm_head_workspace_create(
    workspace: *mut *mut dpo_cpu_lm_head_workspace,
) -> dpo_result {
    guard(|| {
        let workspace = pointer("workspace", workspace)?;
        let made: Box<Shared> = Box::default();
        // SAFETY: not null, aligned, and the caller's promise.
        unsafe { workspace.write(Box::into_raw(made).cast()) };
        Ok(())
    })
}

/// See the header.
///
/// # Safety
///
/// `workspace` is null or of [`dpo_cpu_lm_head_workspace_create`], no call is using it, and it is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dpo_cpu_lm_head_workspace_free(workspace: *mut dpo_cpu_lm_head_workspace) {
    guard(|| {
        if !workspace.is_null() {
            // SAFETY: the caller's promise: this is the box of `create`, and the last to use it.
            drop(unsafe { Box::from_raw(workspace.cast::<Shared>()) });
        }
        Ok(())
    });
}

/// Works with the memory behind a handle, or with memory for this call alone where there is none.
///
/// # Safety
///
/// `workspace` is null or of [`dpo_cpu_lm_head_workspace_create`], and has not been freed.
pub(super) unsafe fn with_workspace<R>(
    workspace: *mut dpo_cpu_lm_head_workspace,
    budget_bytes: usize,
    work: impl FnOnce(&mut LmHeadWorkspace) -> Result<R>,
) -> Result<R> {
    if workspace.is_null() {
        return work(&mut LmHeadWorkspace::new(budget_bytes));
    }
    let shared = pointer("workspace", workspace.cast::<Shared>())?;
    // SAFETY: the caller's promise.
    let mut locked = match unsafe { shared.as_ref() }.try_lock() {
        Ok(locked) => locked,
        // A call that stopped half-way left numbers that no call reads before it has written them.
        Err(TryLockError::Poisoned(left)) => left.into_inner(),
        Err(TryLockError::WouldBlock) => {
            return Err(value("workspace", "one that no other call is using", "one in use").into());
        }
    };
    locked.set_budget_bytes(budget_bytes);
    work(&mut locked)
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;
    use crate::failure::Failure;
    use crate::names::message;

    /// The other call is on another thread, as it is where threads share a workspace by mistake.
    #[test]
    fn a_workspace_serves_one_call_at_a_time() {
        let mut workspace = ptr::null_mut();
        // SAFETY: the pointer is there.
        assert_eq!(unsafe { dpo_cpu_lm_head_workspace_create(&mut workspace) }, DPO_OK);
        let address = workspace.expose_provenance();
        let call = move || {
            let workspace = ptr::with_exposed_provenance_mut(address);
            // SAFETY: the workspace is there until all calls have returned.
            let result = guard(|| unsafe { with_workspace(workspace, 1, |_| Ok::<(), Failure>(())) });
            (result, message())
        };
        let meanwhile = || std::thread::spawn(call).join().expect("a call");
        // SAFETY: as above.
        let during = unsafe { with_workspace(workspace, 1, |_| Ok::<_, Failure>(meanwhile())) };
        let refusal = "workspace: expected one that no other call is using, found one in use".to_string();
        assert_eq!(during.ok().expect("a call"), (DPO_ERROR_VALUE, refusal));
        assert_eq!(meanwhile().0, DPO_OK);

        // A call that stops half-way leaves one that serves the next.
        // SAFETY: as above.
        let stopped = guard(|| unsafe { with_workspace::<()>(workspace, 1, |_| panic!("half-way")) });
        assert_eq!((stopped, meanwhile().0), (DPO_ERROR_INTERNAL, DPO_OK));
        // SAFETY: no call is under way.
        unsafe { dpo_cpu_lm_head_workspace_free(workspace) };
    }
}
