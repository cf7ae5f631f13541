"""Writes split cases: random texts cut by llama.cpp's own code, for every pre-tokenizer of its table.

Needs g++ and a llama.cpp source tree (b11434). Compiles its src/unicode.cpp with a driver made here; the regexes are
read from src/llama-vocab.cpp. A line of the output is a JSON object {"pre", "text", "pieces"}.
Usage: python scripts/split_cases.py LLAMA_CPP_DIR CASES_PER_PRE SEED > tests/data/splits.jsonl
"""

import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ATOMS = (
    ["'s", "'t", "'re", "'VE", "'Ll", "'m", "'D", "'x", "'", "I'm", "WE'LL", "é's", " 's"]
    + list("abcxyzABCXYZ") * 2
    + ["word", "Word", "WORD", "camelCase", "HTTPServer", "ÉCOLE", "École", "éA", "ǅ", "ʰ", "ª", "straße", "ſ", "K"]
    + list("0123456789") * 2
    + ["12", "345", "6789", "٣٤", "½", "Ⅷ", "〇", "²"]
    + [" ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\n", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u200a"]
    + list("!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~")
    + ["...", "//", "/\n", "!!\n", "==", "->", "¿", "«", "！", "。", "、", "「", "￥", "€", "‘", "‟", "…", "،"]
    + ["中文", "日本語", "ひら", "カタ", "한국어", "ไทย", "हिन्दी", "русский", "ΕΛ", "עברית", "العربية", "ꙮ"]
    + ["\u0301", "e\u0301", "\u0e34", "\u20e3", "\u200b", "\u200d", "\ufeff", "\u180e", "\x00", "\x1c", "\x7f", "\ue000"]
    + ["😀", "👩\u200d👩\u200d👧", "🇩🇪", "\U0002ebf0", "\U00010d40", "\U0010ffff", "𝔘", "𐐀", "\U0001e900"]
)


def regexes(source):
    """Pre-tokenizer names to the C++ string literals of their regexes."""
    table, types, index = {}, {}, source.index("llm_tokenizer_bpe(const llama_vocab & vocab)")
    body = source[index : source.index("byte_encode = true; // GPT-2 byte encoding", index)]
    body = "\n".join(line for line in body.split("\n") if not line.strip().startswith("//"))
    for labels, text in re.findall(r"((?:case LLAMA_VOCAB_PRE_TYPE_\w+:|default:)[\s\S]*?)regex_exprs = \{([\s\S]*?)\n\s*\};", body):
        for label in re.findall(r"PRE_TYPE_(\w+):|(default):", labels):
            types[label[0] or "DEFAULT"] = re.findall(r'"(?:[^"\\]|\\.)*"', text)
    for names, kind in re.findall(r'((?:tokenizer_pre == "[^"]+"[\s|]*)+)\)\s*\{\s*pre_type = LLAMA_VOCAB_PRE_TYPE_(\w+);', source):
        for name in re.findall(r'"([^"]+)"', names):
            table[name] = types[kind]
    return table


DRIVER = """
#include "unicode.h"
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <vector>
static std::map<std::string, std::vector<std::string>> table = { %s };
static bool take(std::string & out) {
    uint32_t n;
    if (fread(&n, 4, 1, stdin) != 1) return false;
    out.resize(n);
    return fread(&out[0], 1, n, stdin) == n;
}
int main() {
    std::string pre, text;
    while (take(pre) && take(text)) {
        auto pieces = unicode_regex_split(text, table.at(pre), false);
        uint32_t n = pieces.size();
        fwrite(&n, 4, 1, stdout);
        for (auto & p : pieces) { uint32_t k = p.size(); fwrite(&k, 4, 1, stdout); fwrite(p.data(), 1, k, stdout); }
    }
}
"""


def main():
    tree, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    table = regexes((tree / "src/llama-vocab.cpp").read_text())
    chance = random.Random(seed)
    cases = []
    for pre in sorted(table):
        for _ in range(count):
            cases.append((pre, "".join(chance.choice(ATOMS) for _ in range(chance.randint(1, 24)))))
    with tempfile.TemporaryDirectory() as folder:
        entries = ",".join('{"%s", {%s}}' % (pre, ",".join(list_)) for pre, list_ in table.items())
        (Path(folder) / "driver.cpp").write_text(DRIVER % entries)
        src = tree / "src"
        sources = [f"{folder}/driver.cpp", src / "unicode.cpp", src / "unicode-data.cpp"]
        subprocess.run(["g++", "-O1", "-std=c++17", f"-I{src}", "-o", f"{folder}/driver", *sources], check=True)
        packed = b"".join(len(s.encode()).to_bytes(4, "little") + s.encode() for case in cases for s in case)
        out = subprocess.run([f"{folder}/driver"], input=packed, capture_output=True, check=True).stdout
    at = 0

    def number():
        nonlocal at
        at += 4
        return int.from_bytes(out[at - 4 : at], "little")

    for pre, text in cases:
        pieces = []
        for _ in range(number()):
            size = number()
            pieces.append(out[at : at + size].decode())
            at += size
        print(json.dumps({"pre": pre, "text": text, "pieces": pieces}, ensure_ascii=True))


main()
