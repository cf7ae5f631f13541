// The contract's scalar steps (graph/src/math.rs): the same bits on every device, from what the probes found exact.
// `p.rows` is below 2^31.
#flag SOFT      some of fma, division and square root are made of integers
#flag SOFT_DIV  division is made of integers
#flag SOFT_FMA  fma is made of many steps, so that one copy of it in a loop beats many in line
#flag SOFT_HALF f16 is converted by integers
#flag SOFT_SQRT the square root is made of integers
#flag WIDE_FMA  fma is made of doubles, not of integers
#needs p.rows

// A runtime zero that no compiler can see through.
fn no_bits() -> u32 { return p.rows & 0x80000000u; }

// The value itself, out of reach of contraction and reassociation: a product that goes through here is rounded. Metal is
// told to compute in fast math (docs/metal.md), so everything between two operations that a compiler could join, swap or
// share with a neighbour goes through here.
fn keep(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) ^ no_bits()); }

fn infinity() -> f32 { return bitcast<f32>(0x7f800000u ^ no_bits()); }

#if SOFT
// Sign and magnitude of `m32 · 2^(e - 158)`, m32 having its highest bit set, rounded to nearest even; `sticky` says
// that something non-zero below was cut off.
fn pack(sign: u32, e: i32, m32: u32, sticky: bool) -> f32 {
    if e >= 255 { return bitcast<f32>(sign | 0x7f800000u); }
    var m = m32;
    var rest = sticky;
    var high = 0u;
    if e <= 0 {
        let shift = u32(min(1 - e, 31));
        rest = rest || (m & ((1u << shift) - 1u)) != 0u;
        m = m >> shift;
        // At 31 one bit is left where none should be; it cannot round up to a number.
        if 1 - e > 31 { m = 0u; rest = true; }
    } else {
        high = u32(e - 1) << 23u;
    }
    let r = m >> 8u;
    let low = m & 255u;
    let up = low > 128u || (low == 128u && (rest || (r & 1u) == 1u));
    return bitcast<f32>(sign | (high + r + select(0u, 1u, up)));
}

struct Parts { m: u32, e: i32 }

// A finite non-zero number as `m · 2^(e - 150)` with bit 23 of m set.
fn parts(x: f32) -> Parts {
    let b = bitcast<u32>(x) & 0x7fffffffu;
    let e = i32(b >> 23u);
    let f = b & 0x7fffffu;
    if e > 0 { return Parts(f | 0x800000u, e); }
    let shift = countLeadingZeros(f) - 8u;
    return Parts(f << shift, 1 - i32(shift));
}

fn is_zero(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) == 0u; }
fn is_special(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) == 0x7f800000u; }
#endif

#if WIDE_FMA
// As `keep`.
fn keep_wide(x: f64) -> f64 { return bitcast<f64>(bitcast<u64>(x) ^ u64(no_bits())); }

// a · b + c with one rounding, in doubles. There the product is exact, and so is what the sum's rounding took away
// (Knuth's TwoSum). If it took anything, the sum's last bit is made odd: then rounding it to f32 gives what rounding the
// exact sum would (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
fn fused(a: f32, b: f32, c: f32) -> f32 {
    let product = keep_wide(f64(a) * f64(b));
    let addend = f64(c);
    let sum = keep_wide(product + addend);
    let of_addend = keep_wide(sum - product);
    let of_product = keep_wide(sum - of_addend);
    let lost = keep_wide(product - of_product) + keep_wide(addend - of_addend);
    let bits = bitcast<i64>(sum);
    let step = select(i64(-1), i64(1), (lost > f64(0.0)) == (sum > f64(0.0)));
    // Infinite numbers leave a NaN in `lost`, which is neither.
    let inexact = lost > f64(0.0) || lost < f64(0.0);
    let odd = bits + select(i64(0), step, inexact && (bits & i64(1)) == i64(0));
    // Kept: a driver may leave out a rounding that is followed by the way back to double.
    return keep(f32(bitcast<f64>(odd)));
}
#elif SOFT_FMA
// (high, low) of 64 bits shifted right; what falls out is kept as the lowest bit.
fn shift_right(a: vec2<u32>, n: u32) -> vec2<u32> {
    if n == 0u { return a; }
    if n > 63u { return vec2<u32>(0u, select(0u, 1u, (a.x | a.y) != 0u)); }
    if n > 31u {
        let k = n - 32u;
        var out = a.y != 0u;
        var low = a.x;
        if k > 0u { out = out || (a.x << (32u - k)) != 0u; low = a.x >> k; }
        return vec2<u32>(0u, low | select(0u, 1u, out));
    }
    let out = (a.y << (32u - n)) != 0u;
    return vec2<u32>(a.x >> n, (a.y >> n) | (a.x << (32u - n)) | select(0u, 1u, out));
}

// a · b + c with one rounding, in integers: software devices multiply, round and add.
fn fused(a: f32, b: f32, c: f32) -> f32 {
    if is_special(a) || is_special(b) { return a * b + c; }
    if is_special(c) { return c; }
    let sign_p = (bitcast<u32>(a) ^ bitcast<u32>(b)) & 0x80000000u;
    let sign_c = bitcast<u32>(c) & 0x80000000u;
    if is_zero(a) || is_zero(b) {
        if is_zero(c) { return bitcast<f32>(sign_p & sign_c); }
        return c;
    }
    let x = parts(a);
    let y = parts(b);
    // The product of 24 by 24 bits, its leading bit at 62.
    let xh = x.m >> 12u;
    let xl = x.m & 0xfffu;
    let yh = y.m >> 12u;
    let yl = y.m & 0xfffu;
    let middle = xh * yl + xl * yh;
    let low0 = xl * yl;
    // xh·yh·2^24 + middle·2^12 + low0, shifted left by 15.
    let top = xh * yh;
    var low = (low0 << 15u);
    var high = low0 >> 17u;
    let mid_low = middle << 27u;
    low = low + mid_low;
    high = high + (middle >> 5u) + select(0u, 1u, low < mid_low);
    high = high + (top << 7u);
    var e = x.e + y.e - 315;
    if (high & 0x40000000u) == 0u {
        high = (high << 1u) | (low >> 31u);
        low = low << 1u;
        e = e - 1;
    }
    var p64 = vec2<u32>(high, low);
    var c64 = vec2<u32>(0u, 0u);
    if !is_zero(c) {
        let z = parts(c);
        c64 = vec2<u32>(z.m << 7u, 0u);
        let ec = z.e - 189;
        if e >= ec {
            c64 = shift_right(c64, u32(min(e - ec, 64)));
        } else {
            p64 = shift_right(p64, u32(min(ec - e, 64)));
            e = ec;
        }
    }
    var sign = sign_p;
    var sum = vec2<u32>(0u, 0u);
    if sign_p == sign_c {
        sum.y = p64.y + c64.y;
        sum.x = p64.x + c64.x + select(0u, 1u, sum.y < p64.y);
    } else {
        if p64.x < c64.x || (p64.x == c64.x && p64.y < c64.y) {
            let t = p64;
            p64 = c64;
            c64 = t;
            sign = sign_c;
        }
        sum.y = p64.y - c64.y;
        sum.x = p64.x - c64.x - select(0u, 1u, p64.y < c64.y);
        if (sum.x | sum.y) == 0u { return bitcast<f32>(no_bits()); }
    }
    var n = countLeadingZeros(sum.x);
    if sum.x == 0u {
        sum.x = sum.y;
        sum.y = 0u;
        n = countLeadingZeros(sum.x);
        sum.x = sum.x << n;
        n = n + 32u;
    } else if n > 0u {
        sum.x = (sum.x << n) | (sum.y >> (32u - n));
        sum.y = sum.y << n;
    }
    return pack(sign, e - i32(n) + 190, sum.x, sum.y != 0u);
}
#else
fn fused(a: f32, b: f32, c: f32) -> f32 { return fma(a, b, c); }
#endif

#if SOFT_DIV
// a / b, correctly rounded: the device's quotient is corrected by its exact remainder, which is small and therefore
// right even modulo 2^32.
fn quotient(a: f32, b: f32) -> f32 {
    if is_special(a) || is_special(b) || is_zero(a) || is_zero(b) { return a / b; }
    let sign = (bitcast<u32>(a) ^ bitcast<u32>(b)) & 0x80000000u;
    let x = parts(a);
    let y = parts(b);
    let guess = f32(x.m) / f32(y.m);
    var q = u32(guess * 33554432.0);
    var rest = i32((x.m << 25u) - q * y.m);
    let fix = i32(floor(f32(rest) / f32(y.m)));
    q = u32(i32(q) + fix);
    rest = rest - fix * i32(y.m);
    if rest < 0 { q = q - 1u; rest = rest + i32(y.m); }
    if rest >= i32(y.m) { q = q + 1u; rest = rest - i32(y.m); }
    let n = countLeadingZeros(q);
    return pack(sign, x.e - y.e + 133 - i32(n), q << n, rest != 0);
}
#else
// Both kept: spirv-opt, which some drivers run, makes c1 / (c2 / x) a product, and x / c a product with the rounded 1 / c.
fn quotient(a: f32, b: f32) -> f32 { return keep(a / keep(b)); }
#endif

#if SOFT_SQRT
// The square root, correctly rounded, in the same way.
fn root(a: f32) -> f32 {
    if is_special(a) || is_zero(a) || (bitcast<u32>(a) >> 31u) == 1u { return sqrt(a); }
    let x = parts(a);
    var t = x.e - 150;
    var m = x.m;
    if (t & 1) != 0 { m = m << 1u; t = t - 1; }
    var s = u32(sqrt(f32(m)) * 8192.0);
    var rest = i32((m << 26u) - s * s);
    s = u32(i32(s) + i32(floor(f32(rest) / f32(2u * s))));
    rest = i32((m << 26u) - s * s);
    if rest < 0 { s = s - 1u; rest = rest + i32(2u * s + 1u); }
    if rest > i32(2u * s) { rest = rest - i32(2u * s + 1u); s = s + 1u; }
    let n = countLeadingZeros(s);
    return pack(0u, t / 2 + 145 - i32(n), s << n, rest != 0);
}
#else
fn root(a: f32) -> f32 { return keep(sqrt(a)); }
#endif

// The f32 of an f16's bits, which stand in the low half of `h`.
fn f16_to_f32(h: u32) -> f32 {
#if SOFT_HALF
    let sign = (h & 0x8000u) << 16u;
    let e = (h >> 10u) & 31u;
    let m = h & 1023u;
    // m · 2^-24, without a conversion, of which GPUs do few at once.
    let tiny = bitcast<u32>(bitcast<f32>(0x38800000u | (m << 13u)) - 6.103515625e-5);
    let plain = ((e + 112u) << 23u) | (m << 13u);
    let huge = 0x7f800000u | (m << 13u);
    return bitcast<f32>(sign | select(select(plain, huge, e == 31u), tiny, e == 0u));
#else
    return unpack2x16float(h).x;
#endif
}

// The bits of the f16 nearest to x, ties to even; 65520 and more are infinite.
fn f32_to_f16(x: f32) -> u32 {
    let b = bitcast<u32>(x);
    let sign = (b >> 16u) & 0x8000u;
    let a = b & 0x7fffffffu;
    if a > 0x7f800000u { return sign | 0x7e00u; }
    if a >= 0x477ff000u { return sign | 0x7c00u; }
    if a >= 0x38800000u { return sign | ((a + 0xfffu + ((a >> 13u) & 1u) - 0x38000000u) >> 13u); }
    let e = a >> 23u;
    if e < 102u { return sign; }
    let m = (a & 0x7fffffu) | 0x800000u;
    let shift = 126u - e;
    let q = m >> shift;
    let rest = m & ((1u << shift) - 1u);
    let half = 1u << (shift - 1u);
    let up = rest > half || (rest == half && (q & 1u) == 1u);
    return sign | (q + select(0u, 1u, up));
}

fn round_f16(x: f32) -> f32 { return f16_to_f32(f32_to_f16(x)); }

fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }
