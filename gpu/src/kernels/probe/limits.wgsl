// What a device does at most, as graph/src/backend.rs `Limits` counts it: nothing but reads, or products of one kind.
#flag F32  products in f32
#flag INT8 products of 8-bit integers
#flag READ bytes read
struct Params { rows: u32, row0: u32, rounds: u32, n: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
#include lib/float

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32) {
    let i = wg.x * 256u + t;
    let all = groups.x * 256u;
#if READ
    // Four reads at a time, neighbours side by side.
    var a = vec4<u32>(0u);
    var b = vec4<u32>(0u);
    for (var round = 0u; round < p.rounds; round++) {
        for (var k = i; k + 3u * all < p.n; k += 4u * all) {
            a ^= x[k] + x[k + all];
            b ^= x[k + 2u * all] + x[k + 3u * all];
        }
    }
    let sum = a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w;
#endif
#if INT8
    // Eight chains, 16 packed products (64 multiplications) in a round.
    var c: array<i32, 8>;
    var u = x[i % p.n].x;
    for (var round = 0u; round < p.rounds; round++) {
#for K 0..8
        c[{{K}}] += dot4I8Packed(u, u + {{K}}u);
        c[{{K}}] += dot4I8Packed(u + {{K}}u, u ^ round);
#endfor
        u += 0x01030507u;
    }
    let sum = u32(c[0] ^ c[1] ^ c[2] ^ c[3] ^ c[4] ^ c[5] ^ c[6] ^ c[7]);
#endif
#if F32
    // Eight chains, 16 fma in a round.
    var c: array<f32, 8>;
    let u = 0.5 + f32(x[i % p.n].x & 255u) * 0.001;
    #for K 0..8: c[{{K}}] = f32({{K}});
    for (var round = 0u; round < p.rounds; round++) {
#for K 0..8
        c[{{K}}] = fma(c[{{K}}], u, 0.25);
        c[{{K}}] = fma(c[{{K}}], u, 0.125);
#endfor
    }
    let sum = bitcast<u32>(c[0] + c[1] + c[2] + c[3] + c[4] + c[5] + c[6] + c[7]);
#endif
    // Never, but no compiler knows.
    if sum == 0x9e3779b9u { out[0] = sum; }
}
