// Part of coop_int16.wgsl: the weights, activations and scales that this thread has loaded go to workgroup memory; quants
// as f16 numbers. What stands for a whole unit is brought by the thread with its first half.
#flag D_TWO       a block has two f16, its scale and what is added
#const A_EACH      half units of weights that a thread brings
#const LESS        what is taken from a number made of a byte
#const TO_UNSIGNED makes signed bytes unsigned
#const X_EACH      half units of activations that a thread brings
#needs PITCH, ROWS, RUNS, THREADS, TOKENS, UNITS, a, a_h*, a_r*, by, d_next*, d_rows, d_tokens, half_codes, high_next*,
#needs low_next*, m_rows, mins_next*, n, numbers, run_of, s_tokens, scaled_sum, scales_next*, slot, sums_next*, t, w_next*,
#needs x, x_h, x_token*
#for I 0..{{A_EACH}}
if t + {{I}}u * THREADS < 2u * ROWS {
    let to = a_r{{I}} * PITCH + a_h{{I}} * 4u;
    #for J 0..4: a[to + {{J}}u] = numbers(half_codes(w_next{{I}}, a_h{{I}}, {{J}}u){{TO_UNSIGNED}}, {{LESS}});
    if a_h{{I}} < RUNS {
        let shift = (((n % UNITS) * RUNS + a_h{{I}}) & 3u) * 8u;
        let run = run_of(d_next{{I}}, scales_next{{I}}, mins_next{{I}}, shift, a_r{{I}} & 31u);
        d_rows[(slot * RUNS + a_h{{I}}) * ROWS + a_r{{I}}] = run.scale;
        #if D_TWO: m_rows[(slot * RUNS + a_h{{I}}) * ROWS + a_r{{I}}] = run.min;
    }
}
#endfor
#for I 0..{{X_EACH}}
if t + {{I}}u * THREADS < 2u * TOKENS {
    let to = x_token{{I}} * PITCH + x_h * 4u;
#for J 0..4
    x[to + {{J}}u] = numbers(low_next{{I}}[{{J}}] ^ 0x80808080u, 1152.0h);
    x[TOKENS * PITCH + to + {{J}}u] = numbers(high_next{{I}}[{{J}}] ^ 0x80808080u, 1152.0h) * by;
#endfor
    if x_h < RUNS {
        if x_h == 0u { d_tokens[slot * TOKENS + x_token{{I}}] = bitcast<f32>(sums_next{{I}}.z); }
        #if D_TWO: s_tokens[(slot * RUNS + x_h) * TOKENS + x_token{{I}}] = scaled_sum(sums_next{{I}}, x_h);
    }
}
#endfor
