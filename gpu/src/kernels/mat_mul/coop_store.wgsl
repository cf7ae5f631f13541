// Part of coop.wgsl and coop_int16.wgsl: each thread stores its elements of the subgroup's fragments.
#const EACH        elements of a fragment for each thread
#const FRAGMENTS   fragments of a subgroup along the rows of weights, and along the tokens
#const SIZE        rows and columns of a fragment
#needs ROWS, TOKENS, acc_*_*, own_row, own_token, p.count, p.rows, store, sub_row, sub_token, wg
#for R 0..{{FRAGMENTS}}
#for T 0..{{FRAGMENTS}}
    {
        let row = wg.x * ROWS + sub_row + {{R}}u * {{SIZE}}u + own_row;
        let token = wg.y * TOKENS + sub_token + {{T}}u * {{SIZE}}u + own_token;
        if row < p.count {
            #for J 0..{{EACH}}: if token + {{J}}u < p.rows { store(token + {{J}}u, row, acc_{{R}}_{{T}}[{{J}}]); }
        }
    }
#endfor
#endfor
