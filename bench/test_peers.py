#!/usr/bin/env python3
"""Tests of bench/peers on recorded output: `bench/test_peers.py`, or with all others by `cargo test`."""

import contextlib
import importlib.machinery
import importlib.util
import io
import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("peers", str(HERE / "peers"))
peers = importlib.util.module_from_spec(importlib.util.spec_from_loader("peers", loader))
loader.exec_module(peers)


def fixture(name):
    return (HERE / "fixtures" / name).read_text(encoding="utf-8")


class LlamaBench(unittest.TestCase):
    def test_json_and_jsonl(self):
        # The medians of the recorded samples, not the averages that an interrupted run pulls down.
        self.assertEqual(peers.parse_llama_bench(fixture("llama-bench.jsonl")), {"pp16": 3011.16, "tg8": 874.462})
        rates = peers.parse_llama_bench(fixture("llama-bench.json"))
        self.assertEqual(list(rates), ["pp16", "tg8"])

    def test_other_lines_are_skipped(self):
        for name in ("llama-bench.json", "llama-bench.jsonl"):
            plain = peers.parse_llama_bench(fixture(name))
            noisy = "warning: asserts enabled [slow]\n" + fixture(name) + "build: 1 (2)\n"
            self.assertEqual(peers.parse_llama_bench(noisy), plain)

    def test_depth_and_mixed_tests_have_names_of_their_own(self):
        line = '{"n_prompt": 16, "n_gen": 8, "n_depth": 512, "avg_ts": 7.5}\n'
        self.assertEqual(peers.parse_llama_bench(line), {"pp16+tg8@d512": 7.5})

    def test_what_is_no_result_is_refused_in_one_line(self):
        for text in (
            "", "error: no model\n", "[\n]\n", "{broken\n", '{"n_prompt": 8, "avg_ts": 0}\n', '{"avg_ts": 3}\n',
            '{"n_prompt": 8}\n', '{"n_prompt": 8, "samples_ts": ["x"]}\n',
        ):  # fmt: skip
            with self.assertRaises(peers.Failure, msg=text) as caught:
                peers.parse_llama_bench(text)
            self.assertNotIn("\n", str(caught.exception))


class Karat(unittest.TestCase):
    def test_recorded(self):
        rates, shares, limits = peers.parse_karat(fixture("karat-bench.json"))
        self.assertEqual(list(rates), ["pp16", "tg8"])
        self.assertAlmostEqual(rates["pp16"], 1777.68, 2)
        self.assertEqual((shares, limits), ({}, None))

    def test_limits_where_they_are(self):
        text = """{"limits": {"read_gb_s": 44.7}, "extra": 1, "tests": [
            {"name": "tg128", "median": 90.0, "limit": 120.0, "more": []}, {"name": "pp512", "median": 5.0, "of_limit": 0.4},
            {"name": "tg128 @ d2048", "per_second": [3.0, 1.0, 2.0]}, {"name": "pp4 @ d0", "median": 2}]}"""
        rates, shares, limits = peers.parse_karat(text)
        self.assertEqual(rates, {"tg128": 90.0, "pp512": 5.0, "tg128@d2048": 2.0, "pp4": 2})
        self.assertEqual(shares, {"tg128": 0.75, "pp512": 0.4})
        self.assertEqual(limits, {"read_gb_s": 44.7})

    def test_what_is_no_result_is_refused(self):
        for text in ("", "[]", "{}", '{"tests": []}', '{"tests": [{"name": "pp8"}]}', '{"tests": [{"median": 1}]}'):
            with self.assertRaises(peers.Failure, msg=text):
                peers.parse_karat(text)


class Fixed:
    """An engine whose rates are known."""

    def __init__(self, name, rates):
        self.name, self.path, self.rates, self.shares, self.limits = name, name, list(rates), {}, None
        self.asked = 0

    def rate(self, model, test, options):
        self.asked += 1
        rate = self.rates[(self.asked - 1) % len(self.rates)]
        if rate is None:
            raise peers.Failure("exit code 1: no")
        return rate


class Report(unittest.TestCase):
    def measured(self, *engines, rounds=3):
        class Options:
            models, tests, threads = ["a/m.gguf"], ["pp512"], 2

        Options.rounds = rounds
        with contextlib.redirect_stderr(io.StringIO()) as said:
            results, whole = peers.measure(engines, Options)
        return peers.report(results, engines, Options), whole, said.getvalue()

    def test_ratios_are_taken_round_by_round(self):
        # The machine is at half speed in the second round: the ratio of medians would be 2.
        data, whole, _ = self.measured(Fixed("karat", [400, 150, 300]), Fixed("other", [100, 50, 150]))
        self.assertTrue(whole)
        row = data["results"][0]
        self.assertEqual(row["medians"], {"karat": 300, "other": 100})
        self.assertEqual(row["ratios"]["other"], {"median": 3.0, "lowest": 2.0, "highest": 4.0})
        self.assertIn("| m.gguf | pp512 | 300.0 | 100.0 | 3.00× (2.00–4.00) |", peers.markdown(data))
        self.assertNotIn("limit", peers.markdown(data))

    def test_a_failure_is_one_line_and_the_others_go_on(self):
        broken = Fixed("broken", [None])
        data, whole, said = self.measured(Fixed("karat", [4]), broken, Fixed("other", [2]))
        self.assertFalse(whole)
        self.assertEqual(broken.asked, 1)
        self.assertEqual(said.count("exit code 1: no"), 1)
        self.assertIn("| m.gguf | pp512 | 4.0 | failed | 2.0 | failed | 2.00× (2.00–2.00) |", peers.markdown(data))

    def test_shares_of_the_limit(self):
        karat = Fixed("karat", [4])
        karat.shares, karat.limits = {("a/m.gguf", "pp512"): [0.8, 0.9, 0.7]}, {"read_gb_s": 44.7}
        data, _, _ = self.measured(karat)
        self.assertIn("| m.gguf | pp512 | 4.0 | 80 % |", peers.markdown(data))
        self.assertIn('{"read_gb_s": 44.7}', peers.markdown(data))


class Programs(unittest.TestCase):
    def test_failures_say_what_failed(self):
        python = sys.executable
        for command, part in (
            ([python, "-c", "import sys; print('error: bad file', file=sys.stderr); print('bye'); sys.exit(3)"],
             "exit code 3: error: bad file"),
            ([python, "-c", "import sys; sys.exit(3)"], "exit code 3: no message"),
            ([python, "-c", "import time; time.sleep(60)"], "no end after 1 s"),
            (["no-such-program-here"], "no-such-program-here"),
        ):  # fmt: skip
            with self.assertRaises(peers.Failure) as caught:
                peers.run(command, 1 if "sleep" in command[-1] else 60)
            self.assertIn(part, str(caught.exception))

    def test_the_command_line(self):
        options = peers.arguments([__file__, "-p", "512,4096", "-n", "0", "-t", "3", "--peer", f"ik={sys.executable}"])
        self.assertEqual((options.tests, options.threads), (["pp512", "pp4096"], 3))
        self.assertEqual(peers.lengths("pp4096"), ["-p", "4096", "-n", "0"])
        self.assertEqual(peers.lengths("tg128"), ["-p", "0", "-n", "128"])
        twice = ["--peer", f"a={sys.executable}", "--peer", f"a={sys.executable}"]
        for wrong in (
            [], ["no such file"], [__file__, "-p", "0", "-n", "0"], [__file__, "-t", "0"], [__file__, "-p", "x"],
            [__file__, "--peer", "x"], [__file__, "--peer", "x=no-such-program-here"], [__file__, *twice],
            [__file__, "--peer", f"karat={sys.executable}"],
        ):  # fmt: skip
            with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as caught:
                peers.arguments(wrong)
            self.assertEqual(caught.exception.code, 2, wrong)


if __name__ == "__main__":
    unittest.main()
