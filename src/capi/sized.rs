//! Structs that C declares: each begins with its size, so that programs and libraries of different versions agree
//! on the part that both know.
//!
//! What a newer program adds is refused if it isn't zero, rather than ignored; what a newer program reads and this
//! library doesn't know is zero.

use std::mem::{MaybeUninit, size_of};
use std::{ptr, slice};

use super::error::{lyco_error, lyco_status};
use super::handle;

/// No struct will ever be larger; a larger size is memory that nobody wrote.
const LIMIT: usize = 4096;

/// A struct of the header that begins with its size.
///
/// # Safety
/// `repr(C)`, a `u32` first, no padding, and any bytes (also all zero) are a value.
pub(super) unsafe trait Sized32: Copy {
    /// Its size when it first was in the header; a smaller one is nonsense.
    const FIRST: usize = size_of::<Self>();
}

/// Reads the parameter `name`; fields that the program doesn't know yet are zero.
///
/// # Safety
/// `pointer` is NULL, or points to as many bytes as its first field says.
pub(super) unsafe fn read<T: Sized32>(pointer: *const T, name: &str) -> Result<T, lyco_error> {
    // SAFETY: the caller's promise.
    let size = unsafe { declared(pointer, name) }?;
    let known = size.min(size_of::<T>());
    let bytes = pointer.cast::<u8>();
    // SAFETY: the program says that it has `size` bytes there, and `known` is no more than that.
    let unknown = unsafe { slice::from_raw_parts(bytes.add(known), size - known) };
    if unknown.iter().any(|byte| *byte != 0) {
        let message = format!("'{name}' asks for something that this version of lycomerge doesn't know");
        return Err(lyco_error::new(lyco_status::UNSUPPORTED, &message));
    }
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: both have `known` bytes, and `value` is a local.
    unsafe { ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast::<u8>(), known) };
    // SAFETY: any bytes are a value.
    Ok(unsafe { value.assume_init() })
}

/// A place for a `T`, checked, to be written at the end.
pub(super) struct Place<T> {
    pointer: *mut T,
    size: usize,
}

/// Checks the output parameter `name`, whose first field the program has set.
///
/// # Safety
/// `pointer` is NULL, or points to as many bytes as its first field says, which nobody else uses while the place
/// lives.
pub(super) unsafe fn place<T: Sized32>(pointer: *mut T, name: &str) -> Result<Place<T>, lyco_error> {
    // SAFETY: the caller's promise.
    let size = unsafe { declared(pointer, name) }?;
    Ok(Place { pointer, size })
}

impl<T: Sized32> Place<T> {
    /// Writes what the program has space for, except the size.
    pub(super) fn write(self, value: &T) {
        let Self { pointer, size } = self;
        let (to, from) = (pointer.cast::<u8>(), ptr::from_ref(value).cast::<u8>());
        let (head, known) = (size_of::<u32>(), size.min(size_of::<T>()));
        // SAFETY: the place was checked to have `size` bytes, `value` has its own, and they are different memory.
        unsafe {
            ptr::copy_nonoverlapping(from.add(head), to.add(head), known - head);
            ptr::write_bytes(to.add(known), 0, size - known);
        }
    }
}

/// The size that the first field says.
///
/// # Safety
/// `pointer` is NULL, or points to at least a `u32`.
unsafe fn declared<T: Sized32>(pointer: *const T, name: &str) -> Result<usize, lyco_error> {
    handle::check(pointer, name)?;
    // SAFETY: it is neither NULL nor crooked, and the struct begins with a `u32`.
    let size = unsafe { pointer.cast::<u32>().read() };
    usize::try_from(size).ok().filter(|size| (T::FIRST..=LIMIT).contains(size)).ok_or_else(|| {
        let message = format!("'{name}' has a struct_size of {size}; set it to the sizeof of the struct");
        lyco_error::bad_argument(&message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The struct in this version, and in the next.
    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Now {
        struct_size: u32,
        a: u32,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Next {
        struct_size: u32,
        a: u32,
        b: u32,
    }

    // SAFETY: three or two u32.
    unsafe impl Sized32 for Now {}
    // SAFETY: as above.
    unsafe impl Sized32 for Next {
        const FIRST: usize = size_of::<Now>();
    }

    fn as_now(next: &mut Next) -> *mut Now {
        ptr::from_mut(next).cast()
    }

    #[test]
    fn a_newer_program_is_understood_unless_it_asks_for_more() {
        let mut next = Next { struct_size: 12, a: 5, b: 0 };
        // SAFETY: there are 12 bytes.
        assert_eq!(unsafe { read(as_now(&mut next), "x") }.unwrap().a, 5);
        next.b = 1;
        // SAFETY: there are 12 bytes.
        assert_eq!(unsafe { read(as_now(&mut next), "x") }.unwrap_err().status(), lyco_status::UNSUPPORTED);
        // SAFETY: there are 12 bytes.
        unsafe { place(as_now(&mut next), "x") }.unwrap().write(&Now { struct_size: 8, a: 6 });
        assert_eq!(next, Next { struct_size: 12, a: 6, b: 0 });
    }

    #[test]
    fn an_older_program_gets_zeros_and_nothing_past_its_end() {
        let mut two = [Now { struct_size: 8, a: 5 }, Now { struct_size: 7, a: 7 }];
        let old = two.as_mut_ptr().cast::<Next>();
        // SAFETY: there are 16 bytes, of which 8 are declared.
        assert_eq!(unsafe { read(old, "x") }.unwrap(), Next { struct_size: 8, a: 5, b: 0 });
        // SAFETY: as above.
        unsafe { place(old, "x") }.unwrap().write(&Next { struct_size: 12, a: 6, b: 9 });
        assert_eq!(two, [Now { struct_size: 8, a: 6 }, Now { struct_size: 7, a: 7 }]);
    }

    #[test]
    fn sizes_that_nobody_set_are_refused() {
        for struct_size in [0, 4, 7, 4097, u32::MAX] {
            // SAFETY: more than is there is never read.
            let error = unsafe { read(&Now { struct_size, a: 0 }, "x") }.unwrap_err();
            assert_eq!(error.status(), lyco_status::BAD_ARGUMENT);
        }
    }
}
