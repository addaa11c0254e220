// A libcuda.so.1 without a GPU, for tests of what is on this side of the driver: it runs the kernels of
// src/compute/cuda/kernels by the shim, as strictly as a driver may. What a stream is given happens when it is waited for,
// and not before; memory that a thread frees while what it gave to a stream may still use it is an error.
//
// The environment says what it is like:
//   EMULATED_INIT=100       cuInit fails so: 100 no device, 34 the toolkit's stub, …
//   EMULATED_VERSION=11080  for which CUDA it is
//   EMULATED_COMPUTE=70     the GPU's compute capability, 9.0 otherwise
//   EMULATED_COUNT=2        how many GPUs
//   EMULATED_MEMORY=1000    bytes of each; EMULATED_FREE, what of them it says is free
//   EMULATED_FAULT=719      every launch fails so
//   EMULATED_LOG=FILE       where the names of kernels are written that run
#include "shim.hpp"

#include "common.cuh"

namespace materialise_cu {
#include "materialise.cu"
}
namespace bake_cu {
#include "bake.cu"
}
namespace select_cu {
#include "select.cu"
}
namespace reduce_cu {
#include "reduce.cu"
}
namespace elect_cu {
#include "elect.cu"
}

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace {

using Result = int;
constexpr Result SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
                 INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NOT_FOUND = 500, LAUNCH_FAILED = 719;

typedef std::function<std::function<void()>(void**)> Bind;

struct Kernel {
    std::string module, name;
    Bind bind;
};

#define KERNEL(space, name) {#space, #name, [](void** arguments) { return shim::bind(space::name, arguments); }},

std::vector<Kernel>& kernels() {
    static std::vector<Kernel> table = {
        // Written by the test that compiles this, from the entries of the PTX.
#include "table.inc"
    };
    return table;
}

struct Stream {
    std::vector<std::function<Result()>> waiting;
    // Who gave it the last of these.
    std::thread::id giver;

    void push(std::function<Result()> work) {
        waiting.push_back(std::move(work));
        giver = std::this_thread::get_id();
    }
};

std::recursive_mutex everything;
std::map<std::uint64_t, std::size_t> memory;
std::map<void*, std::size_t> pinned;
std::vector<Stream*> streams;
std::size_t used = 0;
bool is_initialised = false;
int context;
thread_local void* current = nullptr;
// As on a GPU, a launch that failed is told by all that comes after it.
Result fault = SUCCESS;

std::size_t setting(const char* name, std::size_t otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

std::size_t total() { return setting("EMULATED_MEMORY", std::size_t(1) << 30); }

Result run(Stream* stream) {
    std::vector<std::function<Result()>> waiting;
    waiting.swap(stream->waiting);
    for (const auto& work : waiting) {
        if (fault == SUCCESS) {
            fault = work();
        }
    }
    return fault;
}

// Whether a range is inside of one piece of memory.
template <class Address> bool is_within(const std::map<Address, std::size_t>& all, Address first, std::size_t bytes) {
    auto next = all.upper_bound(first);
    if (next == all.begin()) {
        return false;
    }
    --next;
    return std::uintptr_t(first) + bytes <= std::uintptr_t(next->first) + next->second;
}

bool is_pinned(const void* first, std::size_t bytes) { return is_within<void*>(pinned, const_cast<void*>(first), bytes); }

#define LOCK                                                            \
    const std::lock_guard<std::recursive_mutex> lock(everything);       \
    if (!is_initialised) {                                              \
        return NOT_INITIALIZED;                                         \
    }
#define IN_CONTEXT                     \
    LOCK if (!current) {               \
        return INVALID_CONTEXT;        \
    }                                  \
    if (fault != SUCCESS) {            \
        return fault;                  \
    }

}  // namespace

extern "C" {

Result cuInit(unsigned) {
    const Result result = Result(setting("EMULATED_INIT", SUCCESS));
    is_initialised = result == SUCCESS;
    return result;
}
Result cuDriverGetVersion(int* version) {
    *version = int(setting("EMULATED_VERSION", 12000));
    return SUCCESS;
}
Result cuGetErrorName(Result error, const char** text) {
    static const std::map<Result, const char*> names = {
        {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"}, {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"}, {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"}};
    const auto found = names.find(error);
    *text = found == names.end() ? nullptr : found->second;
    return found == names.end() ? INVALID_VALUE : SUCCESS;
}
Result cuGetErrorString(Result error, const char** text) {
    *text = "as the emulated driver has it";
    const char* name;
    return cuGetErrorName(error, &name);
}

Result cuDeviceGetCount(int* count) {
    LOCK;
    *count = int(setting("EMULATED_COUNT", 1));
    return SUCCESS;
}
Result cuDeviceGet(int* device, int ordinal) {
    LOCK;
    *device = ordinal;
    return ordinal < int(setting("EMULATED_COUNT", 1)) ? SUCCESS : INVALID_DEVICE;
}
Result cuDeviceGetName(char* name, int length, int device) {
    LOCK;
    std::snprintf(name, std::size_t(length), "Emulated %d", device);
    return SUCCESS;
}
Result cuDeviceGetAttribute(int* value, int attribute, int) {
    LOCK;
    const int compute = int(setting("EMULATED_COMPUTE", 90));
    *value = attribute == 75 ? compute / 10 : attribute == 76 ? compute % 10 : 0;
    return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void** to, int) {
    LOCK;
    *to = &context;
    return SUCCESS;
}
Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
Result cuCtxGetCurrent(void** to) {
    LOCK;
    *to = current;
    return SUCCESS;
}
Result cuCtxSetCurrent(void* to) {
    LOCK;
    current = to;
    return SUCCESS;
}
Result cuCtxSynchronize() {
    IN_CONTEXT;
    for (Stream* stream : streams) {
        run(stream);
    }
    return fault;
}

Result cuMemGetInfo_v2(std::size_t* free, std::size_t* all) {
    IN_CONTEXT;
    *all = total();
    *free = setting("EMULATED_FREE", total() - used);
    return SUCCESS;
}
Result cuMemAlloc_v2(std::uint64_t* address, std::size_t bytes) {
    IN_CONTEXT;
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    if (used + bytes > total()) {
        return OUT_OF_MEMORY;
    }
    // Nonsense, as memory has that was used before; on an address like a GPU's.
    void* made = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    std::memset(made, 0xa5, bytes);
    *address = std::uint64_t(made);
    memory[*address] = bytes;
    used += bytes;
    return SUCCESS;
}
Result cuMemFree_v2(std::uint64_t address) {
    IN_CONTEXT;
    const auto found = memory.find(address);
    if (found == memory.end()) {
        return INVALID_VALUE;
    }
    for (const Stream* stream : streams) {
        if (!stream->waiting.empty() && stream->giver == std::this_thread::get_id()) {
            std::fprintf(stderr, "emulated driver: memory is freed while a stream waits\n");
            std::abort();
        }
    }
    used -= found->second;
    memory.erase(found);
    std::free(reinterpret_cast<void*>(address));
    return SUCCESS;
}
Result cuMemHostAlloc(void** address, std::size_t bytes, unsigned) {
    IN_CONTEXT;
    *address = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    pinned[*address] = bytes;
    return SUCCESS;
}
Result cuMemFreeHost(void* address) {
    LOCK;
    pinned.erase(address);
    std::free(address);
    return SUCCESS;
}
Result cuMemcpyHtoDAsync_v2(std::uint64_t to, const void* from, std::size_t bytes, Stream* stream) {
    IN_CONTEXT;
    if (!is_within(memory, to, bytes) || !is_pinned(from, bytes)) {
        return INVALID_VALUE;
    }
    stream->push([=] {
        std::memcpy(reinterpret_cast<void*>(to), from, bytes);
        return SUCCESS;
    });
    return SUCCESS;
}
Result cuMemcpyDtoHAsync_v2(void* to, std::uint64_t from, std::size_t bytes, Stream* stream) {
    IN_CONTEXT;
    if (!is_within(memory, from, bytes) || !is_pinned(to, bytes)) {
        return INVALID_VALUE;
    }
    stream->push([=] {
        std::memcpy(to, reinterpret_cast<void*>(from), bytes);
        return SUCCESS;
    });
    return SUCCESS;
}
Result cuMemsetD8Async(std::uint64_t to, unsigned char byte, std::size_t bytes, Stream* stream) {
    IN_CONTEXT;
    if (!is_within(memory, to, bytes)) {
        return INVALID_VALUE;
    }
    stream->push([=] {
        std::memset(reinterpret_cast<void*>(to), byte, bytes);
        return SUCCESS;
    });
    return SUCCESS;
}

Result cuStreamCreate(Stream** stream, unsigned) {
    IN_CONTEXT;
    *stream = new Stream;
    streams.push_back(*stream);
    return SUCCESS;
}
Result cuStreamDestroy_v2(Stream* stream) {
    LOCK;
    run(stream);
    for (auto& one : streams) {
        if (one == stream) {
            one = streams.back();
            streams.pop_back();
            break;
        }
    }
    delete stream;
    return SUCCESS;
}
Result cuStreamSynchronize(Stream* stream) {
    IN_CONTEXT;
    return run(stream);
}
Result cuEventCreate(void** event, unsigned) {
    IN_CONTEXT;
    *event = &context;
    return SUCCESS;
}
Result cuEventDestroy_v2(void*) { return SUCCESS; }
// Nothing is recorded by what is tested.
Result cuEventSynchronize(void*) { return SUCCESS; }

Result cuModuleLoadData(void** module, const void* image) {
    IN_CONTEXT;
    const std::string text = static_cast<const char*>(image);
    for (Kernel& kernel : kernels()) {
        if (text.find(".entry " + kernel.name + "(") != std::string::npos) {
            *module = &kernel;
            return SUCCESS;
        }
    }
    return INVALID_VALUE;
}
Result cuModuleUnload(void*) { return SUCCESS; }
Result cuModuleGetFunction(void** function, void* module, const char* name) {
    IN_CONTEXT;
    for (Kernel& kernel : kernels()) {
        if (kernel.module == static_cast<Kernel*>(module)->module && kernel.name == name) {
            *function = &kernel;
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}
Result cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned, unsigned,
                      Stream* stream, void** arguments, void**) {
    IN_CONTEXT;
    if (x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535 || threads != 256) {
        return INVALID_VALUE;
    }
    const Kernel* kernel = static_cast<Kernel*>(function);
    const std::function<void()> thread = kernel->bind(arguments);
    stream->push([=]() -> Result {
        if (const Result wanted = Result(setting("EMULATED_FAULT", SUCCESS))) {
            return wanted;
        }
        if (const char* path = std::getenv("EMULATED_LOG")) {
            if (std::FILE* file = std::fopen(path, "a")) {
                std::fprintf(file, "%s\n", kernel->name.c_str());
                std::fclose(file);
            }
        }
        const std::string wrong = shim::launch({x, y, z}, {threads, 1, 1}, shim::Order::random, 1, thread);
        if (!wrong.empty()) {
            std::fprintf(stderr, "emulated driver: %s: %s\n", kernel->name.c_str(), wrong.c_str());
            return LAUNCH_FAILED;
        }
        return SUCCESS;
    });
    return SUCCESS;
}

}  // extern "C"
