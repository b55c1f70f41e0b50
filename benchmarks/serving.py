"""Requests a second that `mathgrpo serve` answers, and how long one waits, with 1 and with 64 clients at once.

    python -m benchmarks.serving --model starter --clients 1 64 --seconds 10 --out benchmarks/results/serving.json

Each client asks one completion after another, of at most --tokens tokens, over its own connection; prompts
differ. The server runs beside the clients on this machine, as a command of its own.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.machine import machine_facts, versions
from mathgrpo.files import to_json, write_atomically


def main() -> None:
    """Measure, print a table, and keep the numbers in a file when one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    machine = machine_facts("cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "mathgrpo", "serve", args.model, "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://([\d.]+):(\d+)/v1", process.stdout.readline())
        decoding = process.stdout.readline().strip()
        if found is None:
            sys.exit("the server did not start")
        host, port = found[1], int(found[2])
        load(host, port, clients=2, seconds=2.0, tokens=args.tokens, temperature=args.temperature)  # warm up
        rows = [
            load(host, port, clients=n, seconds=args.seconds, tokens=args.tokens, temperature=args.temperature)
            for n in args.clients
        ]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    print(f"{decoding}\n| clients | requests/s | p50, s | p95, s | tokens each | tokens/s |\n|---|---|---|---|---|---|")
    for row in rows:
        print("| {clients} | {requests_per_s} | {p50_s} | {p95_s} | {tokens_each} | {tokens_per_s} |".format(**row))
    if args.out:
        record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"), "command": " ".join(["serving", *sys.argv[1:]]),
            "machine": machine, "versions": versions(), "model": args.model, "decoding": decoding, "rows": rows,
        }  # fmt: skip
        write_atomically(args.out, to_json(record, indent=1) + "\n")


def load(host: str, port: int, *, clients: int, seconds: float, tokens: int, temperature: float) -> dict[str, Any]:
    """Return what so many clients got in so many seconds; requests that were open at the end are counted, and timed."""
    answers: list[tuple[float, int]] = []
    end = time.perf_counter() + seconds

    def ask_until_the_end(client: int) -> None:
        connection, number = http.client.HTTPConnection(host, port, timeout=120), 0
        while time.perf_counter() < end:
            number += 1
            first = (37 * client + number) % 90 + 1
            prompt = " ".join(str(first + i) for i in range(5))  # counting goes on: answers have the whole length
            body = {"prompt": prompt, "max_tokens": tokens, "temperature": temperature, "seed": number}
            started = time.perf_counter()
            connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
            answer = json.loads(connection.getresponse().read())
            answers.append((time.perf_counter() - started, answer["usage"]["completion_tokens"]))

    threads = [threading.Thread(target=ask_until_the_end, args=(client,)) for client in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took, waits = time.perf_counter() - started, [wait for wait, _ in answers]
    drawn = sum(count for _, count in answers)
    return {
        "clients": clients, "requests": len(answers), "requests_per_s": round(len(answers) / took, 1),
        "p50_s": round(median(waits), 4), "p95_s": round(quantiles(waits, n=20)[-1], 4),
        "tokens_each": round(drawn / len(answers), 1), "tokens_per_s": round(drawn / took),
    }  # fmt: skip


if __name__ == "__main__":
    main()
