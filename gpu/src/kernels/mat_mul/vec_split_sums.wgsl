// Sums{{K}}: what one block adds to row `r`, from the workgroup's arrays: the block at word `b`, or the {{K}}th after it.
#flag ATOMIC a block is several parts, of several lanes: its sums are atomic
#flag D_TWO  a block has two f16, its scale and what is added
#flag MINS   runs of elements have an integer minimum
#needs Sums, b, ds, isums, ms, msums, {{K}}
var s{{K}}: Sums;
s{{K}}.d = ds[b + {{K}}u * 32u];
#if ATOMIC
s{{K}}.isum = f32(atomicLoad(&isums[b + {{K}}u * 32u]));
#else
s{{K}}.isum = f32(isums[b + {{K}}u * 32u]);
#endif
#if D_TWO
s{{K}}.m = ms[b + {{K}}u * 32u];
#if MINS
s{{K}}.msum = f32(atomicLoad(&msums[b + {{K}}u * 32u]));
#else
s{{K}}.msum = msums[b + {{K}}u * 32u];
#endif
#endif
