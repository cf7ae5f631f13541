// Part of mat_mul_coop.wgsl: what this thread holds goes to the workgroup's memory, as numbers.
#for I {{A_LIST}}
if t + {{I}}u * THREADS < 2u * ROWS {
    let to = a_r{{I}} * PITCH + a_h{{I}} * 4u;
#if SCALES
    let scale = f16(scale_next{{I}});
#endif
#for J 0 1 2 3
    {
        let bytes = half_codes(w_next{{I}}, a_h{{I}}, {{J}}u){{TO_UNSIGNED}};
#if SPLIT
        a[to + {{J}}u] = numbers(bytes & {{LOW_MASK}}, 1024.0h) * scale;
        a_high[to + {{J}}u] = numbers((bytes >> {{SHIFT}}u) & {{HIGH_MASK}}, {{LESS}}) * scale;
#else
#if SCALES
        a[to + {{J}}u] = numbers(bytes, {{LESS}}) * scale;
#else
        a[to + {{J}}u] = numbers(bytes, {{LESS}});
#endif
#endif
    }
#endfor
}
#endfor
#for I {{X_LIST}}
if t + {{I}}u * THREADS < 2u * TOKENS {
    let to = x_token{{I}} * PITCH + x_h * 4u;
#for J 0 1 2 3
    x[to + {{J}}u] = numbers(x_next{{I}}[{{J}}] ^ 0x80808080u, 1152.0h);
#endfor
}
#endfor
if u == 0u {
    if t < ROWS {
        d_rows[turn * ROWS + t] = d_next;
#if D_TWO
        m_rows[turn * ROWS + t] = m_next;
#endif
    }
#for I {{TOKEN_LIST}}
    if t + {{I}}u * THREADS < TOKENS {
        d_tokens[turn * TOKENS + t + {{I}}u * THREADS] = bitcast<f32>(d_a_next{{I}});
#if D_TWO
#if MINS
#else
        s_tokens[turn * TOKENS + t + {{I}}u * THREADS] = bitcast<f32>(s_a_next{{I}});
#endif
#endif
    }
#endfor
}
