#!/usr/bin/env python3
"""Records what llama.cpp's chat templates of a name write.

    pip install llama-cpp-python==0.3.36
    tools/golden_templates.py > tokenizer/tests/templates.json"""

import ctypes
import json

import llama_cpp as lc

CHATS = [
    [("user", "Hello")],
    [("system", "You are terse."), ("user", "Hi there"), ("assistant", "Hello!"), ("user", "  Why is the sky blue?\n")],
    [("user", "1 + 1?"), ("assistant", "  2 \n"), ("user", "And 2 + 2?"), ("assistant", "4")],
]


def render(name, chat, answer):
    messages = (lc.llama_chat_message * len(chat))(*[lc.llama_chat_message(r.encode(), c.encode()) for r, c in chat])
    buffer = ctypes.create_string_buffer(4096)
    n = lc.llama_chat_apply_template(name, messages, len(chat), answer, buffer, 4096)
    assert 0 <= n <= 4096, name
    return buffer.raw[:n].decode()


def main():
    names = (ctypes.c_char_p * 200)()
    n = lc.llama_chat_builtin_templates(names, 200)
    cases = []
    for name in sorted(set(names[:n])):
        for chat in CHATS:
            for answer in [True, False]:
                cases.append({"name": name.decode(), "chat": chat, "answer": answer, "text": render(name, chat, answer)})
    print("[\n" + ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) + "\n]")


main()
