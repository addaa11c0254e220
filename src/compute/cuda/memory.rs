//! Memory on the GPU, and memory here that it can read and write itself; both are kept and used again.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, PinnedHostSlice, result, sys};

/// Bytes that are copied at once where there may be many: enough for full speed, and little to pin.
pub(super) const BLOCK: usize = 16 << 20;

/// Bytes on the GPU. Whoever gives work to a stream that uses them keeps them until it is done.
pub(super) struct Memory {
    context: Arc<CudaContext>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: Arc::clone(context), address: 0, bytes: 0 }
    }

    /// Makes room for so many bytes; what was there is lost if there was less.
    pub(super) fn reserve(&mut self, bytes: usize) -> Result<(), DriverError> {
        if bytes > self.bytes {
            self.free()?;
            // SAFETY: nothing is read from it that wasn't written before.
            self.address = unsafe { result::malloc_sync(bytes) }?;
            self.bytes = bytes;
        }
        Ok(())
    }

    fn free(&mut self) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        if std::mem::take(&mut self.bytes) > 0 {
            // SAFETY: it was given by `malloc_sync`, and streams have done what used it.
            unsafe { result::free_sync(self.address) }?;
        }
        Ok(())
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// Copies `from` to the bytes from `first` on, in the order of the stream.
    pub(super) fn write(
        &mut self,
        stream: &CudaStream,
        first: usize,
        from: &[u8],
    ) -> Result<(), DriverError> {
        assert!(first + from.len() <= self.bytes, "more bytes than there is room for");
        self.context.bind_to_thread()?;
        // SAFETY: there is room; the caller keeps `from`, which is pinned, until the stream has done it.
        unsafe { result::memcpy_htod_async(self.address + first as u64, from, stream.cu_stream()) }
    }

    /// Copies any bytes to the beginning, by way of pinned ones, and waits until they are there.
    pub(super) fn upload(
        &mut self,
        stream: &CudaStream,
        pinned: &mut Pinned,
        from: &[u8],
    ) -> Result<(), DriverError> {
        for (i, block) in from.chunks(BLOCK).enumerate() {
            pinned.reserve(block.len())?;
            pinned.bytes(block.len()).copy_from_slice(block);
            self.write(stream, i * BLOCK, pinned.bytes(block.len()))?;
            stream.synchronize()?;
        }
        Ok(())
    }

    /// Copies the bytes from `first` on to `to`, in the order of the stream.
    pub(super) fn read(&self, stream: &CudaStream, first: usize, to: &mut [u8]) -> Result<(), DriverError> {
        assert!(first + to.len() <= self.bytes, "more bytes than there are");
        self.context.bind_to_thread()?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(to, self.address + first as u64, stream.cu_stream()) }
    }

    /// Makes `count` bytes from `first` on `byte`.
    pub(super) fn fill(
        &mut self,
        stream: &CudaStream,
        first: usize,
        count: usize,
        byte: u8,
    ) -> Result<(), DriverError> {
        assert!(first + count <= self.bytes, "more bytes than there are");
        self.context.bind_to_thread()?;
        // SAFETY: they are there.
        unsafe { result::memset_d8_async(self.address + first as u64, byte, count, stream.cu_stream()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The driver frees what is left when the process ends.
        let _ = self.free();
    }
}

/// Pinned bytes here.
pub(super) struct Pinned {
    context: Arc<CudaContext>,
    slice: Option<PinnedHostSlice<u8>>,
}

impl Pinned {
    pub(super) fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: Arc::clone(context), slice: None }
    }

    pub(super) fn reserve(&mut self, bytes: usize) -> Result<(), DriverError> {
        if self.slice.as_ref().is_none_or(|slice| slice.len() < bytes) {
            self.slice = None;
            // Pinning is slow, so that it is done for more than is asked.
            let bytes = bytes.next_power_of_two();
            // SAFETY: whatever they are, they are bytes. They are read here, too, so they aren't write-combined.
            self.slice = Some(unsafe { self.context.alloc_pinned_with_flags(bytes, 0) }?);
        }
        Ok(())
    }

    /// The first so many of them, which were reserved.
    pub(super) fn bytes(&mut self, count: usize) -> &mut [u8] {
        let all = self.slice.as_mut().and_then(|slice| slice.as_mut_slice().ok()).unwrap_or_default();
        &mut all[..count]
    }
}
