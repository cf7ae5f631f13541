// Meaning: graph/src/ops/mat_mul.rs, `dot_int8`, for few rows of activations on a device that has threads to spare. 32 rows
// of weights by {{LANES}} lanes in a workgroup. The lanes of a row take parts of its blocks in turn ({{PART_UNITS}} times 32
// elements) and add what these give to the blocks' integer sums, which are exact in any order; one lane then adds the blocks
// to the result in order, from the workgroup's memory alone. A lane loads {{STEPS}} parts before it uses the first.
// Tried, an 8B model in Q4_K_M on an H100: whole blocks for each lane 143 tokens/s (half of 32 lanes idle at 4096 columns).
#flag ATOMIC      a block is several parts, of several lanes: its sums are atomic
#flag D_TWO       a block has two f16, its scale and what is added
#flag FLOAT_SUMS  what is added to a block has a scale of its own, and no integer minimums
#flag MINS        runs of elements have an integer minimum
#flag SCALES      runs of elements have an integer scale
#flag SOFT_FMA    fma is made of many steps, so that one copy of it in a loop beats many in line
#const BLOCK_WORDS words of a block of 32 rows
#const LANES       threads for each row of weights
#const MINS_AT     the word of a row where its minimums begin
#const OFFSET      what is taken from a stored code
#const PARTS       parts of a block
#const PART_UNITS  units in a part
#const ROUND       blocks in a round
#const ROUND_EACH  blocks of a round for each lane
#const ROUND_WORDS blocks in a round, times 32 rows
#const SCALES_AT   the word of a row where its integer scales begin
#const STEPS       parts that a lane asks for at once
#const THREADS     threads in a workgroup
#const UNITS       units of 32 elements in a block
#const UNIT_RUNS   runs in a unit
#const UNIT_WORDS  words of the codes of a unit of one row
#include lib/float
#include lib/weights
#include mat_mul/dot

// Blocks in a round, and for each of them and each row what it adds.
const ROUND: u32 = {{ROUND}}u;
const LANES: u32 = {{LANES}}u;
const PARTS: u32 = {{PARTS}}u;
var<workgroup> ds: array<f32, {{ROUND_WORDS}}>;
#if ATOMIC
var<workgroup> isums: array<atomic<i32>, {{ROUND_WORDS}}>;
#else
var<workgroup> isums: array<i32, {{ROUND_WORDS}}>;
#endif
#if D_TWO
var<workgroup> ms: array<f32, {{ROUND_WORDS}}>;
#if MINS: var<workgroup> msums: array<atomic<i32>, {{ROUND_WORDS}}>;
#if FLOAT_SUMS: var<workgroup> msums: array<f32, {{ROUND_WORDS}}>;
#endif

@compute @workgroup_size({{THREADS}})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let r = t & 31u;
    let lane = t >> 5u;
    let a = wg.y * p.row_words;
    let sums_at = a + p.n_in / 4u;
    let scales_at = sums_at + p.n_in / 16u;
    let tile = wg.x * p.blocks;
    var acc = 0.0;
    for (var first = 0u; first < p.blocks; first += ROUND) {
        let count = min(p.blocks - first, ROUND);
#if ATOMIC
        for (var i = t; i < count * 32u; i += {{THREADS}}u) {
            atomicStore(&isums[i], 0);
            #if MINS: atomicStore(&msums[i], 0);
        }
        workgroupBarrier();
#endif
        // The blocks' f32 scales: prefetched here, used after the products.
#for D 0..{{ROUND_EACH}}
        let at{{D}} = first + min(lane + {{D}}u * LANES, count - 1u);
        let d{{D}} = d_word((tile + at{{D}}) * {{BLOCK_WORDS}}u, r);
        let d_a{{D}} = bitcast<f32>(acts[scales_at + at{{D}}]);
        #if FLOAT_SUMS: let s_a{{D}} = bitcast<f32>(acts[scales_at + p.blocks + at{{D}}]);
#endfor
        for (var next = lane; next < count * PARTS; next += {{STEPS}}u * LANES) {
#for S 0..{{STEPS}}
            // Parts past the last one are it again, and not added.
            let i{{S}} = min(next + {{S}}u * LANES, count * PARTS - 1u);
            let b{{S}} = first + i{{S}} / PARTS;
            let u{{S}} = i{{S}} % PARTS * {{PART_UNITS}}u;
            let base{{S}} = (tile + b{{S}}) * {{BLOCK_WORDS}}u;
#for U 0..{{PART_UNITS}}
            let w{{S}}_{{U}} = array<u32, {{UNIT_WORDS}}>(
                #for K 0..{{UNIT_WORDS}}: word(base{{S}}, (u{{S}} + {{U}}u) * {{UNIT_WORDS}}u + {{K}}u, r),
            );
#endfor
#if SCALES
            let run{{S}} = u{{S}} * {{UNIT_RUNS}}u;
            let scales{{S}} = word(base{{S}}, {{SCALES_AT}}u + (run{{S}} >> 2u), r) >> ((run{{S}} & 3u) * 8u);
#endif
            #if MINS: let mins{{S}} = word(base{{S}}, {{MINS_AT}}u + (run{{S}} >> 2u), r) >> ((run{{S}} & 3u) * 8u);
#endfor
#for S 0..{{STEPS}}
            let g{{S}} = b{{S}} * {{UNITS}}u + u{{S}};
#for U 0..{{PART_UNITS}}
            let x{{S}}_{{U}} = array<vec4<u32>, 2>(
                acts_fours[(a >> 2u) + (g{{S}} + {{U}}u) * 2u], acts_fours[(a >> 2u) + (g{{S}} + {{U}}u) * 2u + 1u]);
#endfor
#if ATOMIC
            let sums{{S}} = vec4<i32>(acts_fours[(sums_at >> 2u) + (g{{S}} >> 1u)]);
#else
            let sums{{S}} = vec2<i32>(i32(acts[sums_at + 2u * g{{S}}]), i32(acts[sums_at + 2u * g{{S}} + 1u]));
#endif
#endfor
#for S 0..{{STEPS}}
            {
                var isum = 0;
                var msum = 0;
#for U 0..{{PART_UNITS}}
                {
                    let words = w{{S}}_{{U}};
                    let sum = vec2<i32>(sums{{S}}[2 * {{U}}], sums{{S}}[2 * {{U}} + 1]);
                    var dot = -{{OFFSET}} * sum;
#for J 0..8
                    {
#include mat_mul/codes
                        dot[{{J}} / 4] += dot4I8Packed(code, x{{S}}_{{U}}[{{J}} / 4][{{J}} % 4]);
                    }
#endfor
#if SCALES
                    isum += dot.x * extractBits(i32(scales{{S}}), {{U}}u * {{UNIT_RUNS}}u * 8u, 8u)
                        + dot.y * extractBits(i32(scales{{S}}), ({{U}}u * {{UNIT_RUNS}}u + {{UNIT_RUNS}}u - 1u) * 8u, 8u);
#else
                    isum += dot.x + dot.y;
#endif
#if MINS
                    msum += sum.x * i32(extractBits(mins{{S}}, {{U}}u * {{UNIT_RUNS}}u * 8u, 8u))
                        + sum.y * i32(extractBits(mins{{S}}, ({{U}}u * {{UNIT_RUNS}}u + {{UNIT_RUNS}}u - 1u) * 8u, 8u));
#endif
                }
#endfor
                if next + {{S}}u * LANES < count * PARTS {
                    let to = (b{{S}} - first) * 32u + r;
#if ATOMIC
                    atomicAdd(&isums[to], isum);
                    #if MINS: atomicAdd(&msums[to], msum);
#else
                    isums[to] = isum;
#endif
                }
            }
#endfor
        }
#for D 0..{{ROUND_EACH}}
        if lane + {{D}}u * LANES < count {
            let to = (lane + {{D}}u * LANES) * 32u + r;
            ds[to] = keep(d_of(d{{D}}, r) * d_a{{D}});
            #if MINS: ms[to] = -keep(m_of(d{{D}}) * d_a{{D}});
#if FLOAT_SUMS
            ms[to] = m_of(d{{D}});
            msums[to] = s_a{{D}};
#endif
        }
#endfor
        workgroupBarrier();
        if lane == 0u {
            var b = r;
#if !SOFT_FMA
            for (; b + 256u <= count * 32u; b += 256u) {
#for K 0..8
#include mat_mul/vec_split_sums
#endfor
                #for K 0..8: acc = add_sums(s{{K}}, acc);
            }
#endif
            for (; b < count * 32u; b += 32u) {
#for K 0
#include mat_mul/vec_split_sums
                acc = add_sums(s{{K}}, acc);
#endfor
            }
        }
        workgroupBarrier();
    }
    let row = wg.x * 32u + r;
    if lane == 0u && row < p.count { store(wg.y, row, acc); }
}
