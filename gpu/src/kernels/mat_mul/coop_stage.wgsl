// Part of coop.wgsl: the weights, activations and scales that this thread has loaded go to workgroup memory, as f16 numbers.
#flag D_TWO       a block has two f16, its scale and what is added
#flag HIGH_LOW    quants are multiplied in two parts, high and low bits
#flag MINS        runs of elements have an integer minimum
#flag SCALES      runs of elements have an integer scale
#const A_EACH      half units of weights that a thread brings
#const HIGH_MASK   the bits above SHIFT, in each byte, moved down
#const LESS        what is taken from a number made of a byte
#const LOW_MASK    the bits below SHIFT, in each byte
#const SHIFT       bits of the low part
#const TOKEN_EACH  scales of tokens that a thread brings
#const TO_UNSIGNED makes signed bytes unsigned
#const X_EACH      half units of activations that a thread brings
#needs PITCH, ROWS, THREADS, TOKENS, a, a_h*, a_high, a_r*, d_a_next*, d_next, d_rows, d_tokens, half_codes, m_next,
#needs m_rows, numbers, s_a_next*, s_tokens, scale_next*, slot, t, w_next*, x, x_h, x_next*, x_token*, u
#for I 0..{{A_EACH}}
if t + {{I}}u * THREADS < 2u * ROWS {
    let to = a_r{{I}} * PITCH + a_h{{I}} * 4u;
    #if SCALES: let scale = f16(scale_next{{I}});
#for J 0..4
    {
        let bytes = half_codes(w_next{{I}}, a_h{{I}}, {{J}}u){{TO_UNSIGNED}};
#if HIGH_LOW
        a[to + {{J}}u] = numbers(bytes & {{LOW_MASK}}, 1024.0h) * scale;
        a_high[to + {{J}}u] = numbers((bytes >> {{SHIFT}}u) & {{HIGH_MASK}}, {{LESS}}) * scale;
#elif SCALES
        a[to + {{J}}u] = numbers(bytes, {{LESS}}) * scale;
#else
        a[to + {{J}}u] = numbers(bytes, {{LESS}});
#endif
    }
#endfor
}
#endfor
#for I 0..{{X_EACH}}
if t + {{I}}u * THREADS < 2u * TOKENS {
    let to = x_token{{I}} * PITCH + x_h * 4u;
    #for J 0..4: x[to + {{J}}u] = numbers(x_next{{I}}[{{J}}] ^ 0x80808080u, 1152.0h);
}
#endfor
if u == 0u {
    if t < ROWS {
        d_rows[slot * ROWS + t] = d_next;
        #if D_TWO: m_rows[slot * ROWS + t] = m_next;
    }
#for I 0..{{TOKEN_EACH}}
    if t + {{I}}u * THREADS < TOKENS {
        d_tokens[slot * TOKENS + t + {{I}}u * THREADS] = bitcast<f32>(d_a_next{{I}});
#if D_TWO
        #if !MINS: s_tokens[slot * TOKENS + t + {{I}}u * THREADS] = bitcast<f32>(s_a_next{{I}});
#endif
    }
#endfor
}
