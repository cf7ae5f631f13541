// The attention mask: which positions of its sequence a token sees, from the first to the last. Causal, with a window of
// `p.window` positions, the largest u32 where there is none. Every kernel of attention asks here, so another mask is written
// once.
#needs p.window

fn first_seen(position: u32) -> u32 { return position + 1u - min(position + 1u, p.window); }

fn last_seen(position: u32) -> u32 { return position; }
