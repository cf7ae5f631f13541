// The largest of each row and where it stands, the lowest place of equals; and the first number that is NaN or +inf, or where
// all are -inf the first. Greedy decoding reads this back instead of the logits. One workgroup for each row. A row of the
// result: the place, the place of what is invalid (cols if nothing is), its bits, nothing.
struct Params { rows: u32, row0: u32, cols: u32 }
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;

var<workgroup> keys: array<u32, 256>;
var<workgroup> places: array<u32, 256>;
var<workgroup> bad: atomic<u32>;

// Orders as the numbers do, by their bits: a device that takes the smallest numbers for 0 compares them rightly too.
fn key_of(bits: u32) -> u32 {
    if bits == 0x80000000u { return 0x80000000u; }
    return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}

// NaN or +inf.
fn is_bad(bits: u32) -> bool {
    return (bits & 0x7f800000u) == 0x7f800000u && bits != 0xff800000u;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
    let row = wg.y * p.cols;
    if t == 0u { atomicStore(&bad, p.cols); }
    workgroupBarrier();
    var best = 0u;
    var place = p.cols;
    var i = t;
    // Eight numbers are loaded before the first is looked at.
    for (; i + 1792u < p.cols; i += 2048u) {
        #for K 0..8: let v{{K}} = x[row + i + {{K}}u * 256u];
#for K 0..8
        if is_bad(v{{K}}) { atomicMin(&bad, i + {{K}}u * 256u); }
        if key_of(v{{K}}) > best {
            best = key_of(v{{K}});
            place = i + {{K}}u * 256u;
        }
#endfor
    }
    for (; i < p.cols; i += 256u) {
        let v = x[row + i];
        if is_bad(v) { atomicMin(&bad, i); }
        if key_of(v) > best {
            best = key_of(v);
            place = i;
        }
    }
    keys[t] = best;
    places[t] = place;
    workgroupBarrier();
#for HALF 128 64 32 16 8 4 2 1
    if t < {{HALF}}u {
        let other = keys[t + {{HALF}}u];
        if other > keys[t] || (other == keys[t] && places[t + {{HALF}}u] < places[t]) {
            keys[t] = other;
            places[t] = places[t + {{HALF}}u];
        }
    }
    workgroupBarrier();
#endfor
    if t == 0u {
        var first = atomicLoad(&bad);
        if first == p.cols && keys[0] == key_of(0xff800000u) { first = places[0]; }
        out[wg.y * 4u] = places[0];
        out[wg.y * 4u + 1u] = first;
        out[wg.y * 4u + 2u] = x[row + min(first, p.cols - 1u)];
        out[wg.y * 4u + 3u] = 0u;
    }
}
