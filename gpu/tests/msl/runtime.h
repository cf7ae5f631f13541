// What a compiled kernel and the program that runs it know of each other.
#pragma once
#include <cstddef>
#include <cstdint>

// One thread: its threadgroup's place in the grid, its index there, and what is bound.
struct Thread { uint32_t group[3]; uint32_t index; void **buffers; void **shared; };

// One variant of one shader. The table ends with a null name.
struct Kernel {
    const char *name;
    uint32_t shader;
    unsigned threads;
    // Threads of a simdgroup.
    unsigned simd;
    void (*entry)(const Thread &);
    const size_t *shared;
    size_t n_shared;
};
extern const Kernel kernels[];
