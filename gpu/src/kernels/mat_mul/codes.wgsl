// The stored codes of the elements 4j .. 4j + 3 of a unit, a byte each, from the unit's `words`; j is {{J}}.
#flag BITS_1 codes of 1 bit
#flag BITS_2 codes of 2 bits
#flag BITS_3 codes of 3 bits
#flag BITS_4 codes of 4 bits
#flag BITS_5 codes of 5 bits
#flag BITS_6 codes of 6 bits
#flag BITS_8 codes of 8 bits
#flag TABLE  codes are indices of a table
#needs look_up, words, {{J}}
#if BITS_8: let code = words[{{J}}];
#if BITS_6
let code = ((words[{{J}} / 2] >> (4u * ({{J}}u & 1u))) & 0x0f0f0f0fu)
    | ((words[4 + {{J}} / 4] >> (2u * ({{J}}u & 3u))) & 0x03030303u) << 4u;
#endif
#if BITS_5: let code = ((words[{{J}} / 2] >> (4u * ({{J}}u & 1u))) & 0x0f0f0f0fu) | ((words[4] >> {{J}}u) & 0x01010101u) << 4u;
#if BITS_4
#if TABLE
let code = look_up((words[{{J}} / 2] >> (4u * ({{J}}u & 1u))) & 0x0f0f0f0fu);
#else
let code = (words[{{J}} / 2] >> (4u * ({{J}}u & 1u))) & 0x0f0f0f0fu;
#endif
#endif
#if BITS_3
let three = ((words[{{J}} / 4] >> (2u * ({{J}}u & 3u))) & 0x03030303u) | ((words[2] >> {{J}}u) & 0x01010101u) << 2u;
#if TABLE
let code = look_up(three);
#else
let code = three;
#endif
#endif
#if BITS_1: let code = ((words[0] >> {{J}}u) & 0x01010101u) << 1u;
#if BITS_2: let code = (words[{{J}} / 4] >> (2u * ({{J}}u & 3u))) & 0x03030303u;
