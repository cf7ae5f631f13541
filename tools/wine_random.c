// bcryptprimitives.dll for a Wine older than 8.13: the one function of it that Rust's programs call, made of the older one
// that does the same. `cargo xtask wine` compiles it; no user of Windows needs it.
#include <stddef.h>

// RtlGenRandom of advapi32.dll, under the name that the library exports.
__declspec(dllimport) unsigned char SystemFunction036(void *bytes, unsigned long length);

__declspec(dllexport) int ProcessPrng(unsigned char *bytes, size_t length) {
    const size_t most = 1 << 20;
    while (length > 0) {
        size_t part = length < most ? length : most;
        if (!SystemFunction036(bytes, (unsigned long)part)) {
            return 0;
        }
        bytes += part;
        length -= part;
    }
    return 1;
}
