// `exp` and what is made of it, line by line as graph/src/math.rs. Includes float.wgsl.
#include float

fn exp_(x: f32) -> f32 {
    let n = keep(fma_(x, {{LOG2_E}}, {{ROUND_MAGIC}})) - {{ROUND_MAGIC}};
    let r = fma_(n, -({{LN2_LO}}), fma_(n, -{{LN2_HI}}, x));
    var y = {{EXP_POLY_0}};
    y = fma_(y, r, {{EXP_POLY_1}});
    y = fma_(y, r, {{EXP_POLY_2}});
    y = fma_(y, r, {{EXP_POLY_3}});
    y = fma_(y, r, {{EXP_POLY_4}});
    y = fma_(y, r, {{EXP_POLY_5}});
    y = keep(fma_(y, r * r, r)) + 1.0;
    // A NaN or a number out of range is decided by y and by the ends below.
    let k = i32(clamp(n, -126.0, 127.0));
    let inside = y * bitcast<f32>(u32(k + 127) << 23u);
    return select(select(inside, infinity(), x > {{EXP_MAX}}), 0.0, x < {{EXP_MIN}});
}

fn silu(x: f32) -> f32 { return div_(x, 1.0 + keep(exp_(-x))); }

fn gelu_tanh(x: f32) -> f32 {
    let u = fma_({{GELU_C}} * keep(x * x), x, x);
    return div_(x, 1.0 + keep(exp_({{GELU_K}} * u)));
}

fn softcap_(x: f32, cap: f32) -> f32 {
    return cap * (1.0 - keep(div_(2.0, 1.0 + keep(exp_(2.0 * div_(x, cap))))));
}
