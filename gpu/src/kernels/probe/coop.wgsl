enable f16;
enable wgpu_cooperative_matrix;
// Whether a matrix unit adds integers below 2^24 exactly: in each workgroup one product of {{SIZE}} rows of 256 numbers with
// {{SIZE}} columns of 256. `x` holds both as integers, `out` gets the sums.
#const LEN     elements of a fragment
#const SIZE    rows and columns of a fragment
#const THREADS threads in a workgroup
struct Params { rows: u32, row0: u32, n: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<i32>;
@group(0) @binding(1) var<storage, read_write> out: array<i32>;

var<workgroup> a: array<f16, {{LEN}}>;
var<workgroup> b: array<f16, {{LEN}}>;
var<workgroup> c: array<f32, {{LEN}}>;

@compute @workgroup_size({{THREADS}})
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let at = wg.x * {{SIZE}}u * 512u;
    var sum: coop_mat{{SIZE}}x{{SIZE}}<f32, C>;
    for (var k = 0u; k < 256u; k += {{SIZE}}u) {
        for (var i = t; i < {{LEN}}u; i += {{THREADS}}u) {
            let begin = at + (i / {{SIZE}}u) * 256u + k + i % {{SIZE}}u;
            a[i] = f16(x[begin]);
            b[i] = f16(x[begin + {{SIZE}}u * 256u]);
        }
        workgroupBarrier();
        let w = coopLoadT<coop_mat{{SIZE}}x{{SIZE}}<f16, A>>(&a[0], {{SIZE}}u);
        let v = coopLoad<coop_mat{{SIZE}}x{{SIZE}}<f16, B>>(&b[0], {{SIZE}}u);
        sum = coopMultiplyAdd(w, v, sum);
        workgroupBarrier();
    }
    coopStore(sum, &c[0], {{SIZE}}u);
    workgroupBarrier();
    for (var i = t; i < {{LEN}}u; i += {{THREADS}}u) { out[wg.x * {{LEN}}u + i] = i32(c[i]); }
}
