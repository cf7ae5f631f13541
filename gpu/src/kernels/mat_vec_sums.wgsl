// What the block of which row r stands at word `b` of the workgroup's arrays adds, or the {{K}}th after it.
var s{{K}}: Sums;
s{{K}}.d = ds[b + {{K}}u * 32u];
#if SPLIT
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
