// Runs kernels of Metal's language that were compiled with our metal_stdlib, on calls read from a file, and compares what
// they leave with what is expected, bit by bit. Each call runs with its threads in three orders: ascending, descending,
// shuffled. Threadgroup memory and outputs begin as poison, and buffers have guards, so that a missing barrier, a word
// that is read before it is written and a write out of range are found.
#include "runtime.h"
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>
#if defined(__SANITIZE_ADDRESS__) || (defined(__has_feature) && __has_feature(address_sanitizer))
#define SANITIZED 1
#endif
#if defined(SANITIZED) || !defined(__x86_64__)
#define UCONTEXT 1
#include <ucontext.h>
#endif

// ---- threads: fibers of one threadgroup

#ifdef UCONTEXT
typedef ucontext_t Context;
static void swap(Context *from, Context *to) { swapcontext(from, to); }
static void prepare(Context &c, char *stack, size_t size, void (*run)()) {
    getcontext(&c);
    c.uc_stack.ss_sp = stack;
    c.uc_stack.ss_size = size;
    c.uc_link = nullptr;
    makecontext(&c, run, 0);
}
#else
// The registers that the System V ABI keeps over a call; ucontext would ask the kernel for signal masks each time.
struct Context { void *stack; };
extern "C" void msl_swap(Context *from, Context *to);
asm(".text\n.globl msl_swap\nmsl_swap:\n push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    " mov %rsp,(%rdi)\n mov (%rsi),%rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
static void swap(Context *from, Context *to) { msl_swap(from, to); }
static void prepare(Context &c, char *stack, size_t size, void (*run)()) {
    void **top = (void **)(((uintptr_t)stack + size) & ~(uintptr_t)15);
    *--top = nullptr;
    *--top = (void *)run;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    c.stack = top;
}
#endif

static const size_t STACK = 256 << 10;
// What a thread does: it runs, waits at a place for its simdgroup or for its threadgroup, or is done.
enum Scope { RUNS, SIMD, GROUP, DONE };
struct Fiber { Context context; std::unique_ptr<char[]> stack; Thread self; const void *waits_at; Scope state; };
static std::vector<Fiber> fibers;
static Context scheduler;
static Fiber *current;
static void (*current_kernel)(const Thread &);
static unsigned current_simd;

static void park(const void *place, Scope scope) {
    Fiber *me = current;
    me->waits_at = place;
    me->state = scope;
    swap(&me->context, &scheduler);
}
extern "C" void msl_barrier(const void *place) { park(place, GROUP); }
extern "C" void msl_simd_barrier(const void *place) { park(place, SIMD); }
extern "C" unsigned msl_lane() { return current->self.index % current_simd; }
extern "C" unsigned msl_lanes() { return current_simd; }
static void run_current() {
    current_kernel(current->self);
    park(nullptr, DONE);
}
// Whether `n` threads, from `first` on, do the same, at the same place.
static bool together(unsigned first, unsigned n) {
    const Fiber &a = fibers[first];
    for (unsigned t = first; t < first + n; t++)
        if (fibers[t].state != a.state || fibers[t].waits_at != a.waits_at) return false;
    return true;
}
static void release(unsigned first, unsigned n) {
    for (unsigned t = first; t < first + n; t++) fibers[t].state = RUNS;
}

// Runs one threadgroup; false where its threads do not meet at one barrier.
static bool run_group(const Kernel &kernel, const Thread &group, int order, std::mt19937 &random) {
    unsigned n = kernel.threads, simd = kernel.simd;
    std::vector<unsigned> turn(n);
    for (unsigned t = 0; t < n; t++) {
        Fiber &f = fibers[t];
        f.self = group;
        f.self.index = t;
        f.waits_at = nullptr;
        f.state = RUNS;
        prepare(f.context, f.stack.get(), STACK, run_current);
        turn[t] = t;
    }
    if (order == 1) std::reverse(turn.begin(), turn.end());
    while (true) {
        if (order == 2) std::shuffle(turn.begin(), turn.end(), random);
        for (unsigned t : turn) {
            if (fibers[t].state != RUNS) continue;
            current = &fibers[t];
            swap(&scheduler, &current->context);
        }
        // A simdgroup goes on by itself; a threadgroup where all of it wait.
        bool goes_on = false;
        for (unsigned first = 0; first < n; first += simd) {
            unsigned lanes = std::min(simd, n - first);
            if (!together(first, lanes)) return false;
            if (fibers[first].state != SIMD) continue;
            release(first, lanes);
            goes_on = true;
        }
        if (goes_on) continue;
        if (!together(0, n)) return false;
        if (fibers[0].state == DONE) return true;
        release(0, n);
    }
}

// ---- calls

struct Buffer { std::vector<uint32_t> held, is_written, expected; bool output, updated; };
struct Call { uint32_t kernel, grid[3]; std::vector<uint32_t> params; std::vector<Buffer> buffers; };
static const size_t GUARD = 64;

static FILE *file;
static uint32_t word() {
    uint32_t w;
    if (fread(&w, 4, 1, file) != 1) { fprintf(stderr, "the file of calls ends early\n"); exit(2); }
    return w;
}
static std::vector<uint32_t> words() {
    std::vector<uint32_t> all(word());
    if (!all.empty() && fread(all.data(), 4, all.size(), file) != all.size()) { fprintf(stderr, "the file of calls ends early\n"); exit(2); }
    return all;
}
static Call read_call() {
    Call c;
    c.kernel = word();
    for (uint32_t &n : c.grid) n = word();
    c.params = words();
    c.buffers.resize(word());
    for (Buffer &b : c.buffers) {
        b.held = words();
        uint32_t kind = word();
        b.output = kind > 0;
        b.updated = kind > 1; // read too, and therefore never poisoned
        if (b.output) { b.is_written = words(); b.expected = words(); }
    }
    return c;
}

// Memory of one buffer with guards; under ASan without, which sees more.
struct Memory {
    std::vector<uint32_t> all;
    size_t n;
    static size_t guard() {
#ifdef SANITIZED
        return 0;
#else
        return GUARD;
#endif
    }
    Memory(const Buffer &b, uint32_t poison) : all(b.held.size() + 2 * guard(), poison), n(b.held.size()) {
        if (!b.output || b.updated) std::copy(b.held.begin(), b.held.end(), all.begin() + guard());
    }
    uint32_t *inside() { return all.data() + guard(); }
    bool guards_hold(uint32_t poison) const {
        for (size_t i = 0; i < guard(); i++) if (all[i] != poison || all[guard() + n + i] != poison) return false;
        return true;
    }
};

// Runs a call in one order and says what is wrong; empty where nothing is.
static std::string run_call(const Kernel &kernel, const Call &call, int order) {
    static const uint32_t POISON[3] = {0xffffffffu, 0x7fc12345u, 0x5a5a5a5au};
    uint32_t poison = POISON[order];
    std::mt19937 random(order);
    std::vector<Memory> memory;
    for (const Buffer &b : call.buffers) memory.emplace_back(b, poison);
    std::vector<void *> buffers{(void *)call.params.data()};
    std::vector<uint32_t> sizes;
    for (Memory &m : memory) { buffers.push_back(m.inside()); sizes.push_back(m.n * 4); }
    buffers.push_back(sizes.data());
    std::vector<std::vector<char>> shared(kernel.n_shared);
    std::vector<void *> shared_at(kernel.n_shared);
    while (fibers.size() < kernel.threads) { fibers.emplace_back(); fibers.back().stack.reset(new char[STACK]); }
    current_kernel = kernel.entry;
    current_simd = kernel.simd;
    for (uint32_t z = 0; z < call.grid[2]; z++)
        for (uint32_t y = 0; y < call.grid[1]; y++)
            for (uint32_t x = 0; x < call.grid[0]; x++) {
                for (size_t i = 0; i < shared.size(); i++) { shared[i].assign(kernel.shared[i], (char)poison); shared_at[i] = shared[i].data(); }
                Thread group{{x, y, z}, 0, buffers.data(), shared_at.data()};
                if (!run_group(kernel, group, order, random)) return "threads do not meet at one barrier";
            }
    for (size_t i = 0; i < memory.size(); i++) {
        const Buffer &b = call.buffers[i];
        std::string where = "buffer " + std::to_string(i);
        if (!memory[i].guards_hold(poison)) return where + ": written out of range";
        for (size_t k = 0; k < memory[i].n; k++) {
            uint32_t want = !b.output ? b.held[k] : b.is_written[k] ? b.expected[k] : poison, got = memory[i].inside()[k];
            float w, g;
            memcpy(&w, &want, 4);
            memcpy(&g, &got, 4);
            // A NaN's sign and payload are nobody's.
            bool nans = (want & 0x7fffffffu) > 0x7f800000u && (got & 0x7fffffffu) > 0x7f800000u && b.output && b.is_written[k];
            if (want == got || nans) continue;
            char text[160];
            snprintf(text, sizeof text, "word %zu of %zu is %08x (%g), expected %08x (%g)", k, memory[i].n, got, g, want, w);
            return where + ": " + text;
        }
    }
    return "";
}

int main(int, char **args) {
    file = fopen(args[1], "rb");
    if (!file) { perror(args[1]); return 2; }
    uint32_t n = word();
    unsigned long wrong = 0, runs = 0;
    for (uint32_t i = 0; i < n; i++) {
        Call call = read_call();
        // The variants of one shader stand side by side.
        for (const Kernel *k = kernels; k->name; k++) {
            if (k->shader != call.kernel) continue;
            for (int order = 0; order < 3; order++) {
                std::string what = run_call(*k, call, order);
                runs++;
                if (!what.empty() && wrong++ < 20) printf("%s, call %u, order %d: %s\n", k->name, i, order, what.c_str());
            }
        }
    }
    printf("%lu runs of %u calls, %lu wrong\n", runs, n, wrong);
    return wrong != 0;
}
