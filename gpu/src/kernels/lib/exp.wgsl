// `exp` and what is made of it, line by line as graph/src/math.rs. Includes float.wgsl.
#flag SOFT_FMA    fma is made of many steps, so that one copy of it in a loop beats many in line
#const EXP_MAX     above it exp is infinite
#const EXP_MIN     below it exp is 0
#const EXP_POLY_0  of graph::math
#const EXP_POLY_1  of graph::math
#const EXP_POLY_2  of graph::math
#const EXP_POLY_3  of graph::math
#const EXP_POLY_4  of graph::math
#const EXP_POLY_5  of graph::math
#const GELU_C      of graph::math
#const GELU_K      of graph::math
#const OAI_K       of graph::math
#const OAI_LIMIT   of graph::math
#const LN2_HI      of graph::math
#const LN2_LO      of graph::math
#const LOG2_E      of graph::math
#const ROUND_MAGIC of graph::math
#needs p.rows
#include lib/float

#if SOFT_FMA
const POLY = array<f32, 6>({{EXP_POLY_0}}, {{EXP_POLY_1}}, {{EXP_POLY_2}}, {{EXP_POLY_3}}, {{EXP_POLY_4}},
    {{EXP_POLY_5}});
#endif

fn exponential(argument: f32) -> f32 {
    let x = keep(argument);
#if SOFT_FMA
    // The same nine steps, round one copy of the software fma: drivers put it in line and take seconds over nine.
    var n = 0.0;
    var r = x;
    var y = {{EXP_POLY_0}};
    for (var i = 0u; i < 9u; i++) {
        var a = y;
        var b = r;
        var c = r;
        if i == 0u { a = x; b = {{LOG2_E}}; c = {{ROUND_MAGIC}}; }
        if i == 1u { a = n; b = -{{LN2_HI}}; }
        if i == 2u { a = n; b = -({{LN2_LO}}); }
        if i > 2u && i < 8u { c = POLY[i - 2u]; }
        if i == 8u { b = r * r; }
        let v = fused(a, b, c);
        if i == 0u { n = v - {{ROUND_MAGIC}}; }
        if i == 1u || i == 2u { r = v; }
        if i > 2u { y = v; }
    }
    y = y + 1.0;
#else
    let n = keep(fused(x, {{LOG2_E}}, {{ROUND_MAGIC}})) - {{ROUND_MAGIC}};
    let r = fused(n, -({{LN2_LO}}), fused(n, -{{LN2_HI}}, x));
    var y = {{EXP_POLY_0}};
    y = fused(y, r, {{EXP_POLY_1}});
    y = fused(y, r, {{EXP_POLY_2}});
    y = fused(y, r, {{EXP_POLY_3}});
    y = fused(y, r, {{EXP_POLY_4}});
    y = fused(y, r, {{EXP_POLY_5}});
    y = keep(fused(y, r * r, r)) + 1.0;
#endif
    // A NaN or a number out of range is decided by y and by the ends below.
    let k = i32(clamp(n, -126.0, 127.0));
    let inside = y * bitcast<f32>(u32(k + 127) << 23u);
    return select(select(inside, infinity(), x > {{EXP_MAX}}), 0.0, x < {{EXP_MIN}});
}

fn silu(x: f32) -> f32 { return quotient(x, 1.0 + keep(exponential(-x))); }

fn gelu_tanh(x: f32) -> f32 {
    let u = fused(keep({{GELU_C}} * keep(x * x)), x, x);
    return quotient(x, 1.0 + keep(exponential({{GELU_K}} * u)));
}

fn swiglu_oai(gate: f32, up: f32) -> f32 {
    var g = gate;
    if g > {{OAI_LIMIT}} { g = {{OAI_LIMIT}}; }
    var u = up;
    if u > {{OAI_LIMIT}} { u = {{OAI_LIMIT}}; }
    if u < -{{OAI_LIMIT}} { u = -{{OAI_LIMIT}}; }
    return quotient(g, 1.0 + keep(exponential({{OAI_K}} * g))) * keep(u + 1.0);
}

fn capped(x: f32, cap: f32) -> f32 {
    return cap * keep(1.0 - keep(quotient(2.0, 1.0 + keep(exponential(2.0 * quotient(x, cap))))));
}
