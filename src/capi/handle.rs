//! Pointers from and to C: who owns what is behind them, and that none is NULL or crooked.

use std::mem::MaybeUninit;
use std::sync::Arc;

use super::error::{lyco_error, lyco_status};

/// An opaque type of the header. It may be used from any thread, as the header promises.
pub(super) trait Handle: Send + Sync + Sized {
    /// Whether C holds the one owner, or one of several.
    type Hold: Hold;
}

/// How C holds what a pointer points to.
pub(super) trait Hold {
    /// Moves `value` to where C can hold it.
    fn give<T>(value: T) -> *mut T;

    /// Gives up C's hold.
    ///
    /// # Safety
    /// `pointer` is from `give`, and this hold has not been given up before.
    unsafe fn free<T>(pointer: *mut T);
}

/// C holds a `Box`.
pub(super) struct Unique;

/// C holds an `Arc`, and may ask for more holds.
pub(super) struct Shared;

impl Hold for Unique {
    fn give<T>(value: T) -> *mut T {
        Box::into_raw(Box::new(value))
    }

    unsafe fn free<T>(pointer: *mut T) {
        // SAFETY: the caller's promise, and `give` made a box of it.
        drop(unsafe { Box::from_raw(pointer) });
    }
}

impl Hold for Shared {
    fn give<T>(value: T) -> *mut T {
        Arc::into_raw(Arc::new(value)).cast_mut()
    }

    unsafe fn free<T>(pointer: *mut T) {
        // SAFETY: the caller's promise, and `give` made an arc of it.
        drop(unsafe { Arc::from_raw(pointer) });
    }
}

/// Moves `value` to where C can hold it.
pub(super) fn give<T: Handle>(value: T) -> *mut T {
    T::Hold::give(value)
}

/// One hold more; NULL stays NULL.
///
/// # Safety
/// `pointer` is NULL or a handle that is not freed yet.
pub(super) unsafe fn retain<T: Handle<Hold = Shared>>(pointer: *const T) -> *mut T {
    if !pointer.is_null() {
        // SAFETY: the caller's promise; C holds this type as an arc.
        unsafe { Arc::increment_strong_count(pointer) };
    }
    pointer.cast_mut()
}

/// Gives up C's hold; NULL is nothing to do.
///
/// # Safety
/// `pointer` is NULL or a handle that is not freed yet.
pub(super) unsafe fn free<T: Handle>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: the caller's promise.
        unsafe { T::Hold::free(pointer) };
    }
}

/// What the parameter `name` points to.
///
/// # Safety
/// `pointer` is NULL, or points to a `T` that lives and is not changed through another pointer during `'a`.
pub(super) unsafe fn borrow<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, lyco_error> {
    check(pointer, name)?;
    // SAFETY: it is neither NULL nor crooked, and the rest is the caller's promise.
    Ok(unsafe { &*pointer })
}

/// As [`borrow`], for accessors that answer NULL with nothing.
///
/// # Safety
/// As for [`borrow`].
pub(super) unsafe fn peek<'a, T>(pointer: *const T) -> Option<&'a T> {
    // SAFETY: the caller's promise.
    unsafe { borrow(pointer, "") }.ok()
}

/// The place that the output parameter `name` points to; it may hold anything until it is written.
///
/// # Safety
/// `pointer` is NULL, or points to space for a `T` that nobody else uses during `'a`.
pub(super) unsafe fn output<'a, T>(
    pointer: *mut T,
    name: &str,
) -> Result<&'a mut MaybeUninit<T>, lyco_error> {
    check(pointer, name)?;
    // SAFETY: it is neither NULL nor crooked, and the rest is the caller's promise.
    Ok(unsafe { &mut *pointer.cast::<MaybeUninit<T>>() })
}

/// As [`output`], where NULL says that the output is not wanted.
///
/// # Safety
/// As for [`output`].
pub(super) unsafe fn wanted_output<'a, T>(
    pointer: *mut T,
    name: &str,
) -> Result<Option<&'a mut MaybeUninit<T>>, lyco_error> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { output(pointer, name) }.map(Some)
}

/// Refuses pointers that no `T` can lie behind.
pub(super) fn check<T>(pointer: *const T, name: &str) -> Result<(), lyco_error> {
    if pointer.is_null() {
        return Err(lyco_error::new(lyco_status::NULL_PARAMETER, &format!("the parameter '{name}' is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(lyco_error::bad_argument(&format!("the parameter '{name}' is not aligned for its type")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(Arc<()>);

    impl Handle for Thing {
        type Hold = Shared;
    }

    #[test]
    fn every_hold_is_given_up_once() {
        let life = Arc::new(());
        let first = give(Thing(Arc::clone(&life)));
        // SAFETY: two holds are taken and both given up; NULL is allowed everywhere.
        unsafe {
            let second = retain(first);
            free(first);
            assert_eq!(Arc::strong_count(&life), 2);
            assert!(Arc::ptr_eq(&borrow(second, "thing").unwrap().0, &life));
            free(second);
            free(std::ptr::null_mut::<Thing>());
        }
        assert_eq!(Arc::strong_count(&life), 1);
    }

    #[test]
    fn null_and_crooked_pointers_are_refused_by_name() {
        let null = check(std::ptr::null::<u64>(), "result").unwrap_err();
        assert_eq!(
            (null.status(), null.message()),
            (lyco_status::NULL_PARAMETER, "the parameter 'result' is NULL")
        );
        let crooked = check(std::ptr::without_provenance::<u64>(9), "result").unwrap_err();
        assert_eq!(crooked.status(), lyco_status::BAD_ARGUMENT);
    }
}
