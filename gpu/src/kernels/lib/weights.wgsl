// Weights as gpu/src/layout.rs lays them out: tiles of 32 rows, blocks within them, each word of a block 32 times, once
// for each row.
#flag BF16         the format is bf16
#flag BITS_1       codes of 1 bit
#flag BITS_2       codes of 2 bits
#flag BITS_3       codes of 3 bits
#flag BITS_4       codes of 4 bits
#flag BITS_5       codes of 5 bits
#flag BITS_6       codes of 6 bits
#flag BITS_8       codes of 8 bits
#flag D_F32        the scale of a block is an f32
#flag D_ONE        the scale of a block is an f16
#flag D_TWO        a block has two f16, its scale and what is added
#flag F16          the format is f16
#flag FRACTION     a scale is a part of its f16
#flag F32          the format is f32
#flag MINS         runs of elements have an integer minimum
#flag QUANT        a format of integers with scales; else of floats
#flag SCALES       runs of elements have an integer scale
#flag TABLE        codes are indices of a table
#const BLOCK_WORDS  words of a block of 32 rows
#const D_TIMES      which part of its f16 a scale is
#const FULL         words of one row of a block before its f32 scales
#const MINS_AT      the word of a row where its minimums begin
#const OFFSET       what is taken from a stored code
#const RUN_OF_GROUP the run of four elements `j` of unit `u`
#const SCALES_AT    the word of a row where its integer scales begin
#const TABLE_LEN    words of the table
#const TABLE_WORDS  the table, four bytes in a word
#const UNITS        units of 32 elements in a block
#const UNIT_WORDS   words of the codes of a unit of one row
#needs f16_to_f32, no_bits, p.blocks, w

#if QUANT
// Word `k` of row `r` in the block that starts at word `base`.
fn word(base: u32, k: u32, r: u32) -> u32 { return w[base + k * 32u + r]; }

#if TABLE
const TABLE = array<u32, {{TABLE_LEN}}>({{TABLE_WORDS}});

fn look_up(codes: u32) -> u32 {
    var out = 0u;
    for (var i = 0u; i < 32u; i += 8u) {
        let code = (codes >> i) & 15u;
        out |= ((TABLE[code >> 2u] >> ((code & 3u) * 8u)) & 255u) << i;
    }
    return out;
}
#endif

// The stored codes of the elements 4j .. 4j + 3 of unit u, a byte each.
fn codes(base: u32, u: u32, j: u32, r: u32) -> u32 {
    let at = u * {{UNIT_WORDS}}u;
    #if BITS_8: return word(base, at + j, r);
#if BITS_6
    let low = (word(base, at + (j >> 1u), r) >> (4u * (j & 1u))) & 0x0f0f0f0fu;
    let high = (word(base, at + 4u + (j >> 2u), r) >> (2u * (j & 3u))) & 0x03030303u;
    return low | (high << 4u);
#endif
#if BITS_5
    let low = (word(base, at + (j >> 1u), r) >> (4u * (j & 1u))) & 0x0f0f0f0fu;
    let high = (word(base, at + 4u, r) >> j) & 0x01010101u;
    return low | (high << 4u);
#endif
#if BITS_4
    let low = (word(base, at + (j >> 1u), r) >> (4u * (j & 1u))) & 0x0f0f0f0fu;
#if TABLE
    return look_up(low);
#else
    return low;
#endif
#endif
#if BITS_3
    let low = (word(base, at + (j >> 2u), r) >> (2u * (j & 3u))) & 0x03030303u;
    let high = (word(base, at + 2u, r) >> j) & 0x01010101u;
#if TABLE
    return look_up(low | (high << 2u));
#else
    return low | (high << 2u);
#endif
#endif
    #if BITS_1: return ((word(base, at, r) >> j) & 0x01010101u) << 1u;
    #if BITS_2: return (word(base, at + (j >> 2u), r) >> (2u * (j & 3u))) & 0x03030303u;
}

// The word of the block that holds the f32 scale of row `r`, and what is added.
fn d_word(base: u32, r: u32) -> u32 {
#if D_ONE
    return w[base + {{FULL}}u * 32u + (r >> 1u)];
#else
    return w[base + {{FULL}}u * 32u + r];
#endif
}

// The f32 scale in that word.
fn d_of(word: u32, r: u32) -> f32 {
    #if D_F32: return bitcast<f32>(word ^ no_bits());
#if D_ONE
    let d = f16_to_f32((word >> ((r & 1u) * 16u)) & 0xffffu);
#if FRACTION
    return d * {{D_TIMES}};
#else
    return d;
#endif
#endif
    #if D_TWO: return f16_to_f32(word & 0xffffu);
}

fn block_d(base: u32, r: u32) -> f32 { return d_of(d_word(base, r), r); }

#if D_TWO
// What is added, or the f32 scale of the minimums.
fn m_of(word: u32) -> f32 { return f16_to_f32(word >> 16u); }
fn block_m(base: u32, r: u32) -> f32 { return m_of(d_word(base, r)); }
#endif

#if SCALES
// The integer scale of run `s` (16 or 32 elements).
fn run_scale(base: u32, s: u32, r: u32) -> i32 {
    return extractBits(i32(word(base, {{SCALES_AT}}u + (s >> 2u), r)), (s & 3u) * 8u, 8u);
}
#endif
#if MINS
fn run_min(base: u32, s: u32, r: u32) -> i32 {
    return i32(extractBits(word(base, {{MINS_AT}}u + (s >> 2u), r), (s & 3u) * 8u, 8u));
}
#endif

// The weights of the elements 4j .. 4j + 3 of unit u, as gguf decodes them.
fn dequant4(base: u32, u: u32, j: u32, r: u32) -> vec4<f32> {
    let q = vec4<f32>(unpack4xI8(codes(base, u, j, r)) - vec4<i32>({{OFFSET}}));
#if SCALES
    let run = {{RUN_OF_GROUP}};
    let scale = block_d(base, r) * f32(run_scale(base, run, r));
#if MINS
    return q * scale - vec4<f32>(block_m(base, r) * f32(run_min(base, run, r)));
#else
    return q * scale;
#endif
#elif D_TWO
    return q * block_d(base, r) + vec4<f32>(block_m(base, r));
#else
    return q * block_d(base, r);
#endif
}

// Four weights of row `row` from element 4g on.
fn weights4(row: u32, g: u32) -> vec4<f32> {
    let base = ((row >> 5u) * p.blocks + g / ({{UNITS}}u * 8u)) * {{BLOCK_WORDS}}u;
    return dequant4(base, (g >> 3u) % {{UNITS}}u, g & 7u, row & 31u);
}
#else
// Four weights of row `row` from element 4g on; past the row's end they are 0.
fn weights4(row: u32, g: u32) -> vec4<f32> {
    let r = row & 31u;
#if F32
    let at = ((row >> 5u) * p.blocks + g) * 128u + r;
    return vec4<f32>(bitcast<f32>(w[at]), bitcast<f32>(w[at + 32u]), bitcast<f32>(w[at + 64u]),
        bitcast<f32>(w[at + 96u]));
#else
    let at = ((row >> 5u) * p.blocks + g) * 64u + r;
    let a = w[at];
    let b = w[at + 32u];
#if F16
    return vec4<f32>(f16_to_f32(a & 0xffffu), f16_to_f32(a >> 16u), f16_to_f32(b & 0xffffu), f16_to_f32(b >> 16u));
#elif BF16
    return vec4<f32>(bitcast<f32>(a << 16u), bitcast<f32>(a & 0xffff0000u), bitcast<f32>(b << 16u),
        bitcast<f32>(b & 0xffff0000u));
#endif
#endif
}
#endif
