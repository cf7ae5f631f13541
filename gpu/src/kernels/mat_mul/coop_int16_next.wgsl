// Part of coop_int16.wgsl: this thread loads its share of the unit `next`, to be used after the current one.
#flag MINS        runs of elements have an integer minimum
#flag SCALES      runs of elements have an integer scale
#const A_EACH      half units of weights that a thread brings
#const BLOCK_WORDS words of a block of 32 rows
#const MINS_AT     the word of a row where its minimums begin
#const SCALES_AT   the word of a row where its integer scales begin
#const X_EACH      half units of activations that a thread brings
#needs RUNS, UNITS, a_h*, a_r*, a_tile*, acts_fours, d_next*, d_word, half_words, high_next*, low_next*, mins_next*,
#needs next, scales_next*, sums_next*, w_next*, word, x_h, x_row*
let next_u = next % UNITS;
#for I 0..{{A_EACH}}
{
    let base = (a_tile{{I}} + next / UNITS) * {{BLOCK_WORDS}}u;
    let r = a_r{{I}} & 31u;
    w_next{{I}} = half_words(base, next_u, a_h{{I}}, r);
    d_next{{I}} = d_word(base, r);
    #if SCALES: scales_next{{I}} = word(base, {{SCALES_AT}}u + ((next_u * RUNS) >> 2u), r);
    #if MINS: mins_next{{I}} = word(base, {{MINS_AT}}u + ((next_u * RUNS) >> 2u), r);
}
#endfor
#for I 0..{{X_EACH}}
{
    let at = x_row{{I}} + next * 5u;
    high_next{{I}} = acts_fours[at + x_h];
    low_next{{I}} = acts_fours[at + 2u + x_h];
    sums_next{{I}} = acts_fours[at + 4u];
}
#endfor
