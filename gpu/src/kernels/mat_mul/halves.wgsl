// Sixteen elements of a row of weights, as a matrix unit takes them.
#flag BITS_1     codes of 1 bit
#flag BITS_2     codes of 2 bits
#flag BITS_3     codes of 3 bits
#flag BITS_4     codes of 4 bits
#flag BITS_5     codes of 5 bits
#flag BITS_6     codes of 6 bits
#flag BITS_8     codes of 8 bits
#flag TABLE      codes are indices of a table
#const UNIT_WORDS words of the codes of a unit of one row
#needs look_up, word

// The words of half a unit of one row: its elements 16h .. 16h + 15.
fn half_words(base: u32, u: u32, h: u32, r: u32) -> vec4<u32> {
    let at = u * {{UNIT_WORDS}}u;
#if BITS_8
    let w = at + 4u * h;
    return vec4<u32>(word(base, w, r), word(base, w + 1u, r), word(base, w + 2u, r), word(base, w + 3u, r));
#endif
    #if BITS_6: return vec4<u32>(word(base, at + 2u * h, r), word(base, at + 2u * h + 1u, r), word(base, at + 4u + h, r), 0u);
    #if BITS_5: return vec4<u32>(word(base, at + 2u * h, r), word(base, at + 2u * h + 1u, r), word(base, at + 4u, r), 0u);
    #if BITS_4: return vec4<u32>(word(base, at + 2u * h, r), word(base, at + 2u * h + 1u, r), 0u, 0u);
    #if BITS_3: return vec4<u32>(word(base, at + h, r), word(base, at + 2u, r), 0u, 0u);
    #if BITS_1: return vec4<u32>(word(base, at, r), 0u, 0u, 0u);
    #if BITS_2: return vec4<u32>(word(base, at + h, r), 0u, 0u, 0u);
}

// The codes of its elements 4j .. 4j + 3, a byte each.
fn half_codes(words: vec4<u32>, h: u32, j: u32) -> u32 {
    #if BITS_8: return words[j];
    #if BITS_6: return ((words[j >> 1u] >> (4u * (j & 1u))) & 0x0f0f0f0fu) | ((words.z >> (2u * j)) & 0x03030303u) << 4u;
    #if BITS_5: return ((words[j >> 1u] >> (4u * (j & 1u))) & 0x0f0f0f0fu) | ((words.z >> (4u * h + j)) & 0x01010101u) << 4u;
#if BITS_4
    let low = (words[j >> 1u] >> (4u * (j & 1u))) & 0x0f0f0f0fu;
#if TABLE
    return look_up(low);
#else
    return low;
#endif
#endif
#if BITS_3
    let three = ((words.x >> (2u * j)) & 0x03030303u) | ((words.y >> (4u * h + j)) & 0x01010101u) << 2u;
#if TABLE
    return look_up(three);
#else
    return three;
#endif
#endif
    #if BITS_1: return ((words.x >> (4u * h + j)) & 0x01010101u) << 1u;
    #if BITS_2: return (words.x >> (2u * j)) & 0x03030303u;
}

// Four bytes as numbers, less what they were stored with: 1024 + b is a number whose lowest bits are b. They come in the
// order 0, 2, 1, 3, which is as good, since weights and activations both do.
fn numbers(bytes: u32, less: f16) -> vec4<f16> {
    let even = (bytes & 0x00ff00ffu) | 0x64006400u;
    let odd = ((bytes >> 8u) & 0x00ff00ffu) | 0x64006400u;
    return bitcast<vec4<f16>>(vec4<u16>(u16(even), u16(even >> 16u), u16(odd), u16(odd >> 16u))) - vec4<f16>(less);
}
