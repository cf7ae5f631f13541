#!/usr/bin/env python3
"""Writes the sample questions of docs/arithmetic.md anew: what karat answers in each arithmetic, and what llama.cpp does.

    pip install llama-cpp-python==0.3.36
    tools/answers.py KARAT MODEL.gguf

KARAT is a release build, MODEL the default model's file. llama.cpp gets the ids of karat's prompt, so that a template cannot
make the difference. All choose the likeliest token each time, up to 24 of them; app/tests/readme.rs asks karat again."""

import pathlib
import subprocess
import sys

import llama_cpp

PAGE = pathlib.Path(__file__).parent.parent / "docs/arithmetic.md"
BEGIN, END = "<!-- tools/answers.py -->\n", "<!-- end of tools/answers.py -->\n"
TOKENS = 24
QUESTIONS = [
    "What is the capital of France?",
    "Why is the sky blue?",
    "Who wrote Romeo and Juliet?",
    "How many legs does a spider have?",
    "What is the largest planet of the solar system?",
    "Name three colors of a rainbow.",
    "What is the opposite of hot?",
    "Translate to French: good morning",
    "What do bees make?",
    "Write a Python function that adds two numbers.",
]


def karat(program: str, model: str, arithmetic: str, question: str) -> tuple[list[int], str]:
    """The ids of the prompt, and the text of the answer."""
    command = [program, "run", "-m", model, "--arithmetic", arithmetic, "--temp", "0", "-n", str(TOKENS)]
    run = lambda more: subprocess.run([*command, *more, question], check=True, capture_output=True, text=True).stdout
    rows = [line.split("\t") for line in run(["--tokens"]).splitlines()]
    return [int(row[1]) for row in rows if row[0] == "prompt"], run([])


def llama(model: llama_cpp.Llama, prompt: list[int]) -> str:
    ids = []
    for id in model.generate(prompt, temp=0.0, repeat_penalty=1.0, reset=True):
        if id == model.token_eos() or len(ids) == TOKENS:
            break
        ids.append(id)
    return model.detokenize(ids).decode("utf-8", "replace")


def line(name: str, text: str) -> str:
    # On one line: a line break is shown as such, and nothing is taken for Markdown.
    return f"- {name}: `` {text.strip().replace(chr(10), '⏎')} ``\n"


def main() -> None:
    program, path = sys.argv[1:]
    model = llama_cpp.Llama(path, n_ctx=512, verbose=False, flash_attn=False)
    text = ""
    for number, question in enumerate(QUESTIONS, 1):
        text += f"\n{number}. **{question}**\n\n"
        for arithmetic in ["int8", "int16", "f32"]:
            prompt, answer = karat(program, path, arithmetic, question)
            text += "   " + line(arithmetic, answer)
        text += "   " + line("llama.cpp", llama(model, prompt))
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + text + "\n" + END + after)


main()
