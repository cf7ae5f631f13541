// Statements of a kernel for few rows of activations: where the row of weights of a thread stands, `tile` and row `q` in it,
// and which row of activations it is multiplied with, `act`. With EXPERTS the matrix is one of several, one below another,
// whose rows begin anywhere in a tile: `chosen` says which it is for each slot of a row of activations, and the workgroup's
// third number is the slot. A piece of the weights holds some rows of all matrices; rows of others are not stored.
#flag EXPERTS the matrix is one of several
#needs chosen, p.blocks, p.count, p.first, p.n_out, p.slots, p.x_slots, r, wg
#if EXPERTS
    let slot = wg.y * p.slots + wg.z;
    let column = wg.x * 32u + r;
    let wanted = u32(chosen[slot]) * p.n_out + min(column, p.n_out - 1u);
    let there = clamp(wanted, p.first, p.first + p.count - 1u);
    let is_there = column < p.n_out && wanted == there;
    let tile = ((there - p.first) >> 5u) * p.blocks;
    let q = (there - p.first) & 31u;
    let act = select(wg.y, slot, p.x_slots > 1u);
#else
    let tile = wg.x * p.blocks;
    let q = r;
    let act = wg.y;
#endif
